"""The folder that a Classifier is saved as: whole, checked, without code, and the same bytes again."""

from __future__ import annotations

import datetime
import getpass
import json
import os
import platform
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import opsin
from opsin import artefact, classifier, metrics, models
from opsin.classifier import Classifier
from opsin.errors import CallError, MachineError, ModelError
from opsin.preprocessing import Preprocessing
from tiny import HOW, ROAD, Linear, Net, digests, digits, recipe, seeded

FILES = ("model.safetensors", "opsin.json", "README.md")


def made(name: str = "textbook", seed: int = 0, **changes: object) -> Classifier:
    torch.manual_seed(seed)
    spec = models.spec_for(name, 3, 8)
    facts = {"name": "pets", "licence": "CC0-1.0"}
    given = {"temperature": 1.7, "thresholds": {"cat": 0.25}, "facts": facts, **changes}
    return Classifier(models.build(spec), spec, ROAD, ("cat", "dog", "früh"), **given)


def answers(clf: Classifier) -> np.ndarray:
    pictures = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return classifier.logits(clf, pictures)


@pytest.fixture
def saved(tmp_path) -> Path:
    artefact.save(made(), tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, **changes: object) -> None:
    """opsin.json with other values, signed as `save` would."""
    described = json.loads((folder / "opsin.json").read_text(encoding="utf-8"))
    del described["digest"]
    described = {key: value for key, value in {**described, **changes}.items() if value is not ...}
    (folder / "opsin.json").write_bytes(artefact._signed(described))


def test_what_is_loaded_is_what_was_saved(saved) -> None:
    clf, loaded = made(), artefact.load(saved)
    assert np.array_equal(answers(loaded), answers(clf))
    for name in ("spec", "preprocessing", "classes", "task", "temperature", "thresholds", "facts"):
        assert getattr(loaded, name) == getattr(clf, name), name


def test_saving_again_gives_the_same_bytes(saved, tmp_path) -> None:
    artefact.save(artefact.load(saved), tmp_path / "again")
    assert digests(tmp_path / "again") == digests(saved)
    assert set(digests(saved)) == set(FILES)


def test_loading_moves_nobodys_random_numbers(saved) -> None:
    torch.manual_seed(5)
    artefact.load(saved)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


# ── the form of timm and the Hub ──


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 96),
        ("tf_efficientnet_lite0", 64),
        ("vit_tiny_patch16_224", 64),  # whose weights depend on the side
        ("resnet18.a1_in1k", 96),
    ],
)
def test_timm_rebuilds_equal_logits_from_the_folder(name: str, size: int, tmp_path) -> None:
    torch.manual_seed(0)
    spec = models.spec_for(name, 3, size)
    road = Preprocessing(size, "letterbox", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")
    clf = Classifier(models.build(spec), spec, road, ("cat", os.fsdecode(b"caf\xe9"), "früh"))
    for norm in [m for m in clf.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]:
        norm.running_mean.uniform_(-1, 1)  # what is not trained is in the folder too
    artefact.save(clf, tmp_path / "model")
    timm = models.bridge.library()
    network = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    network.eval().to(memory_format=torch.channels_last)  # as ours: sums have an order
    pictures = torch.rand(4, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(network(pictures), clf.network(pictures), atol=1e-5, rtol=0)
    told = network.pretrained_cfg
    assert (told["mean"], told["crop_mode"], told["interpolation"]) == ([0.1, 0.2, 0.3], "border", "bicubic")
    assert told["label_names"] == list(clf.classes)
    assert timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, num_classes=7).num_classes == 7
    assert "config.json" in digests(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"config\.json"):
        artefact.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("clf", "why"),
    [
        (lambda: made("resnet18"), "its stem is one for small pictures"),
        (lambda: made(), "textbook is not one of its networks"),
        (lambda: Classifier(seeded(Net), None, ROAD, ("a", "b", "c")), "its maker's own module"),
    ],
)
def test_what_timm_cannot_rebuild_has_no_config_and_the_card_says_why(clf, why: str, tmp_path) -> None:
    artefact.save(clf(), tmp_path / "model")
    assert set(os.listdir(tmp_path / "model")) == set(FILES)
    assert why in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


# ── damage ──


@pytest.mark.parametrize("file", FILES)
def test_any_changed_byte_is_noticed(saved, file: str) -> None:
    whole = (saved / file).read_bytes()
    places = range(len(whole)) if file == "opsin.json" else np.linspace(0, len(whole) - 1, 12).astype(int)
    for place in places:
        (saved / file).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ModelError, match=re.escape(str(saved))) as caught:
            artefact.load(saved)
        assert caught.value.exit_code == 4
    (saved / file).write_bytes(whole)
    artefact.load(saved)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "longer", "empty", "a folder"])
def test_a_damaged_file_is_a_model_error(saved, file: str, damage: str) -> None:
    whole = (saved / file).read_bytes()
    (saved / file).unlink()
    if damage == "a folder":
        (saved / file).mkdir()
    elif damage != "missing":
        changed = {"cut": whole[: len(whole) // 2], "longer": whole + b" ", "empty": b""}[damage]
        (saved / file).write_bytes(changed)
    with pytest.raises(ModelError) as caught:
        artefact.load(saved)
    assert file in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"format"', "{}", '{"format": 1, "files": 3}', "{'a': 1}", "\0"])
def test_another_json_is_a_model_error(saved, text: str) -> None:
    (saved / "opsin.json").write_text(text)
    with pytest.raises(ModelError):
        artefact.load(saved)


def test_a_newer_format_is_named(saved) -> None:
    rewrite(saved, format=3)
    with pytest.raises(ModelError, match=r"format 3.*expected format 1 or 2.*version of opsin"):
        artefact.load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ...},
        {"files": {"model.safetensors": "0"}},
        {"files": {"../../etc/passwd": "0", "README.md": "0"}},
        {"preprocessing": {"size": 8}},
        {"preprocessing": {**ROAD.to_dict(), "code": "import os"}},
        {"network": {"name": "textbook"}},
        {"network": {**models.spec_for("textbook", 3, 8).to_dict(), "code": "import os"}},
        {"network": models.spec_for("textbook", 4, 8).to_dict()},
        {"network": models.spec_for("alexnet", 3, 64).to_dict()},
    ],
)
def test_keys_and_values_that_save_never_writes_are_refused(saved, changes) -> None:
    rewrite(saved, **changes)
    with pytest.raises(ModelError):
        artefact.load(saved)


def test_no_folder_is_a_model_error(tmp_path) -> None:
    with pytest.raises(ModelError, match="is not a model"):
        artefact.load(tmp_path / "nothing")


# ── no code, no traces ──


def test_nothing_is_pickled_and_loading_unpickles_nothing(saved, monkeypatch) -> None:
    for file in saved.iterdir():
        data = file.read_bytes()
        assert not data.startswith((b"\x80", b"PK"))
    header = (saved / "model.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert set(json.loads(header[8 : 8 + length])) == set(made().network.state_dict())

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("code was loaded")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, forbidden)
    artefact.load(saved)


def test_a_users_own_network_is_never_guessed(tmp_path) -> None:
    clf = Classifier(seeded(Net), None, ROAD, ("a", "b", "c"))
    artefact.save(clf, tmp_path / "model")
    with pytest.raises(ModelError, match="network="):
        opsin.load(tmp_path / "model")
    loaded = opsin.load(tmp_path / "model", network=seeded(Net, 1))
    assert np.array_equal(answers(loaded), answers(clf))
    for other in (Linear(), Net(4)):
        with pytest.raises(ModelError, match="do not fit"):
            opsin.load(tmp_path / "model", network=other)


def test_a_trained_model_holds_no_clock_path_or_host(tmp_path) -> None:
    run = opsin.train(digits(), recipe(epochs=1), out=tmp_path / "secret-place", how=HOW)
    traces = [str(tmp_path), tmp_path.name, "secret-place", platform.node(), os.getcwd(), str(Path.home())]
    traces += [getpass.getuser(), str(datetime.date.today().year)]
    for file in (run.folder / "model").iterdir():
        text = file.read_bytes()
        if file.suffix == ".safetensors":
            text = text[: 8 + int.from_bytes(text[:8], "little")]
        text = re.sub(rb"[0-9a-f]{64}", b"", text)  # a digest may hold any four digits
        text = re.sub(rb"\d\.\d+", b"", text)  # and so may a score
        for trace in traces:
            assert not re.search(rb"(?<![\w.])" + re.escape(trace.encode()) + rb"(?![\w])", text), (file.name, trace)


def test_the_card_tells_the_scores_the_classes_and_the_licence(tmp_path) -> None:
    scores = metrics.score(np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 2]), ("cat", "dog", "früh"), largest=2)
    clf = made(facts={"name": "pets", "licence": "CC0-1.0", "scores": {"test": metrics.to_dict(scores)}})
    text = artefact.card(clf)
    accuracy = scores.overall["accuracy"]
    assert "## Scores on test (4 pictures)" in text
    assert f"| accuracy | 0.7500 | {accuracy.low:.4f} to {accuracy.high:.4f} |" in text
    assert "cat, dog, früh" in text
    assert "license: CC0-1.0" in text
    assert "textbook, 8 px, squash" in text


# ── whole or not at all ──


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_who_may_read_a_model_is_up_to_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        artefact.save(made(), tmp_path / "model")
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_model_replaces_a_model_and_nothing_else(saved, tmp_path) -> None:
    other = made(seed=1)
    artefact.save(other, saved)
    assert np.array_equal(answers(artefact.load(saved)), answers(other))
    assert os.listdir(tmp_path) == ["model"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("mine")
    with pytest.raises(CallError, match="model folder"):
        artefact.save(other, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "text").read_text() == "mine"


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5])
def test_a_full_disk_at_any_point_leaves_the_model_before(saved, tmp_path, monkeypatch, place: int) -> None:
    """Three files are flushed, then two folders renamed; each may fail."""
    before, calls = digests(saved), []

    def failing(original):
        def call(*arguments):
            calls.append(original)
            if len(calls) == place:
                raise OSError(28, "No space left on device")
            return original(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(os.fsync))
        patched.setattr(Path, "replace", failing(Path.replace))
        with pytest.raises(MachineError, match="Free some space"):
            artefact.save(made(seed=1), saved)
    assert len(calls) >= place
    assert digests(saved) == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_new_model_appears_whole(tmp_path, monkeypatch) -> None:
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: seen.append((tmp_path / "new").exists()) or fsync(number))
    artefact.save(made(), tmp_path / "new")
    assert seen == [False, False, False]
    assert set(os.listdir(tmp_path / "new")) == set(FILES)

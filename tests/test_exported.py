"""What opsin exports, opsin runs: the rows and scores of the model it came from, without torch; or a refusal."""

from __future__ import annotations

import copy
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from exported import data, name_of, needed, soft
from opsin import answers, artefact, engines, exported, exporting, extras, metrics, models, runs, sources, tables
from opsin.app import cli
from opsin.classifier import Classifier
from opsin.models import NetworkSpec
from opsin.preprocessing import Preprocessing
from test_cli import small
from tiny import write_pngs

pytestmark = pytest.mark.skipif("onnxruntime" not in engines.installed(), reason="needs pip install 'opsin[fast]'")

CLASSES = ("red", "green", "blue")
TASKS = pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
DECIDED: dict[str, dict[str, Any]] = {
    "single-label": {"thresholds": {"red": 0.35}, "unsure_below": 0.34},
    "multi-label": {"thresholds": {"red": 0.5, "green": 0.52}},
    "regression": {"scale": ((5.0, 2.0), (-300.0, 40.0), (0.0, 0.01))},
}


def made(task: str = "single-label", fit: str = "squash") -> Classifier:
    spec = NetworkSpec("textbook", 3, 16)
    torch.manual_seed(1)
    network = models.build(spec)
    road = Preprocessing(16, fit)  # type: ignore[arg-type]
    return Classifier(network, spec, road, CLASSES, task, temperature=0.02, **DECIDED[task])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


Wrote = Callable[..., Path]


@pytest.fixture
def wrote(kept: Path) -> Wrote:
    """A function that writes the exported file of `made(task, fit)` into a folder; each is made once."""

    def write(folder: str, task: str = "single-label", fit: str = "squash", to: str = "onnx", **how: Any) -> Path:
        once = kept / f"{task}-{fit}-{to}-{len(how)}"
        if not once.exists():
            exporting.export(made(task, fit), once / name_of(to), data(8), to=to, **how)
        shutil.copytree(once, folder, dirs_exist_ok=True)
        return Path(folder) / name_of(to)

    return write


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures of many sizes: whole ones, a cut one, words; JPEGs, one read smaller."""
    (tmp_path / "in").mkdir()
    for name, picture in soft(40).items():
        Image.fromarray(picture).save(tmp_path / "in" / f"{name}.png")
    Image.fromarray(soft(1, least=300, most=400)["000"]).save(tmp_path / "in" / "large.jpg")
    (tmp_path / "in" / "cut.png").write_bytes((tmp_path / "in" / "000.png").read_bytes()[:60])
    (tmp_path / "in" / "words.txt").write_text("words")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *call: str) -> list[dict[str, Any]]:
    assert cli.run([*call, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def check_alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """All labels, unsure ones and errors alike, numbers within 1e-5; and not all pictures answered alike."""
    assert len(found) == len(expected) == 43
    assert len({json.dumps(row.get("labels", row.get("label"))) for row in expected}) > 1 or "values" in expected[0]
    for row, wanted in zip(found, expected):
        for kind in ("probabilities", "values"):
            assert row.pop(kind, {}) == pytest.approx(wanted.pop(kind, {}), rel=1e-5, abs=1e-5)
        assert row == wanted


# ── predict ──


@pytest.mark.parametrize(
    ("task", "fit"), [("single-label", "squash"), ("multi-label", "letterbox"), ("regression", "crop")]
)
def test_a_file_says_what_its_model_says(
    task: str, fit: str, place: Path, wrote: Wrote, capsys: pytest.CaptureFixture[str]
) -> None:
    artefact.save(made(task, fit), place / "model")
    wrote("export", task, fit)
    expected = said(capsys, "predict", "model", "in")
    check_alike(said(capsys, "predict", "export", "in"), expected)
    assert {row["error"]["code"] for row in expected if "error" in row} == {"truncated", "not-a-picture"}


def test_so_do_the_other_form_and_a_file_that_resizes(
    place: Path, wrote: Wrote, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact.save(made(), place / "model")
    wrote("resizing", resize=True)
    expected = said(capsys, "predict", "model", "in", "--trusted")
    check_alike(said(capsys, "predict", "resizing/model.onnx", "in", "--trusted"), copy.deepcopy(expected))
    needed("openvino")
    extras.core()
    monkeypatch.delattr(extras.optional("openvino"), "Core")  # of two, Ctrl-C crashes
    wrote("other", to="openvino")
    check_alike(said(capsys, "predict", "other", "in", "--trusted"), expected)
    assert exported.find("other") == Path("other/model.xml")


def test_the_mean_with_mirror_images_is_the_models(
    place: Path, wrote: Wrote, capsys: pytest.CaptureFixture[str]
) -> None:
    artefact.save(made(), place / "model")
    call = ["in", "--trusted"]
    expected, plain = (said(capsys, "predict", "model", *call, *more) for more in (["--tta"], []))
    assert expected != plain
    check_alike(said(capsys, "predict", str(wrote("export")), *call, "--tta"), expected)


def test_an_interrupted_table_is_gone_on_with_by_the_same_file_alone(
    place: Path, wrote: Wrote, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = wrote("export")
    call = ["predict", str(file), "in", "--out", "out.csv", "--trusted"]
    write = tables.Table.write

    def stopping(table: tables.Table, prediction: Any) -> None:
        write(table, prediction)
        if len(table.done) == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tables.Table, "write", stopping)
        assert cli.run(call) == 130
    moved = file.rename(place / "renamed.onnx")
    assert cli.run(["predict", str(moved), *call[2:]]) == 0
    assert "9 pictures are there from before, 34 are left" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(tables.Table, "write", stopping)
        assert cli.run(["predict", str(moved), *call[2:]]) == 130
    other = wrote("export", "regression", "crop")  # another file in the same place
    assert cli.run(["predict", str(other.replace(moved)), *call[2:]]) == 0
    assert "from before" not in capsys.readouterr().err


COLD = """
import sys
from opsin.app import cli
assert cli.run(sys.argv[1:]) == 0
print("IN:", *(name for name in ("torch", "timm", "torchvision", "cv2", "scipy", "onnx") if name in sys.modules))
"""


def test_a_file_answers_without_torch(place: Path, wrote: Wrote) -> None:
    file = wrote("export")
    for more in ([], ["--out", "out.csv", "--trusted"]):
        call = [sys.executable, "-c", COLD, "predict", str(file), "in", *more]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "IN:"


# ── refusals ──


def refused(capsys: pytest.CaptureFixture[str], *call: str) -> tuple[int, str]:
    code = cli.run([*call])
    return code, capsys.readouterr().err


def told_otherwise(file: Path, **told: Any) -> Path:
    """The file, telling something else of itself; nothing where `told` is empty."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(file)
    before = json.loads(model.metadata_props[0].value)
    del model.metadata_props[:]
    if told:
        onnx.helper.set_model_props(model, {"opsin": json.dumps({**before, **told})})
    onnx.save(model, file)
    return file


def test_files_that_are_not_opsins_are_refused(place: Path, wrote: Wrote, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = refused(capsys, "predict", str(told_otherwise(wrote("foreign"))), "in")
    assert code == 4
    assert "is not of opsin: expected a file that opsin export wrote" in text
    assert text.rstrip().endswith("Export the run it came from: opsin export RUN")
    (place / "cut.onnx").write_bytes(b"\x08\x07nothing")
    code, text = refused(capsys, "predict", "cut.onnx", "in")
    assert (code, "cut.onnx cannot be opened" in text) == (4, True)
    for name, received in (("none.onnx", "nothing there"), ("in/large.jpg", "a .jpg file")):
        code, text = refused(capsys, "predict", name, "in")
        assert (code, f"received {received}" in text) == (2, True)
    code, text = refused(capsys, "predict", "nowhere", "in")
    assert (code, "unknown run 'nowhere'" in text) == (2, True)
    code, text = refused(capsys, "predict", "imagnet", "in")
    assert (code, "Did you mean 'imagenet'" in text) == (2, True)
    (place / "empty").mkdir()
    code, text = refused(capsys, "predict", "imagenet", "empty")
    assert (code, "there is no picture: received empty" in text) == (3, True)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"format": 1}, "format 1: expected format 2. Export the run again"),
        ({"classes": ["red", "green"]}, "is damaged: expected (32, 2), received (32, 3)"),
        ({"preprocessing": {}}, "tells of itself is damaged"),
        ({"preprocessing": {"antialias": True, exported.ROOM: 3.0}}, "JPEGs are decoded otherwise: expected 1.25"),
    ],
)
def test_another_version_and_damage_are_refused(
    told: dict[str, Any], said: str, place: Path, wrote: Wrote, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = refused(capsys, "predict", str(told_otherwise(wrote("export"), **told)), "in", "--trusted")
    assert code == 4
    assert said in text


def test_what_needs_the_network_is_refused(place: Path, wrote: Wrote, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(wrote("export"))
    code, text = refused(capsys, "predict", file, "in", "--fast")
    assert (code, "--fast chooses how a network is executed: expected a run" in text) == (2, True)
    code, text = refused(capsys, "evaluate", file, "in", "--want", "red recall>=0.9", "--save", "new")
    assert (code, "--want makes a new model: expected a run" in text) == (2, True)
    code, text = refused(capsys, "export", file)
    assert (code, "which has no network to work with: expected a run" in text) == (2, True)


# ── evaluate ──


@TASKS
def test_logits_are_found_again(task: str) -> None:
    clf = made(task)
    logits = np.random.default_rng(0).normal(0, 3 * clf.temperature, (50, 3))
    logits[0] = (400, -400, 0)  # probabilities of 0 and 1
    logits[0] *= clf.temperature
    given = answers.answers(clf, logits).astype(np.float32)
    found = answers.logits_of(given, task, clf.temperature, clf.scale)  # type: ignore[arg-type]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(answers.answers(clf, found), given, rtol=1e-6, atol=1e-7)
    if task == "single-label":
        found, logits = (each - each.mean(1, keepdims=True) for each in (found, logits))
    np.testing.assert_allclose(found[1:], logits[1:], atol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pics/, a run on it, and its exported file."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSIN_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        write_pngs(folder / "pics", {"dark": 40, "light": 30, "middle": 40})
        assert cli.run(["train", "pics", "--out", "run", *small(3)]) == 0
        assert cli.run(["export", "run"]) == 0
    return folder


def test_a_file_is_tested_as_its_run_on_the_pictures_that_it_did_not_learn_from(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    ((expected,), (found,)) = (
        said(capsys, "evaluate", model, "pics", "--report", f"report-{number}")
        for number, model in enumerate(("run", "run/export/model.onnx"))
    )
    assert found["part"] == expected["part"] == "test"
    assert found["scores"]["n"] == expected["scores"]["n"] < 30
    check_close(found, expected)
    one, other = (json.loads((trained / f"report-{n}" / "report.json").read_text()) for n in (0, 1))
    check_close(other, one)
    assert one["calibration"]["temperature"] != 1


def test_a_file_and_its_run_are_compared(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    (found,) = said(capsys, "compare", "run", "run/export", "pics", "--gate", "accuracy not worse")
    assert (found["only_first"], found["only_second"], found["gate"][0]["passed"]) == (0, 0, True)


@pytest.mark.parametrize(("task", "fit"), [("multi-label", "letterbox"), ("regression", "crop")])
def test_other_tasks_are_scored_as_their_model(task: str, fit: str, place: Path, wrote: Wrote) -> None:
    clf, names = made(task, fit), [path.name for path in sorted((place / "in").glob("0*.png"))]
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 2, (len(names), 3)) if task == "multi-label" else rng.normal(0, 9, (len(names), 3))
    lines = [f"{name},{','.join(map(str, row))}" for name, row in zip(names, columns.tolist())]
    (place / "in" / "set.csv").write_text("\n".join([f"file,{','.join(CLASSES)}", *lines]))
    read = sources.read(place / "in" / "set.csv", target=",".join(CLASSES), task=task)
    opened = exported.load(wrote("export", task, fit))
    found, expected = (metrics.to_dict(runs.evaluate(each, read, "all")) for each in (opened, clf))
    assert found["n"] == 40
    check_close(found, expected)


def check_close(found: Any, expected: Any) -> None:
    """The same plain values, numbers within 1e-4."""
    if isinstance(expected, dict):
        assert [*found] == [*expected]
        for name in expected:
            check_close(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            check_close(one, other)
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-4)
    else:
        assert found == expected


def test_eight_bits_are_scored_by_their_own_answers(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    clf, (read, _) = runs.load("run"), runs.reopen(Path("run"))
    monkeypatch.setattr(exporting.int8, "seconds", lambda files, images: [2.0, 1.0])
    kept = exporting.quantise(clf, Path("run/export/model.onnx"), read.train, read.test, drop=1.0)
    scores = runs.evaluate(exported.load(kept.file), read, "test")
    assert scores.overall["accuracy"].value == kept.accuracy.value
    assert exported.find("run/export") == Path("run/export/model.onnx")

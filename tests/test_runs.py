"""A whole run: the same bytes again, with bad pictures in it; its names."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import opsin
from opsin import artefact, calibration, evaluation, metrics, runs, splits
from opsin.errors import CallError, DataError, MachineError
from resumed import cut, recorded, results
from tiny import HOW, Linear, Net, digests, digits, net, recipe, seeded, train, write_pngs

# ── the same again ──


@pytest.mark.parametrize("network", ["textbook", "small", "own"])
def test_two_runs_of_one_command_give_one_model_to_the_byte(tmp_path, network: str) -> None:
    own = seeded(Net) if network == "own" else None
    choices = recipe(size=16 if network == "small" else 8, network="textbook" if own else network)
    first, second = (opsin.train(digits(), choices, out=tmp_path / f"{i}", network=own, how=HOW) for i in "ab")
    assert set(digests(first.folder / "model")) == {"model.safetensors", "opsin.json", "README.md"}
    assert results(first.folder) == results(second.folder)
    other = opsin.train(digits(), choices.set(seed=1), out=tmp_path / "c", network=own, how=HOW)
    assert digests(other.folder / "model") != digests(first.folder / "model")


@pytest.mark.parametrize("known", [False, True])
def test_a_users_network_is_fine_tuned_only_where_the_recipe_means_it(tmp_path, cache_folder, known: bool) -> None:
    """`pretrained` of a preset is of the preset's network; a plan is remembered for the network that was timed."""
    choices = opsin.preset("finetune").set(size=8, epochs=1, **({"network": "Net"} if known else {}))
    run = opsin.train(digits(), choices, out=tmp_path / "run", network=seeded(Net), how=runs.Execution("cpu"))
    assert run.classifier.facts["recipe"]["model"] | {"pool": ""} == {
        "network": "Net",
        "pretrained": known,
        "pool": "",
        "start": "",
    }
    norm = run.classifier.network.norm
    assert (norm.num_batches_tracked == 0) == (norm.running_var == 1).all() == known
    assert any("head" in e["values"].get("text", "") for e in recorded(run.folder)) == known
    assert [key.partition(",")[0] for key in json.loads((cache_folder / "plans.json").read_text())] == [
        "training Net at 8"
    ]


def test_a_users_network_is_left_as_it_was(tmp_path) -> None:
    network = seeded(Net)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    opsin.train(digits(), recipe(epochs=1), out=tmp_path / "run", network=network, how=HOW)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_saved_model_answers_as_the_run_scored_it(tmp_path) -> None:
    data = opsin.split(digits(), seed=0)
    run = train(data, tmp_path / "run")
    found = [opsin.predict(run.classifier, data.store.read(record.key)) for record in data.test.records]
    right = sum(p.label == data.classes[r.target] for p, r in zip(found, data.test.records))
    assert run.scores["test"].overall["accuracy"].value == right / len(data.test)
    with np.load(run.folder / "logits" / "test.npz") as kept:
        logits = kept["logits"] / run.classifier.temperature
        again = metrics.score(logits, kept["targets"], data.classes, largest=0)
        np.testing.assert_allclose(metrics.softmax(logits), [p.probabilities for p in found], atol=1e-5)
        assert kept["keys"].tolist() == [record.key for record in data.test.records]
    assert again == run.scores["test"]


def test_validation_sets_the_temperature_where_it_chose_nothing(tmp_path) -> None:
    data = digits(each=60)
    last, best = (train(data, tmp_path / keep, keep=keep, epochs=6) for keep in ("last", "best"))
    with np.load(last.folder / "logits" / "val.npz") as kept:
        assert last.classifier.temperature == calibration.temperature(kept["logits"], kept["targets"]) != 1
    assert best.classifier.temperature == 1
    again = opsin.load(last.folder, network=net(data))
    assert again.temperature == last.classifier.temperature
    assert opsin.evaluate(again, data) == last.scores["test"]


# ── folders and names ──


@pytest.mark.parametrize("file", ["recipe.toml", "split.csv", "data.json"])
def test_a_runs_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch, file: str) -> None:
    write_text, split_write = Path.write_text, splits.write

    def refuse(path: Path) -> None:
        if file in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", lambda self, *a, **k: refuse(self) or write_text(self, *a, **k))
    monkeypatch.setattr(splits, "write", lambda data, path: refuse(Path(path)) or split_write(data, path))
    with pytest.raises(MachineError, match="Free some space") as caught:
        runs.create(digits(), recipe(), out=tmp_path / "runs" / "one")
    assert caught.value.exit_code == 5
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_is_there_is_refused(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(CallError, match="exists") as caught:
        train(digits(), tmp_path / "out")
    assert caught.value.exit_code == 2
    assert digests(tmp_path / "out").keys() == {"thesis.txt"}


def test_runs_are_found_by_path_name_and_last(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CallError, match="opsin train"):
        runs.find("last")
    first = runs.create(digits(), recipe())
    second = runs.create(digits(), recipe())
    assert [str(first), str(second)] == [os.path.join("runs", "digits-1"), os.path.join("runs", "digits-2")]
    for age, folder in enumerate((second, first)):
        os.utime(folder / "split.csv", ns=(10**18 - age, 10**18 - age))
    assert runs.find("last") == second
    assert runs.find("digits-1") == runs.find(first) == first
    assert {name: told.split("   ")[0] for name, told in runs.listed().items()} == {
        "digits-1": "not finished",
        "digits-2": "not finished",
    }
    with pytest.raises(CallError, match="Did you mean 'digits-1'"):
        runs.find("digit-1")
    opsin.train(digits(), resume="digits-1", network=net(digits()), how=HOW)
    assert "test accuracy" in runs.listed()["digits-1"]
    assert "n 9" in runs.listed()["digits-1"]


def test_load_takes_a_model_a_run_or_says_what_is_missing(tmp_path) -> None:
    run = opsin.train(digits(), recipe(epochs=1), out=tmp_path / "run", how=HOW)
    for name in (run.folder, run.folder / "model", str(run.folder)):
        assert opsin.load(name).classes == ("zero", "one", "two")
    with pytest.raises(CallError, match="unknown run"):
        opsin.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "changes", [{"network": "resnet81"}, {"loss": "crossentropy"}, {"optimiser": "sdg"}, {"schedule": "cosin"},
                {"network": "textbook", "pretrained": True}],
)  # fmt: skip
def test_what_no_data_makes_possible_is_refused_before_there_is_a_folder(tmp_path, changes) -> None:
    with pytest.raises(CallError) as caught:
        opsin.train(digits(), recipe(**changes), out=tmp_path / "run", how=HOW)
    assert caught.value.exit_code == 2
    with pytest.raises(CallError, match="device"):
        opsin.train(digits(), recipe(), out=tmp_path / "run", how=runs.Execution("tpu"))
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_beside_the_model_goes_when_the_run_goes_on(tmp_path) -> None:
    cut(digits(), tmp_path / "run", 12)
    for debris in (".model-abc", "checkpoint/.candidate-abc"):
        (tmp_path / "run" / debris).mkdir()
        (tmp_path / "run" / debris / "model.safetensors").write_bytes(b"half")
    train(digits(), tmp_path / "run", resume=True)
    assert not [file for file in digests(tmp_path / "run") if "abc" in file]


# ── bad pictures ──


def test_an_unreadable_picture_is_named_and_the_run_goes_on_without_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runs.stages, "TOLD", 3)
    source = write_pngs(tmp_path / "pngs", {"dark": 20, "light": 20})
    whole = opsin.split(opsin.read(source), seed=0)
    bad = [whole.train.records[3].key, whole.train.records[-1].key, whole.val.records[0].key, whole.test.records[1].key]
    for key in bad:
        (source / key).write_bytes((source / key).read_bytes()[:60])
    data = opsin.read(source)
    run = train(data, tmp_path / "run", epochs=1)
    known = json.loads((run.folder / "data.json").read_text())
    assert sorted(r["key"] for r in known["refused"]) == sorted(bad)
    assert {r["code"] for r in known["refused"]} == {"truncated"}
    assert run.scores["test"].n == len(whole.test) - 1
    assert run.classifier.facts["records"] == {"train": len(whole.train) - 2, "val": len(whole.val) - 1, "test": 5}
    assert run.classifier.facts["refused"] == 4
    start = next(event for event in recorded(run.folder) if event["kind"] == "start")
    assert start["values"]["pictures"] == len(whole.train) - 2
    notices = [event["values"]["text"] for event in recorded(run.folder) if event["kind"] == "notice"]
    assert sum(any(text.startswith(f"refused {key}") for text in notices) for key in bad) == 3
    assert any(text.startswith("1 more are refused: ") for text in notices)
    with np.load(run.folder / "logits" / "test.npz") as kept:
        assert kept["keys"].tolist() == [r.key for r in whole.test.records if r.key not in bad]
    assert opsin.evaluate(run.classifier, data).n == run.scores["test"].n  # the same division, refused or not


def test_no_readable_picture_to_train_on_is_wrong_data(tmp_path) -> None:
    source = write_pngs(tmp_path / "pngs", {"dark": 4, "light": 4})
    for file in source.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match="no picture") as caught:
        train(opsin.read(source), tmp_path / "run")
    assert caught.value.exit_code == 3


def test_a_class_of_one_picture_is_trained_on_and_named(tmp_path) -> None:
    data = opsin.read(write_pngs(tmp_path / "pngs", {"dark": 12, "light": 12, "lone": 1}))
    run = train(data, tmp_path / "run", epochs=1)
    assert run.scores["test"].untested == ("lone",)
    assert "lone" not in run.scores["test"].per_class
    known = json.loads((run.folder / "data.json").read_text())
    assert known["counts"]["train"]["lone"] == 1
    assert known["counts"]["test"]["lone"] == 0
    assert any("not scored" in note and "lone" in note for note in known["notes"])


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no UTF-8")
def test_names_that_are_no_utf8_survive_a_run_its_cut_and_its_model(tmp_path) -> None:
    odd = os.fsdecode(b"a\xff")
    source = write_pngs(tmp_path / "pngs", {odd: 12, "light": 12})
    next((source / odd).iterdir()).write_bytes(b"\x89PNG\r\n\x1a\n")
    (source / "light" / "00.png").rename(source / "light" / "a\u2028b.png")
    (source / "light" / "a\u2028b.png").write_bytes(b"\x89PNG\r\n\x1a\n")  # Python takes U+2028 for the end of a line
    data = opsin.read(source)
    cut(data, tmp_path / "run", 11, epochs=1)
    run = train(data, tmp_path / "run", resume=True)
    assert run.classifier.classes == (odd, "light")
    assert "run" in runs.listed(tmp_path)
    assert [e.kind for e in cut(data, tmp_path / "again", 99, epochs=1)][-1] == "scores"


def test_plans_are_measured_once_and_kept(tmp_path, cache_folder) -> None:
    run = opsin.train(digits(), recipe(epochs=1), out=tmp_path / "a", network=seeded(Linear))
    texts = [e["values"]["text"] for e in recorded(run.folder) if e["kind"] == "notice"]
    assert any(text.startswith("measured") for text in texts)
    again = opsin.train(digits(), recipe(epochs=1), out=tmp_path / "b", network=seeded(Linear))
    assert not any("measured" in e["values"].get("text", "") for e in recorded(again.folder))
    assert (run.folder / "plan.json").read_bytes() == (again.folder / "plan.json").read_bytes()
    assert digests(run.folder / "model") == digests(again.folder / "model")


def test_what_is_forced_when_a_run_goes_on_is_its_plan_from_then_on(tmp_path) -> None:
    folder = tmp_path / "run"
    cut(digits(), folder, 12)
    file = folder / "plan.json"
    plan = json.loads(file.read_text())
    file.write_text(
        json.dumps({"training": plan["training"] | {"device": "mps" if torch.cuda.is_available() else "cuda"}})
    )
    with pytest.raises(CallError, match="--device cpu"):
        opsin.train(digits(), resume=folder, network=seeded(Net))
    how = runs.Execution("cpu", "bf16")
    opsin.train(digits(), resume=folder, network=seeded(Net), how=how)
    assert json.loads(file.read_text())["training"] == plan["training"] | {"precision": "bf16"}
    assert any("from now on" in event["values"].get("text", "") for event in recorded(folder))


def test_the_model_is_scored_as_loaded_not_as_trained(tmp_path, monkeypatch) -> None:
    loaded = []
    original = artefact.load
    monkeypatch.setattr(artefact, "load", lambda *a, **k: loaded.append(original(*a, **k)) or loaded[-1])
    scored = []
    logits = evaluation.logits
    monkeypatch.setattr(evaluation, "logits", lambda clf, pixels: scored.append(clf) or logits(clf, pixels))
    opsin.train(digits(), recipe(epochs=1), out=tmp_path / "run", how=HOW)
    assert len(scored) == 2
    assert all(clf.network is loaded[0].network for clf in scored)

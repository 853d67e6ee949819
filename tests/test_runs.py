"""A whole run: the same bytes again, cut and gone on with, killed, with bad pictures in it; its names; `evaluate`."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import opsin
from opsin import artefact, calibration, evaluation, metrics, optim, runs, splits, training
from opsin.app import cli
from opsin.errors import CallError, DataError, MachineError, ModelError
from opsin.vocabulary import Dataset, Event
from tiny import HOW, Linear, Net, digests, digits, net, recipe, seeded, train, write_pngs


def cut(data: Dataset, folder: Path, events: int, *, resume: bool = False, **changes: object) -> list[Event]:
    """Break off after so many events."""
    where = {"resume": folder} if resume else {"out": folder}
    stream = opsin.events(data, recipe(**changes), network=net(data), how=HOW, **where)
    told = list(islice(stream, events))
    stream.close()
    return told


def results(folder: Path) -> dict[str, object]:
    """All that must not depend on what happened on the way."""
    logits = {}
    for file in sorted((folder / "logits").iterdir()):
        with np.load(file) as found:
            logits[file.name] = {name: found[name].tolist() for name in found}
    return {
        "model": digests(folder / "model"),
        "scores": (folder / "scores.json").read_bytes(),
        "logits": logits,
        "recipe": (folder / "recipe.toml").read_bytes(),
        "split": (folder / "split.csv").read_bytes(),
    }


def recorded(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def lasting(folder: Path) -> list[dict]:
    """What is recorded, without what tells of going on, of checkpoints and of seconds."""
    texts = ("going on", "measured")
    return [
        event
        for event in recorded(folder)
        if event["kind"] != "checkpoint" and not (event["kind"] == "start" and event["step"])
        if not event["values"].get("text", "").startswith(texts)
    ]


def steps(folder: Path) -> list[int]:
    return [event["step"] for event in recorded(folder) if event["kind"] == "step"]


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


# ── cut and gone on with ──


WAYS = {
    "momentum": {},
    "adamw, averaged": {"optimiser": "adamw", "ema": 0.9, "lr": 0.001},
    "best, patience": {"keep": "best", "patience": 1, "epochs": 4},
    "muon, looking back, all that is drawn": {
        "optimiser": "muon",
        "lookahead": 2,
        "lr": 0.003,
        "batch": 8,
        "accumulate": 2,
        "loss": "focal",
        "class_weights": "effective",
        "sampling": "balanced",
        "mixup": 0.5,
        "cutmix": 0.5,
        "erase": 0.5,
        "policy": "augmix",
        "noise": 0.05,
        "blur": 1.0,
        "perspective": 0.1,
    },
}


@pytest.mark.parametrize("name", WAYS)
def test_a_run_cut_anywhere_and_resumed_ends_as_the_undisturbed_one(tmp_path, name: str) -> None:
    data, ways = digits(), WAYS[name]
    whole = train(data, tmp_path / "whole", **ways)
    kinds = [event.kind for event in cut(data, tmp_path / "count", 10_000, **ways)]
    middle = [i for i, kind in enumerate(kinds) if kind == "step"][1]
    points = {
        "while decoding": kinds.index("progress") + 1,
        "at the start": kinds.index("start") + 1,
        "inside an epoch": middle + 1,
        "after an epoch": kinds.index("epoch") + 1,
        "after a checkpoint": kinds.index("checkpoint") + 1,
        "after the stop": kinds.index("stop") + 1,
        "while scoring": kinds.index("stop") + 2,
    }
    assert kinds[points["while scoring"] - 1] == "progress"
    for where, point in points.items():
        folder = tmp_path / where
        cut(data, folder, point, **ways)
        with pytest.raises(ModelError, match="not finished"):
            runs.load(folder)
        train(data, folder, resume=True)
        assert results(folder) == results(whole.folder), where
        assert lasting(folder) == lasting(whole.folder), where


def test_a_run_of_the_small_network_goes_on_although_its_stem_does_not_learn(tmp_path) -> None:
    choices = recipe(size=16, network="small", optimiser="nesterov", weight_decay=5e-4)
    opsin.train(digits(), choices, out=tmp_path / "whole", how=HOW)
    stream = opsin.events(digits(), choices, out=tmp_path / "cut", how=HOW)
    list(islice((event for event in stream if event.kind == "step"), 2))
    stream.close()
    opsin.train(digits(), resume=tmp_path / "cut", how=HOW)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_pictures_that_grow_give_a_model_of_the_full_size_and_go_on(tmp_path) -> None:
    choices = recipe(size=32, network="small", grow_from=16, epochs=4)
    run = opsin.train(digits(), choices, out=tmp_path / "whole", how=HOW)
    assert run.classifier.preprocessing.size == 32
    stream = opsin.events(digits(), choices, out=tmp_path / "cut", how=HOW)
    list(islice((event for event in stream if event.kind == "step"), 5))
    stream.close()
    opsin.train(digits(), resume=tmp_path / "cut", how=HOW)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "said"), [({"grow_from": 8}, "less than the size"), ({"grow_from": 16, "size": 32}, "cannot work")]
)
def test_pictures_that_cannot_grow_are_refused(tmp_path, changes: dict, said: str) -> None:
    with pytest.raises(CallError, match=said):
        opsin.train(digits(), recipe(**changes), out=tmp_path / "run", how=HOW)


def test_a_run_cut_again_and_again_ends_as_the_undisturbed_one(tmp_path) -> None:
    whole = train(digits(), tmp_path / "whole", epochs=3)
    folder = tmp_path / "cut"
    told = cut(digits(), folder, 1, epochs=3)
    for _ in range(4):
        stream = opsin.events(digits(), resume=folder, network=seeded(Net), how=HOW)
        told = list(islice((event for event in stream if event.kind == "step"), 2))
        stream.close()
    assert told[-1].step == 8
    train(digits(), folder, resume=True)
    assert results(folder) == results(whole.folder)
    assert steps(folder) == steps(whole.folder)


def test_the_best_epochs_weights_are_the_model(tmp_path, monkeypatch) -> None:
    scores = [0.2, 0.9, 0.4]
    monkeypatch.setattr(training, "_validate", lambda state, work: {"accuracy": scores[state.epoch]})
    after_two = train(digits(), tmp_path / "two", epochs=2)
    best, last = (train(digits(), tmp_path / keep, epochs=3, keep=keep) for keep in ("best", "last"))
    weights = [digests(run.folder / "model")["model.safetensors"] for run in (after_two, best, last)]
    assert weights[0] == weights[1] != weights[2]


def test_going_on_is_told(tmp_path) -> None:
    folder = tmp_path / "run"
    stream = opsin.events(digits(), recipe(), out=folder, network=seeded(Net), how=HOW)
    assert next(event for event in stream if event.step == 2)
    stream.close()
    texts = [event.values.get("text") for event in cut(digits(), folder, 99, resume=True)]
    assert "going on from epoch 0, step 2" in texts


def test_a_break_in_a_for_loop_saves_the_state(tmp_path) -> None:
    for event in opsin.events(digits(), recipe(), out=tmp_path / "run", network=seeded(Net), how=HOW):
        if event.kind == "step" and event.step == 2:
            break
    assert [file.name for file in (tmp_path / "run" / "checkpoint").iterdir()] == ["000000002.safetensors"]


def test_a_state_that_cannot_be_saved_on_the_way_out_is_told(tmp_path, monkeypatch) -> None:
    stream = opsin.events(digits(), recipe(), out=tmp_path / "run", network=seeded(Net), how=HOW)
    next(event for event in stream if event.kind == "step")
    monkeypatch.setattr(training.state.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(MachineError, match="Free some space"):
        stream.close()


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ((training, "logits"), ["000000003.safetensors"]),
        ((training, "_is_best"), ["000000003.safetensors"]),
        ((optim, "clip"), []),
    ],
)
def test_an_error_between_steps_saves_the_state_and_one_inside_a_step_does_not(tmp_path, monkeypatch, where, kept):
    ways = {"ema": 0.9, "keep": "best", "patience": 1, "epochs": 3}
    whole = train(digits(), tmp_path / "whole", **ways)
    folder, calls = tmp_path / "run", []

    def breaks(*_: object) -> None:
        calls.append(1)
        if len(calls) == 2 or where[0] is training:  # in validation, or in the second step, with its norms moved
            raise RuntimeError("driver")

    with monkeypatch.context() as patched:
        patched.setattr(*where, breaks)
        with pytest.raises(RuntimeError, match="driver"):
            train(digits(), folder, **ways)
    assert [file.name for file in (folder / "checkpoint").iterdir()] == kept
    train(digits(), folder, resume=True)
    assert results(folder) == results(whole.folder)


def test_a_finished_run_is_not_gone_on_with(tmp_path) -> None:
    run = train(digits(), tmp_path / "run")
    before = digests(run.folder)
    with pytest.raises(CallError, match="finished"):
        train(digits(), run.folder, resume=True)
    assert digests(run.folder) == before


def test_resuming_asks_for_the_same_data(tmp_path) -> None:
    source = write_pngs(tmp_path / "pngs", {"dark": 8, "light": 8})
    cut(opsin.read(source), tmp_path / "run", 5)
    write_pngs(tmp_path / "more", {"dark": 9, "light": 8})
    (source / "dark" / "00.png").write_bytes((tmp_path / "more" / "dark" / "08.png").read_bytes())
    with pytest.raises(DataError, match="has changed") as caught:
        train(opsin.read(source), tmp_path / "run", resume=True)
    assert caught.value.exit_code == 3


def test_a_run_made_from_python_says_how_it_goes_on(tmp_path) -> None:
    cut(digits(), tmp_path / "run", 1)
    with pytest.raises(CallError, match="from Python"):
        runs.reopen(tmp_path / "run")


# ── killed ──


class Killed(BaseException):
    """Nobody catches it, nothing is tidied up by whoever handles errors."""


def test_a_run_of_a_table_with_named_columns_goes_on(tmp_path, capsys) -> None:
    pngs = write_pngs(tmp_path / "pngs", {"dark": 12, "light": 12})
    rows = [
        f"{file.relative_to(pngs).as_posix()},{file.parent.name},{file.stem}" for file in sorted(pngs.rglob("*.png"))
    ]
    (pngs / "set.csv").write_text("\n".join(["where,what,other", *rows]) + "\n")
    call = ["--picture", "where", "--target", "what", "--recipe", "textbook", "--set", "size=8", "--set", "epochs=1"]
    call += ["--precision", "fp32", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert cli.run(["train", str(pngs / "set.csv"), *call]) == 0
    shutil.rmtree(tmp_path / "run" / "model")
    assert cli.run(["train", "--resume", str(tmp_path / "run")]) == 0
    data, _ = runs.reopen(tmp_path / "run")
    assert data.classes == ("dark", "light")


def test_killed_before_the_first_checkpoint_tells_every_step_once(tmp_path) -> None:
    whole = train(digits(), tmp_path / "whole")
    folder = tmp_path / "run"
    stream = opsin.events(digits(), recipe(), out=folder, network=seeded(Net), how=HOW)
    assert next(event for event in stream if event.step == 2)
    stream.close()
    shutil.rmtree(folder / "checkpoint")  # kill -9 saves nothing on the way out
    assert len(steps(folder)) == 2
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"kind": "step", "epo')  # and tears a line
    train(digits(), folder, resume=True)
    assert steps(folder) == steps(whole.folder)
    assert results(folder) == results(whole.folder)


def test_killed_inside_a_checkpoint_ends_as_the_undisturbed_run(tmp_path) -> None:
    whole = train(digits(), tmp_path / "whole")
    folder = tmp_path / "run"
    stream = opsin.events(digits(), recipe(), out=folder, network=seeded(Net), how=HOW)
    next(event for event in stream if event.kind == "checkpoint")
    next(stream)
    stream.close()
    newest = sorted((folder / "checkpoint").iterdir())[-1]
    half = newest.read_bytes()[:1000]
    newest.write_bytes(half)  # a disk that lost what it was given
    (folder / "checkpoint" / "unfinished").mkdir()
    (folder / "checkpoint" / "unfinished" / ".tmpXyZ").write_bytes(half)
    assert len(steps(folder)) == 4
    train(digits(), folder, resume=True)
    assert results(folder) == results(whole.folder)
    assert steps(folder) == steps(whole.folder)
    assert not (folder / "checkpoint" / "unfinished").exists()


@pytest.mark.parametrize("file", ["scores.json", "model"])
def test_killed_while_results_are_written_ends_as_the_undisturbed_run(tmp_path, monkeypatch, file: str) -> None:
    whole = train(digits(), tmp_path / "whole")
    folder = tmp_path / "run"
    replace = Path.replace

    def stop_at(self: Path, target: Path) -> Path:
        if Path(target) == folder / file:
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop_at)
        with pytest.raises(Killed):
            train(digits(), folder)
    assert not (folder / "model").exists()
    train(digits(), folder, resume=True)
    assert results(folder) == results(whole.folder)


SLOW_WRITES = """
import os, sys, time
import safetensors.torch
from pathlib import Path
from opsin.training import state

whole = state.save_file

def slowly(tensors, file, metadata):  # as safetensors does it: another name first, then renamed
    whole(tensors, file, metadata=metadata)
    data = Path(file).read_bytes()
    Path(file).unlink()
    half = Path(file).with_name(".tmpSlow")
    with half.open("wb", buffering=0) as out:
        print("writing", flush=True)
        for start in range(0, len(data), len(data) // 20 + 1):
            out.write(data[start:start + len(data) // 20 + 1])
            time.sleep(0.01)
    half.replace(file)
    print("written", flush=True)

state.save_file = slowly
from opsin import recipe, runs, sources
runs.stages.CHECKPOINT_SECONDS = 0.1
source, folder = sys.argv[1], Path(sys.argv[2])
if not folder.exists():
    choices = dict(size=8, batch=4, epochs=8, ema=0.9, optimiser="adamw", keep="best")
    chosen = recipe.preset("textbook").set(**choices)
    runs.create(sources.read(source), chosen, origin=runs.Origin(str(source)), out=folder)
for event in runs.work(folder, *runs.reopen(folder), how=runs.Execution("cpu", "fp32", 1)):
    pass
"""


class Command:
    """Begin or go on with a run in a process of its own, whose checkpoints take their time."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.log: list[str] = []
        words = [sys.executable, "-c", SLOW_WRITES, str(source), str(folder)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def killed(self, until: str, after: float) -> bool:
        """Wait for a line where one is given, then so many seconds, then SIGKILL; False when it ended before."""
        assert self.process.stdout
        while until and not (self.log and self.log[-1].startswith(until)) and (line := self.process.stdout.readline()):
            self.log.append(line)
        try:
            self.process.wait(after)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return True
        finally:
            self.log += self.process.stdout
            self.process.stdout.close()
            self.process.wait()
        return False


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_twenty_kills_at_random_moments_change_no_byte(tmp_path) -> None:
    source = write_pngs(tmp_path / "pngs", {"dark": 40, "light": 40, "lighter": 40})
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    assert not Command(source, undisturbed).killed("never", 60)
    chance = random.Random(0)
    kills = inside = finished = 0
    while kills < 20 or not (folder / "model").exists():
        if (folder / "model").exists():  # it was faster than its killer: once more from the beginning
            assert results(folder) == results(undisturbed)
            finished += 1
            shutil.rmtree(folder)
        command = Command(source, folder)
        until, after = ("writing", 0.2) if kills % 2 else ("", 6.0)
        if command.killed(until, chance.uniform(0, after) if kills < 20 else 60):
            kills += 1
            inside += [line for line in command.log if line.startswith("writ")][-1:] == ["writing\n"]
        else:
            assert command.process.returncode == 0, "".join(command.log)
    assert results(folder) == results(undisturbed)
    assert steps(folder) == steps(undisturbed)
    assert inside >= 5
    print(f"{kills} kills, {inside} of them inside a checkpoint's write; finished {finished + 1} times")


def test_a_network_that_does_not_fit_the_data_is_refused_before_training(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"Net.*expected logits") as caught:
        opsin.train(digits(), recipe(), out=tmp_path / "run", network=Net(5), how=HOW)
    assert caught.value.exit_code == 4
    with pytest.raises(CallError, match=r"Net.*size"):
        opsin.train(digits(), recipe(size=16), out=tmp_path / "run-2", network=seeded(Net), how=HOW)


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

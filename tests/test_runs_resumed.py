"""A run that is cut, or killed, and gone on with ends as the undisturbed one."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

import opsin
from opsin import optim, runs, training
from opsin.app import cli
from opsin.errors import CallError, DataError, MachineError, ModelError
from resumed import cut, lasting, results, steps
from tiny import HOW, Net, digests, digits, recipe, seeded, train, write_pngs

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

"""The command line as its user meets it: what is printed, what is left, and how each bad input ends."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from opsin import runs, training
from opsin.app import cli
from tiny import write_pngs

OPSIN = [sys.executable, "-c", "from opsin.app.cli import main; main()"]
PLAIN = ["--device", "cpu", "--precision", "fp32", "--threads", "1"]
RUN = Path("runs/pics-1")
RESUME = ["train", "--resume", str(RUN)]


def small(epochs: int = 1) -> list[str]:
    return ["--recipe", "textbook", "--set", "size=8", "--set", f"epochs={epochs}", "--set", "lr=0.05", *PLAIN]


def strict(text: str) -> object:
    """JSON without NaN and Infinity, which other languages refuse."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with pics/ and a finished run on it, and what training printed. Not to be changed."""
    place = tmp_path_factory.mktemp("trained")
    write_pngs(place / "pics", {"dark": 20, "light": 14})
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(place):
        patch.setenv("OPSIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert cli.run(["train", "pics", *small(2)]) == 0
    return place, out.getvalue()


@pytest.fixture
def here(trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the folder of `trained`."""
    monkeypatch.chdir(trained[0])
    return trained[0]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder of its own, with pics/."""
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "pics", {"dark": 8, "light": 8})
    return tmp_path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of three pictures, one broken in the middle, and a text."""
    folder = write_pngs(tmp_path / "mixed", {"sub": 3})
    broken = folder / "sub" / "01.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (folder / "notes.txt").write_text("not a picture")
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def zipped(folder: Path) -> Path:
    file = folder.with_suffix(".zip")
    with zipfile.ZipFile(file, "w") as out:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            out.write(path, path.relative_to(folder))
    return file


# ── the road ──


def test_train_shows_its_table_and_leaves_a_run(trained) -> None:
    place, said = trained
    assert "34 pictures: dark 20 · light 14" in said
    assert "epoch 2/2" in said
    assert "always 'dark' would have" in said
    assert "true \\ said   dark   light" in said
    assert f"next   opsin predict {RUN}" in said
    assert "\n\n\n" not in said
    left = {file.name for file in (place / RUN).iterdir()}
    assert left >= {"recipe.toml", "plan.json", "events.jsonl", "split.csv", "data.json", "checkpoint", "model"}


def test_train_tells_only_json_when_asked(fresh, capsys) -> None:
    assert cli.run(["train", "pics", *small(), "--out", "mine", "--json"]) == 0
    told = capsys.readouterr()
    answer = strict(told.out)
    assert answer["run"] == "mine"
    assert answer["scores"]["test"]["n"] == [row["split"] for row in rows_of(Path("mine/split.csv"))].count("test")
    assert "epoch 1/1" in told.err


def test_train_takes_the_split_of_another_run(fresh, capsys) -> None:
    assert cli.run(["train", "pics", *small(), "--set", "seed=3", "--out", "first"]) == 0
    assert cli.run(["train", "pics", *small(), "--split", "first/split.csv", "--out", "second"]) == 0
    assert cli.run(["train", "pics", *small(), "--out", "third"]) == 0
    first, second, third = (Path(name, "split.csv").read_bytes() for name in ("first", "second", "third"))
    assert first == second != third


def test_a_group_pattern_keeps_groups_whole(fresh, capsys) -> None:
    assert cli.run(["train", "pics", *small(), "--group", r"(\d)\.png", "--out", "grouped"]) == 0
    splits: dict[str, set[str]] = {}
    for row in rows_of(Path("grouped/split.csv")):
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 8
    assert all(len(found) == 1 for found in splits.values())


def test_last_is_the_run_that_was_begun_last(here, capsys) -> None:
    outputs = []
    for model in ("last", "pics-1", str(RUN), str(RUN / "model")):
        assert cli.run(["predict", model, "pics/dark/00.png"]) == 0
        outputs.append(capsys.readouterr().out)
    assert len(set(outputs)) == 1
    assert outputs[0].startswith("00.png   dark 0.")


def test_top_says_how_many_classes(here, capsys) -> None:
    assert cli.run(["predict", "last", "pics/dark/00.png", "--top", "1"]) == 0
    assert "light" not in capsys.readouterr().out


@pytest.mark.parametrize("pack", [Path, zipped])
def test_every_input_has_exactly_one_line(here, mixed, capsys, pack) -> None:
    source = pack(mixed)
    assert cli.run(["predict", "last", str(source), "pics/dark/00.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ("sub/00.png", "sub/01.png", "sub/02.png", "notes.txt")
    expected = [*(str(source / name) for name in names), str(Path("pics/dark/00.png"))]
    assert [line.split("   ")[0] for line in lines] == expected
    assert [" error " in line for line in lines] == [False, True, False, True, False]


@pytest.mark.parametrize("pack", [Path, zipped])
def test_json_lines_and_csv_have_a_row_for_every_input(here, mixed, capsys, tmp_path, pack) -> None:
    file = tmp_path / "out.csv"
    assert cli.run(["predict", "last", str(pack(mixed)), "--json", "--csv", str(file)]) == 0
    lines = [strict(line) for line in capsys.readouterr().out.splitlines()]
    rows = rows_of(file)
    assert [line["path"] for line in lines] == ["sub/00.png", "sub/01.png", "sub/02.png", "notes.txt"]
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    for line, row in zip(lines, rows):
        if "error" in line:
            assert (row["error"], row["label"]) == (line["error"]["code"], "")
        else:
            assert sum(line["probabilities"].values()) == pytest.approx(1)
            assert row["label"] == line["label"] == max(line["probabilities"], key=line["probabilities"].get)
            assert float(row["dark"]) == pytest.approx(line["probabilities"]["dark"], abs=1e-6)


def test_nothing_answered_is_wrong_data(here, mixed, capsys) -> None:
    assert cli.run(["predict", "last", str(mixed / "notes.txt")]) == 3
    told = capsys.readouterr()
    assert told.out.startswith("notes.txt   error ")
    assert "no picture could be answered" in told.err


def test_a_damaged_zip_costs_the_other_paths_no_answer(here, mixed, capsys, tmp_path) -> None:
    (tmp_path / "bad.zip").write_bytes(zipped(mixed).read_bytes()[:-30])
    assert cli.run(["predict", "last", str(tmp_path / "bad.zip"), "pics/dark/00.png"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'bad.zip'}   error ")
    assert second.startswith(str(Path("pics/dark/00.png")))


def test_a_mistyped_path_is_told_before_any_work(here, capsys, tmp_path) -> None:
    file = tmp_path / "out.csv"
    assert cli.run(["predict", "last", "pics/dark/00.png", "pics/drak", "--csv", str(file)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "pics/drak" in told.err


def test_evaluate_scores_the_test_part_that_training_scored(here, capsys) -> None:
    assert cli.run(["evaluate", "last", "pics", "--json"]) == 0
    answer = strict(capsys.readouterr().out)
    assert answer["part"] == "test"
    assert answer["scores"] == strict((RUN / "scores.json").read_text())["test"]


def test_evaluate_prints_the_table_of_the_part_that_is_asked_for(here, capsys) -> None:
    assert cli.run(["evaluate", "last", "pics", "--part", "all"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("all    accuracy ")
    assert "dark        20" in said


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", {"textbook", "alexnet", "resnet18"}),
        ("recipes", {"textbook", "modern", "finetune"}),
        ("datasets", {"digits", "fashion-mnist", "cifar10"}),
    ],
)
def test_list(here, capsys, what: str, names: set[str]) -> None:
    assert cli.run(["list", what, "--json"]) == 0
    found = strict(capsys.readouterr().out)
    assert names <= set(found)
    assert cli.run(["list", what]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(found)
    pattern = min(names)[:4]
    assert cli.run(["list", what, pattern, "--json"]) == 0
    assert list(strict(capsys.readouterr().out)) == [name for name in found if pattern in name]


@pytest.mark.parametrize("what", ["models", "recipes", "ops", "datasets", "runs"])
def test_a_list_of_nothing_says_so(here, capsys, what: str) -> None:
    assert cli.run(["list", what, "no-such-name"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err.startswith(("none of these ", "no such runs "))) == ("", True)


def test_runs_are_listed_with_what_they_came_to(here, capsys) -> None:
    accuracy = strict((RUN / "scores.json").read_text())["test"]["overall"]["accuracy"]
    assert cli.run(["list", "runs"]) == 0
    assert f"test accuracy {accuracy['value']:.4f} (n {accuracy['n']})" in capsys.readouterr().out


def test_train_and_evaluate_leave_a_report_with_pictures_or_without(here, tmp_path, capsys) -> None:
    page = (RUN / "report.html").read_text(encoding="utf-8")
    written = strict((RUN / "report.json").read_text(encoding="utf-8"))
    assert written["scores"]["overall"] == strict((RUN / "scores.json").read_text())["test"]["overall"]
    assert "pics-1" in page
    for option, shown in (("--pictures", True), ("--no-pictures", False)):
        folder = tmp_path / option
        assert cli.run(["evaluate", "last", "pics", "--part", "all", "--report", str(folder), option]) == 0
        assert ("<img" in (folder / "report.html").read_text(encoding="utf-8")) == shown


def test_test_pictures_that_stand_in_train_are_refused_unless_told_otherwise(fresh, capsys) -> None:
    for part in ("train", "test"):
        write_pngs(fresh / "divided" / part, {"dark": 12, "light": 12}, seed=len(part))
    copied = fresh / "divided" / "train" / "dark" / "03.png"
    (fresh / "divided" / "test" / "dark" / "05.png").write_bytes(copied.read_bytes())
    assert cli.run(["train", "divided", *small()]) == 3
    assert "1 of 24 test pictures are exact copies" in capsys.readouterr().err
    assert not Path("runs").exists() or not list(Path("runs").iterdir())
    assert cli.run(["train", "divided", *small(), "--leaks"]) == 0
    assert "exact copies" in capsys.readouterr().out


# ── the call is wrong ──

NEAR = {
    "command": (["trian", "pics"], "'train'"),
    "recipe": (["train", "pics", "--recipe", "txtbook"], "'textbook'"),
    "setting": (["train", "pics", "--recipe", "textbook", "--set", "epoch=3"], "'epochs'"),
    "model": (["train", "pics", "--recipe", "textbook", "--set", "network=resnet81"], "'resnet"),
    "run": (["predict", "pics-11", "pics"], "'pics-1'"),
    "data set": (["train", "digts", "--recipe", "textbook"], "'digits'"),
}


@pytest.mark.parametrize("what", NEAR)
def test_a_near_name_is_offered(here, tmp_path, capsys, what: str) -> None:
    arguments, meant = NEAR[what]
    out = ["--out", str(tmp_path / "run")] if arguments[0] == "train" else []
    assert cli.run([*arguments, *out]) == 2
    told = capsys.readouterr().err
    assert told.startswith("opsin: unknown ")
    assert f"Did you mean {meant}" in told


WRONG = {
    "no assignment": (["--set", "epochs"], "name=value"),
    "no number": (["--set", "epochs=many"], "epochs"),
    "out of bounds": (["--set", "epochs=-1"], "epochs"),
    "no choice": (["--set", "fit=stretch"], "fit"),
    "not a number": (["--set", "lr=nan"], "lr"),
    "too small a picture": (["--set", "size=4"], "at least 8"),
    "device": (["--device", "moon"], "moon"),
    "precision": (["--precision", "half"], "half"),
    "threads": (["--threads", "-1"], "--threads"),
    "pattern": (["--group", "("], "regular expression"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_choice_is_named(fresh, capsys, what: str) -> None:
    arguments, named = WRONG[what]
    assert cli.run(["train", "pics", "--recipe", "textbook", *arguments]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["train"], [*RESUME, "--set", "lr=1"], [*RESUME, "--recipe", "modern"], ["list", "runz"], ["-z"]]
)
def test_a_call_that_cannot_be_meant(here, capsys, arguments) -> None:
    assert cli.run(arguments) == 2
    assert "is finished" not in (told := capsys.readouterr().err)
    assert told


def test_an_existing_folder_is_not_written_into(fresh, capsys) -> None:
    (fresh / "mine").mkdir()
    assert cli.run(["train", "pics", *small(), "--out", "mine"]) == 2
    assert "mine exists" in capsys.readouterr().err
    assert not list((fresh / "mine").iterdir())


def test_a_finished_run_is_not_resumed(here, capsys) -> None:
    assert cli.run(["train", "--resume", "last"]) == 2
    assert "is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (["train", "digts", "--recipe", "textbook"], "CallError", 2),
        (["predict", "last"], "CallError", 2),
        (["train", "nothing", "--recipe", "textbook"], "DataError", 3),
    ],
)
def test_json_errors(here, capsys, tmp_path, monkeypatch, arguments, kind: str, code: int) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    assert cli.run([*arguments, "--json"]) == code
    told = capsys.readouterr()
    error = strict(told.out)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert error["message"]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 5, "the system refuses: [Errno"),
        (MemoryError("Unable to allocate 9 TiB"), 5, "not enough memory: Unable to allocate 9 TiB"),
        (ZeroDivisionError("by chance"), 70, "a fault of opsin"),
    ],
)
def test_what_nobody_foresaw_never_looks_like_a_gate(
    monkeypatch, capsys, error: Exception, code: int, says: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("opsin.sources.read", fails)
    assert cli.run(["check", "pics"]) == code
    told = capsys.readouterr().err
    assert says in told
    assert ("Traceback" in told and "in fails" in told) == (code == 70)
    assert cli.run(["check", "pics", "--json"]) == code
    failed = strict(capsys.readouterr().out)["error"]
    assert (failed["exit_code"], says in failed["message"]) == (code, True)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".csv", "a/" + "x" * 300])
def test_a_name_that_no_file_can_have_is_no_fault_of_the_machine(tmp_path, monkeypatch, capsys, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["check", name]) == 2
    assert name[:20] in capsys.readouterr().err


# ── the data is wrong ──


def _no_pictures(place: Path) -> Path:
    (place / "empty" / "a").mkdir(parents=True)
    (place / "empty" / "a" / "notes.txt").write_text("no picture")
    return place / "empty"


def _one_class(place: Path) -> Path:
    return write_pngs(place / "one", {"only": 3})


def _torn_zip(place: Path) -> Path:
    file = zipped(write_pngs(place / "torn", {"a": 3, "b": 3}))
    file.write_bytes(file.read_bytes()[:300])
    return file


def _garbled_zip(place: Path) -> Path:
    """Its end is whole, its directory is not."""
    file = zipped(write_pngs(place / "garbled", {"a": 3, "b": 3}))
    file.write_bytes(file.read_bytes().replace(b"PK\x01\x02", b"XXXX"))
    return file


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_no_pictures, "no pictures"),
        (_one_class, "two classes"),
        (_torn_zip, "torn.zip"),
        (_garbled_zip, "garbled.zip"),
    ],
)
def test_data_that_cannot_be_trained_on(tmp_path, monkeypatch, capsys, make, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", str(make(tmp_path)), *small()]) == 3
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_an_unreadable_picture_is_named_and_the_run_goes_on(fresh, capsys) -> None:
    broken = fresh / "pics" / "light" / "03.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert cli.run(["train", "pics", *small()]) == 0
    assert "refused light/03.png: " in capsys.readouterr().out
    refused = strict((RUN / "data.json").read_text())["refused"]
    assert [entry["key"] for entry in refused] == ["light/03.png"]
    assert refused[0]["reason"]


# ── the model is wrong ──


@pytest.mark.parametrize("file", ["model.safetensors", "opsin.json"])
def test_a_changed_byte_in_the_model(here, tmp_path, capsys, file: str) -> None:
    model = shutil.copytree(RUN / "model", tmp_path / "model")
    content = bytearray((model / file).read_bytes())
    content[-40] ^= 1
    (model / file).write_bytes(content)
    assert cli.run(["predict", str(model), "pics"]) == 4
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("opsin: ")


def test_a_run_without_a_model_says_how_to_go_on(here, tmp_path, capsys) -> None:
    begun = shutil.copytree(RUN, tmp_path / "begun", ignore=shutil.ignore_patterns("model"))
    assert cli.run(["predict", str(begun), "pics"]) == 4
    assert f"opsin train --resume {begun}" in capsys.readouterr().err


# ── the machine is wrong ──


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_loses_nothing_that_was_written(fresh, capsys, monkeypatch) -> None:
    save, calls = training.state.save_file, itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(training.state, "save_file", lambda *a, **k: (save if next(calls) == 1 else full)(*a, **k))
        assert cli.run(["train", "pics", *small(3)]) == 5
    assert "Free some space" in capsys.readouterr().err
    assert len(list((RUN / "checkpoint").glob("*.safetensors"))) == 1
    assert cli.run(["train", "--resume", str(RUN), *PLAIN]) == 0
    assert "going on from epoch 1" in capsys.readouterr().out
    assert cli.run(["predict", "last", "pics/dark/00.png"]) == 0


def test_a_disk_full_from_the_start_leaves_no_run(fresh, capsys, monkeypatch) -> None:
    monkeypatch.setattr(Path, "write_text", full)
    assert cli.run(["train", "pics", *small()]) == 5
    assert "Free some space" in capsys.readouterr().err
    assert not list(Path("runs").iterdir())


def test_an_interrupted_state_that_cannot_be_saved_is_not_called_saved(fresh, capsys, monkeypatch) -> None:
    monkeypatch.setattr(training.state, "save_file", full)
    step = training.events

    def interrupted(*arguments: object):
        for event in step(*arguments):
            signal.raise_signal(signal.SIGINT)
            yield event

    monkeypatch.setattr(runs.stages.training, "events", interrupted)
    assert cli.run(["train", "pics", *small()]) == 5
    assert "nothing lost" not in capsys.readouterr().err


def test_an_interrupt_that_comes_when_all_is_done_changes_nothing(fresh, capsys, monkeypatch) -> None:
    scored = runs.stages._scored

    def late(*arguments: object):
        for event in scored(*arguments):
            if event.kind == "scores":
                signal.raise_signal(signal.SIGINT)
            yield event

    monkeypatch.setattr(runs.stages, "_scored", late)
    assert cli.run(["train", "pics", *small()]) == 0
    assert (RUN / "model").is_dir()


# ── the user stops it ──


def test_interrupted_and_resumed_in_process(fresh, capsys, monkeypatch) -> None:
    told = training.events

    def interrupted(*arguments: object):
        for event in told(*arguments):
            if event.kind == "epoch" and event.epoch == 1:
                signal.raise_signal(signal.SIGINT)
            yield event

    with monkeypatch.context() as patch:
        patch.setattr(runs.stages.training, "events", interrupted)
        assert cli.run(["train", "pics", *small(3)]) == 130
    assert f"Go on with: opsin train --resume {RUN}" in capsys.readouterr().err
    assert cli.run(["train", "--resume", str(RUN), *PLAIN]) == 0
    said = capsys.readouterr().out
    assert "epoch 1/3" not in said
    assert "epoch 2/3" in said


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for rights to make a link")
def test_a_run_on_a_link_to_an_archive_goes_on_under_its_name(fresh) -> None:
    shutil.make_archive("parts-2024", "zip", "pics")
    Path("parts.zip").symlink_to("parts-2024.zip")
    assert cli.run(["train", "parts.zip", *small(), "--out", "runs/link"]) == 0
    shutil.rmtree("runs/link/model")
    assert cli.run(["train", "--resume", "link"]) == 0
    assert runs.load("link").facts["name"] == "parts"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send one process a Ctrl-C")
def test_ctrl_c_ends_with_130_and_the_way_to_go_on(fresh, capsys) -> None:
    with subprocess.Popen(
        [*OPSIN, "train", "pics", *small(20)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert any(line.startswith("epoch 1/") for line in process.stdout)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert told == f"opsin: stopped, nothing lost. Go on with: opsin train --resume {RUN}\n"
    assert list((RUN / "checkpoint").glob("*.safetensors"))
    assert not (RUN / "model").exists()
    assert cli.run(["train", "--resume", "last", *PLAIN]) == 0
    assert "epoch 20/20" in capsys.readouterr().out
    assert (RUN / "model" / "opsin.json").is_file()

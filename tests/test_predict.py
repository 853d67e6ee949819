"""Predictions at volume: every input once, gone on with after a kill, on engines that answer alike, in flat memory."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import opsin
from opsin import answers, artefact, classifier, models, plans, sources, tables
from opsin.app import cli
from opsin.classifier import Classifier
from opsin.errors import CallError, MachineError, MissingExtra
from opsin.models import NetworkSpec
from opsin.preprocessing import Preprocessing
from opsin.sources import ArrayStore
from opsin.vocabulary import Prediction, Refusal
from tiny import ROAD, Net, seeded

CLASSES = ("cat", "label", "=dog")


def made() -> Classifier:
    network = seeded(Net)
    network.head.weight.data *= 5
    return Classifier(network, None, ROAD, CLASSES)


def pictures(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"{i:05}": rng.integers(0, 256, (9, 9, 3), dtype=np.uint8) for i in range(n)}


# ── a table that is written as it goes ──


def told(n: int) -> list[Prediction]:
    rng = np.random.default_rng(1)
    found = [Prediction(f"{i}.jpg", CLASSES, tuple(rng.dirichlet(np.ones(3)).tolist())) for i in range(n)]
    odd = os.fsdecode(b"caf\xe9.jpg")
    found[2] = Prediction("b.jpg", CLASSES, error=Refusal("b.jpg", "truncated", 'ends "early"\r\nhere'))
    found[4] = dataclasses.replace(found[4], key=odd)
    found[5] = dataclasses.replace(found[5], key="=1+1.jpg")
    return found


FORMS = pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])


def rows(file: Path) -> list[dict[str, str]]:
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
            return list(csv.DictReader(opened))
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(file).to_pylist()


def write(file: Path, found: list[Prediction], of: str = "m") -> set[str]:
    with tables.predictions(file, CLASSES, of=of) as table:
        before = set(table.done)
        for prediction in found:
            table.write(prediction)
    return before


def break_off(file: Path, found: list[Prediction], of: str = "m") -> None:
    """Write these, and be interrupted."""

    def breaking() -> None:
        with tables.predictions(file, CLASSES, of=of) as table:
            for prediction in found:
                table.write(prediction)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaking()


@FORMS
@pytest.mark.parametrize("torn", [0, 1, 30])
def test_what_was_interrupted_is_gone_on_with_and_is_the_same(ending: str, torn: int, tmp_path: Path) -> None:
    found = told(20)
    write(tmp_path / f"whole{ending}", found)
    file = tmp_path / f"out{ending}"
    break_off(file, found[:11])
    assert not file.exists()
    part = tmp_path / f"out{ending}.m.part"
    if torn:
        part.write_bytes(part.read_bytes()[:-torn])  # the process was killed in the middle of a line
    before = write(file, found)
    assert before == {prediction.key for prediction in found[: 10 if torn else 11]}
    assert file.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert sorted(os.listdir(tmp_path)) == [file.name, f"whole{ending}"]
    assert len(rows(file)) == 20


def test_a_file_in_a_folder_that_is_not_there_yet_gets_it(tmp_path: Path) -> None:
    write(tmp_path / "new" / "folder" / "out.csv", told(12))
    assert len(rows(tmp_path / "new" / "folder" / "out.csv")) == 12


def test_the_forms_tell_the_same(tmp_path: Path) -> None:
    found = told(12)
    for ending in (".csv", ".jsonl", ".parquet"):
        write(tmp_path / f"out{ending}", found)
    table, lines, columns = (rows(tmp_path / f"out{ending}") for ending in (".csv", ".jsonl", ".parquet"))
    assert len(table) == len(lines) == len(columns) == 12
    for one, line, column, prediction in zip(table, lines, columns, found):
        assert line["path"] == column["path"]
        assert column["error"] == (line.get("error") or {}).get("code")
        assert one["error"] == (column["error"] or "")
        if prediction.probabilities:
            assert column["label (class)"] == line["probabilities"]["label"] == prediction.probabilities[1]
            assert column["label"] == line["label"] == prediction.label
            assert float(one["probability"]) == pytest.approx(column["probability"], abs=1e-6)
        else:
            assert column["cat"] is None
            assert column["reason"] == 'ends "early"\r\nhere'


def test_answers_of_another_work_are_not_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    break_off(file, told(6)[:1], of="one")
    assert write(file, told(6), of="two") == set()
    assert (tmp_path / "out.csv.one.part").exists()  # it may still be gone on with


def test_a_row_is_written_once(tmp_path: Path) -> None:
    found = told(6)
    write(tmp_path / "out.csv", [*found, *found])
    assert len(rows(tmp_path / "out.csv")) == 6


def test_what_cannot_be_written_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallError, match=r"expected a name that ends in \.csv, \.jsonl, \.parquet, received \.xlsx"):
        write(tmp_path / "out.xlsx", [])
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="could not write"):
        write(tmp_path / "file" / "out.csv", [])
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtra, match=r"opsin\[parquet\]"):
        write(tmp_path / "out.parquet", [])
    assert os.listdir(tmp_path) == ["file"]


# ── flat memory, decoding beside inference ──


def test_only_a_few_batches_are_held_however_many_pictures_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BATCH", 4)
    one = pictures(1)["00000"]
    lock, read = threading.Lock(), [0]

    class Counting:
        def read(self, key: str) -> np.ndarray:
            with lock:
                read[0] += 1
            return one

    clf, taken, asked = made(), 0, [0]

    def names() -> Iterator[str]:
        for number in range(400):
            asked[0] = number + 1
            yield str(number)

    for taken, _ in enumerate(answers.predict_store(clf, Counting(), names()), 1):
        assert read[0] <= asked[0] <= taken + 4 * (answers.AHEAD + 1)
    assert taken == read[0] == 400


def test_the_next_pictures_are_decoded_while_the_network_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BATCH", 4)
    read: list[str] = []

    class Telling(ArrayStore):
        def read(self, key: str) -> np.ndarray:
            read.append(key)
            return super().read(key)

    seen: list[int] = []

    def run(images: np.ndarray) -> np.ndarray:
        until = time.monotonic() + 5
        while len(read) < min(16, 4 * (len(seen) + 2)) and time.monotonic() < until:
            time.sleep(0.001)  # the reader gets on although this one is at work
        seen.append(len(read))
        return np.zeros((len(images), 3), np.float32)

    found = pictures(16)
    assert len(list(answers.predict_store(made(), Telling(found), list(found), run=run))) == 16
    assert seen[0] >= 8


def test_breaking_off_leaves_no_thread_at_work() -> None:
    found = pictures(300)
    work = answers.predict_store(made(), ArrayStore(found), list(found))
    next(work)
    before = threading.active_count()
    work.close()
    assert threading.active_count() < before


# ── which engine ──


def test_few_pictures_are_the_references() -> None:
    clf, found = made(), pictures(20)
    choice = classifier.settle(clf, ArrayStore(found), list(found))
    assert choice.plan.engine == "torch"
    assert choice.plan.precision == "fp32"
    images = np.zeros((3, 3, 8, 8), np.uint8)
    import torch

    np.testing.assert_array_equal(choice.engine(images), classifier.logits(clf, torch.from_numpy(images)))


@pytest.fixture
def long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the pictures were worth measuring for, on two engines that look installed."""
    monkeypatch.setattr(plans, "SHORT", 0.0)
    monkeypatch.setattr(plans, "GAIN", float("inf"))
    monkeypatch.setattr(plans, "RACE", float("inf"))
    monkeypatch.setattr(plans.engines, "installed", lambda: ["torch", "onnxruntime", "openvino"])


def engines_that_add(monkeypatch: pytest.MonkeyPatch, off: dict[tuple[str, str], float]) -> list[tuple[str, str]]:
    """Engines that answer as torch does, with so much added to the first class; what was built."""
    built: list[tuple[str, str]] = []
    real = classifier._engine

    def build(clf: Classifier, plan: plans.Plan) -> plans.Engine:
        built.append((plan.engine, plan.precision))
        run = real(clf, dataclasses.replace(plan, engine="torch", precision="fp32"))
        shift = np.array([off.get(built[-1], 0.0), 0, 0], np.float32)
        return lambda images: run(images) + shift

    monkeypatch.setattr(classifier, "_engine", build)
    return built


def test_an_engine_whose_probabilities_differ_is_refused(long_work: None, monkeypatch: pytest.MonkeyPatch) -> None:
    built = engines_that_add(monkeypatch, {("openvino", "fp32"): 1e-2, ("onnxruntime", "fp32"): 1e-6})
    found = pictures(plans.ENOUGH)
    choice = classifier.settle(made(), ArrayStore(found), list(found) * 50)
    assert ("openvino", "bf16") not in built
    assert choice.plan.engine in ("onnxruntime", "torch")
    assert any("openvino fp32 is refused" in note for note in choice.notes)


def test_not_one_picture_may_differ_where_nobody_asked_for_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(plans, "settle", lambda *_, least, **__: asked.append(least))
    found = pictures(plans.ENOUGH)
    for fast in (False, True):
        classifier.settle(made(), ArrayStore(found), list(found), fast=fast)
    assert asked == [1.0, plans.AGREE]


def test_lower_precision_is_asked_for_and_need_only_agree_on_labels(
    long_work: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = engines_that_add(monkeypatch, {("openvino", "bf16"): 1e-3, ("torch", "bf16"): 50.0})
    found = pictures(plans.ENOUGH)
    choice = classifier.settle(made(), ArrayStore(found), list(found) * 50, fast=True)
    assert ("openvino", "bf16") in built
    assert not any("openvino bf16 is refused" in note for note in choice.notes)
    assert any("cpu bf16 channels last is refused" in note for note in choice.notes)


def test_the_digest_tells_what_decides_an_answer() -> None:
    clf = made()
    assert classifier.digest(clf) == classifier.digest(made())
    others = [
        dataclasses.replace(clf, temperature=2.0),
        dataclasses.replace(clf, classes=("cat", "=dog", "label")),
        dataclasses.replace(clf, preprocessing=Preprocessing(8, "crop")),
        Classifier(seeded(Net, 1), None, ROAD, CLASSES),
    ]
    assert len({classifier.digest(each) for each in (clf, *others)}) == 5


# ── what is asked for ──


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and pictures: whole ones, a cut one, words, a table of paths."""
    spec = NetworkSpec("textbook", 2, 16)
    artefact.save(Classifier(models.build(spec), spec, Preprocessing(16), ("a", "b")), tmp_path / "model")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number, picture in enumerate(pictures(6).values()):
        Image.fromarray(picture).save(tmp_path / "in" / f"{'sub/' * (number % 2)}{number}.png")
    (tmp_path / "in" / "0.png").write_bytes((tmp_path / "in" / "0.png").read_bytes()[:60])
    (tmp_path / "in" / "words.txt").write_text("words")
    lines = ["file,weight", "2.png,1", "sub/1.png,2", "2.png,3", "gone.png,4", "../model/opsin.json,5"]
    (tmp_path / "in" / "list.csv").write_text("\n".join(lines) + "\n")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(tmp_path / "in" / "2.png", "2.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_input_has_one_name(place: Path) -> None:
    found = sources.gather([Path("in"), Path("in.zip"), Path("nowhere"), Path("in"), Path("in/4.png")])
    names = {str(Path(name)): state for name, state in found.places.items()}
    good = {"in/0.png", "in/2.png", "in/4.png", "in/sub/1.png", "in/sub/3.png", "in/sub/5.png", "in.zip/2.png"}
    assert {name for name, state in names.items() if not isinstance(state, Refusal)} == {str(Path(g)) for g in good}
    refused = {name: state.code for name, state in names.items() if isinstance(state, Refusal)}
    assert refused == {
        str(Path("in/words.txt")): "not-a-picture",
        str(Path("in/list.csv")): "not-a-picture",
        "nowhere": "unreadable",
    }


def test_a_table_names_pictures_with_or_without_classes(place: Path) -> None:
    found = sources.gather([Path("in/list.csv")], whole=False)
    states = {name: state.code if isinstance(state, Refusal) else "" for name, state in found.places.items()}
    assert states == {"2.png": "", "sub/1.png": "", "gone.png": "missing", "../model/opsin.json": "unsafe-path"}


def test_paths_come_from_standard_input(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("in/2.png\nnowhere.png\n\nin.zip\n"))
    assert cli.run(["predict", "model", "-", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == ["in/2.png", "nowhere.png", str(Path("in.zip/2.png"))]
    assert ["error" in line for line in lines] == [False, True, False]


@FORMS
def test_the_command_writes_every_input(ending: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", "model", "in", "--out", f"out{ending}"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "5 answered, 3 errors" in said.err
    names = [row["path"] for row in rows(Path(f"out{ending}"))]
    assert sorted(names) == ["0.png", "2.png", "4.png", "list.csv", "sub/1.png", "sub/3.png", "sub/5.png", "words.txt"]


def test_another_folder_into_the_same_file_is_other_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may stand in both."""
    (place / "other").mkdir()
    Image.fromarray(pictures(1)["00000"]).save(place / "other" / "2.png")
    real = tables.Table.write

    def stopping(table: tables.Table, prediction: Prediction) -> None:
        real(table, prediction)
        if prediction.key == "2.png":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tables.Table, "write", stopping)
        assert cli.run(["predict", "model", "in", "--out", "out.csv"]) == 130
    assert cli.run(["predict", "model", "other", "--out", "out.csv"]) == 0
    (row,) = rows(Path("out.csv"))
    expected = opsin.predict(opsin.load("model"), "other/2.png")
    assert float(row["a"]) == pytest.approx(expected.probabilities[0], abs=1e-5)


SLOWLY = """
import sys, time
from opsin import answers
from opsin.app import cli
real = answers.prepared
def slowly(*given):
    time.sleep(0.01)
    return real(*given)
answers.prepared = slowly
answers.BATCH = 8
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
def test_killed_twice_the_file_is_complete_and_no_row_is_there_twice(place: Path) -> None:
    (place / "many").mkdir()
    for name, picture in pictures(600).items():
        Image.fromarray(picture).save(place / "many" / f"{name}.png")
    assert cli.run(["predict", "model", "many", "--out", "whole.csv"]) == 0
    call = [sys.executable, "-c", SLOWLY, "predict", "model", "many", "--out", "out.csv"]
    for times in (1, 2):
        process = subprocess.Popen(call, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while (
            time.monotonic() < until
            and sum(f.read_bytes().count(b"\n") for f in place.glob("out.csv.*.part")) < 150 * times
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (place / "out.csv").exists()
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "pictures are there from before" in done.stderr
    found, expected = rows(place / "out.csv"), rows(place / "whole.csv")
    assert [row["path"] for row in found] == [row["path"] for row in expected]
    for one, other in zip(found, expected):
        assert float(one["a"]) == pytest.approx(float(other["a"]), abs=1e-5)

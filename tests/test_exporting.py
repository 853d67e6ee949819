"""An exported file answers as the model does, alone and with others' tools; one that would not is never written."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import opsin
from exported import CLASSES, FORMS, NEEDS, RESIZING, TASKS, data, made, name_of, needed, of_task, soft
from opsin import answers, classifier, exporting, preprocessing
from opsin.app import cli
from opsin.classifier import Classifier
from opsin.errors import CallError, DataError, MachineError, MissingExtra, ModelError
from opsin.exporting import graphs, resizing
from opsin.preprocessing import Preprocessing
from opsin.sources import ArrayStore
from opsin.vocabulary import Dataset, Record
from tiny import ROAD, Net, seeded, write_pngs

# ── what is written ──


@FORMS
def test_a_file_answers_as_the_model_for_every_batch(form: str, tmp_path: Path) -> None:
    needed(NEEDS[form])
    clf = made()
    parity = exporting.export(clf, tmp_path / "out" / name_of(form), data(), to=form)
    assert (parity.n, parity.agreement) == (40, 1.0)
    assert parity.difference < 1e-5
    expected = {f"model{ending}" for ending in exporting.FORMS[form].endings} | {"model.json", "README.md"}
    assert set(os.listdir(tmp_path / "out")) == expected
    assert os.listdir(tmp_path) == ["out"]
    opened = exporting.FORMS[form].open(tmp_path / "out" / name_of(form))
    for n in (1, 2, 9):
        images = np.random.default_rng(n).integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
        wanted = answers.probabilities(clf, classifier.logits(clf, torch.from_numpy(images)))
        (found,) = opened.run(images)
        assert (found.shape, found.dtype) == ((n, 3), np.float32)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@FORMS
def test_a_file_tells_what_it_answers_and_what_it_was_given(form: str, tmp_path: Path) -> None:
    needed(NEEDS[form])
    odd = os.fsdecode(b"caf\xe9")  # a folder whose name is no UTF-8
    clf = dataclasses.replace(made(), classes=("red", odd, "été"))
    exporting.export(clf, tmp_path / name_of(form), data(8), to=form)
    told = exporting.FORMS[form].open(tmp_path / name_of(form)).told
    assert told["classes"] == ["red", odd, "été"]
    assert told["thresholds"] == {"red": 0.4}
    assert told["temperature"] == 1.7
    assert preprocessing.from_dict({key: told["preprocessing"][key] for key in ROAD.to_dict()}) == ROAD
    beside = json.loads((tmp_path / "model.json").read_text())
    assert {key: beside[key] for key in told} == dict(told)
    assert beside["parity"]["n"] == 8


def test_an_onnx_file_names_no_folder_of_this_machine_and_is_the_same_each_time(tmp_path: Path) -> None:
    needed("onnxruntime")
    for folder in ("one", "two"):
        exporting.export(made(), tmp_path / folder / "model.onnx", data(8))
    one, two = ((tmp_path / folder / "model.onnx").read_bytes() for folder in ("one", "two"))
    assert one == two
    for place in (Path(opsin.__file__).parent, Path(torch.__file__).parent, Path(__file__).parent):
        assert str(place).encode() not in one


def test_torchs_file_holds_no_pickle_and_no_folder(tmp_path: Path) -> None:
    exporting.export(made(), tmp_path / "model.pt2", data(8), to="torch")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert len(contents) > 3
    assert not [
        name for name, held in contents.items() if b"use_pickle" in held and b"true" in held.split(b"use_pickle")[1][:9]
    ]
    assert not [name for name, held in contents.items() if held.startswith(b"PK")]
    assert not [name for name, held in contents.items() if str(Path(torch.__file__).parent).encode() in held]
    assert graphs.pickles(tmp_path / "model.pt2") == []


def test_a_pickle_in_torchs_file_would_be_seen(tmp_path: Path) -> None:
    program = torch.export.export(seeded(Net).eval(), (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, tmp_path / "held.pt2")  # as torch writes it, with its example inputs
    assert graphs.pickles(tmp_path / "held.pt2")


# ── what would answer otherwise ──


def bgr(monkeypatch: pytest.MonkeyPatch) -> None:
    normalise = preprocessing.normalise
    monkeypatch.setattr(graphs.Graph, "normalised", lambda graph, images: normalise(graph.road, images[:, [2, 1, 0]]))


def mean(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(ROAD, mean=(0.5, 0.5, 0.5))
    normalise = preprocessing.normalise
    monkeypatch.setattr(graphs.Graph, "normalised", lambda graph, images: normalise(other, images))


def class_order(monkeypatch: pytest.MonkeyPatch) -> None:
    told = exporting.contract
    monkeypatch.setattr(exporting, "contract", lambda clf, **how: {**told(clf, **how), "classes": [*CLASSES[::-1]]})


def head_order(monkeypatch: pytest.MonkeyPatch) -> None:
    class Swapped(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)[:, [1, 0, 2]]

    made_so = graphs.Graph.__init__

    def swapping(graph: graphs.Graph, clf: Classifier, **how: bool) -> None:
        made_so(graph, clf, **how)
        graph.network = Swapped(clf.network)

    monkeypatch.setattr(graphs.Graph, "__init__", swapping)


def temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs.Graph, "answers", lambda graph, logits: torch.softmax(logits, 1))


Plant = Callable[[pytest.MonkeyPatch], None]
FAULTS: dict[str, tuple[Plant, str]] = {
    "bgr": (bgr, "normalisation"),
    "mean": (mean, "normalisation"),
    "head order": (head_order, "logits"),
    "temperature": (temperature, "probabilities"),
    "class order": (class_order, "class names"),
}


@pytest.mark.parametrize("form", ["onnx", "torch", pytest.param("openvino", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_where_it_is_and_nothing_is_written(
    fault: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed(NEEDS[form])
    plant, begins = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises(ModelError, match=f"answers otherwise.*% of 40 labels alike.*begins at: {begins}") as caught:
        exporting.export(made(), tmp_path / name_of(form), data(), to=form)
    assert caught.value.exit_code == 4
    assert os.listdir(tmp_path) == []


def test_a_resizing_without_antialias_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed("onnxruntime")
    monkeypatch.setattr(resizing, "ONNX", resizing.ONNX.replace("wide = Max (scale, one)", "wide = Max (one, one)"))
    with pytest.raises(ModelError, match="begins at: resizing"):
        exporting.export(made(), tmp_path / "model.onnx", data(), resize=True)
    assert os.listdir(tmp_path) == []


def test_an_earlier_file_stays_when_the_next_would_answer_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporting.export(made(), tmp_path / "model.pt2", data(8), to="torch")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    temperature(monkeypatch)
    with pytest.raises(ModelError):
        exporting.export(made(), tmp_path / "model.pt2", data(8), to="torch")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_answers_that_are_no_numbers_are_no_parity() -> None:
    clf, (pair,) = made(), list(exporting.asked(made(), data(8)))
    nothing = graphs.Opened(lambda images: [np.full((len(images), 3), np.nan)], exporting.contract(clf))
    assert exporting.compare(clf, nothing, iter([pair])).difference == float("inf")


# ── resizing inside ──


@RESIZING
def test_pictures_of_any_size_are_resized_inside(interpolation: str, tmp_path: Path) -> None:
    needed("onnxruntime")
    clf = made(dataclasses.replace(ROAD, interpolation=interpolation))
    parity = exporting.export(clf, tmp_path / "model.onnx", data(), resize=True)
    assert (parity.agreement, parity.difference < 1e-5) == (1.0, True)
    opened = exporting.FORMS["onnx"].open(tmp_path / "model.onnx")
    for sides in ((8, 8), (31, 50), (5, 7)):  # as it is, smaller, larger
        pictures = np.stack([np.array(Image.fromarray(each).resize(sides)) for each in soft(3).values()])
        expected = [opsin.predict(clf, picture).probabilities for picture in pictures]
        (found,) = opened.run(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_what_has_no_form_in_a_graph_is_refused(fit: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=f"no form in a graph.*squash.*received {fit}"):
        exporting.export(made(Preprocessing(8, fit)), tmp_path / "model.onnx", data(8), resize=True)
    with pytest.raises(CallError, match="no form in torch"):
        exporting.export(made(), tmp_path / "model.pt2", data(8), to="torch", resize=True)


# ── other tasks ──


@FORMS
@TASKS
def test_files_of_other_tasks_answer_as_the_model(task: str, form: str, tmp_path: Path) -> None:
    needed(NEEDS[form])
    clf = of_task(task)
    parity = exporting.export(clf, tmp_path / name_of(form), data(), to=form)
    assert (parity.n, parity.agreement, parity.task) == (40, 1.0, task)
    opened = exporting.FORMS[form].open(tmp_path / name_of(form))
    kind = {"multi-label": "probabilities", "regression": "quantities"}[task]
    assert (opened.told["task"], opened.told["output"]["holds"]) == (task, kind)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    wanted = answers.answers(clf, classifier.logits(clf, torch.from_numpy(images)))
    np.testing.assert_allclose(opened.run(images)[0], wanted, rtol=1e-4, atol=1e-6)


@TASKS
def test_a_fault_in_the_answers_of_other_tasks_is_found(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = graphs.Graph.answers
    monkeypatch.setattr(graphs.Graph, "answers", lambda graph, logits: answers(graph, logits * 1.01))
    with pytest.raises(ModelError, match=f"begins at: {graphs.ANSWERS[task]}"):
        exporting.export(of_task(task), tmp_path / "model.pt2", data(), to="torch")
    assert os.listdir(tmp_path) == []


# ── eight bits ──


def labelled(clf: Classifier, n: int, seed: int) -> Dataset:
    """Pictures whose classes are the model's own answers."""
    pictures = soft(n, seed)
    answers = [opsin.predict(clf, picture).top(1)[0][0] for picture in pictures.values()]
    records = tuple(Record(key, clf.classes.index(label)) for key, label in zip(pictures, answers))
    return Dataset("labelled", records, clf.classes, ArrayStore(pictures), "")


def test_eight_bits_are_kept_where_they_pay_and_not_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed("onnxruntime")
    clf = made()
    train, val = labelled(clf, 60, 1), labelled(clf, 50, 2)
    exporting.export(clf, tmp_path / "model.onnx", val)
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(exporting.int8, "seconds", lambda files, images: [1.0, 2.0])
    slow = exporting.quantise(clf, tmp_path / "model.onnx", train, val, drop=1.0)
    assert "not faster here: 0.50 times" in slow.why
    monkeypatch.setattr(exporting.int8, "seconds", lambda files, images: [2.0, 1.0])
    lossy = exporting.quantise(clf, tmp_path / "model.onnx", train, val, drop=-1.0)
    assert "of accuracy, and -1 is allowed" in lossy.why
    assert sorted(os.listdir(tmp_path)) == before
    kept = exporting.quantise(clf, tmp_path / "model.onnx", train, val, drop=0.5)
    assert (kept.why, kept.speed, kept.before.value, kept.before.n) == ("", 2.0, 1.0, 50)
    assert kept.accuracy.value == kept.agreement > 0.5
    assert kept.file == tmp_path / "model-int8.onnx"
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "model-int8.onnx"])
    opened = exporting.FORMS["onnx"].open(kept.file)
    assert opened.told["precision"] == "int8"
    assert opened.told["classes"] == list(CLASSES)
    nodes = pytest.importorskip("onnx").load(kept.file).graph.node
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in nodes}
    assert nodes[-1].op_type == "Softmax"  # probabilities are not rounded to 256 steps


def test_eight_bits_need_pictures_of_known_classes(tmp_path: Path) -> None:
    none = Dataset("none", (), CLASSES, ArrayStore({}), "")
    with pytest.raises(DataError, match="--int8 needs pictures to calibrate on"):
        exporting.quantise(made(), tmp_path / "model.onnx", none, data(4))
    with pytest.raises(DataError, match="without a class"):
        exporting.quantise(made(), tmp_path / "model.onnx", data(4), data(4))


# ── places and parts ──


def test_an_unknown_form_and_another_ending_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"unknown form 'onx'.*Did you mean 'onnx'"):
        exporting.export(made(), tmp_path / "model.onnx", data(8), to="onx")
    with pytest.raises(CallError, match=r"expected a name that ends in \.xml, received \.onnx"):
        exporting.export(made(), tmp_path / "model.onnx", data(8), to="openvino")


@pytest.mark.parametrize("name", ["README.md", "labels.json"])
def test_somebodys_file_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"my": "project"}\n')
    with pytest.raises(CallError, match=f"{name} is there and is not ours"):
        exporting.export(made(), tmp_path / "labels.pt2", data(8), to="torch")
    assert os.listdir(tmp_path) == [name]


def test_without_pictures_nothing_is_written(tmp_path: Path) -> None:
    none = Dataset("none", (), (), ArrayStore({}), "")
    gone = Dataset("gone", (Record("a"), Record("b")), (), ArrayStore({}), "")
    for empty in (none, gone):
        with pytest.raises(DataError, match="no picture"):
            exporting.export(made(), tmp_path / "model.pt2", empty, to="torch")
    assert os.listdir(tmp_path) == []


def test_a_missing_part_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtra, match=r"opsin\[fast\]"):
        exporting.export(made(), tmp_path / "model.onnx", data(8))
    assert os.listdir(tmp_path) == []


class Branching(Net):
    """Its way depends on the numbers, so no graph can be made of it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images if float(images.sum()) > 0 else -images)


@FORMS
def test_a_network_without_a_graph_is_told_in_one_line(form: str, tmp_path: Path) -> None:
    needed(NEEDS[form])
    clf = Classifier(seeded(Branching), None, ROAD, CLASSES)
    with pytest.raises(MachineError, match=f"{form} cannot hold this network") as caught:
        exporting.export(clf, tmp_path / name_of(form), data(8), to=form)
    assert len(str(caught.value).splitlines()) == 1
    assert os.listdir(tmp_path) == []


# ── the command ──


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in an own working folder."""
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "pics", {"dark": 20, "light": 14})
    choices = ("--recipe", "textbook", "--set", "size=8", "--set", "epochs=1", "--set", "batch=16")
    assert cli.run(["train", "pics", *choices, "--out", "run", "--threads", "1"]) == 0
    return tmp_path / "run"


def test_export_takes_the_pictures_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for model in ("run", "run/model"):
        assert cli.run(["export", model, "--to", "torch", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["file"] == str(Path("run" if model == "run" else run) / "export" / "model.pt2")
        assert told["bytes"] == (run / "export" / "model.pt2").stat().st_size
        assert told["parity"]["agreement"] == 1
        assert told["parity"]["n"] == (run / "split.csv").read_text().count(",val,")
    assert cli.run(["export", "run", "--to", "torch", "--out", "mine"]) == 0
    assert "labels alike" in capsys.readouterr().out
    assert set(os.listdir("mine")) == {"model.pt2", "model.json", "README.md"}


def test_changed_data_and_another_model_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pngs(Path("more"), {"dark": 9, "light": 9}, seed=1)
    choices = ("--recipe", "textbook", "--set", "size=8", "--set", "epochs=1", "--set", "batch=16")
    assert cli.run(["train", "more", *choices, "--out", "other", "--threads", "1"]) == 0
    shutil.copytree("other/model", "run/second")
    capsys.readouterr()
    assert cli.run(["export", "run/second", "--to", "torch"]) == 3
    assert "is not the run of this model" in capsys.readouterr().err
    (Path("pics") / "dark" / "00.png").unlink()
    assert cli.run(["export", "run", "--to", "torch"]) == 3
    assert "has changed since" in capsys.readouterr().err
    assert not (run / "export").exists()


def test_a_model_that_stands_alone_needs_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("run/model", "alone/model")
    capsys.readouterr()
    assert cli.run(["export", "alone/model", "--to", "torch"]) == 2
    assert "--data" in capsys.readouterr().err
    for number, source in enumerate(("pics", "pics/dark", "pics/dark/00.png")):  # a data set, loose pictures, one
        assert cli.run(["export", "alone/model", "--to", "torch", "--data", source, "--out", f"out{number}"]) == 0
    assert cli.run(["export", "alone/model", "--to", "torch", "--data", "nowhere/x"]) == 2
    assert cli.run(["export", "alone/model", "--to", "tench", "--data", "pics"]) == 2


def test_a_latency_that_nothing_meets_is_a_gate_that_is_not_passed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for allowed, code, best in (("100000", 0, str(Path("run/export/model.pt2"))), ("0.000001", 1, None)):
        assert cli.run(["export", "run", "--to", "torch", "--max-ms", allowed, "--json"]) == code
        told = json.loads(capsys.readouterr().out)
        assert told["best"] == best
        assert told["latency"][str(Path("run/export/model.pt2"))] > 0

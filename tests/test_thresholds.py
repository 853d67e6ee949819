"""Thresholds from what was wanted to what is answered: training, evaluating, predicting, comparing, reporting."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import opsin
from opsin import answers, artefact, classifier, comparison, metrics, runs, tables
from opsin.app import cli
from opsin.classifier import Classifier
from opsin.vocabulary import UNSURE, Prediction
from tiny import HOW, ROAD, Net, digits, recipe, seeded, write_pngs

WANT = "dark recall>=0.7; accuracy>=0.6"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pics/ and the run r, which was asked for WANT."""
    place = tmp_path_factory.mktemp("wanted")
    write_pngs(place / "pics", {"dark": 40, "light": 40})
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(place):
        patch.setenv("OPSIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        plain = [
            "--set",
            "size=8",
            "--set",
            "epochs=4",
            "--set",
            "lr=0.05",
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--threads",
            "1",
        ]
        wants = [word for one in WANT.split("; ") for word in ("--want", one)]
        with contextlib.redirect_stdout(io.StringIO()):
            assert cli.run(["train", "pics", "--recipe", "textbook", *plain, *wants, "--out", "runs/r"]) == 0
    return place


def test_a_run_sets_stores_and_prices_what_was_wanted(trained: Path) -> None:
    run = trained / "runs" / "r"
    clf = artefact.load(run / "model")
    told = clf.facts["wants"]
    assert [one["want"] for one in told] == ["dark recall>=0.7", "accuracy>=0.6"]
    assert clf.thresholds == {"dark": told[0]["probability"]}
    assert [list(one["price"]) for one in told] == [["calibration", "test"]] * 2
    with np.load(run / "logits" / "test.npz") as kept:
        said = answers.named(clf, answers.probabilities(clf, kept["logits"]))
        dark = kept["targets"] == 0
        recall, right = (said == 0)[dark].mean(), (said == kept["targets"]).mean()
    assert told[0]["price"]["test"]["recall"]["value"] == pytest.approx(recall)
    assert clf.facts["scores"]["test"]["overall"]["accuracy"]["value"] == pytest.approx(right)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What was asked of it" in page
    assert "dark recall&gt;=0.7" in page
    assert json.loads((run / "report.json").read_text())["wants"] == told


def test_another_model_is_saved_with_other_thresholds(trained: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(trained)
    before = artefact.load("runs/r/model")
    assert cli.run(["evaluate", "runs/r", "pics", "--want", "light recall>=0.6", "--save", "new", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(artefact.load("new").thresholds) == {"light"}
    assert told["wants"][0]["want"] == "light recall>=0.6"
    assert "coverage" in told["scores"]["overall"]
    assert artefact.load("runs/r/model").thresholds == before.thresholds
    assert cli.run(["evaluate", "runs/r", "pics", "--want", "light recall>=0.6"]) == 2
    assert cli.run(["evaluate", "runs/r", "pics", "--want", "light recall>=0.99", "--save", "more"]) == 3
    assert "99 or more pictures" in capsys.readouterr().err
    assert not Path("more").exists()


def test_what_validation_cannot_promise_is_refused_before_training(trained: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(trained)
    call = ["train", "pics", "--recipe", "textbook", "--set", "size=8", "--out", "runs/none"]
    assert cli.run([*call, "--want", "dark recall>=0.98"]) == 3
    assert "expected 49 or more of 'dark', received 6" in capsys.readouterr().err
    assert cli.run([*call, "--want", "dork recall>=0.98"]) == 2
    assert not Path("runs/none").exists()


def test_a_want_that_is_missed_leaves_the_model_and_exit_code_1(trained: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(trained)
    place = Path("noise")
    rng = np.random.default_rng(0)
    write_pngs(place, {"a": 40, "b": 40})
    for file in place.rglob("*.png"):  # nothing to learn: no precision is reached
        from PIL import Image

        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(file)
    plain = ["--set", "size=8", "--set", "epochs=1", "--device", "cpu", "--precision", "fp32", "--threads", "1"]
    call = ["train", "noise", "--recipe", "textbook", *plain, "--want", "a precision>=0.84", "--out", "runs/noise"]
    assert cli.run(call) == 1
    assert "no threshold is set" in capsys.readouterr().out
    assert artefact.load("runs/noise/model").thresholds == {}


def decided(**changes: object) -> Classifier:
    network = seeded(Net)
    network.head.weight.data *= 5
    return Classifier(network, None, ROAD, ("a", "b", "c"), **changes)  # type: ignore[arg-type]


def test_a_prediction_can_be_unsure_everywhere(tmp_path: Path) -> None:
    clf = decided(thresholds={"b": 0.2}, unsure_below=0.6)
    rng = np.random.default_rng(1)
    found = [opsin.predict(clf, rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(40)]
    for one in found:
        assert isinstance(one, Prediction)
        a, b, c = one.probabilities
        expected = "b" if b >= 0.2 else None if max(a, c) < 0.6 else "a" if a > c else "c"
        assert (one.label, one.unsure) == (expected, expected is None)
        assert one.probability == (b if expected == "b" else max(a, b, c))
    unsure = next(one for one in found if one.unsure)
    assert str(unsure).startswith("Prediction(unsure: ")
    assert any(str(one).startswith("Prediction(b: ") for one in found)  # named, and not the most probable
    assert json.loads(tables.to_json(unsure)) | {"probabilities": 0} == {
        "path": "picture", "label": None, "unsure": True, "probabilities": 0
    }  # fmt: skip
    with tables.predictions(tmp_path / "out.csv", clf.classes) as table:
        for i, one in enumerate(found):
            table.write(Prediction(str(i), one.classes, one.probabilities, answer=one.answer))
    with (tmp_path / "out.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["label"] for row in rows] == [one.label or "" for one in found]
    assert [row["unsure"] for row in rows] == ["yes" if one.unsure else "no" for one in found]


def test_the_artefact_keeps_what_decides(tmp_path: Path) -> None:
    clf = decided(thresholds={"b": 0.2}, unsure_below=0.6)
    artefact.save(clf, tmp_path / "m")
    loaded = artefact.load(tmp_path / "m", network=seeded(Net))
    assert (loaded.thresholds, loaded.unsure_below) == ({"b": 0.2}, 0.6)
    assert classifier.digest(clf) != classifier.digest(decided(thresholds={"b": 0.2}))


def test_comparing_takes_unsure_for_wrong() -> None:
    targets = np.tile([0, 1], 50)
    second = targets.copy()
    second[:20] = UNSURE
    found = comparison.compare(targets, second, targets, "ab")
    assert (found.only_first, found.only_second) == (20, 0)
    assert found.overall["accuracy"].second == pytest.approx(0.8)
    recall, precision = 0.8, 1.0
    assert found.per_class["a"].second == pytest.approx(2 * recall * precision / (recall + precision))
    with pytest.raises(opsin.errors.DataError):
        comparison.compare(targets, np.full(100, 2), targets, "ab")


def test_groups_count_for_thresholds_too() -> None:
    said, true = np.array([0, UNSURE, 1, 1] * 20), np.array([0, 0, 1, 0] * 20)
    rows = np.eye(2)[true] * 2
    groups = [str(i // 8) for i in range(80)]
    found = metrics.score(rows, true, "ab", largest=0, groups=groups, answers=said)
    assert found.overall["coverage"].value == 0.75
    assert found.overall["accuracy on answered"].value == pytest.approx(2 / 3)
    assert found.unsure == (20, 0)


def test_a_run_is_shown_in_a_notebook(tmp_path: Path) -> None:
    run = opsin.train(digits(), recipe(epochs=1), out=tmp_path / "run", how=HOW)
    shown = run._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2  # all of the page is inside the quotes
    assert "&lt;title&gt;digits: report" in shown
    (tmp_path / "run" / "report.html").unlink()
    assert "no report yet" in runs.finish(tmp_path / "run")._repr_html_()


def test_the_first_line_says_how_many_are_named_and_how_well(trained: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(trained)
    assert cli.run(["evaluate", "runs/r", "pics"]) == 0
    scores = json.loads(Path("runs/r/scores.json").read_text())["test"]["overall"]
    share, right = scores["coverage"]["value"], scores["accuracy on answered"]["value"]
    assert f"test   names {share:.0%} of all pictures, accuracy on these {right:.3f} [" in capsys.readouterr().out

"""Whole runs of several labels and of quantities: what they learn, what they leave, and what does not know them."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import opsin
from opsin import (
    answers,
    artefact,
    checks,
    classifier,
    comparison,
    evaluation,
    exporting,
    reports,
    runs,
    splits,
    tables,
)
from opsin.app.cli import run as cli
from opsin.errors import CallError, DataError
from opsin.recipe import preset
from opsin.vocabulary import Dataset, finished
from tiny import HOW, Net, digests

LABELS = ("top", "left", "spot")


def picture(has: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Noise around a level; a bright line at the top, one at the left, and a spot, where they are there."""
    image = rng.normal(60 + 60 * level, 12, (8, 8, 3))
    for shown, place in zip(has, (np.s_[:2], np.s_[:, :2], np.s_[4:7, 4:7])):
        if shown:
            image[place] += 80
    return image.clip(0, 255).astype(np.uint8)


def write(folder: Path, n: int = 240, unknown: float = 0.2) -> Path:
    """Pictures with labels, some of which are blank, and a number, and the table of them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for number in range(n):
        has, level = rng.random(3) < (0.5, 0.4, 0.3), float(rng.random())
        Image.fromarray(picture(has, level, rng)).save(folder / f"{number:03}.png")
        blank = rng.random(3) < unknown
        rows.append([f"{number:03}.png", *("" if b else int(h) for h, b in zip(has, blank)), f"{100 * level:.2f}"])
    with open(folder / "set.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", *LABELS, "level"], *rows])
    return folder / "set.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tasks") / "set")


def labels(table: Path) -> Dataset:
    return opsin.read(table, target=",".join(LABELS))


def levels(table: Path) -> Dataset:
    return opsin.read(table, target="level")


def train(data: Dataset, out: Path, **changes: object) -> runs.Run:
    torch.manual_seed(0)
    recipe = preset("textbook", task=data.task).set(
        **{"size": 8, "epochs": 15, "batch": 16, "lr": 0.003, "optimiser": "adam", **changes}
    )
    return opsin.train(
        data, recipe.set(hflip="no", vflip="no", rotate=0), out=out, network=Net(len(data.classes)), how=HOW
    )


@pytest.fixture(scope="module")
def several(table: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return train(labels(table), tmp_path_factory.mktemp("runs") / "several")


@pytest.fixture(scope="module")
def measured(table: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return train(levels(table), tmp_path_factory.mktemp("runs") / "measured")


def test_labels_are_learned_from_what_is_known(several: runs.Run) -> None:
    found = several.scores["test"]
    assert found.task == several.classifier.task == "multi-label"
    assert found.overall["mAP"].low > found.overall["no skill mAP"].high + 0.2
    assert set(several.classifier.thresholds) == set(LABELS)
    with np.load(several.folder / "logits" / "test.npz") as kept:
        assert np.isnan(kept["targets"]).any()
        again = evaluation.score(several.classifier, kept["logits"], kept["targets"], "")
    assert again == found


def test_a_quantity_is_learned_in_its_unit(measured: runs.Run) -> None:
    found = measured.scores["test"].overall
    assert found["MAE"].high < found["always the mean"].low / 2
    assert 20 < found["always the mean"].value < 30
    ((mean, deviation),) = measured.classifier.scale
    assert 40 < mean < 60
    assert 25 < deviation < 33  # of a uniform distribution 0…100, 28.9


def test_predictions_and_their_forms(several: runs.Run, measured: runs.Run, table: Path, tmp_path) -> None:
    said = opsin.predict(opsin.load(several.folder, network=Net(3)), table.parent / "000.png")
    assert said.label is None
    assert said.labels == [pair for pair in said.top(3) if pair[1] >= several.classifier.thresholds[pair[0]]]
    value = opsin.predict(opsin.load(measured.folder, network=Net(1)), table.parent / "000.png")
    assert value.probabilities is None
    truth = levels(table).records[0].targets[0]
    assert abs(value.values[0] - truth) < 30
    for clf, name in ((several.classifier, "a"), (measured.classifier, "b")):
        for ending in ("csv", "jsonl"):
            file = tmp_path / f"{name}.{ending}"
            with tables.predictions(file, clf.classes, form=answers.blank(clf)) as written:
                for prediction in classifier.predict_all(clf, table.parent / "000.png"):
                    written.write(prediction)
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert rows[0] == ["path", "labels", "error", "reason", *LABELS]
    assert rows[1][1] == "|".join(name for name, _ in said.labels)
    rows = list(csv.reader((tmp_path / "b.csv").read_text().splitlines()))
    assert rows[0] == ["path", "error", "reason", "level"]
    assert float(rows[1][3]) == pytest.approx(value.values[0], rel=1e-4)
    assert json.loads((tmp_path / "b.jsonl").read_text())["values"] == {"level": pytest.approx(value.values[0])}


def test_the_report_tells_what_fits_the_task(several: runs.Run, measured: runs.Run) -> None:
    page = (several.folder / "report.html").read_text()
    assert "mean average precision" in page
    assert "Confusion matrix" not in page
    page = (measured.folder / "report.html").read_text()
    assert "always answering the mean" in page
    assert page.count("<ellipse") == measured.scores["test"].n
    assert "accuracy" not in page
    card = (measured.folder / "model" / "README.md").read_text()
    assert "Estimates, in the unit of its training values: level" in card
    assert "MAE" in card


def test_a_recall_that_is_wanted_of_a_label(several: runs.Run, table: Path, tmp_path) -> None:
    data, wanted = labels(table), "spot recall>=0.85; top precision>=0.8"
    clf, settled, (_, scores, _) = finished(runs.settling(several.classifier, data, wanted))
    assert clf.thresholds["left"] == several.classifier.thresholds["left"]
    val, _, _ = finished(runs.evaluating(clf, data, "val"))
    shares, true = answers.answers(clf, val.logits)[:, 2], val.targets[:, 2]
    assert np.isnan(true).any()
    found = (shares[true == 1] >= clf.thresholds["spot"]).sum()
    assert found >= 0.85 * ((true == 1).sum() + 1)
    last = shares[~np.isnan(true) & (shares >= clf.thresholds["spot"])].min()  # without it there are too few
    assert (shares[true == 1] > last).sum() < 0.85 * ((true == 1).sum() + 1)
    assert [one.want.cls for one in settled] == ["spot", "top"]
    for one in settled:
        for rate in ("recall", "precision"):
            assert one.price["test"][rate] == scores.per_class[one.want.cls][rate]
    run = train(data, tmp_path / "run", want="spot recall>=0.5")
    assert [one["want"] for one in run.classifier.facts["wants"]] == ["spot recall>=0.5"]
    assert "What was asked of it" in (run.folder / "report.html").read_text()


def test_mirror_images_of_labels_and_never_of_quantities(several, measured, table: Path) -> None:
    clf = several.classifier
    with pytest.raises(CallError, match="'left' names a side"):
        finished(runs.with_mirrored(clf, labels(table)))
    facts = {**clf.facts, "recipe": {**clf.facts["recipe"], "augment": {"hflip": "yes"}}}
    mirroring = dataclasses.replace(clf, facts=facts)
    (_, scores, _), (_, both) = finished(runs.with_mirrored(mirroring, labels(table)))
    assert (scores, both.n) == (several.scores["test"], scores.n)
    assert both.overall["mAP"] != scores.overall["mAP"]
    with pytest.raises(CallError, match="quantities, which may change in a mirror"):
        runs.refuse_mirrors(measured.classifier)


def test_slices_are_of_what_is_right_or_off_by_less_than_usual(several, measured, table: Path) -> None:
    for run, data in ((several, labels(table)), (measured, levels(table))):
        answers, scores, tested = finished(runs.evaluating(run.classifier, data, "all"))
        contents = reports.of_classifier(run.classifier, answers, tested)
        assert {one["column"] for one in contents["slices"]} == {"brightness (0 black, 255 white)"}  # all of one size
        share = contents["slices"][0]
        both = [share[side]["value"] * share[side]["n"] for side in ("accuracy", "others")]
        expected = scores.overall["exact match"].value if run is several else 0.5
        assert sum(both) / len(tested) == pytest.approx(expected)


def test_runs_are_listed_by_what_fits_their_task(several: runs.Run, measured: runs.Run) -> None:
    told = runs.listed(several.folder.parent) | runs.listed(measured.folder.parent)
    assert f"test mAP {several.scores['test'].overall['mAP'].value:.4f}" in told["several"]
    assert f"test MAE {measured.scores['test'].overall['MAE'].value:.4f}" in told["measured"]
    rows = [{"name": name, "data": "", "recipe": "", "test": {"MAE": mae}} for name, mae in (("a", 2.0), ("b", 1.0))]
    assert [row["name"] for row in runs.chosen([*rows, {**rows[0], "name": "c", "test": {}}], by="mae")] == [
        "b",
        "a",
        "c",
    ]


def test_an_older_opsin_would_refuse_the_model(measured: runs.Run) -> None:
    described = json.loads((measured.folder / "model" / "opsin.json").read_text())
    assert described["format"] == artefact.OTHER_TASKS != artefact.FORMAT
    assert artefact.load(measured.folder / "model", network=Net(1)).scale == measured.classifier.scale


@pytest.mark.parametrize("read", [labels, levels])
def test_a_run_that_is_killed_and_resumed_gives_the_same_model(table: Path, tmp_path, read) -> None:
    data = read(table)
    whole = train(data, tmp_path / "whole", epochs=3)
    torch.manual_seed(0)
    recipe = preset("textbook", task=data.task).set(size=8, epochs=3, batch=16, lr=0.003, optimiser="adam")
    work = opsin.events(
        data,
        recipe.set(hflip="no", vflip="no", rotate=0),
        out=tmp_path / "cut",
        network=Net(len(data.classes)),
        how=HOW,
    )
    for event in work:
        if event.kind == "step" and event.step == 14:
            break
    work.close()
    torch.manual_seed(0)
    opsin.train(data, resume=tmp_path / "cut", network=Net(len(data.classes)), how=HOW)
    assert digests(tmp_path / "cut" / "model") == digests(whole.folder / "model")


def test_evaluate_finds_labels_by_name_and_masks_those_that_are_not_there(several: runs.Run, table: Path) -> None:
    fewer = opsin.read(table, target="spot,top")
    found = opsin.evaluate(several.classifier, fewer, "all")
    assert found.untested == ("left",)
    assert set(found.per_class) == {"spot", "top"}
    with pytest.raises(DataError, match="another task"):
        opsin.evaluate(several.classifier, opsin.read(table, target="top", task="regression"))


def test_every_label_and_every_tenth_is_in_every_split(table: Path) -> None:
    data = splits.split(labels(table))
    shares = {name: len(data.part(name)) / len(data) for name in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.7, "val": 0.15, "test": 0.15}, abs=0.03)
    for label, count in data.counts().items():
        for name, share in shares.items():
            assert data.part(name).counts()[label] == pytest.approx(count * share, abs=4)
    data = splits.split(levels(table))
    low = [sum(r.targets[0] < 10 for r in data.part(name).records) for name in ("train", "val", "test")]
    assert low[1] >= 2
    assert low[2] >= 2
    assert abs(np.mean([r.targets[0] for r in data.test.records]) - 50) < 6  # drawn without strata its error is 5


def test_what_does_not_know_a_task_says_so(several: runs.Run, measured: runs.Run, table: Path, tmp_path) -> None:
    data = labels(table)
    for call in (
        lambda: exporting.quantise(several.classifier, tmp_path / "a.onnx", data, data),
        lambda: finished(comparison.comparing(measured.classifier, several.classifier, data)),
        lambda: checks.apply(data, {}, tmp_path / "fixed.csv"),
    ):
        with pytest.raises(CallError, match="multi-label"):
            call()
    report = checks.quick(data)
    assert {finding.kind for finding in report.findings} <= {"unreadable", "copies", "groups", "classes"}


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("multi-label", {"loss": "cross-entropy"}),
        ("multi-label", {"metric": "accuracy"}),
        ("multi-label", {"class_weights": "balanced"}),
        ("multi-label", {"sampling": "balanced"}),
        ("regression", {"loss": "binary-cross-entropy"}),
        ("regression", {"mixup": 0.2}),
        ("regression", {"cutmix": 1.0}),
        ("regression", {"label_smoothing": 0.1}),
    ],
)
def test_choices_of_another_task_are_refused_before_there_is_a_folder(table: Path, tmp_path, task, changes) -> None:
    data = labels(table) if task == "multi-label" else levels(table)
    with pytest.raises(CallError, match=f"not for {task}"):
        opsin.train(data, preset("textbook", task=task).set(**changes), out=tmp_path / "run", how=HOW)
    assert not (tmp_path / "run").exists()


def test_labels_may_be_mixed(table: Path, tmp_path) -> None:
    run = train(labels(table), tmp_path / "run", mixup=0.4, cutmix=1.0, loss="asymmetric", epochs=4)
    assert run.scores["test"].overall["mAP"].value > run.scores["test"].overall["no skill mAP"].value + 0.2


def test_a_quantity_that_does_not_vary_is_refused(tmp_path) -> None:
    path = write(tmp_path / "set", n=12)
    path.write_text("file,level\n" + "\n".join(f"{number:03}.png,3" for number in range(12)))
    with pytest.raises(DataError, match="'level' cannot be learned"):
        train(opsin.read(path, target="level", task="regression"), tmp_path / "run")


def test_the_command_line(table: Path, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    force = [
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--threads",
        "1",
        "--json",
        "--set",
        "epochs=1",
        "--set",
        "size=32",
    ]
    assert cli(["train", str(table), "--target", "level", "--recipe", "modern", "--out", str(out), *force]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scores"]["test"]["task"] == "regression"
    assert cli(["evaluate", str(out), str(table), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["scores"] == told["scores"]["test"]
    assert cli(["compare", str(out), str(out), str(table), "--gate", "MAE within 1 points, class level not worse"]) == 0
    told = capsys.readouterr().out
    assert "A is closer on 0, B on 0" in told
    assert "MAE of level" in told
    assert cli(["predict", str(out), str(table.parent / "000.png")]) == 0
    assert "level" in capsys.readouterr().out
    assert cli(["train", str(table), "--task", "multi-label", "--set", "loss=mse", "--out", str(tmp_path / "no")]) == 2
    assert "not for multi-label" in capsys.readouterr().err


def test_the_contact_sheet_shows_labels_and_quantities(table: Path) -> None:
    for data in (labels(table), levels(table)):
        sheet = runs.augmented(data, preset("textbook", task=data.task).set(size=8, batch=6))
        assert sheet.dtype == np.uint8
        assert sheet.std() > 10


@pytest.mark.slow
@pytest.mark.parametrize("read", [labels, levels])
def test_heads_are_fitted_on_imagenets_features(table: Path, tmp_path, read) -> None:
    data = read(table)
    found = opsin.train(data, preset("probe", task=data.task).set(size=64), out=tmp_path / "run", how=HOW).scores[
        "test"
    ]
    if data.task == "multi-label":
        assert found.overall["mAP"].value > found.overall["no skill mAP"].value + 0.2
    else:
        assert found.overall["MAE"].value < 0.8 * found.overall["always the mean"].value


@pytest.mark.parametrize(
    ("columns", "different"), [("top,left,spot", "different labels"), ("level", "different values")]
)
def test_check_looks_for_all_but_what_needs_one_class_and_says_so(
    tmp_path, columns: str, different: str, capsys
) -> None:
    table = write(tmp_path / "set", n=60, unknown=0.0)
    lines = table.read_text().splitlines()
    for copy, of in (("copy.png", 1), ("other.png", 1), ("unknown.png", 3)):
        (table.parent / copy).write_bytes((table.parent / lines[of].split(",")[0]).read_bytes())
    same = lines[1].split(",", 1)[1]
    turned = ",".join(str(1 - int(value)) for value in same.split(",")[:3]) + ",999"
    (table.parent / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(table.parent / "black.png")
    more = [f"copy.png,{same}", f"other.png,{turned}", "unknown.png,,,1,", f"broken.png,{same}", f"black.png,{same}"]
    table.write_text("\n".join(lines + more) + "\n")
    page = tmp_path / "check.html"
    assert cli(["check", str(table), "--target", columns, "--page", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {one["kind"]: one for one in told["findings"]}
    assert {"unreadable", "copies", "contradictions", "odd", "labels"} <= found.keys()
    assert any("broken.png" in one["records"] for one in told["findings"] if one["kind"] == "unreadable")
    assert "black.png" in found["odd"]["records"]
    assert {"copy.png", "other.png"} < set(found["copies"]["records"])
    assert different in found["contradictions"]["text"]
    assert "unknown.png" not in found["contradictions"]["records"]
    assert found["labels"]["text"].startswith("not looked for: suspect labels and shortcuts")
    assert "shortcuts" not in found
    text = page.read_text()
    assert "<select" not in text
    assert ("no label" in text or "top" in text) if "top" in columns else "level 999" in text
    assert cli(["check", str(table), "--target", columns, "--labels"]) == 2
    report = checks.check(opsin.read(table, target=columns), only=("odd",))
    assert {one.kind for one in report.findings} == {"odd"}


@pytest.mark.parametrize("read", [labels, levels])
def test_folds_of_another_task_are_pooled_and_seeds_have_a_spread(table: Path, tmp_path, read) -> None:
    data = read(table)
    chosen = opsin.preset("textbook", task=data.task).set(size=8, epochs=2, batch=16, hflip="no", vflip="no", rotate=0)
    torch.manual_seed(0)
    how = {"network": Net(len(data.classes)), "how": HOW}
    folded = opsin.cross_validate(data, chosen, folds=2, out=tmp_path / "f", **how)
    assert folded.pooled.n == len(data) == sum(scores.n for scores in folded.scores.values())
    for name in ("exact match",) if data.task == "multi-label" else ("MAE",):
        sums = sum(each.overall[name].value * each.n for each in folded.scores.values())
        assert folded.pooled.overall[name].value == pytest.approx(sums / len(data))
    first = folded.shown[0]
    assert first == ("mAP" if data.task == "multi-label" else "MAE")
    worst = folded.scores[folded.worst].overall[first].value
    assert worst == (min if first == "mAP" else max)(each.overall[first].value for each in folded.scores.values())
    seeded = opsin.repeat(data, chosen, seeds=2, out=tmp_path / "s", **how)
    assert seeded.spread[first].least < seeded.spread[first].greatest
    for name, scores in seeded.scores.items():
        assert opsin.evaluate(opsin.load(tmp_path / "s" / name, network=how["network"]), data) == scores
    assert f"mean of 2 seeds {first}" in runs.listed(tmp_path)["s"]


def test_labels_are_alike_in_every_fold(table: Path) -> None:
    data = labels(table)
    places = splits.folds(data, 4)
    for label, count in data.counts().items():
        column = data.classes.index(label)
        for fold in range(4):
            there = sum(r.targets[column] == 1 for r in data.records if places[r.key] == fold)
            assert there == pytest.approx(count / 4, abs=3)


def test_wants_of_another_task_are_refused_by_name(table: Path, tmp_path) -> None:
    chosen = opsin.preset("textbook", task="multi-label")
    with pytest.raises(CallError, match="recalls and precisions"):
        runs.create(labels(table), chosen.set(want="accuracy>=0.5"), out=tmp_path / "run")
    with pytest.raises(CallError, match=r"'level recall>=0\.5' of regression"):
        runs.create(levels(table), chosen.set(want="level recall>=0.5"), out=tmp_path / "run")
    assert not list(tmp_path.glob("*/data.json"))

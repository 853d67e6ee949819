"""Folds and seeds: what is tested by whom, what is pooled, and that a series goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import opsin
from opsin import duplicates, errors, metrics, runs, splits
from opsin.app import cli
from opsin.runs import series
from opsin.vocabulary import Dataset
from test_scoring import apart, scenes
from tiny import HOW, digests, digits, net, recipe, write_pngs


def grouped(data: Dataset, number: int) -> Dataset:
    """Every record in one of so many groups, in turn."""
    records = tuple(
        dataclasses.replace(record, group=f"site {place % number}") for place, record in enumerate(data.records)
    )
    return dataclasses.replace(data, records=records)


def measured(data: Dataset, folder: Path, **changes: object) -> runs.Series:
    asked = {"recipe": recipe(epochs=1), "network": net(data), "how": HOW, "out": folder, **changes}
    return opsin.cross_validate(data, **asked)


# ── who is in which fold ──


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_folds_are_alike_in_size_and_in_every_class(count: int) -> None:
    data = digits(23)
    places = splits.folds(data, count)
    assert places.keys() == {record.key for record in data.records}
    for target in (None, *range(3)):
        sizes = Counter(places[r.key] for r in data.records if target in (None, r.target))
        assert set(sizes) == set(range(count))
        assert max(sizes.values()) - min(sizes.values()) <= (2 if target is None else 1)


def test_folds_follow_the_seed_and_not_the_order_of_records() -> None:
    data = digits(20)
    turned = dataclasses.replace(data, records=data.records[::-1])
    assert splits.folds(data, 5, seed=1) == splits.folds(turned, 5, seed=1)
    assert splits.folds(data, 5, seed=1) != splits.folds(data, 5, seed=2)


def test_no_group_is_in_two_folds_and_folds_are_even() -> None:
    data = grouped(digits(40), 17)
    places = splits.folds(data, 4)
    by_group = {record.group: places[record.key] for record in data.records}
    assert all(places[record.key] == by_group[record.group] for record in data.records)
    sizes = Counter(places.values())
    assert max(sizes.values()) - min(sizes.values()) <= 8  # a group has 7 or 8 records


def test_pictures_that_are_one_stay_together() -> None:
    data = digits(20)
    first, second = data.records[0].key, data.records[30].key
    for seed in range(5):
        places = splits.folds(data, 5, seed=seed, together={first: "one", second: "one"})
        assert places[first] == places[second]


def test_groups_of_one_class_each_are_spread() -> None:
    """Where every group has one class, no fold gets them all."""
    data = digits(12)
    records = tuple(dataclasses.replace(r, group=f"{r.target} {n % 4}") for n, r in enumerate(data.records))
    sizes = Counter(splits.folds(dataclasses.replace(data, records=records), 4).values())
    assert len(sizes) == 4
    assert max(sizes.values()) == min(sizes.values())


@pytest.mark.parametrize(("count", "error"), [(1, errors.CallError), (0, errors.CallError), (7, errors.DataError)])
def test_too_many_folds_and_too_few_are_refused(count: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="folds"):
        splits.folds(grouped(digits(20), 6), count)


# ── what is measured ──


def test_every_picture_is_tested_once_by_a_model_that_did_not_learn_from_it(tmp_path) -> None:
    data = digits(20)
    found = measured(data, tmp_path / "series", folds=3)
    tested: list[str] = []
    for name in ("fold-1", "fold-2", "fold-3"):
        divided = splits.read(data, tmp_path / "series" / name / "split.csv")
        assert divided.val.records
        assert divided.train.records
        with np.load(tmp_path / "series" / name / "logits" / "test.npz") as kept:
            assert sorted(kept["keys"].tolist()) == sorted(record.key for record in divided.test.records)
            tested += kept["keys"].tolist()
    assert sorted(tested) == sorted(record.key for record in data.records)
    assert found.pooled is not None
    assert found.pooled.n == len(data) == sum(scores.n for scores in found.scores.values())
    right = sum(round(s.overall["accuracy"].value * s.n) for s in found.scores.values())
    assert found.pooled.overall["accuracy"].value == pytest.approx(right / len(data))
    worst = found.scores[found.worst].overall["accuracy"].value
    assert worst == min(scores.overall["accuracy"].value for scores in found.scores.values())
    written = json.loads((tmp_path / "series" / "scores.json").read_text())["pooled"]
    assert metrics.from_dict(written).overall == found.pooled.overall


def test_what_is_pooled_is_answered_under_each_folds_thresholds(tmp_path) -> None:
    want = "c recall>=0.75; accuracy>=0.75"  # one fold can promise it, one cannot
    data = digits(60, "abc")
    found = measured(data, tmp_path / "series", folds=2, recipe=recipe(epochs=1, want=want))
    each = [scores.overall for scores in found.scores.values()]
    assert any(0 < overall["coverage"].value < 1 for overall in each if "coverage" in overall)
    assert found.pooled is not None
    for name in ("accuracy", "coverage"):
        of_folds = [(overall.get(name), scores.n) for overall, scores in zip(each, found.scores.values())]
        right = sum(round((score.value if score else 1) * n) for score, n in of_folds)
        assert found.pooled.overall[name].value == pytest.approx(right / len(data))


def test_one_fold_a_group_tests_each_group_by_who_saw_none_of_it(tmp_path) -> None:
    data = grouped(digits(20), 3)
    found = measured(data, tmp_path / "series", folds="group")
    assert list(found.texts.values()) == [f"fold {n + 1} of 3, tested on group 'site {n}'" for n in range(3)]
    for number, name in enumerate(found.scores):
        rows = (tmp_path / "series" / name / "split.csv").read_text()
        tested = {line.split(",")[0] for line in rows.splitlines() if ",test," in line}
        assert tested == {record.key for record in data.records if record.group == f"site {number}"}
    bare = opsin.cross_validate(data, resume=tmp_path / "series", network=net(data), how=HOW)
    assert bare.pooled is not None
    score = bare.pooled.overall["accuracy"]
    assert score.n == 60
    alone = metrics.wilson(round(score.value * 60), 60)
    assert (score.low, score.high) != pytest.approx((alone.low, alone.high))  # of three groups, not of 60 pictures


def test_a_fold_whose_test_pictures_are_all_refused_is_named_and_left_out(tmp_path, capsys) -> None:
    pics = write_pngs(tmp_path / "pics", {"dark": 30, "light": 30})
    for file in pics.rglob("0?.png"):
        file.write_bytes(file.read_bytes()[:60])
    group = ["--group", r"(\d)\d\.png", "--folds", "group", "--no-alike"]
    small = ["--recipe", "textbook", "--set", "size=8", "--set", "epochs=1", "--device", "cpu", "--precision", "fp32"]
    assert cli.run(["train", str(pics), *group, *small, "--out", str(tmp_path / "f")]) == 0
    assert "not tested" in "".join(line for line in capsys.readouterr().out.splitlines() if "group '0'" in line)
    found = series.finish(tmp_path / "f")
    assert list(found.scores) == ["fold-2", "fold-3"]
    assert found.pooled is not None
    assert found.pooled.n == 40
    data = opsin.read(pics)
    records = (dataclasses.replace(r, split="test" if "/0" in r.key else "train") for r in data.records)
    data = dataclasses.replace(data, records=tuple(records))
    with pytest.raises(errors.DataError, match="nothing is measured"):
        opsin.repeat(data, recipe(epochs=0), seeds=1, out=tmp_path / "s", how=HOW)


def test_a_given_test_part_is_left_alone(tmp_path) -> None:
    data = opsin.split(digits(20), seed=0)
    folder = series.begin(data, recipe(), folds=2, out=tmp_path / "series")
    kept = {record.key for member in series.members(folder, data) for record in member.data.records}
    assert kept == {record.key for record in data.records if record.split != "test"}
    assert any("9 pictures are left alone" in note for m in series.members(folder, data) for note in m.data.notes)


def test_seeds_share_one_division_and_their_spread_is_told(tmp_path) -> None:
    data = digits(20)
    found = opsin.repeat(data, recipe(epochs=1, seed=4), seeds=2, network=net(data), how=HOW, out=tmp_path / "s")
    assert list(found.scores) == ["seed-4", "seed-5"]
    assert found.pooled is None
    divisions = {(tmp_path / "s" / name / "split.csv").read_bytes() for name in found.scores}
    assert len(divisions) == 1
    weights = {digests(tmp_path / "s" / name / "model")["model.safetensors"] for name in found.scores}
    assert len(weights) == 2
    values = [scores.overall["accuracy"].value for scores in found.scores.values()]
    spread = found.spread["accuracy"]
    assert (spread.mean, spread.least, spread.greatest) == (sum(values) / 2, min(values), max(values))
    assert "mean of 2 seeds accuracy" in runs.listed(tmp_path)["s"]


def test_a_model_of_any_seed_is_evaluated_on_the_test_part_of_their_one_division(tmp_path) -> None:
    data = digits(20)
    found = opsin.repeat(data, recipe(epochs=1), seeds=3, network=net(data), how=HOW, out=tmp_path / "s")
    for name, scores in found.scores.items():
        assert opsin.evaluate(opsin.load(tmp_path / "s" / name, network=net(data)), data) == scores


@pytest.mark.parametrize("file", ["recipe.toml", "data.json", "series.json"])
def test_the_folder_of_a_series_appears_whole_or_not_at_all(tmp_path, monkeypatch, file: str) -> None:
    write_text = Path.write_text

    def full(self: Path, *given: object, **how: object) -> int:
        if file in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(self, *given, **how)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(errors.MachineError, match="Free some space"):
        series.begin(digits(20), recipe(), folds=2, out=tmp_path / "runs" / "one")
    assert list((tmp_path / "runs").iterdir()) == []


def test_last_is_a_series_too(tmp_path) -> None:
    data = digits(20)
    run = runs.create(data, recipe(), out=tmp_path / "runs" / "b")
    os.utime(run / "split.csv", ns=(10**18, 10**18))
    folder = series.begin(data, recipe(), folds=2, out=tmp_path / "runs" / "a")
    assert runs.find("last", tmp_path / "runs") == folder
    os.utime(folder / "series.json", ns=(10**18 - 1, 10**18 - 1))
    assert runs.find("last", tmp_path / "runs") == run


# ── going on ──


def test_a_series_goes_on_and_finished_folds_are_not_made_again(tmp_path, monkeypatch) -> None:
    data = digits(20)
    whole = measured(data, tmp_path / "whole", folds=3)
    folder = series.begin(data, recipe(epochs=1), folds=3, out=tmp_path / "runs" / "cut")
    first, second, _ = series.members(folder, data)
    for member, events in ((first, None), (second, 12)):
        begun = series.opened(folder, member)
        assert begun is not None
        stream = runs.work(*begun, network=net(data), how=HOW)
        for _ in zip(range(events or 10**9), stream):
            pass
        stream.close()
    assert series.opened(folder, first) is None
    with pytest.raises(errors.ModelError, match="not finished"):
        series.finish(folder, data)
    before = (folder / "fold-1" / "events.jsonl").read_bytes()
    with pytest.raises(errors.CallError, match="cross_validate"):
        opsin.train(data, resume=folder, network=net(data), how=HOW)
    monkeypatch.chdir(tmp_path)
    again = opsin.cross_validate(data, resume="last", network=net(data), how=HOW)
    assert (folder / "fold-1" / "events.jsonl").read_bytes() == before
    assert again.pooled == whole.pooled
    for name in whole.scores:
        assert digests(folder / name / "model") == digests(tmp_path / "whole" / name / "model")


def test_what_cannot_be_is_refused_before_there_is_a_folder(tmp_path) -> None:
    for data, asked, error in (
        (digits(20), {"folds": "group"}, errors.DataError),
        (digits(20), {"folds": "sites"}, errors.CallError),
        (digits(20), {"folds": 200}, errors.DataError),
        (digits(20), {"folds": 2, "seeds": 2}, errors.CallError),
        (digits(20), {}, errors.CallError),
        (digits(20), {"folds": 2, "recipe": recipe(want="three recall>=0.5")}, errors.CallError),
    ):
        with pytest.raises(error):
            series.begin(data, asked.pop("recipe", recipe()), out=tmp_path / "series", **asked)
        assert not (tmp_path / "series").exists()


# ── the command ──


def test_the_command_tells_folds_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "pics", {"dark": 8, "light": 8})
    small = ["--recipe", "textbook", "--set", "size=8", "--set", "epochs=1", "--device", "cpu", "--precision", "fp32"]
    assert cli.run(["train", "pics", *small, "--folds", "2", "--out", "runs/f"]) == 0
    said = capsys.readouterr().out
    assert "fold 2 of 2" in said
    assert "pooled accuracy" in said
    assert "worst  fold" in said
    assert cli.run(["train", "--resume", "f", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scores"]["pooled"]["n"] == 16
    assert told["worst"] in ("fold-1", "fold-2")
    assert cli.run(["evaluate", "f", "pics"]) == 2
    assert "fold-1" in capsys.readouterr().err
    assert cli.run(["train", "pics", *small, "--seeds", "2", "--out", "runs/s"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert cli.run(["train", "pics", *small, "--seeds", "2", "--folds", "2"]) == 2


@pytest.mark.parametrize(
    "asked",
    [["--folds", "2", "--seeds", "2"], ["--want", "darc recall>=0.5"], ["--folds", "2", "--want", "darc recall>=0.5"]],
)
def test_what_is_known_to_be_wrong_is_refused_before_pictures_are_looked_at(tmp_path, monkeypatch, asked) -> None:
    pics = write_pngs(tmp_path / "pics", {"dark": 8, "light": 8})
    monkeypatch.setattr(duplicates, "thumbnails", lambda *given, **how: pytest.fail("looked"))
    assert cli.run(["train", str(pics), "--recipe", "textbook", *asked, "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


# ── pictures that are alike ──


def test_look_alikes_share_a_fold_and_are_looked_for_once(tmp_path, monkeypatch) -> None:
    data = scenes(tmp_path / "set", copies=40)
    looks = []
    look = duplicates.thumbnails
    monkeypatch.setattr(duplicates, "thumbnails", lambda *given, **how: looks.append(1) or look(*given, **how))
    folder = series.begin(data, recipe(), folds=4, out=tmp_path / "series")
    assert [apart(member.data) for member in series.members(folder, data)] == [0, 0, 0, 0]
    assert sum(looks) == 1
    unseen = series.begin(data, recipe(), folds=4, out=tmp_path / "unseen", pairs=())
    assert max(apart(member.data) for member in series.members(unseen, data)) > 0


def test_no_alike_counts_for_folds_too(tmp_path, monkeypatch) -> None:
    scenes(tmp_path / "set", copies=40)
    monkeypatch.setattr(duplicates, "thumbnails", lambda *given, **how: pytest.fail("looked"))
    small = ["--recipe", "textbook", "--set", "size=32", "--set", "epochs=1", "--threads", "1", "--precision", "fp32"]
    where = ["--folds", "2", "--no-alike", "--out", str(tmp_path / "f")]
    assert cli.run(["train", str(tmp_path / "set"), *small, *where]) == 0
    assert json.loads((tmp_path / "f" / "series.json").read_text())["pairs"] == []

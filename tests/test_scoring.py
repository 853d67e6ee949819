"""`evaluate`: the test part of data that was trained on, all of other data; classes by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import opsin
from opsin import (
    answers,
    artefact,
    cache,
    classifier,
    comparison,
    duplicates,
    evaluation,
    preprocessing,
    runs,
    sources,
    splits,
)
from opsin.app import cli
from opsin.classifier import Classifier
from opsin.duplicates import Pair
from opsin.errors import CallError, DataError
from opsin.sources import ArrayStore
from opsin.vocabulary import Dataset, Event, Prediction, finished
from test_duplicates import LEAKS, jpeg, scene
from tiny import HOW, digits, recipe, train, write_pngs


def reordered(data: Dataset, names: tuple[str, ...]) -> Dataset:
    place = [names.index(name) for name in data.classes]
    records = tuple(dataclasses.replace(r, target=place[r.target]) for r in data.records)
    return dataclasses.replace(data, records=records, classes=names)


def stranger(run: runs.Run) -> Classifier:
    """The run's classifier as if other pictures had made it."""
    facts = {**run.classifier.facts, "fingerprint": "", "pictures": "", "seen": {}}
    return dataclasses.replace(run.classifier, facts=facts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Dataset, runs.Run]:
    data = digits()
    return data, train(data, tmp_path_factory.mktemp("trained") / "run", epochs=8)


def test_data_that_was_trained_on_is_tested_on_its_test_part_only(trained) -> None:
    data, run = trained
    assert opsin.evaluate(run.classifier, data) == run.scores["test"]
    assert opsin.evaluate(run.classifier, data, "val") == run.scores["val"]
    assert opsin.evaluate(run.classifier, data, "all").n == 60
    assert opsin.evaluate(stranger(run), data).n == 60


def test_data_divided_by_a_split_file_is_not_scored_by_mistake(tmp_path) -> None:
    data = digits()
    splits.write(opsin.split(data, seed=7), tmp_path / "split.csv")
    folder = runs.create(data, recipe(epochs=1), out=tmp_path / "run", split=tmp_path / "split.csv")
    run = train(data, folder, resume=True)
    with pytest.raises(DataError, match="divided otherwise"):
        opsin.evaluate(run.classifier, data)
    assert opsin.evaluate(run.classifier, data, "all").n == 60


def grown(data: Dataset, new: int = 1) -> Dataset:
    """`data` and some pictures more, of zeros, as `read` would find them in the same folder."""
    more = digits(each=20 + new, names=("zero",))
    added = [dataclasses.replace(r, key=f"new/{r.key}") for r in more.records[20:]]
    pictures_ = data.store.pictures | {f"new/{r.key}": more.store.read(r.key) for r in more.records[20:]}
    records = (*data.records, *added)
    made = sources.fingerprint(records, data.classes)
    return dataclasses.replace(data, records=records, store=ArrayStore(pictures_), fingerprint=made)


def watched(clf: Classifier, data: Dataset, part: str | None = None) -> tuple[list[str], list[str]]:
    """The keys of the records that were tested, and what was told."""
    told = []

    def watch() -> Iterator[Event]:
        watch.result = yield from runs.evaluating(clf, data, part)

    told = [event.values["text"] for event in watch() if event.kind == "notice"]
    return sorted(watch.result[0].keys), told


def part_keys(run: runs.Run, data: Dataset, *names: str) -> set[str]:
    return {r.key for r in splits.read(data, run.folder / "split.csv").records if r.split in names}


def test_pictures_of_training_are_left_out_of_other_data(trained) -> None:
    """One file more makes it other data: forty training pictures of forty-one must not count all the same."""
    data, run = trained
    more = grown(data)
    test = part_keys(run, data, "test")
    keys, told = watched(run.classifier, more)
    assert keys == sorted(test | {"new/" + grown(data).records[-1].key.removeprefix("new/")})
    assert told == [f"{60 - len(test)} of 61 pictures are left out: the model was trained on them, or their groups"]
    assert watched(run.classifier, more, "all") == (sorted(r.key for r in more.records), [])
    renamed = dataclasses.replace(more, classes=("zero", "one", "two", "three"))
    other_labels = tuple(dataclasses.replace(r, target=0) for r in renamed.records)
    assert watched(run.classifier, dataclasses.replace(renamed, records=other_labels))[0] == keys


def test_only_what_weights_were_fitted_to_is_left_out_of_another_validation(trained) -> None:
    data, run = trained
    val = part_keys(run, data, "val")
    more = grown(data)
    given = tuple(dataclasses.replace(r, split="val") for r in more.records)
    keys, _ = watched(run.classifier, dataclasses.replace(more, records=given), "val")
    assert keys == sorted(val | part_keys(run, data, "test") | {more.records[-1].key})


def test_a_group_that_was_trained_on_is_left_out_whole(trained) -> None:
    data, run = trained
    more, test = grown(data, 2), part_keys(trained[1], data, "test")
    some = next(iter(part_keys(run, data, "train")))
    together = {some, more.records[-1].key, min(test)}
    records = tuple(dataclasses.replace(r, group="g" if r.key in together else None) for r in more.records)
    keys, _ = watched(run.classifier, dataclasses.replace(more, records=records))
    assert keys == sorted((test | {more.records[-2].key}) - together)


def test_nothing_but_pictures_of_training_is_refused(trained) -> None:
    data, run = trained
    train_keys = part_keys(run, data, "train", "val")
    with pytest.raises(DataError, match="no picture is left to test on") as caught:
        opsin.evaluate(run.classifier, data.where(lambda record: record.key in train_keys))
    assert "--part all" in str(caught.value)


def test_a_model_that_does_not_tell_what_it_was_trained_on_is_said_to(trained) -> None:
    data, run = trained
    old = {name: value for name, value in run.classifier.facts.items() if name != "seen"}
    keys, told = watched(dataclasses.replace(run.classifier, facts=old), grown(data))
    assert len(keys) == 61
    assert "does not tell which pictures it was trained on" in told[0]


def test_what_a_first_model_has_seen_of_the_very_same_data_is_told(trained, tmp_path) -> None:
    data, _ = trained
    run = opsin.train(data, recipe(epochs=0), out=tmp_path / "first", how=HOW)
    other = opsin.train(data, recipe(epochs=0, seed=5), out=tmp_path / "run", how=HOW, start=run.classifier)
    met = part_keys(other, data, "test") & part_keys(run, data, "train", "val")
    keys, told = watched(other.classifier, data)
    assert keys == sorted(part_keys(other, data, "test"))
    assert [f"seen {len(met)} of these" in text for text in told] == [True]


def test_two_models_are_compared_on_what_neither_has_seen(trained, tmp_path) -> None:
    data, run = trained
    other = train(data, tmp_path / "run", epochs=1, seed=5)
    unseen = part_keys(run, data, "test") & part_keys(other, data, "test")
    told = []

    def watch() -> Iterator[Event]:
        watch.result = yield from comparison.comparing(run.classifier, other.classifier, grown(data))

    told = [event.values["text"] for event in watch() if event.kind == "notice"]
    assert watch.result.n == len(unseen) + 1
    assert [text.split(": ")[1][0] for text in told] == ["A", "B"]


TENS = "([0-9])[0-9]$"  # of a file's number


@pytest.mark.parametrize(("trained_by", "asked_by"), [(TENS, ""), ("", TENS), (TENS, "[0-9]$")])
def test_pictures_of_training_grouped_otherwise_are_not_scored_by_mistake(tmp_path, trained_by, asked_by) -> None:
    source = write_pngs(tmp_path / "pngs", {"dark": 60, "light": 60})
    for file in source.rglob("*.png"):
        file.rename(file.with_name(file.stem))  # the group is a digit of the name
    run = train(opsin.read(source, group=trained_by), tmp_path / "run", epochs=1)
    with pytest.raises(DataError, match="divided otherwise") as caught:
        opsin.evaluate(run.classifier, opsin.read(source, group=asked_by))
    assert "--group" in str(caught.value)
    assert opsin.evaluate(run.classifier, opsin.read(source, group=trained_by)) == run.scores["test"]
    assert opsin.evaluate(run.classifier, opsin.read(source, group=asked_by), "all").n == 120


def test_classes_are_matched_by_name(trained) -> None:
    data, run = trained
    plain = opsin.evaluate(stranger(run), data)
    turned = opsin.evaluate(stranger(run), reordered(data, ("two", "zero", "one")))
    assert plain.overall["accuracy"].value > 0.6  # else the order could not show
    assert turned == plain
    fewer = reordered(data.where(lambda r: r.target != 1), ("two", "one", "zero"))
    assert opsin.evaluate(run.classifier, fewer).untested == ("one",)


def test_classes_the_model_does_not_know_are_wrong_data(trained) -> None:
    data, run = trained
    strange = dataclasses.replace(data, classes=("zero", "one", "three"))
    with pytest.raises(DataError, match="three") as caught:
        opsin.evaluate(stranger(run), strange)
    assert caught.value.exit_code == 3
    unused = dataclasses.replace(data, classes=(*data.classes, "three"))
    assert opsin.evaluate(stranger(run), unused).n == 60  # a name without a picture hurts nobody


def test_a_part_without_records_is_a_wrong_call(trained) -> None:
    data, run = trained
    with pytest.raises(CallError, match="part"):
        opsin.evaluate(stranger(run), data, "test")


def test_the_largest_class_is_that_of_training(tmp_path) -> None:
    data = digits(each=30).where(lambda r: not (r.target in (0, 2) and int(r.key[-5:]) % 3))
    assert data.counts() == {"zero": 10, "one": 30, "two": 10}
    run = train(data, tmp_path / "run", epochs=1)
    other = digits(each=12).where(lambda r: r.target != 1 or int(r.key[-5:]) < 15)
    found = opsin.evaluate(run.classifier, other, "all")
    assert found.largest_class == run.scores["test"].largest_class == "one"
    ones = other.counts()["one"] / len(other)
    assert 0 < ones < 1 / 3
    assert found.overall["largest class"].value == pytest.approx(ones)


def test_events_tell_what_is_evaluated(trained) -> None:
    data, run = trained

    def watch() -> Iterator[Event]:
        watch.result = yield from runs.evaluating(run.classifier, data)

    kinds = {event.values["what"] for event in watch()}
    assert kinds == {"decoding", "scoring"}
    answers, scores, tested = watch.result
    assert (answers.part, scores) == ("test", run.scores["test"])
    assert answers.keys == tuple(record.key for record in tested.records)


def test_a_picture_that_cannot_be_read_is_not_counted_in_evaluate(trained) -> None:
    data, run = trained
    pictures = dict(data.store.pictures)
    missing = data.records[5].key
    del pictures[missing]
    holed = dataclasses.replace(data, store=ArrayStore(pictures))
    assert opsin.evaluate(stranger(run), holed).n == 59


# ── pictures that are alike ──


def scenes(folder: Path, copies: int = 10) -> Dataset:
    """Forty scenes of two classes, some of them a second time: encoded anew, mirrored."""
    for number in range(40):
        place = folder / "ab"[number % 2] / f"{number:02d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(jpeg(scene(number)))
        if number < copies:
            place.with_stem(f"{number:02d} again").write_bytes(
                LEAKS[("encoded anew", "mirrored")[number % 2]](scene(number))
            )
    return opsin.read(folder)


def apart(data: Dataset) -> int:
    """How many scenes stand in two splits."""
    split = {record.key: record.split for record in data.records}
    return sum(split[key.replace(" again", "")] != split[key] for key in split if " again" in key)


def test_near_duplicates_get_one_split(tmp_path) -> None:
    data = scenes(tmp_path / "set")
    found = runs.divided(data, 0)
    assert apart(found) == 0
    assert any("20 pictures that look alike kept together" in note for note in found.notes)
    exact = finished(runs.alike(data, near=False))
    assert exact == []
    assert apart(runs.divided(data, 0, pairs=exact)) > 0


def test_a_run_keeps_near_duplicates_together_and_is_evaluated_so(tmp_path) -> None:
    data = scenes(tmp_path / "set")
    run = train(data, tmp_path / "run", epochs=1)
    assert apart(splits.read(data, tmp_path / "run" / "split.csv")) == 0
    assert opsin.evaluate(run.classifier, data) == run.scores["test"]
    folder = runs.create(data, recipe(epochs=1), out=tmp_path / "apart", pairs=[])
    old = train(data, folder, resume=True)
    assert opsin.evaluate(old.classifier, data) == old.scores["test"]


def test_only_what_gets_a_split_is_looked_at(tmp_path, monkeypatch) -> None:
    data = opsin.split(scenes(tmp_path / "set"))
    monkeypatch.setattr(duplicates, "thumbnail", lambda picture: pytest.fail("decoded"))
    assert finished(runs.alike(data)) == []


def test_pictures_that_are_all_alike_are_split_all_the_same(tmp_path) -> None:
    data = scenes(tmp_path / "set")
    keys = [record.key for record in data.records]
    chain = [Pair(one, other, "near") for one, other in pairwise(keys)]
    found = runs.divided(data, 0, pairs=chain)
    assert {record.split for record in found.records} == {"train", "val", "test"}
    assert any("50 pictures are all like one another" in note for note in found.notes)


def test_more_pictures_than_can_be_compared_are_said(tmp_path, monkeypatch) -> None:
    data = scenes(tmp_path / "set")
    monkeypatch.setattr(duplicates, "MOST", 20)
    found = runs.divided(data, 0)
    assert any("not looked for above 20 pictures" in note for note in found.notes)


# ── mirror images as well ──


def pictures(run: runs.Run, names: tuple[str, ...], hflip: str = "no") -> Classifier:
    """The run's classifier with classes of other names, as if training had mirrored or not."""
    facts = {
        **run.classifier.facts,
        "recipe": {"augment": {"hflip": hflip}},
        "pictures": "",
        "seen": {},
        "largest class": names[0],
    }
    return dataclasses.replace(run.classifier, classes=names, facts=facts)


def reference(clf: Classifier) -> classifier.Engine:
    return lambda images: classifier.logits(clf, torch.from_numpy(images))


def predicted(clf: Classifier, data: Dataset, *, run: classifier.Engine) -> list[Prediction]:
    return list(answers.predict_store(clf, data.store, [r.key for r in data.records], run=run))


def test_with_mirror_images_an_answer_is_the_mean_of_two(trained, monkeypatch) -> None:
    data, run = trained
    clf = pictures(run, ("ant", "bee", "cow"))
    data = dataclasses.replace(data, classes=clf.classes)
    decoded = []
    build = cache.build
    monkeypatch.setattr(cache, "build", lambda *given, **how: decoded.append(1) or build(*given, **how))
    (plain, scores, tested), (mean, both) = finished(runs.with_mirrored(clf, data, "all"))
    assert len(decoded) == 1
    assert (scores, plain.keys) == (opsin.evaluate(clf, data, "all"), tuple(r.key for r in tested.records))
    said = {p.key: p for p in predicted(clf, data, run=answers.both_sides(reference(clf)))}
    for key, expected in zip(mean.keys, answers.answers(clf, mean.logits)):
        assert said[key].probabilities == pytest.approx(expected, abs=1e-5)
    for row in (0, 17, 40):
        picture = data.store.read(tested.records[row].key)
        sides = [np.ascontiguousarray(side) for side in (picture, picture[:, ::-1])]
        prepared = torch.stack([preprocessing.load(clf.preprocessing, side) for side in sides])
        np.testing.assert_allclose(mean.logits[row], classifier.logits(clf, prepared).mean(0), atol=1e-5)
    assert both.n == scores.n == 60
    assert both.overall["accuracy"].value == (mean.logits.argmax(1) == plain.targets).mean()
    assert mean.keys == plain.keys


def test_mirror_images_that_would_be_of_another_class_are_refused_unless_trained_on(trained) -> None:
    data, run = trained
    for names, hflip, refused in ((("b", "d", "p"), "no", True), (("b", "d", "p"), "yes", False)):
        clf = pictures(run, names, hflip)
        named = dataclasses.replace(data, classes=names)
        if refused:
            with pytest.raises(CallError, match="letters"):
                finished(runs.with_mirrored(clf, named, "all"))
        else:
            assert finished(runs.with_mirrored(clf, named, "all"))[1][1].n == 60


def test_evaluate_tells_both_side_by_side(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "pics", {"dark": 10, "light": 10})
    small = ["--recipe", "textbook", "--set", "size=8", "--set", "epochs=1", "--device", "cpu", "--precision", "fp32"]
    assert cli.run(["train", "pics", *small]) == 0
    assert cli.run(["evaluate", "last", "pics", "--tta"]) == 0
    said = capsys.readouterr().out
    assert "each picture alone" in said
    assert "no difference shown" in said
    assert cli.run(["evaluate", "last", "pics", "--tta", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tta"]["scores"]["n"] == told["scores"]["n"] == told["tta"]["paired"]["n"]
    both = [["predict", "last", "pics", "--out", f"{name}.csv", *more] for name, more in (("a", []), ("b", ["--tta"]))]
    assert [cli.run(line) for line in both] == [0, 0]
    alone, mean = ((tmp_path / name).read_text().splitlines() for name in ("a.csv", "b.csv"))
    assert len(alone) == len(mean) == 21
    assert alone != mean
    assert cli.run([*both[0], "--tta"]) == 0  # other work than that of the file: not gone on with
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    facts = {"recipe": {"augment": {"hflip": "no"}}}
    sided = dataclasses.replace(runs.load("last"), classes=("arrow left", "arrow right"), facts=facts)
    artefact.save(sided, tmp_path / "sided")
    assert cli.run(["predict", "sided", "pics", "--tta"]) == 2
    assert "class 'arrow left' names a side" in capsys.readouterr().err


def test_a_want_answers_each_part_once_and_tells_the_new_thresholds_scores(tmp_path, monkeypatch) -> None:
    data = digits(each=60)
    run = train(data, tmp_path / "run", epochs=8)
    asked = []
    logits = evaluation.logits
    monkeypatch.setattr(
        evaluation, "logits", lambda *given, **how: asked.append(len(given[1])) or logits(*given, **how)
    )
    clf, settled, (answers, scores, _) = finished(runs.settling(run.classifier, data, "one recall>=0.6"))
    assert len(asked) == 2
    assert answers.part == "test"
    assert scores == opsin.evaluate(clf, data)
    assert settled[0].price["test"]["recall"] == scores.per_class["one"]["recall"]

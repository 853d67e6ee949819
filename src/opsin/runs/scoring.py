"""A Classifier tested on data that is read for it, divided as it was for training where it was trained on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Literal, TypeVar

from .. import cache, duplicates, errors, evaluation, sources, splits
from ..classifier import Classifier
from ..reports import Answers
from ..vocabulary import Dataset, Event, Scores, Split, Work, finished

T = TypeVar("T")

Part = Split | Literal["all"]


def evaluate(clf: Classifier, data: Dataset, part: Part | None = None) -> Scores:
    """The Scores of `clf` on `data`: on its test part, or on all of it where it has no split; `part` says otherwise.

    Data that the classifier was trained on is divided as it was then.

    Raises:
        DataError: for classes that the classifier does not know, when nothing is left to test, and for the pictures
            that it was trained on where they are grouped or divided otherwise than then.
        CallError: when `part` has no records.
    """
    return finished(evaluating(clf, data, part))[1]


def evaluating(
    clf: Classifier, data: Dataset, part: Part | None = None
) -> Generator[Event, None, tuple[Answers, Scores, Dataset]]:
    """`evaluate` as events; gives the answers row by row, their Scores, and the records that were answered."""
    name, chosen = part_of(clf, data, part)
    chosen, caches = yield from told(cache.build(chosen, [clf.preprocessing]), "decoding", len(chosen))
    expected = evaluation.targets(clf, chosen)
    found = yield from told(evaluation.logits(clf, caches[0]), "scoring", len(chosen))
    largest = clf.facts.get("largest class") or largest_class(chosen)
    groups = evaluation.groups(chosen)
    scores = evaluation.score(clf, found, expected, largest, groups=groups)
    keys = tuple(record.key for record in chosen.records)
    return Answers(name, found, expected, keys, tuple(groups) if groups else None, clf.classes), scores, chosen


def largest_class(data: Dataset) -> str:
    """The class of most records; "" for the other tasks."""
    return max(data.counts().items(), key=lambda pair: pair[1])[0] if data.task == "single-label" else ""


def told(work: Work[T], what: str, of: int) -> Generator[Event, None, T]:
    """Long work as events; gives its result."""
    while True:
        try:
            done = next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        yield Event("progress", 0, 0, {"what": what, "done": done, "of": of})


def pictures(data: Dataset) -> str:
    """The fingerprint of the pictures and their classes alone, however they are grouped and divided."""
    bare = (dataclasses.replace(record, split=None, group=None) for record in data.records)
    return sources.fingerprint(bare, data.classes)


def divided(data: Dataset, seed: int) -> Dataset:
    """Every record with its split; where splits are drawn, files that are equal get the same one."""
    return splits.split(data, seed=seed, together=duplicates.groups(duplicates.same_bytes(data)))


def part_of(clf: Classifier, data: Dataset, part: str | None) -> tuple[str, Dataset]:
    """The part of `data` to test on, by its name: divided as for training where `clf` was trained on it."""
    if part != "all" and pictures(data) == clf.facts.get("pictures"):
        data = _divided_as_then(clf, data)
    name = part or ("test" if any(record.split == "test" for record in data.records) else "all")
    chosen = data if name == "all" else data.where(lambda record: record.split == name)
    if not len(chosen):
        raise errors.CallError("part", expected="one that has records", received=name)
    return name, chosen


def _divided_as_then(clf: Classifier, data: Dataset) -> Dataset:
    again = divided(data, clf.facts["recipe"]["seed"])
    if data.fingerprint == clf.facts["fingerprint"] and splits.fingerprint(again) == clf.facts["split"]:
        return again
    raise errors.DataError(
        "the model was trained on part of these pictures, and they are divided otherwise here",
        expected="the same division, other pictures, or the test part alone",
        do="Give the --group of training, or the pictures of the test part; --part all scores training pictures too",
    )

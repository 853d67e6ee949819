"""The effect of an operation on a classifier: how its answers change as pictures are compressed, blurred, darkened.

    picture ─ change ─> picture or bytes ─ the classifier's own road ─> answers ─ beside those without the change ─> Row

Every picture is decoded once and goes through all changes. Answers are paired: what a change does is told by the
pictures that are right only with it, and only without it. Large JPEGs are decoded at 1/2, 1/4 or 1/8 of their sides
where they are as they were, and whole where they are changed: a changed picture, and a file of another kind, is paired
with the whole picture unchanged, so that no difference is the decoder's.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import answers, classifier, codecs, comparison, errors, evaluation, preprocessing, sources
from ..answers import refuse_names
from ..classifier import Classifier
from ..comparison import Difference
from ..engines import Engine
from ..metrics import rates
from ..runs import scoring
from ..sources import Source
from ..vocabulary import Dataset, Event, Record, Refusal, Score, finished
from . import changes, conclusions
from .changes import Change, Changes

AT_ONCE = 16  # pictures that are held decoded
LEVEL = 0.05
STEPS = 10


@dataclass(frozen=True)
class Row:
    """What a classifier answers when one thing is done to every picture.

    Attributes:
        name: what is done, as one would ask for it; "" for nothing.
        value: of what moves from row to row.
        accuracy: with its 95 % interval, of whole groups where there are groups.
        confidence: mean probability of what is answered, 0…1.
        agreement: share of pictures that are answered as what they are paired with, 0…1.
        bytes: of a picture, on average; None where the change makes no file, or there was none.
        difference: of accuracy, from what pictures are paired with to the change, with the 95 % interval of paired
            shares.
        p: that chance alone makes such a difference: McNemar's mid-p, corrected by Holm for all rows of the study.
            None for the first row, and where records come in groups, which are no tosses.
    """

    name: str
    value: Any
    accuracy: Score
    confidence: float
    agreement: float
    bytes: float | None
    difference: Difference | None = None
    p: float | None = None

    @property
    def shown(self) -> int:
        """1 where accuracy is shown to be higher with the change, -1 where lower, 0 where neither is."""
        if self.difference is None:
            return 0
        if self.p is None:
            return self.difference.shown
        return (self.p < LEVEL) * (1 if self.difference.value > 0 else -1)


@dataclass(frozen=True)
class Study:
    """What was found.

    Attributes:
        moving: what moves from row to row, such as `jpeg quality`, or "" where nothing does.
        part: of the data: test, val, train, all.
        grouped: whether records come in groups, which intervals then count.
        original: the answers without any change, those of `opsin evaluate`.
        rows: a change each.
        refused: pictures that could not be read, or changed as asked; no row counts them.
    """

    moving: str
    part: str
    grouped: bool
    corruptions: bool
    original: Row
    rows: tuple[Row, ...]
    refused: tuple[Refusal, ...]

    @property
    def n(self) -> int:
        """Pictures that every row counts."""
        return self.original.accuracy.n


def study(
    clf: Classifier,
    data: Dataset | Source,
    *ops: str,
    corruptions: bool = False,
    steps: int = STEPS,
    part: scoring.Part | None = None,
) -> Study:
    """How the answers change as one parameter of an operation moves, or over all corruptions.

    Args:
        data: divided as for training where the classifier was trained on it, as for `evaluate`.
        ops: operations that are done to every picture before anything else, such as `jpeg:quality=5..95`,
            `gamma:gamma=0.5,1,2` or `clahe:clip=3`; one parameter of them may move.
        corruptions: the fifteen of `opsin.corruptions` at five severities, instead of `ops`.
        steps: into how many values a range is divided.

    Raises:
        CallError: for operations that are none or make no picture, and for `part` without records.
        DataError: as `evaluate` says, and when no picture can be changed as asked.
    """
    refuse_names(clf)
    return finished(studying(clf, sources.given(data), *ops, corruptions=corruptions, steps=steps, part=part))


def studying(
    clf: Classifier,
    data: Dataset,
    *ops: str,
    corruptions: bool = False,
    steps: int = STEPS,
    part: scoring.Part | None = None,
) -> Generator[Event, None, Study]:
    """`study` as events."""
    if bool(ops) == corruptions:
        raise errors.CallError(
            "what to study", expected="operations or corruptions", received="both" if ops else "neither"
        )
    if clf.task != "single-label":
        raise errors.CallError("a study", expected="a classifier that gives one class a picture", received=clf.task)
    asked = changes.of_corruptions(_side(clf)) if corruptions else changes.of_ops(ops, steps)
    name, chosen = yield from scoring.part_of(clf, data, part)
    targets = evaluation.targets(clf, chosen)
    found = yield from _answered(clf, chosen, (asked.unchanged, *asked.rows))
    kept = np.flatnonzero([refusal is None for refusal in found.refused])
    if not len(kept):
        raise errors.DataError(f"{chosen.name}: no picture could be studied", received=found.refused[0].reason)  # type: ignore[union-attr]
    groups = [chosen.records[row].group for row in kept]
    original, *rows = _rows(asked, found, targets, kept, groups if any(groups) else None)
    refused = tuple(refusal for refusal in found.refused if refusal)
    return Study(asked.moving, name, any(groups), corruptions, original, tuple(rows), refused)


def _side(clf: Classifier) -> int:
    """To which shorter side pictures come down before they are corrupted: what the road makes of them."""
    road = clf.preprocessing
    return round(road.size / road.crop_fraction) if road.fit == "crop" else road.size


# --- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answers:
    """Of R + 2 rows: labels int, confidence and bytes float, `(R + 2, N)` each.

    The first is of the files as they are, the second of the pictures in them, whole.
    """

    labels: np.ndarray
    confidence: np.ndarray
    bytes: np.ndarray  # NaN where there is no file
    whole: np.ndarray  # bool: whether what was answered for could not be reduced while it was decoded
    refused: list[Refusal | None]  # (N,)


def _answered(clf: Classifier, data: Dataset, rows: Sequence[Change]) -> Generator[Event, None, _Answers]:
    shape = (len(rows) + 1, len(data))
    keys = [record.key for record in data.records] * shape[0]
    choice = classifier.settle(clf, data.store, keys, memory=sources.cache_dir() / "plans.json")
    yield from (Event("notice", 0, 0, {"text": note}) for note in choice.notes)
    found = _Answers(
        np.zeros(shape, np.int64), np.zeros(shape), np.full(shape, np.nan), np.zeros(shape, bool), [None] * len(data)
    )
    with ThreadPoolExecutor(preprocessing.THREADS) as pool:
        for start in range(0, len(data), AT_ONCE):
            places = range(start, min(start + AT_ONCE, len(data)))
            records = [data.records[place] for place in places]
            opened = list(pool.map(lambda record: _opened(data, record), records))
            for row, change in enumerate((None, *rows)):
                made = pool.map(lambda pair: _made(clf, change, *pair), zip(records, opened))  # noqa: B023
                _answer(clf, choice.engine, found, row, places, list(made))
            yield Event("progress", 0, 0, {"what": "pictures", "done": places.stop, "of": len(data)})
    return found


Opened = tuple[bytes | np.ndarray, np.ndarray] | Refusal  # as it is stored, and decoded
Made = tuple[Tensor, float, bool] | Refusal  # prepared; how many bytes it had; whether it was decoded whole for sure


def _opened(data: Dataset, record: Record) -> Opened:
    try:
        stored = data.store.read(record.key)
        return stored, codecs.decode(stored)
    except errors.PictureError as error:
        return Refusal(record.key, error.code, str(error))


def _made(clf: Classifier, change: Change | None, record: Record, opened: Opened) -> Made:
    if isinstance(opened, Refusal):
        return opened
    stored, picture = opened
    try:
        changed = change.make(record.key, picture) if change else stored
        size = len(changed) if isinstance(changed, bytes) else np.nan
        return preprocessing.load(clf.preprocessing, changed), size, codecs.sides(changed) is None
    except errors.PictureError as error:
        return Refusal(record.key, error.code, str(error))
    except errors.CallError as error:  # this picture is too small for it, a budget too tight
        return Refusal(record.key, "not-possible", str(error))


def _answer(clf: Classifier, run: Engine, found: _Answers, row: int, places: range, made: Sequence[Made]) -> None:
    there = [(place, *item) for place, item in zip(places, made) if not isinstance(item, Refusal)]
    for place, item in zip(places, made):
        if isinstance(item, Refusal):
            found.refused[place] = found.refused[place] or item
    if not there:
        return
    at, images, sizes, whole = zip(*there)
    probabilities = answers.probabilities(clf, run(torch.stack(images).numpy()))
    found.labels[row, at], found.confidence[row, at] = answers.named(clf, probabilities), probabilities.max(1)
    found.bytes[row, at], found.whole[row, at] = sizes, whole


# --- what they say ----------------------------------------------------------------------------------------------------


def _rows(
    asked: Changes,
    found: _Answers,
    targets: np.ndarray,
    kept: np.ndarray,
    groups: Sequence[str | None] | None,
) -> Iterator[Row]:
    labels, expected = found.labels[:, kept], targets[kept]
    paired = np.where(found.whole[:, kept], labels[1], labels[0])
    compared = [
        comparison.compare_accuracy(*pair, expected, groups=groups) for pair in zip(paired[2:], labels[2:], strict=True)
    ]
    ps = [p for _, p in compared]
    corrected = holm([p for p in ps if p is not None]) if groups is None else ps

    def row(at: int, name: str, value: Any, difference: Difference | None = None, p: float | None = None) -> Row:
        sizes = found.bytes[at, kept]
        return Row(
            name,
            value,
            rates.share(labels[at] == expected, groups=groups),
            float(found.confidence[at, kept].mean()),
            float((labels[at] == paired[at]).mean()) if at else 1.0,
            None if np.isnan(sizes).any() else float(sizes.mean()),
            difference,
            p,
        )

    yield row(0, "", None)
    for at, (change, (difference, _), p) in enumerate(zip(asked.rows, compared, corrected, strict=True), 2):
        yield row(at, change.name, change.value, difference, p)


def holm(ps: Sequence[float]) -> list[float]:
    """The p of several tests, so corrected that any is below 0.05 by chance once in twenty studies (Holm 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.02])]
    [0.03, 0.04, 0.04]
    """
    corrected, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = least
    return corrected


def to_dict(found: Study) -> dict[str, Any]:
    """A Study as plain values for JSON."""

    def plain(row: Row) -> dict[str, Any]:
        difference = row.difference
        told = {**asdict(difference), "value": difference.value} if difference else None
        return {**asdict(row), "difference": told, "shown": row.shown}

    return {
        "moving": found.moving,
        "part": found.part,
        "n": found.n,
        "grouped": found.grouped,
        "original": plain(found.original),
        "rows": [plain(row) for row in found.rows],
        "refused": [asdict(refusal) for refusal in found.refused],
        "conclusions": conclusions.sentences(found),
    }

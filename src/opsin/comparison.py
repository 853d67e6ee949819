"""Two classifiers on the same pictures: is one better, by how much, and may it replace the other.

Both answer the same records, so differences are paired: what both get right or wrong says nothing. Differences are
second minus first; a difference is *shown* when its 95 % interval leaves 0 out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from . import cache, classifier, errors, evaluation
from .classifier import Classifier
from .metrics import intervals, rates
from .metrics.given import Floats, Groups, Ints, units
from .runs import scoring
from .vocabulary import UNSURE, Dataset, Event, refuse_other_tasks


@dataclass(frozen=True, slots=True)
class Difference:
    """What two classifiers reach, 0…1, and the 95 % interval of second minus first."""

    first: float
    second: float
    low: float
    high: float
    n: int

    @property
    def value(self) -> float:
        return self.second - self.first

    @property
    def shown(self) -> int:
        """1 where the second is shown to be better, -1 where it is shown to be worse, 0 where neither is."""
        return int(self.low > 0) - int(self.high < 0)

    def words(self, first: str = "A", second: str = "B") -> str:
        """The difference in plain words, in points of a hundred.

        >>> Difference(0.90, 0.921, 0.005, 0.037, 1000).words()
        'B is better by 2.1 points [0.5, 3.7]'
        """
        if not self.shown:
            return (
                f"no difference shown: {100 * self.value:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
            )
        better, low, high = (second, self.low, self.high) if self.shown > 0 else (first, -self.high, -self.low)
        return f"{better} is better by {100 * abs(self.value):.1f} points [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Comparison:
    """What comparing two classifiers found.

    Attributes:
        n: records that both answered.
        overall: accuracy, macro F1.
        per_class: F1 of each class that was tested.
        only_first, only_second: records that one alone has right.
        p: McNemar's mid-p that chance alone parts those two so far; None with groups, whose records are no tosses.
    """

    n: int
    overall: Mapping[str, Difference]
    per_class: Mapping[str, Difference]
    only_first: int
    only_second: int
    p: float | None


def compare(
    first: Ints, second: Ints, targets: Ints, classes: Sequence[str], *, groups: Groups | None = None
) -> Comparison:
    """Compare two classifiers' answers to the same records, int (N,) each, against targets int (N,).

    Accuracy's interval is that of Bonett & Price (2012) for paired shares; those of F1, and all of them with groups,
    are percentiles of the paired bootstrap of records, or of whole groups. Raises DataError.
    """
    k = len(classes) + 1  # the last one stands for UNSURE; no record is of it
    for said in (first, second):
        rates.confusion(targets, np.where(said == UNSURE, 0, said), k - 1)  # refuses what is wrong
    first, second = (np.where(said == UNSURE, k - 1, said) for said in (first, second))
    of = units(groups, len(targets))
    right = np.stack([first == targets, second == targets])
    alone = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    tested = np.unique(targets).tolist()
    accuracy, macro, *each = _resampled(first, second, targets, k, of)
    if of is None:
        accuracy = Difference(accuracy.first, accuracy.second, *paired_shares(*alone, len(targets)), accuracy.n)
    return Comparison(
        len(targets),
        {"accuracy": accuracy, "macro F1": macro},
        {classes[c]: difference for c, difference in zip(tested, each)},
        *alone,
        mcnemar(*alone) if of is None else None,
    )


def mcnemar(first: int, second: int) -> float:
    """The two-sided mid-p of McNemar's test: `first` records only one has right, `second` only the other.

    Mid-p and not exact, which is far too careful for few records (Fagerland, Lydersen & Laake, 2013).

    >>> round(mcnemar(1, 8), 4), mcnemar(3, 3)
    (0.0215, 1.0)
    """
    from scipy.stats import binom

    if not first + second:
        return 1.0
    tosses = binom(first + second, 0.5)
    return float(min(1.0, 2 * tosses.cdf(min(first, second)) - tosses.pmf(min(first, second))))


def paired_shares(first: int, second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of (second - first) / n for records that one alone has right (Bonett & Price, JEBS 2012)."""
    a, b = (first + 1) / (n + 2), (second + 1) / (n + 2)
    half = intervals.Z * math.sqrt((a + b - (b - a) ** 2) / (n + 2))
    value = (second - first) / n
    return max(-1.0, min(b - a - half, value)), min(1.0, max(b - a + half, value))


# ---- the paired bootstrap


def _resampled(first: Ints, second: Ints, targets: Ints, k: int, of: Ints | None) -> list[Difference]:
    """Accuracy, macro F1, and F1 of every class that is tested."""
    both = rates.cells(targets, first * k + second, k * k, of)
    tested, records = np.unique(targets, return_counts=True)
    statistics = _statistics(both, k, tested)
    value = statistics(both.counts[None])[0]
    drawn = [statistics(counts) for counts in both.resampled(intervals.DRAWS)]
    gaps = np.concatenate([rows[:, 1] - rows[:, 0] for rows in drawn])
    low, high = np.nanquantile(gaps, [0.025, 0.975], axis=0)
    n = np.array([len(targets), len(targets), *records])
    worth = n if of is None else np.array([of.max() + 1] * 2 + [len(np.unique(of[targets == c])) for c in tested])
    opened = [_opened(*bounds) for bounds in zip(low.tolist(), high.tolist(), worth.tolist())]
    sides = value.T.tolist()
    return [Difference(a, b, *bounds, count) for (a, b), bounds, count in zip(sides, opened, n.tolist())]


def _opened(low: float, high: float, n: int) -> tuple[float, float]:
    """Resamples that all agree are not certain: two that never part on n records may part on the next."""
    if high - low > 1e-12:
        return low, high
    half = intervals.Z * math.sqrt(2) / (n + 2)  # `paired_shares` of (0, 0, n)
    return low - half, high + half


def _statistics(both: rates.Cells, k: int, tested: Ints) -> Callable[[Ints], Floats]:
    """From counts of cells (B, C) to accuracy, macro F1, F1 of every tested class, of both: (B, 2, 2 + T).

    A class without records in a resample counts for nothing there, and has no F1. An answer of `both` is a pair.
    """
    answers = both.answered // k, both.answered % k

    def of(counts: Ints) -> Floats:
        records = rates.summed(counts, both.true, k)
        present, sides = records > 0, []
        for answered in answers:
            right = both.true == answered
            hits = rates.summed(counts[:, right], both.true[right], k)
            f1 = 2 * hits / np.maximum(records + rates.summed(counts, answered, k), 1)
            macro = (f1 * present).sum(axis=1) / present.sum(axis=1)
            accuracy = hits.sum(axis=1) / records.sum(axis=1)
            sides.append(np.column_stack([accuracy, macro, np.where(present, f1, np.nan)[:, tested]]))
        return np.stack(sides, axis=1)

    return of


# ---- the gate


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition of a gate: whether the second classifier meets it, and why."""

    condition: str
    passed: bool
    reason: str


_CONDITION = re.compile(
    r"^(?P<what>accuracy|macro[ -]f1|every class|class (?P<cls>.+?))\s+"
    r"(?P<how>not worse|better|within (?P<points>[0-9.]+) points?)$",
    re.IGNORECASE,
)


def gate(found: Comparison, text: str) -> tuple[Verdict, ...]:
    """Whether the second classifier may replace the first.

    Args:
        text: conditions, with commas between them: `accuracy`, `macro-f1`, `every class` or `class NAME` (their F1),
            then `not worse` (no loss is shown), `within N points` (what was measured is at most so much lower) or
            `better` (a gain is shown).

    Raises:
        CallError: for any other condition, and a class that was not tested.
    """
    return tuple(_verdict(found, condition) for condition in conditions(text))


def conditions(text: str) -> list[re.Match[str]]:
    """The conditions of a gate, as `gate` says. Raises CallError."""
    read = [_CONDITION.match(part.strip()) for part in text.split(",")]
    if None in read:
        raise errors.CallError(
            "gate",
            expected="'accuracy|macro-f1|every class|class NAME not worse|better|within N points', commas between",
            received=repr(text),
        )
    return [match for match in read if match]


def _verdict(found: Comparison, condition: re.Match[str]) -> Verdict:
    failed = [
        f"{name}: {difference.words()}"
        for name, difference in _meant(found, condition)
        if not _holds(difference, condition["how"].lower(), condition["points"])
    ]
    return Verdict(condition[0], not failed, "; ".join(failed))


def _meant(found: Comparison, read: re.Match[str]) -> Iterator[tuple[str, Difference]]:
    what = read["what"].lower().replace("-", " ")
    if what == "every class":
        yield from found.per_class.items()
    elif read["cls"]:
        if read["cls"] not in found.per_class:
            raise errors.unknown("class", read["cls"], found.per_class)
        yield read["cls"], found.per_class[read["cls"]]
    else:
        name = {"accuracy": "accuracy", "macro f1": "macro F1"}[what]
        yield name, found.overall[name]


def _holds(difference: Difference, how: str, points: str | None) -> bool:
    if points is not None:
        return difference.value >= -float(points) / 100 - 1e-12
    return difference.shown > 0 if how == "better" else difference.shown >= 0


# ---- of two classifiers


def comparing(
    first: Classifier, second: Classifier, data: Dataset, part: scoring.Part | None = None
) -> Generator[Event, None, Comparison]:
    """Compare two classifiers on `data`, as events: on the pictures of its test that neither was trained on.

    Data that a classifier was trained on is divided as it was for that; where two divide it differently, what both
    leave for the test is used. `part` says otherwise, as for `evaluate`.

    Raises:
        DataError: when the classes differ, when no picture is left, and as `evaluate` says.
        CallError: when `part` has no records.
    """
    for clf in (first, second):
        refuse_other_tasks(clf.task, "compare")
    classifier.checked_classes(first.classes, second.classes)
    classifier.checked_classes(second.classes, first.classes)
    chosen = _common(scoring.part_of(first, data, part)[1], scoring.part_of(second, data, part)[1])
    work = cache.build(chosen, [first.preprocessing, second.preprocessing])
    chosen, caches = yield from scoring.told(work, "decoding", len(chosen))
    answers: list[Ints] = []
    for clf, pixels in zip((first, second), caches):
        found = yield from scoring.told(evaluation.logits(clf, pixels), "scoring", len(chosen))
        place = np.array([first.classes.index(name) for name in clf.classes])
        said = classifier.named(clf, classifier.probabilities(clf, found))
        answers.append(np.where(said == UNSURE, UNSURE, place[said]))
    expected = evaluation.targets(first, chosen)
    return compare(answers[0], answers[1], expected, first.classes, groups=evaluation.groups(chosen))


def _common(first: Dataset, second: Dataset) -> Dataset:
    keys = {record.key for record in second.records}
    both = first.where(lambda record: record.key in keys)
    if not len(both):
        raise errors.DataError(
            "no picture is in the test of both", do="Compare on pictures that neither was trained on"
        )
    return both


def words(found: Comparison, verdicts: Sequence[Verdict] = ()) -> str:
    """A Comparison for people, a line each."""
    chance = ""
    if found.p is not None:
        chance = f"; by chance alone with p {found.p:.3f}" if found.p >= 0.0005 else "; by chance alone with p < 0.001"
    lines = [
        f"{found.n:,} pictures; A alone is right on {found.only_first:,}, B alone on {found.only_second:,}{chance}"
    ]
    named = [*found.overall.items(), *((f"F1 of {name}", one) for name, one in found.per_class.items())]
    width = max(len(name) for name, _ in named)
    lines += [f"{name:<{width}}   A {one.first:.3f}   B {one.second:.3f}   {one.words()}" for name, one in named]
    if len(found.per_class) > 1:
        lines.append(f"of {len(found.per_class)} classes one in twenty looks different by chance alone")
    lines += [f"gate: {v.condition}: {'passed' if v.passed else 'NOT passed: ' + v.reason}" for v in verdicts]
    return "\n".join(lines)


def to_dict(found: Comparison, verdicts: Sequence[Verdict] = ()) -> dict[str, Any]:
    """A Comparison and a gate's verdicts as plain values for JSON; differences are second minus first."""

    def plain(difference: Difference) -> dict[str, Any]:
        return {**asdict(difference), "value": difference.value, "shown": difference.shown != 0}

    return {
        "n": found.n,
        "overall": {name: plain(one) for name, one in found.overall.items()},
        "per_class": {name: plain(one) for name, one in found.per_class.items()},
        "only_first": found.only_first,
        "only_second": found.only_second,
        "p": found.p,
        "gate": [asdict(verdict) for verdict in verdicts],
    }

"""Two classifiers on the same pictures: is one better, by how much, and may it replace the other.

Both answer the same records, so differences are paired: what both get right or wrong says nothing. Differences are
second minus first; a difference is *shown* when its 95 % interval leaves 0 out.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from . import answers, cache, errors, evaluation
from .answers import Answering
from .metrics import intervals, labels, quantities, rates
from .metrics.given import Bools, Floats, Groups, Ints, units
from .runs import scoring
from .vocabulary import UNSURE, Dataset, Event, Scale, Task

Sides = Sequence[Floats] | Floats  # of the first and of the second


@dataclass(frozen=True, slots=True)
class Difference:
    """What two classifiers reach, and the 95 % interval of second minus first: shares, or errors, of which less is
    better, in the unit of a quantity. The interval is infinite where one record or group was all there was."""

    first: float
    second: float
    low: float
    high: float
    n: int
    error: bool = False

    @property
    def value(self) -> float:
        return self.second - self.first

    @property
    def shown(self) -> int:
        """1 where the second is shown to be better, -1 where it is shown to be worse, 0 where neither is."""
        return (int(self.low > 0) - int(self.high < 0)) * (-1 if self.error else 1)

    def words(self, first: str = "A", second: str = "B") -> str:
        """The difference in plain words, in points of a hundred; of errors in their unit.

        >>> Difference(0.90, 0.921, 0.005, 0.037, 1000).words()
        'B is better by 2.1 points [0.5, 3.7]'
        """
        each = (self.value, self.low, self.high)
        if not self.shown:
            value, low, high = (f"{one:+.4g}" if self.error else f"{100 * one:+.1f}" for one in each)
            if math.isinf(self.high):
                return f"no difference shown: {value}{self._unit} [no interval]"
            return f"no difference shown: {value}{self._unit} [{low}, {high}]"
        least, most = sorted(map(abs, each[1:]))
        value, low, high = (
            f"{one:.4g}" if self.error else f"{100 * one:.1f}" for one in (abs(self.value), least, most)
        )
        return f"{second if self.shown > 0 else first} is better by {value}{self._unit} [{low}, {high}]"

    def sides(self) -> tuple[str, str]:
        """What each reaches, as text."""
        return tuple(f"{one:.4g}" if self.error else f"{one:.3f}" for one in (self.first, self.second))  # type: ignore[return-value]

    @property
    def _unit(self) -> str:
        return "" if self.error else " points"


@dataclass(frozen=True)
class Comparison:
    """What comparing two classifiers found.

    Attributes:
        n: records that both answered.
        overall: accuracy, macro F1; of several labels mAP, macro AUROC, micro and macro F1; of quantities MAE and RMSE,
            or of more than one their mean relative MAE.
        per_class: F1 of each class or label that was tested; MAE of each quantity.
        only_first, only_second: records that one alone has right, with all known labels; of quantities, on which one
            is closer.
        p: McNemar's mid-p that chance alone parts those two so far; None with groups, whose records are no tosses.
    """

    n: int
    overall: Mapping[str, Difference]
    per_class: Mapping[str, Difference]
    only_first: int
    only_second: int
    p: float | None
    task: Task = "single-label"


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
    apart = _apart(first == targets, second == targets, of)
    tested = np.unique(targets).tolist()
    macro, *each = _resampled(first, second, targets, k, of)
    overall = {"accuracy": _accuracy(first == targets, second == targets, of), "macro F1": macro}
    return Comparison(len(targets), overall, dict(zip((classes[c] for c in tested), each)), *apart)


def compare_accuracy(
    first: Ints, second: Ints, targets: Ints, *, groups: Groups | None = None
) -> tuple[Difference, float | None]:
    """Of `compare` the accuracy and p alone, without a bootstrap of every F1."""
    of = units(groups, len(targets))
    right = first == targets, second == targets
    return _accuracy(*right, of), _apart(*right, of)[2]


def _accuracy(first: Bools, second: Bools, of: Ints | None) -> Difference:
    """From who is right, bool (N,) each."""
    n, shares = len(first), (float(first.mean()), float(second.mean()))
    if of is None:
        return Difference(*shares, *paired_shares(*_apart(first, second, of)[:2], n), n)
    sums = np.stack([np.bincount(of, column) for column in (first, second, np.ones(n))], axis=1).astype(float)
    drawn = np.concatenate([*intervals.totals(sums)])
    low, high = np.quantile(drawn[:, 1] / drawn[:, 2] - drawn[:, 0] / drawn[:, 2], [0.025, 0.975]).tolist()
    return _opened(Difference(*shares, low, high, n), len(sums))


def compare_labels(
    first: Floats,
    second: Floats,
    targets: Floats,
    names: Sequence[str],
    thresholds: Sequence[Sequence[float]],
    *,
    groups: Groups | None = None,
) -> Comparison:
    """Compare two classifiers' probabilities of several labels, (N, K) each, against targets (N, K), NaN where unknown.

    Labels are named from thresholds on, (K,) of each classifier. The intervals of mAP and macro AUROC are of what each
    record adds to both (DeLong's, paired); those of F1 percentiles of the paired bootstrap. Raises DataError.
    """
    (one, true), (other, _) = (labels.checked(each, targets, names) for each in (first, second))
    of, known, positive = units(groups, len(true)), ~np.isnan(true), true == 1
    said = [rows >= np.asarray(least) for rows, least in zip((one, other), thresholds)]
    right = [labels.all_right(each, positive, known) & known.any(1) for each in said]
    tested = np.flatnonzero(positive.any(0))
    cells = [labels.counted(each & known, positive, known, of)[:, tested] for each in said]
    drawn = [np.concatenate([labels.each_f1(sums) for sums in intervals.totals(each)]) for each in cells]
    n = np.array([len(true), len(true), *positive[:, tested].sum(0)])
    rests = n if of is None else [of.max() + 1] * 2 + [len(np.unique(of[positive[:, c]])) for c in tested]
    found = _percentiles([labels.each_f1(each.sum(0)[None])[0] for each in cells], drawn, n)
    micro, macro, *each = (_opened(score, many) for score, many in zip(found, rests))
    ranked = {
        name: _opened(Difference(a, b, b - a - half, b - a + half, len(true)), worth)
        for name, (a, b, half, worth) in labels.paired_rankings(one, other, true, of).items()
    }
    overall = {"mAP": ranked["average precision"], "macro AUROC": ranked["AUROC"]} if ranked else {}
    overall |= {"micro F1": micro, "macro F1": macro}
    per_class = dict(zip((names[c] for c in tested.tolist()), each))
    return Comparison(len(true), overall, per_class, *_apart(right[0], right[1], of), "multi-label")


def compare_quantities(
    first: Floats,
    second: Floats,
    targets: Floats,
    names: Sequence[str],
    scale: Scale,
    *,
    groups: Groups | None = None,
) -> Comparison:
    """Compare two classifiers' quantities, (N, K) each, against targets (N, K), NaN where unknown.

    Intervals are percentiles of the paired bootstrap. Closer is who is nearer, of several quantities on average over
    those known, each by its deviation in `scale`. Raises DataError.
    """
    means, deviations = np.array(scale).T
    (one, true, tested), (other, _, _) = (quantities.checked(each, targets, names, means) for each in (first, second))
    of = units(groups, len(true))
    own = np.arange(len(true)) if of is None else of
    sums = [quantities.sums_of(each[:, tested], true[:, tested], means[tested], own) for each in (one, other)]
    drawn = [_errors(np.concatenate([*intervals.totals(each)])) for each in sums]
    known = ~np.isnan(true)
    n = np.array([len(true), *known[:, tested].sum(0)[[0, *range(len(tested))]]])
    worth = (sums[0][..., 0] > 0).sum(0)  # units, of each quantity
    found = [
        one if many > 1 else dataclasses.replace(one, low=-math.inf, high=math.inf)
        for one, many in zip(
            _percentiles([_errors(each.sum(0)[None])[0] for each in sums], drawn, n, error=True),
            [worth.min(), worth[0], *worth],
        )
    ]
    relative, rmse, *each = found
    overall = {"MAE": each[0], "RMSE": rmse} if len(names) == 1 else {"mean relative MAE": relative}
    per_class = dict(zip((names[c] for c in tested), each))
    off, further = (np.where(known, np.abs(rows - true) / deviations, 0).sum(1) for rows in (one, other))
    return Comparison(len(true), overall, per_class, *_apart(off < further, further < off, of), "regression")


def _errors(sums: Floats) -> Floats:
    """Sums (B, K, 6) → mean relative MAE, RMSE of the first quantity, MAE of each: (B, 2 + K)."""
    measures = quantities.MEASURES
    return np.column_stack([quantities.relative_error(sums), measures["RMSE"](sums)[:, 0], measures["MAE"](sums)])


def _apart(first: Bools, second: Bools, of: Ints | None) -> tuple[int, int, float | None]:
    """How many records are one's alone, each, and McNemar's p."""
    alone = int((first & ~second).sum()), int((second & ~first).sum())
    return *alone, mcnemar(*alone) if of is None else None


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
    """Macro F1, and F1 of every class that is tested."""
    both = rates.cells(targets, first * k + second, k * k, of)
    tested, records = np.unique(targets, return_counts=True)
    statistics = _statistics(both, k, tested)
    drawn = np.concatenate([statistics(counts) for counts in both.resampled(intervals.DRAWS)])
    n = np.array([len(targets), *records])
    worth = n if of is None else np.array([of.max() + 1] + [len(np.unique(of[targets == c])) for c in tested])
    found = _percentiles(statistics(both.counts[None])[0], np.moveaxis(drawn, 1, 0), n)
    return [_opened(one, units) for one, units in zip(found, worth.tolist())]


def _percentiles(values: Sides, drawn: Sides, n: Ints, *, error: bool = False) -> list[Difference]:
    """Differences of two sides' scores (M,) from those of the same resamples, (B, M) each, NaN where there is none."""
    low, high = np.nanquantile(drawn[1] - drawn[0], [0.025, 0.975], axis=0).tolist()
    sides = zip(values[0].tolist(), values[1].tolist(), low, high, n.tolist())
    return [Difference(*side, error) for side in sides]


def _opened(found: Difference, n: float) -> Difference:
    """Resamples that all agree are not certain: two that never part on n records may part on the next."""
    if found.high - found.low > 1e-12:
        return found
    half = intervals.Z * math.sqrt(2) / (n + 2)  # `paired_shares` of (0, 0, n)
    return dataclasses.replace(found, low=found.low - half, high=found.high + half)


def _statistics(both: rates.Cells, k: int, tested: Ints) -> Callable[[Ints], Floats]:
    """From counts of cells (B, C) to macro F1, F1 of every tested class, of both: (B, 2, 1 + T).

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
            sides.append(np.column_stack([macro, np.where(present, f1, np.nan)[:, tested]]))
        return np.stack(sides, axis=1)

    return of


# ---- the gate


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition of a gate: whether the second classifier meets it, why not, and on how many records, the fewest of
    all that it asks about: on few of them hardly any loss is shown."""

    condition: str
    passed: bool
    reason: str
    n: int


_CONDITION = re.compile(
    r"^(?P<what>accuracy|m[ai]cro[ -]f1|map|macro[ -]auroc|mae|rmse|mean[ -]relative[ -]mae|every class"
    r"|class (?P<cls>.+?))\s+(?P<how>not worse|better|within (?P<points>[0-9.]+) points?)$",
    re.IGNORECASE,
)


def gate(found: Comparison, text: str) -> tuple[Verdict, ...]:
    """Whether the second classifier may replace the first.

    Args:
        text: conditions, with commas between them: a name of `Comparison.overall` such as `accuracy`, `macro-f1`,
            `mAP`, `MAE`, or `every class` or `class NAME` (their F1; of a label or quantity too), then `within N
            points` (a loss of more is ruled out: its interval ends before; of errors, one of more than N % of the
            first's), `better` (a gain is shown) or `not worse` (no loss is shown, which on few records says little).

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
            expected="'accuracy|macro-f1|mAP|MAE|every class|class NAME not worse|better|within N points', or several "
            "with commas between",
            received=repr(text),
        )
    return [match for match in read if match]


def _verdict(found: Comparison, condition: re.Match[str]) -> Verdict:
    meant = [*_meant(found, condition)]
    failed = [
        f"{name}: {difference.words()}"
        for name, difference in meant
        if not _holds(difference, condition["how"].lower(), condition["points"])
    ]
    return Verdict(condition[0], not failed, "; ".join(failed), min(difference.n for _, difference in meant))


def _meant(found: Comparison, read: re.Match[str]) -> Iterator[tuple[str, Difference]]:
    what = read["what"].lower().replace("-", " ")
    if what == "every class":
        yield from found.per_class.items()
    elif read["cls"]:
        if read["cls"] not in found.per_class:
            raise errors.unknown("class", read["cls"], found.per_class)
        yield read["cls"], found.per_class[read["cls"]]
    else:
        named = {name.lower(): (name, one) for name, one in found.overall.items()}
        if what not in named:
            raise errors.unknown("score", read["what"], found.overall)
        yield named[what]


def _holds(difference: Difference, how: str, points: str | None) -> bool:
    if points is not None and difference.error:
        return difference.high <= float(points) / 100 * difference.first * (1 + 1e-12)
    if points is not None:
        return difference.low >= -float(points) / 100 - 1e-12
    return difference.shown > 0 if how == "better" else difference.shown >= 0


# ---- of two classifiers


def comparing(
    first: Answering, second: Answering, data: Dataset, part: scoring.Part | None = None
) -> Generator[Event, None, Comparison]:
    """Compare two classifiers, or exported files, on `data`, as events: on test pictures that neither learned from.

    Data that a classifier was trained on is divided as it was for that, and of other data what it has seen is left out;
    what both leave for the test is used. `part` says otherwise, as for `evaluate`.

    Raises:
        DataError: when the classes differ, when no picture is left, and as `evaluate` says.
        CallError: when `part` has no records, and for models of different tasks.
    """
    if first.task != second.task:
        raise errors.CallError("two models", expected=f"both for {first.task}", received=f"one for {second.task}")
    if set(first.classes) != set(second.classes):
        raise errors.DataError(
            "the two models know different classes",
            expected=", ".join(first.classes[:20]),
            received=", ".join(second.classes[:20]),
            do="Compare models of the same classes",
        )
    _, own = yield from scoring.part_of(first, data, part, called="A")
    _, others = yield from scoring.part_of(second, data, part, called="B")
    chosen = _common(own, others)
    work = cache.build(chosen, [first.preprocessing, second.preprocessing])
    chosen, caches = yield from scoring.told(work, "decoding", len(chosen))
    one = yield from scoring.told(evaluation.logits(first, caches[0]), "scoring", len(chosen))
    other = yield from scoring.told(evaluation.logits(second, caches[1]), "scoring", len(chosen))
    groups = evaluation.groups(chosen)
    return of_logits((first, second), (one, other), evaluation.targets(first, chosen), groups=groups)


def of_logits(
    models: tuple[Answering, Answering],
    logits: tuple[np.ndarray, np.ndarray],
    targets: np.ndarray,
    *,
    groups: Groups | None = None,
) -> Comparison:
    """Compare what two classifiers say by their logits, (N, K) each, against targets as the first counts its classes.

    Raises:
        DataError: wrong shapes.
    """
    first = models[0]
    names = first.classes
    if first.task == "single-label":
        said = []
        for clf, found in zip(models, logits):
            place = np.array([names.index(name) for name in clf.classes])
            answer = answers.named(clf, answers.probabilities(clf, found))
            said.append(np.where(answer == UNSURE, UNSURE, place[answer]))
        return compare(said[0], said[1], targets, names, groups=groups)
    one, other = (
        answers.answers(clf, found)[:, [clf.classes.index(name) for name in names]]
        for clf, found in zip(models, logits)
    )
    if first.task == "regression":
        return compare_quantities(one, other, targets, names, first.scale, groups=groups)
    least = [[clf.thresholds.get(name, labels.HALF) for name in names] for clf in models]
    return compare_labels(one, other, targets, names, least, groups=groups)


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
    said, alone, score, many = {
        "single-label": ("alone is right", "alone ", "F1", "classes"),
        "multi-label": ("alone has all labels right", "alone ", "F1", "labels"),
        "regression": ("is closer", "", "MAE", "quantities"),
    }[found.task]
    lines = [f"{found.n:,} pictures; A {said} on {found.only_first:,}, B {alone}on {found.only_second:,}{chance}"]
    named = [*found.overall.items(), *((f"{score} of {name}", one) for name, one in found.per_class.items())]
    width = max(len(name) for name, _ in named)
    lines += ["{:<{}}   A {}   B {}   {}".format(name, width, *one.sides(), one.words()) for name, one in named]
    if len(found.per_class) > 1:
        lines.append(f"of {len(found.per_class)} {many} one in twenty looks different by chance alone")
    for one in verdicts:
        passed = "passed" if one.passed else "NOT passed"
        lines.append(": ".join(filter(None, ["gate", one.condition, f"{passed} on {one.n:,} pictures", one.reason])))
    return "\n".join(lines)


def to_dict(found: Comparison, verdicts: Sequence[Verdict] = ()) -> dict[str, Any]:
    """A Comparison and a gate's verdicts as plain values for JSON; differences are second minus first."""

    def plain(difference: Difference) -> dict[str, Any]:
        told = {**asdict(difference), "value": difference.value, "shown": difference.shown != 0}
        return told | ({"low": None, "high": None} if math.isinf(difference.high) else {})

    return {
        "n": found.n,
        "overall": {name: plain(one) for name, one in found.overall.items()},
        "per_class": {name: plain(one) for name, one in found.per_class.items()},
        "only_first": found.only_first,
        "only_second": found.only_second,
        "p": found.p,
        "gate": [asdict(verdict) for verdict in verdicts],
    } | ({"task": found.task} if found.task != "single-label" else {})

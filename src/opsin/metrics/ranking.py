"""How well scores rank: AUROC, average precision, and what a threshold on them buys.

AUROC is the chance that a positive record scores higher than another; average precision the mean precision at the
positive records; both over all thresholds, equal scores sharing one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from ..errors import CallError
from ..vocabulary import Score
from . import intervals
from .given import Bools, Floats, Groups, Ints, binary, units
from .intervals import DRAWS, by_influence, wilson_bounds
from .rates import effective

Influence = tuple[float, Floats]  # a statistic, and what each record adds to it, (N,), with sum 0


def auroc(scores: npt.ArrayLike, positive: npt.ArrayLike, *, groups: Groups | None = None) -> Score:
    """The area under the ROC curve of scores (N,) for truths bool (N,), with DeLong's interval on the logit scale.

    DeLong's and not the bootstrap's: it needs no draws, is the same every time, and goes over to groups. Raises
    DataError where only one kind is there.

    >>> auroc([0.1, 0.4, 0.35, 0.8], np.array([False, False, True, True])).value
    0.75
    """
    return _scored(_auroc, *binary(scores, positive), groups)


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike, *, groups: Groups | None = None) -> Score:
    """Σ (recall gained at a threshold) × (precision there), for scores (N,) and truths bool (N,), as scikit-learn's.

    The interval is on the logit scale (Boyd, Eng & Page, ECML 2013, find that it covers better than the bootstrap),
    with the variance of the influence of every record. Raises DataError where only one kind is there.
    """
    return _scored(_average_precision, *binary(scores, positive), groups)


def _auroc(scores: Floats, positive: Bools) -> Influence:
    ups, downs = np.sort(scores[positive]), np.sort(scores[~positive])
    over = (np.searchsorted(downs, scores[positive]) + np.searchsorted(downs, scores[positive], "right")) / 2
    under = (np.searchsorted(ups, scores[~positive]) + np.searchsorted(ups, scores[~positive], "right")) / 2
    value = float(over.sum() / (len(ups) * len(downs)))
    influence = np.empty(len(scores))
    influence[positive] = (over / len(downs) - value) / len(ups)
    influence[~positive] = (1 - under / len(ups) - value) / len(downs)
    return value, influence


def _average_precision(scores: Floats, positive: Bools) -> Influence:
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last record of each threshold
    all_, hits = ends + 1, np.cumsum(positive[order])[ends]
    gained, precision, n = np.diff(hits, prepend=0), hits / all_, int(hits[-1])
    value = float((gained * precision).sum() / n)
    # a record changes the precision at its own threshold and at all below
    rise = np.cumsum((gained / all_)[::-1])[::-1]
    fall = np.cumsum((gained * precision / all_)[::-1])[::-1]
    at = np.empty(len(scores), np.int64)
    at[order] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    return value, (positive * (precision[at] + rise[at] - value) - fall[at]) / n


def _unbiased(influence: Floats, positive: Bools) -> Floats:
    """The influence, stretched so that its squares add up to the variance of so few records of each kind."""
    ups, downs = int(positive.sum()), int((~positive).sum())
    stretch = np.where(positive, ups / max(ups - 1, 1), downs / max(downs - 1, 1))
    return np.asarray(influence * np.sqrt(stretch))


def _least(positive: Bools, of: Ints | None) -> int:
    """The units of the rarer kind."""
    kinds = (positive, ~positive)
    return min(int(kind.sum()) if of is None else len(np.unique(of[kind])) for kind in kinds)


def _scored(
    measure: Callable[[Floats, Bools], Influence], scores: Floats, positive: Bools, groups: Groups | None
) -> Score:
    of = units(groups, len(scores))
    value, influence = measure(scores, positive)
    return by_influence(value, _unbiased(influence, positive), of, worth=_least(positive, of), n=len(scores))


# ---- one class against the rest

RANKINGS: Mapping[str, Callable[[Floats, Bools], Influence]] = {
    "AUROC": _auroc,
    "average precision": _average_precision,
}


def one_against_rest(
    probabilities: Floats, true: Ints, *, groups: Groups | None = None
) -> tuple[dict[str, Score], dict[int, dict[str, Score]]]:
    """RANKINGS of every class against all others: their macro averages, and by class index.

    probabilities (N, K), true int (N,). Classes without records, and one that has all, are left out; with no class
    left both are empty.
    """
    n, k = probabilities.shape
    of, counts = units(groups, n), np.bincount(true, minlength=k)
    chosen = [c for c in range(k) if 0 < counts[c] < n]
    each: dict[int, dict[str, Score]] = {c: {} for c in chosen}
    total = {name: [0.0, np.zeros(n)] for name in RANKINGS}
    worths = {c: _least(true == c, of) for c in chosen}
    for c in chosen:
        positive, column = true == c, np.ascontiguousarray(probabilities[:, c])
        for name, measure in RANKINGS.items():
            value, influence = measure(column, positive)
            influence = _unbiased(influence, positive)
            each[c][name] = by_influence(value, influence, of, worth=worths[c], n=n)
            total[name] = [total[name][0] + value / len(chosen), total[name][1] + influence / len(chosen)]
    if not chosen:
        return {}, {}
    worth = effective(np.array(list(worths.values())))
    return {f"macro {name}": by_influence(v, i, of, worth=worth, n=n) for name, (v, i) in total.items()}, each  # type: ignore[arg-type]


# ---- what a threshold buys


def recall_at(
    scores: npt.ArrayLike, positive: npt.ArrayLike, *, false_alarms: float, groups: Groups | None = None
) -> Score:
    """The highest recall of a threshold whose false alarms are at most a share `false_alarms` of the other records.

    scores (N,), positive bool (N,), false_alarms 0…1. The interval is the bias-corrected bootstrap's, the threshold
    chosen anew in every resample; without acceleration, which is undefined for a statistic that jumps. Raises
    DataError, CallError.
    """

    def curve(hits: Ints, alarms: Ints) -> Floats:
        fits = np.count_nonzero(alarms <= false_alarms * alarms[:, -1:] + 1e-9, axis=1)
        padded = np.pad(hits, ((0, 0), (1, 0)))
        return padded[np.arange(len(hits)), fits] / hits[:, -1]

    return _at("false_alarms", false_alarms, curve, scores, positive, groups)


def false_alarms_at(
    scores: npt.ArrayLike, positive: npt.ArrayLike, *, recall: float, groups: Groups | None = None
) -> Score:
    """The smallest share of false alarms among the other records at a threshold whose recall is `recall` or more.

    scores (N,), positive bool (N,), recall 0…1. The interval is that of `recall_at`. Raises DataError, CallError.
    """

    def curve(hits: Ints, alarms: Ints) -> Floats:
        padded = [np.pad(counts, ((0, 0), (1, 0))) for counts in (hits, alarms)]
        needed = np.count_nonzero(padded[0] < recall * hits[:, -1:] - 1e-9, axis=1)
        return padded[1][np.arange(len(hits)), needed] / alarms[:, -1]

    return _at("recall", recall, curve, scores, positive, groups)


def _at(
    name: str,
    wanted: float,
    curve: Callable[[Ints, Ints], Floats],
    scores: npt.ArrayLike,
    positive: npt.ArrayLike,
    groups: Groups | None,
) -> Score:
    if not 0 <= wanted <= 1:
        raise CallError(name, expected="0…1", received=wanted)
    values, are = binary(scores, positive)
    of = units(groups, len(values))
    many = len(values) if of is None else int(of.max()) + 1
    value = float(curve(*_cumulated(values, are, np.ones((1, len(values)), np.int64)))[0])
    drawn = np.concatenate([*_drawn(curve, values, are, of, many)])
    if np.ptp(drawn) < 1e-12:
        low, high = wilson_bounds(value, _least(are, of))
    else:
        low, high = intervals.bca(value, drawn, np.zeros(1), np.ones(1, np.int64))
    return Score(value, min(low, value), max(high, value), len(values))


def _drawn(
    curve: Callable[[Ints, Ints], Floats], values: Floats, are: Bools, of: Ints | None, many: int
) -> Iterator[Floats]:
    for weights in intervals.resampled(many, DRAWS, len(values)):
        hits, alarms = _cumulated(values, are, weights if of is None else weights[:, of])
        whole = (hits[:, -1] > 0) & (alarms[:, -1] > 0)  # a resample of one kind only says nothing
        yield curve(hits[whole], alarms[whole])


def _cumulated(scores: Floats, positive: Bools, weights: Ints) -> tuple[Ints, Ints]:
    """Hits and false alarms at every threshold, highest first, (B, T), for weights of records (B, N)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    ordered = weights[:, order]
    hits = np.cumsum(ordered * positive[order], axis=1)[:, ends]
    return hits, np.cumsum(ordered, axis=1)[:, ends] - hits

"""How well scores rank: AUROC, average precision, and what a threshold on them buys.

AUROC is the chance that a positive record scores higher than another; average precision the mean precision at the
positive records; both over all thresholds, equal scores sharing one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import CallError
from ..vocabulary import Score
from . import intervals
from .given import Bools, Floats, Groups, Ints, binary, units
from .intervals import DRAWS, by_error, wilson_bounds
from .rates import effective


def auroc(scores: npt.ArrayLike, positive: npt.ArrayLike, *, groups: Groups | None = None) -> Score:
    """The area under the ROC curve of scores (N,) for truths bool (N,), with DeLong's variance on the logit scale.

    DeLong's and not the bootstrap: it needs no draws, goes over to groups, and covers better where positives are few
    (bench/intervals.py). Raises DataError where only one kind is there.

    >>> auroc([0.1, 0.4, 0.35, 0.8], np.array([False, False, True, True])).value
    0.75
    """
    return _scored(_auroc, scores, positive, groups)


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike, *, groups: Groups | None = None) -> Score:
    """Σ (recall gained at a threshold) × (precision there), for scores (N,) and truths bool (N,), as scikit-learn's.

    The interval is on the logit scale (Boyd, Eng & Page, ECML 2013, find that it covers better than the bootstrap),
    with the variance of the influence of every record. Raises DataError where only one kind is there.
    """
    return _scored(_average_precision, scores, positive, groups)


@dataclass(frozen=True)
class Ranking:
    """Records at their thresholds, the highest score first.

    Attributes:
        positive: bool (N,).
        at: int (N,), the threshold of each record, 0…T - 1.
        ups, downs: int (T,), positive and other records at each.
    """

    positive: Bools
    at: Ints
    ups: Ints
    downs: Ints


class Influence(NamedTuple):
    """A statistic, and what one more positive or other record at each threshold would add to it, (T,)."""

    value: float
    up: Floats
    down: Floats


def ranking(scores: Floats, positive: Bools) -> Ranking:
    """The Ranking of scores (N,) and truths (N,)."""
    order = np.argsort(-scores)
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
    at = np.empty(len(scores), np.int64)
    at[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(scores)))
    ups = np.add.reduceat(positive[order], starts, dtype=np.int64)
    return Ranking(positive, at, ups, np.diff(starts, append=len(scores)) - ups)


def _auroc(of: Ranking) -> Influence:
    ups, downs = of.ups.sum(), of.downs.sum()
    over = downs - np.cumsum(of.downs) + of.downs / 2  # what a positive there stands above
    under = np.cumsum(of.ups) - of.ups / 2  # what another there stands below
    value = float((of.ups * over).sum() / (ups * downs))
    return Influence(value, (over / downs - value) / ups, (under / ups - value) / downs)


def _average_precision(of: Ranking) -> Influence:
    hits, named = np.cumsum(of.ups), np.cumsum(of.ups + of.downs)
    precision, n = hits / named, hits[-1]
    value = float((of.ups * precision).sum() / n)
    # a record changes the precision at its own threshold and at all below
    rise = np.cumsum((of.ups / named)[::-1])[::-1]
    fall = np.cumsum((of.ups * precision / named)[::-1])[::-1]
    return Influence(value, (precision + rise - fall - value) / n, -fall / n)


def _unbiased(of: Ranking, found: Influence) -> Influence:
    """The influence, stretched so that its squares add up to the variance of so few records of each kind."""
    ups, downs = (math.sqrt(n / max(n - 1, 1)) for n in (int(of.ups.sum()), int(of.downs.sum())))
    return Influence(found.value, found.up * ups, found.down * downs)


def _by_record(of: Ranking, found: Influence) -> Floats:
    """What each record adds, (N,)."""
    return np.where(of.positive, found.up[of.at], found.down[of.at])


def _error(of: Ranking, found: Influence, units: Ints | None) -> float:
    if units is None:
        return math.sqrt(float((of.ups * found.up**2 + of.downs * found.down**2).sum()))
    return intervals.error(_by_record(of, found), units)


def _least(positive: Bools, of: Ints | None) -> int:
    """The units of the rarer kind."""
    kinds = (positive, ~positive)
    return min(int(kind.sum()) if of is None else len(np.unique(of[kind])) for kind in kinds)


def _scored(
    measure: Callable[[Ranking], Influence], scores: npt.ArrayLike, positive: npt.ArrayLike, groups: Groups | None
) -> Score:
    ranked = ranking(*binary(scores, positive))
    of = units(groups, len(ranked.at))
    found = _unbiased(ranked, measure(ranked))
    worth = _least(ranked.positive, of)
    return by_error(found.value, _error(ranked, found, of), worth=worth, n=len(ranked.at))


# ---- one class against the rest

RANKINGS: Mapping[str, Callable[[Ranking], Influence]] = {
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
    counts = np.bincount(true, minlength=k)
    chosen = [c for c in range(k) if 0 < counts[c] < n]
    columns = ((c, slice(None), np.ascontiguousarray(probabilities[:, c]), true == c) for c in chosen)
    macro, each = ranked_columns(columns, len(chosen), n, units(groups, n))
    return {f"macro {name}": score for name, score in macro.items()}, each


def ranked_columns(
    columns: Iterable[tuple[int, Bools | slice, Floats, Bools]], many: int, n: int, of: Ints | None
) -> tuple[dict[str, Score], dict[int, dict[str, Score]]]:
    """RANKINGS of each of `many` columns, and their averages; both empty where there is none.

    Args:
        columns: number, which of the N records it is known for, and of these the scores and which are positive; of
            both kinds there must be one.
        of: the unit of every record, (N,), or None.
    """
    each: dict[int, dict[str, Score]] = {}
    values, added = dict.fromkeys(RANKINGS, 0.0), {name: np.zeros(n) for name in RANKINGS}
    worths = []
    for c, rows, scores, positive in columns:
        ranked, own = ranking(scores, positive), None if of is None else of[rows]
        worths.append(_least(positive, own))
        each[c] = {}
        for name, measure in RANKINGS.items():
            found = _unbiased(ranked, measure(ranked))
            error = _error(ranked, found, own)
            each[c][name] = by_error(found.value, error, worth=worths[-1], n=len(scores))
            values[name] += found.value / many
            added[name][rows] += _by_record(ranked, found) / many
    if not each:
        return {}, {}
    worth = effective(np.array(worths))
    return {name: by_error(values[name], intervals.error(added[name], of), worth=worth, n=n) for name in RANKINGS}, each


def paired_columns(
    columns: Iterable[tuple[Bools, Floats, Floats, Bools]], many: int, n: int, of: Ints | None
) -> dict[str, tuple[float, ...]]:
    """The averages of RANKINGS over `many` columns, of two that answered them, half the width of a 95 % interval of
    their difference, and how many units of the rarer kind it rests on; empty where there is no column.

    What each record adds to one is taken from what it adds to the other, so what both rank alike adds nothing.

    Args:
        columns: which of the N records it is known for, and of these both scores and which are positive.
        of: the unit of every record, (N,), or None.
    """
    values = {name: np.zeros(2) for name in RANKINGS}
    gaps = {name: np.zeros(n) for name in RANKINGS}
    worths = []
    for rows, *both, positive in columns:
        worths.append(_least(positive, None if of is None else of[rows]))
        for (side, scores), (name, measure) in product(enumerate(both), RANKINGS.items()):
            ranked = ranking(scores, positive)
            found = _unbiased(ranked, measure(ranked))
            values[name][side] += found.value / many
            gaps[name][rows] += (2 * side - 1) * _by_record(ranked, found) / many
    if not worths:
        return {}
    worth = effective(np.array(worths))
    factor = intervals.student(worth - 1)
    return {name: (*values[name].tolist(), factor * intervals.error(gaps[name], of), worth) for name in RANKINGS}


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
        return np.asarray(padded[np.arange(len(hits)), fits] / hits[:, -1])

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
        return np.asarray(padded[1][np.arange(len(hits)), needed] / alarms[:, -1])

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

"""Quantities: mean and median absolute error, RMSE, R², and what always answering training's mean would have.

Every interval is BCa's, of resampled units; of less than two units there is none. What is unknown (NaN) is left out,
quantity by quantity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..vocabulary import Score, Scores
from . import intervals
from .given import Floats, Groups, Ints, matrix, units, wrong
from .intervals import DRAWS

# Sums over records, (…, 6): of 1, |e|, e², y, y², |y - mean of training|.
Statistic = Callable[[Floats], Floats]


def _per(column: int) -> Statistic:
    return lambda sums: sums[..., column] / np.maximum(sums[..., 0], 1)


def _r2(sums: Floats) -> Floats:
    """1 - Σe² / Σ(y - ȳ)²; NaN where all are alike."""
    n = np.maximum(sums[..., 0], 1)
    spread = sums[..., 4] - sums[..., 3] ** 2 / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(spread > 1e-12 * np.abs(sums[..., 4]), 1 - sums[..., 2] / spread, math.nan))


MEASURES: Mapping[str, Statistic] = {
    "MAE": _per(1),
    "RMSE": lambda sums: np.sqrt(_per(2)(sums)),
    "R2": _r2,
    "always the mean": _per(5),
}


def score_quantities(
    values: npt.ArrayLike,
    targets: npt.ArrayLike,
    names: Sequence[str],
    means: Sequence[float],
    *,
    groups: Groups | None = None,
) -> Scores:
    """All that a regression's test found, in the units of the targets; R² has none.

    Of one quantity overall says what there is to say. Of several, whose units differ, it has the mean of their R², and
    of their MAE as a share of what always answering the mean has: below 1 is skill.

    Args:
        values: what was answered, (N, K).
        targets: (N, K), NaN where unknown.
        means: of the training values, (K,), for `always the mean`: the MAE of answering it always.
        groups: of every record, (N,).

    Raises:
        DataError: wrong shapes, or nothing that was tested.
    """
    found, true, tested = checked(values, targets, names, means)
    of = units(groups, len(true))
    of = np.arange(len(true)) if of is None else of
    sums = sums_of(found[:, tested], true[:, tested], np.asarray(means)[tested], of)
    drawn = np.concatenate([*intervals.totals(sums)])
    each = {}
    for at, c in enumerate(tested):
        one = {name: _score(measure, sums[:, at], drawn[:, at]) for name, measure in MEASURES.items()}
        one["median absolute error"] = _median(np.abs(found[:, c] - true[:, c]), of)
        each[names[c]] = {name: score for name, score in one.items() if math.isfinite(score.value)}
    overall = each[names[tested[0]]] if len(names) == 1 else {
        "mean R2": _score(lambda s: _r2(s).mean(-1), sums, drawn),
        "mean relative MAE": _score(relative_error, sums, drawn),
    }  # fmt: skip
    overall = {name: score for name, score in overall.items() if math.isfinite(score.value)}
    untested = tuple(name for c, name in enumerate(names) if c not in tested)
    return Scores(len(true), overall, each, (), tuple(names), "", untested, task="regression")


def checked(
    values: npt.ArrayLike, targets: npt.ArrayLike, names: Sequence[str], means: Sequence[float]
) -> tuple[Floats, Floats, list[int]]:
    """Both as float64 (N, K), and the quantities that were tested. Raises DataError, as `score_quantities`."""
    found, true = matrix("values", values).astype(np.float64), np.asarray(targets, np.float64)
    if true.shape != found.shape or not len(names) == len(means) == found.shape[1]:
        received = f"{found.shape}, {true.shape} and {len(names)} names"
        raise wrong("values and targets do not fit", "(N, K) each, K names and means", received, "Give one a quantity")
    tested = np.flatnonzero(~np.isnan(true).all(0)).tolist()
    if not tested:
        raise wrong("no quantity was tested", "records whose values are known", "none", "Test on records that have one")
    return found, true, tested


def relative_error(sums: Floats) -> Floats:
    """Of sums (…, K, 6) the mean over quantities of their MAE as a share of what always answering the mean has."""
    return np.asarray((_per(1)(sums) / np.maximum(_per(5)(sums), 1e-300)).mean(-1))


def sums_of(found: Floats, true: Floats, means: Floats, of: Ints) -> Floats:
    """Of every unit and quantity, (G, K, 6)."""
    return np.stack([_sums(*column, of) for column in zip(found.T, true.T, means)], axis=1)


def _sums(found: Floats, true: Floats, mean: float, of: Ints) -> Floats:
    """Of every unit, (G, 6)."""
    known = ~np.isnan(true)
    error, y = np.where(known, found - true, 0.0), np.where(known, true - mean, 0.0)  # R² does not see the shift
    columns = (known, np.abs(error), error**2, y, y**2, np.abs(y))
    return np.stack([np.bincount(of, column, of.max() + 1) for column in columns], axis=1)


def _score(measure: Statistic, sums: Floats, drawn: Floats) -> Score:
    total = sums.sum(0)
    value = float(measure(total))
    worth = int((sums[..., 0] > 0).sum(0).min())  # units: of several quantities those of the one that has fewest
    return _interval(value, measure(drawn), measure(total - sums), int(np.atleast_2d(total)[:, 0].max()), worth)


def _median(errors: Floats, of: Ints) -> Score:
    """The median of errors (N,), NaN where unknown. Without acceleration, which jumps."""
    known = ~np.isnan(errors)
    order = np.flatnonzero(known)[np.argsort(errors[known], kind="stable")]
    ranked = errors[order]
    medians = []
    for weights in intervals.resampled(int(of.max()) + 1, DRAWS, len(errors)):
        up_to = np.cumsum(weights[:, of[order]], axis=1)
        middle = [np.minimum((up_to <= (up_to[:, -1:] - one) // 2).sum(1), len(order) - 1) for one in (1, 0)]
        medians.append((ranked[middle[0]] + ranked[middle[1]]) / 2)
    worth = len(np.unique(of[order]))
    return _interval(float(np.median(ranked)), np.concatenate(medians), np.zeros(1), len(order), worth)


def _interval(value: float, drawn: Floats, left: Floats, n: int, worth: int) -> Score:
    if worth < 2:
        return Score(value, -math.inf, math.inf, n)
    drawn, left = drawn[np.isfinite(drawn)], left[np.isfinite(left)]
    largest = float(np.abs(drawn).max(initial=0))
    if not math.isfinite(value) or not len(drawn) or np.ptp(drawn) <= 1e-12 * largest:
        return Score(value, value, value, n)
    left = left if len(left) else np.zeros(1)
    unit = 2.0 ** math.frexp(largest)[1]  # `bca` rounds as for shares; a power of two changes no bit
    within, ones = (-math.inf, math.inf), np.ones(len(left), np.int64)
    low, high = (unit * end for end in intervals.bca(value / unit, drawn / unit, left / unit, ones, within=within))
    return Score(value, min(low, value), max(high, value), n)


def brief_errors(values: Floats, targets: Floats, deviations: Sequence[float]) -> dict[str, float]:
    """MAE and R² of (N, K) alone: what training looks at. Of several quantities their mean, MAE in deviations."""
    errors = np.abs(values - targets) / (np.asarray(deviations) if values.shape[1] > 1 else 1)
    sums = np.stack([_sums(v, t, 0.0, np.zeros(len(t), np.int64))[0] for v, t in zip(values.T, targets.T)])
    return {"MAE": float(np.nanmean(errors)), "R2": float(np.nanmean(_r2(sums)))}

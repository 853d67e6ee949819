"""95 % intervals: for shares, for statistics with an influence function, for what has neither.

A *unit* is what was drawn independently: a record, or a group of records (a patient, a burst) where there are groups.
Records of one group answer alike, so a hundred pictures of five patients are worth far less than a hundred.

- shares: Wilson's score interval. With groups, on the number of records that would have the same variance, which is
  the design effect of survey statistics (Kish 1965; Korn & Graubard 1998 do the same with Clopper's interval);
- AUROC, average precision: how much every record moves the statistic, summed over units and squared, is its
  variance; for AUROC that is DeLong's (Biometrics 1988), with groups Obuchowski's (Biometrics 1997). The interval is
  symmetric on the logit scale, so it stays within 0 and 1;
- all else: the BCa bootstrap of units (Efron, JASA 1987).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ..errors import CallError
from ..vocabulary import Score
from .given import Bools, Floats, Ints

DRAWS = 2000
NORMAL = NormalDist()
Z = NORMAL.inv_cdf(0.975)
SEED = 20_1987
CELLS_AT_ONCE = 2_000_000  # 16 MB an array: bounds memory; the draws do not depend on it


# ---- shares


def wilson_bounds(share: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson's bounds for a share measured on n > 0 records; n may be an effective number. They hold `share`."""
    centre = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = ((centre + side) / (1 + z**2 / n) for side in (-half, half))
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def wilson(successes: int, n: int) -> Score:
    """A share with its 95 % score interval (Wilson, JASA 1927).

    With n = 0 nothing is known: the value is NaN and the interval all of [0, 1].

    Raises CallError unless 0 ≤ successes ≤ n.

    >>> print(wilson(4, 6))
    0.667 [0.300, 0.903]
    """
    if not 0 <= successes <= n:
        raise CallError("not a share", expected="0 ≤ successes ≤ n", received=f"{successes} of {n}")
    if n == 0:
        return Score(math.nan, 0.0, 1.0, 0)
    return Score(successes / n, *wilson_bounds(successes / n, n), int(n))


def clustered(hit: Bools, of: Ints, units: Ints, classes: int) -> tuple[Score, ...]:
    """For each class, the share of hits among the records counted for it, when records come in units.

    hit bool (M,), of int (M,): the class that each is counted for, units int (M,). A class for which nothing is
    counted is NaN. Where all are hits, or none, a unit is worth one record.
    """
    pairs, place = np.unique(units * classes + of, return_inverse=True)
    cls = pairs % classes
    hits, n = np.bincount(place, hit), np.bincount(place)
    found, counted = np.bincount(cls, hits, classes), np.bincount(cls, n, classes)
    share = found / np.maximum(counted, 1)
    many = np.bincount(cls, minlength=classes)
    spread = np.bincount(cls, (hits - share[cls] * n) ** 2, classes)
    return tuple(map(_worth_of, found.tolist(), counted.tolist(), many.tolist(), spread.tolist()))


def _worth_of(hits: float, n: float, units: int, spread: float) -> Score:
    """A share whose units differ by `spread`, the sum of squared residuals: Wilson's on its effective number."""
    if not n:
        return Score(math.nan, 0.0, 1.0, 0)
    share, worth = hits / n, float(units)
    if spread > 0 and units > 1:
        worth = min(n, share * (1 - share) * n**2 / (spread * units / (units - 1)))
    return Score(share, *wilson_bounds(share, worth, student(units - 1)), int(n))


def student(freedom: float) -> float:
    """The 97.5 % point of Student's distribution: a spread that is known from few units is known badly."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975)) if freedom > 0 else Z


# ---- statistics with an influence function


SHRINK = 0.2


def error(influence: Floats, units: Ints | None) -> float:
    """The standard error of a statistic from what each record adds to it, (N,), with sum 0."""
    summed = influence if units is None else np.bincount(units, influence)
    return math.sqrt(float(np.sort(summed**2).sum()))  # sorted: to the last bit, whatever the order of records


def by_error(value: float, error: float, *, worth: float, n: int) -> Score:
    """A statistic in [0, 1] with its standard error; the interval is symmetric on the logit scale.

    worth: the units of the rarer kind. Few of them show too small a spread where the value is near 1, so Student's
    factor is theirs, and the middle is drawn to one half as by SHRINK records: of AUROC 0.98 with 50 positives it
    then covers 95 % instead of 91 %, and BCa 88 % (bench/intervals.py; SHRINK was chosen by such simulations). Where
    nothing varies, mostly because all is right, the interval is Wilson's on `worth`.
    """
    if not 1e-9 < value < 1 - 1e-9 or error < 1e-12 or worth < 2:
        return Score(value, *wilson_bounds(min(max(value, 0.0), 1.0), worth), n)
    drawn = (value * worth + SHRINK / 2) / (worth + SHRINK)
    middle, half = math.log(drawn / (1 - drawn)), student(worth - 1) * error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-min(max(middle + side, -700.0), 700.0))) for side in (-half, half))
    return Score(value, min(low, value), max(high, value), n)


# ---- the bootstrap


def resampled(units: int, draws: int, width: int) -> Iterator[Ints]:
    """How often each unit comes in every resample: arrays (b, units), `draws` rows in all, the same every time.

    width: the widest row that the caller makes of one resample; it bounds b.
    """
    generator = np.random.Generator(np.random.Philox(SEED))
    step = max(1, CELLS_AT_ONCE // max(width, units))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        picks = generator.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * units).reshape(rows, units)


def totals(sums: Floats) -> Iterator[Floats]:
    """What units have, (units, …), summed over each of DRAWS resamples, (b, …): the same ones for as many units."""
    flat = sums.reshape(len(sums), -1)
    for weights in resampled(len(flat), DRAWS, flat.shape[1]):
        yield (weights @ flat).reshape(-1, *sums.shape[1:])


def bca(
    value: float,
    draws: Floats,
    jackknife: Floats,
    counts: npt.NDArray[np.int64],
    *,
    within: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """The bias-corrected and accelerated interval (Efron, JASA 1987) of `value` from its draws (B,), `within` bounds.

    jackknife, counts (J,): the statistic with one unit left out, and how many units give each value; alike for a
    statistic that jumps, which leaves the bias correction alone. Where the draws lie to one side of the value by more
    than a standard error, BCa cannot reach as far as it should (macro F1 of 200 classes with ten records each: 83 %);
    then it is the normal interval, moved by the draws' bias (95 %).
    """
    below = 0.5 - float(np.sign(np.round(draws - value, 12)).mean()) / 2  # a draw that ties counts half
    if not NORMAL.cdf(-1) < below < NORMAL.cdf(1):
        middle, half = 2 * value - float(draws.mean()), Z * float(draws.std())
        return max(within[0], middle - half), min(within[1], middle + half)
    away = np.average(jackknife, weights=counts) - jackknife
    spread = float((counts * away**2).sum())
    bias = NORMAL.inv_cdf(below)
    skew = float((counts * away**3).sum()) / (6 * spread**1.5) if spread else 0.0
    # |skew| ≤ 1/6 and |bias| < 1, so the denominator stays positive
    bent = [(bias + z) / (1 - skew * (bias + z)) for z in (-Z, Z)]
    low, high = np.quantile(draws, [NORMAL.cdf(bias + z) for z in bent])
    return float(low), float(high)

"""Rates of answers: accuracy, top-k, precision, recall, F1, and their averages over classes.

logits (N, K), targets (N,) ─> confusion (K, K) ─> shares (Wilson), F1 (Wilson), averages (BCa bootstrap)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CallError
from ..vocabulary import UNSURE, Score
from . import intervals
from .given import Floats, Groups, Ints, indices, pair, units, wrong
from .intervals import DRAWS, wilson, wilson_bounds

AVERAGES = ("macro precision", "macro recall", "macro F1", "weighted F1")


def confusion(targets: npt.ArrayLike, predictions: npt.ArrayLike, classes: int) -> Ints:
    """How often [true][predicted] came: int64 (K, K) from two integer arrays (N,), N ≥ 1. Raises DataError.

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    true = indices("targets", targets, classes)
    answered = indices("predictions", predictions, classes, len(true))
    return np.bincount(true * classes + answered, minlength=classes**2).reshape(classes, classes)


def ranks(logits: npt.NDArray[Any], targets: Ints) -> Ints:
    """How many classes stand before the target, (N,): those of a higher logit, or an equal one and a lower index."""
    own = logits[np.arange(len(targets)), targets][:, None]
    earlier = np.arange(logits.shape[1]) < targets[:, None]
    return np.asarray(np.count_nonzero((logits > own) | ((logits == own) & earlier), axis=1), np.int64)


def share(hit: npt.ArrayLike, *, groups: Groups | None = None) -> Score:
    """The share of records that are hits, bool (N,), N ≥ 1: Wilson's interval, with groups on what they are worth.

    Raises DataError.
    """
    hits = np.asarray(hit, np.bool_)
    of = units(groups, len(hits))
    if of is None:
        return wilson(int(hits.sum()), len(hits))
    return intervals.clustered(hits, np.zeros(len(hits), np.int64), of, 1)[0]


def top_k(logits: npt.ArrayLike, targets: npt.ArrayLike, k: int, *, groups: Groups | None = None) -> Score:
    """The share of records whose target is among the k first answers; equal logits rank by index, lowest first.

    logits real (N, K), targets integer (N,), 1 ≤ k ≤ K. Raises DataError, and CallError for k.

    >>> top_k([[0.0, 0.0, 0.0]], [2], 2).value
    0.0
    """
    rows, true = pair(logits, targets)
    if not 1 <= k <= rows.shape[1]:
        raise CallError("k is out of range", expected=f"1…{rows.shape[1]}, the number of classes", received=k)
    return share(ranks(rows, true) < k, groups=groups)


def accuracy(logits: npt.ArrayLike, targets: npt.ArrayLike, *, groups: Groups | None = None) -> Score:
    """The share of records whose answer is right. logits real (N, K), targets integer (N,). Raises DataError."""
    return top_k(logits, targets, 1, groups=groups)


def largest_class(targets: npt.ArrayLike, largest: int, *, groups: Groups | None = None) -> Score:
    """What always answering class index `largest`, the largest class of *training*, scores on these targets (N,).

    It is chosen from training because the test may not choose anything. Raises DataError.
    """
    true = indices("targets", targets, np.iinfo(np.int64).max)
    return share(true == largest, groups=groups)


def named(probabilities: npt.ArrayLike, thresholds: Mapping[int, float], *, least: float = 0.0) -> Ints:
    """The answer to each row of probabilities (N, K) under thresholds, int64 (N,): a class index, or UNSURE.

    thresholds: class index → least probability to be named. A class whose probability reaches its threshold is named,
    be it the most probable or not; of several the one that exceeds its own by the largest factor. Where none does,
    the most probable class is named if it has no threshold and reaches `least`, 0…1; else the answer is UNSURE.

    >>> named([[0.9, 0.1], [0.99, 0.01], [0.4, 0.6]], {1: 0.05}).tolist(), named([[0.3, 0.7]], {1: 0.9}).tolist()
    ([1, 0, 1], [-1])
    """
    rows = np.asarray(probabilities, np.float64)
    own = np.full(rows.shape[1], np.inf)
    for index, value in thresholds.items():
        own[index] = max(value, 1e-300)
    factor, first = rows / own, rows.argmax(axis=1)
    free = np.where(np.isinf(own[first]) & (rows.max(axis=1) >= least), first, UNSURE)
    return np.where(factor.max(axis=1) >= 1, factor.argmax(axis=1), free)


# ---- per class, from the confusion matrix


def precision(matrix: Ints) -> tuple[Score, ...]:
    """For each class, the share of its answers that are right, from the confusion matrix int (K, K).

    A class that is never answered has 0, as in scikit-learn with `zero_division=0`, and the interval [0, 1], n = 0.
    """
    pairs = zip(np.diagonal(matrix).tolist(), matrix.sum(axis=0).tolist())
    return tuple(wilson(hits, answers) if answers else Score(0.0, 0.0, 1.0, 0) for hits, answers in pairs)


def recall(matrix: Ints) -> tuple[Score, ...]:
    """For each class, the share of its records that are answered right; NaN where untested. matrix int (K, K)."""
    pairs = zip(np.diagonal(matrix).tolist(), matrix.sum(axis=1).tolist())
    return tuple(wilson(hits, records) for hits, records in pairs)


def _f1_from(share: Score) -> Score:
    value, low, high = (2 * j / (1 + j) for j in (share.value, share.low, share.high))
    return Score(value, low, high, share.n)


def f1(matrix: Ints) -> tuple[Score, ...]:
    """For each class, the harmonic mean of precision and recall; NaN where untested and never answered.

    n counts the records that have the class as target or as answer. Of these, hits are binomial with share
    J = F1 / (2 - F1); the interval is Wilson's for J, carried to F1 = 2J / (1 + J), which rises with J. This is
    "Wilson indirect" of Lam, Gopal & Qian, "Confidence intervals for the F1 score", arXiv:2309.14621. Not
    BCa: for a class of few records its draws take few values, and the interval misses the truth far too often.

    >>> print(f1(np.array([[8, 2], [0, 10]]))[0])
    0.889 [0.658, 0.971]
    """
    hits = np.diagonal(matrix)
    involved = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    shares = [wilson(h, n) for h, n in zip(hits.tolist(), involved.tolist())]
    return tuple(_f1_from(share) for share in shares)


def per_class(true: Ints, answered: Ints, classes: int, *, groups: Groups | None = None) -> list[tuple[Score, ...]]:
    """Precision, recall and F1 of every class, three tuples (K,), from targets and answers (N,)."""
    of = units(groups, len(true))
    if of is None:
        matrix = confusion(true, answered, classes)
        return [precision(matrix), recall(matrix), f1(matrix)]
    right, other = true == answered, true != answered
    said = intervals.clustered(right, answered, of, classes)
    were = intervals.clustered(right, true, of, classes)
    hit = np.concatenate([right, np.zeros(other.sum(), np.bool_)])
    involved = np.concatenate([true, answered[other]]), np.concatenate([of, of[other]])
    both = intervals.clustered(hit, *involved, classes)
    unsaid = Score(0.0, 0.0, 1.0, 0)
    return [tuple(s if s.n else unsaid for s in said), were, tuple(map(_f1_from, both))]


# ---- averages over classes, and their bootstrap


def _each(hits: Ints, records: Ints, answers: Ints) -> Floats:
    """Precision, recall, F1 as (3, …) from counts (…); 0 where nothing is counted, so for untested classes too."""
    pairs = ((hits, answers), (hits, records), (2 * hits, records + answers))
    return np.stack([top / np.maximum(bottom, 1) for top, bottom in pairs])


def _average(hits: Ints, records: Ints, answers: Ints) -> Floats:
    """AVERAGES over the classes that have records: (…, 4) from counts (…, K)."""
    each = _each(hits, records, answers)
    macro = each.sum(axis=-1) / np.count_nonzero(records, axis=-1)
    weighted = (each[2] * records).sum(axis=-1) / records.sum(axis=-1)
    return np.moveaxis(np.stack([*macro, weighted]), 0, -1)


def macro_f1(matrix: Ints) -> float:
    """Macro F1 of a confusion matrix, int (K, K), alone: what training looks at after every epoch."""
    return float(_average(np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0))[AVERAGES.index("macro F1")])


def summed(draws: Ints, labels: Ints, classes: int) -> Ints:
    """Counts of cells (B, C) added up by the class that `labels` (C,) names: (B, K)."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    out = np.zeros((len(draws), classes), np.int64)
    if present.size:
        out[:, present] = np.add.reduceat(draws[:, order], starts, axis=1)
    return out


@dataclass(frozen=True)
class Cells:
    """The C non-zero cells of a confusion matrix.

    Attributes:
        true, answered, counts: int (C,): the classes of each cell and its records.
        classes: K.
        by_unit: sparse int (G, C), how many records of each unit are in a cell; None where every record stands alone.
    """

    true: Ints
    answered: Ints
    counts: Ints
    classes: int
    by_unit: Any = None

    def averages(self, counts: Ints) -> Floats:
        """AVERAGES for each row of other counts, (B, C) → (B, 4)."""
        right = self.true == self.answered
        hits = summed(counts[:, right], self.true[right], self.classes)
        are, said = summed(counts, self.true, self.classes), summed(counts, self.answered, self.classes)
        return _average(hits, are, said)

    def resampled(self, draws: int) -> Iterator[Ints]:
        """Counts (b, C) of so many resamples of the units, `draws` rows in all.

        Drawing N records with replacement and counting them is drawing the cells from a multinomial. A class that a
        resample does not hold is untested there, as it would be in a test.
        """
        width = max(len(self.counts), self.classes)
        if self.by_unit is not None:
            many = intervals.resampled(self.by_unit.shape[0], draws, width)
            yield from (np.ascontiguousarray((self.by_unit.T @ weights.T).T) for weights in many)
            return
        generator = np.random.Generator(np.random.Philox(intervals.SEED))
        n, step = self.counts.sum(), max(1, intervals.CELLS_AT_ONCE // width)
        for start in range(0, draws, step):
            yield generator.multinomial(n, self.counts / n, size=min(step, draws - start))


def cells(true: Ints, answered: Ints, classes: int, of: Ints | None = None) -> Cells:
    """The cells of targets and answers (N,), with the records of each unit where `of` (N,) names units."""
    pairs, place, counts = np.unique(true * classes + answered, return_inverse=True, return_counts=True)
    by_unit = None
    if of is not None:
        from scipy.sparse import coo_array

        by_unit = coo_array((np.ones(len(of), np.int64), (of, place)), shape=(of.max() + 1, len(pairs))).tocsr()
    return Cells(pairs // classes, pairs % classes, counts, classes, by_unit)


def _draw(found: Cells, draws: int) -> Floats:
    """AVERAGES of `draws` resamples, (draws, 4)."""
    return np.concatenate([found.averages(counts) for counts in found.resampled(draws)])


def _jackknife(matrix: Ints) -> tuple[Floats, Ints]:
    """AVERAGES with one record left out, (C, 4), and how many records give each, (C,). Needs two records.

    Records of one cell are alike, and leaving one out moves its true and its answered class only; so each of the C
    non-zero cells is worked out from two classes instead of K.
    """
    hits, records, answers = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    t, p = np.nonzero(matrix)
    same = (t == p).astype(np.int64)
    each = _each(hits, records, answers)
    true = _each(hits[t] - same, records[t] - 1, answers[t] - same)
    answered = np.where(same, 0, _each(hits[p], records[p], answers[p] - 1) - each[:, p])
    sums = each.sum(axis=-1)[:, None] + (true - each[:, t]) + answered
    macro = sums / (np.count_nonzero(records) - (records[t] == 1))
    moved = true[2] * (records[t] - 1) - each[2, t] * records[t] + answered[2] * records[p]
    weighted = ((each[2] * records).sum() + moved) / (records.sum() - 1)
    return np.stack([*macro, weighted], axis=-1), matrix[t, p]


def _jackknife_units(found: Cells) -> tuple[Floats, Ints]:
    """AVERAGES with one unit left out, (G, 4), and ones (G,). Needs two units."""
    many, width = found.by_unit.shape[0], max(len(found.counts), found.classes)
    step = max(1, intervals.CELLS_AT_ONCE // width)
    parts = [
        found.averages(found.counts - found.by_unit[start : start + step].toarray()) for start in range(0, many, step)
    ]
    return np.concatenate(parts), np.ones(many, np.int64)


def effective(records: Ints) -> float:
    """The number of records that a mean over classes is worth: as many in one pot would make its variance as large."""
    tested = records[records > 0]
    return float(len(tested) ** 2 / (1 / tested).sum())


def averages(matrix: Ints, *, draws: int = DRAWS) -> dict[str, Score]:
    """Macro precision, macro recall, macro F1, weighted F1 over the classes with records, from int (K, K).

    The interval is BCa on `draws` resamples of the records, widened to hold the value where it does not. It is the
    same every time with one version of numpy: the generator is Philox with a fixed seed, and the order of records
    does not matter. Where all resamples agree, mostly because every answer is right, the bootstrap knows nothing and
    would claim certainty; then it is Wilson's interval, for macro averages on the number of records that the
    smallest classes leave, K² / Σ(1/records).

    Raises DataError when there is no record.
    """
    if not matrix.sum():
        raise wrong("nothing to average", "a record", "an empty confusion matrix", "Give a test with records")
    true, answered = np.nonzero(matrix)
    found = Cells(true, answered, matrix[true, answered], len(matrix))
    alone = matrix.sum() < 2
    left = (found.averages(found.counts[None]), np.ones(1, np.int64)) if alone else _jackknife(matrix)
    return _averages(found, left, matrix.sum(axis=1), draws)


def averages_of(true: Ints, answered: Ints, classes: int, *, groups: Groups | None = None) -> dict[str, Score]:
    """`averages` of targets and answers, int (N,); with groups, whole groups are drawn and left out."""
    of = units(groups, len(true))
    if of is None:
        return averages(confusion(true, answered, classes))
    found = cells(true, answered, classes, of)
    left = found.averages(found.counts[None]), np.ones(1, np.int64)
    if of.max() > 0:
        left = _jackknife_units(found)
    of_class = np.bincount(np.unique(of * classes + true) % classes, minlength=classes)
    return _averages(found, left, of_class, DRAWS)


def _averages(found: Cells, left: tuple[Floats, Ints], units_: Ints, draws: int) -> dict[str, Score]:
    """units_: how many units each class has, (K,)."""
    values = found.averages(found.counts[None])[0]
    n = int(found.counts.sum())
    many = n if found.by_unit is None else found.by_unit.shape[0]
    drawn, scores = _draw(found, draws), {}
    for i, (name, value) in enumerate(zip(AVERAGES, values.tolist())):
        if np.ptp(drawn[:, i]) < 1e-12:
            low, high = wilson_bounds(min(value, 1.0), many if name == "weighted F1" else effective(units_))
        else:
            low, high = intervals.bca(value, drawn[:, i], left[0][:, i], left[1])
        scores[name] = Score(value, min(low, value), max(high, value), n)
    return scores

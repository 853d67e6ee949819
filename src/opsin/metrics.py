"""How good were the answers: scores with honest 95 % intervals, computed from logits and targets.

    logits (N, K), targets (N,) ─> confusion (K, K) ─> shares (Wilson), F1 (Wilson), averages (BCa bootstrap) ─> Scores

One rule everywhere: the answer is the highest logit, and among equal logits the one of lowest index. A network that
gives a constant row therefore answers class 0; it is never called right because the target was among the equals.
A class without a record in the test is *untested*: it has no score of its own and is in no average. A class that is
tested and never answered has precision 0.

Three kinds of interval, each the simplest that holds what it promises:

- a share of records (accuracy, top-k, precision, recall): Wilson's score interval;
- F1 of one class: Wilson's interval of hits among the records that have the class as target or as answer, carried
  over to F1. Given how many such records there are, hits are binomial, so nothing need be simulated, and a perfect
  F1 on four records does not claim to be certain;
- averages over classes: the BCa bootstrap. Like every bootstrap it knows only what it saw: where a class has a handful
  of records, the interval of macro recall is too narrow.

Intervals take records to be independent. Several pictures of one patient are not: the truth is wider then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CallError, DataError, ModelError
from .vocabulary import Score, Scores

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DRAWS = 2000
AVERAGES = ("macro precision", "macro recall", "macro F1", "weighted F1")
_SEED = 20_1987
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(0.975)
_CELLS_AT_ONCE = 2_000_000  # 16 MB an array: bounds memory; the draws do not depend on it


# ---- what is accepted


def _wrong(what: str, expected: str, received: object, do: str) -> DataError:
    return DataError(what, expected=expected, received=received, do=do)


def _indices(name: str, values: npt.ArrayLike, classes: int, n: int | None = None) -> Ints:
    """`values` as int64 (N,), all in 0…classes - 1."""
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or (n is not None and len(array) != n):
        shape = "(N,), N ≥ 1" if n is None else f"({n},), one for each row of logits"
        raise _wrong(f"{name} have the wrong shape", shape, array.shape, "Give one class index for every record")
    if array.dtype.kind not in "iu":
        raise _wrong(f"{name} are not class indices", "integers", array.dtype, "Give indices into the class names")
    bad = np.flatnonzero((array < 0) | (array >= classes))
    if bad.size:
        received = f"{array[bad[0]]} in record {bad[0]} ({bad.size} in all)"
        do = "Were targets and logits made with the same class names?"
        raise _wrong(f"{name} out of range", f"0…{classes - 1}", received, do)
    return array.astype(np.int64)


def _matrix(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """`values` as a finite real array (N, K), N ≥ 1, K ≥ 1."""
    array = np.asarray(values)
    if array.ndim != 2 or not array.size:
        do = "There must be a record, and a row of one value a class for each"
        raise _wrong(f"{name} have the wrong shape", "(N, K), N ≥ 1, K ≥ 1", array.shape, do)
    if array.dtype.kind not in "fiu":
        raise _wrong(f"{name} are not numbers", "floats", array.dtype, "Give the network's output as it is")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        received = f"NaN or infinity in {bad.size} of {len(array)} rows, first in row {bad[0]}"
        raise _wrong(
            f"{name} are not finite", "finite values", received, "The network diverged: lower the rate, or fp32"
        )
    return array


def _pair(logits: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[npt.NDArray[Any], Ints]:
    rows = _matrix("logits", logits)
    return rows, _indices("targets", targets, rows.shape[1], len(rows))


def _distributions(probabilities: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Floats, Ints]:
    """Logits given where probabilities are meant would yield a plausible wrong number; so it is checked."""
    rows = _matrix("probabilities", probabilities).astype(np.float64)
    if rows.min() < 0 or np.abs(rows.sum(axis=1) - 1).max() > 1e-3:
        received = f"values from {rows.min():.4g} to {rows.max():.4g}"
        raise _wrong("not probabilities", "rows of values ≥ 0 with sum 1", received, "Apply softmax to logits first")
    return rows, _indices("targets", targets, rows.shape[1], len(rows))


# ---- shares, and their interval


def _wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's bounds for a share measured on n > 0 records; n may be an effective number. They hold `share`."""
    centre = share + _Z**2 / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + (_Z / (2 * n)) ** 2)
    low, high = ((centre + side) / (1 + _Z**2 / n) for side in (-half, half))
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
    return Score(successes / n, *_wilson(successes / n, n), int(n))


def confusion(targets: npt.ArrayLike, predictions: npt.ArrayLike, classes: int) -> Ints:
    """How often [true][predicted] came: int64 (K, K) from two integer arrays (N,), N ≥ 1. Raises DataError.

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    true = _indices("targets", targets, classes)
    answered = _indices("predictions", predictions, classes, len(true))
    return np.bincount(true * classes + answered, minlength=classes**2).reshape(classes, classes)


def _ranks(logits: npt.NDArray[Any], targets: Ints) -> Ints:
    """How many classes stand before the target, (N,): those of a higher logit, or an equal one and a lower index."""
    own = logits[np.arange(len(targets)), targets][:, None]
    earlier = np.arange(logits.shape[1]) < targets[:, None]
    return np.asarray(np.count_nonzero((logits > own) | ((logits == own) & earlier), axis=1), np.int64)


def top_k(logits: npt.ArrayLike, targets: npt.ArrayLike, k: int) -> Score:
    """The share of records whose target is among the k first answers; equal logits rank by index, lowest first.

    logits real (N, K), targets integer (N,), 1 ≤ k ≤ K. Raises DataError, and CallError for k.

    >>> top_k([[0.0, 0.0, 0.0]], [2], 2).value
    0.0
    """
    rows, true = _pair(logits, targets)
    if not 1 <= k <= rows.shape[1]:
        raise CallError("k is out of range", expected=f"1…{rows.shape[1]}, the number of classes", received=k)
    return wilson(int((_ranks(rows, true) < k).sum()), len(true))


def accuracy(logits: npt.ArrayLike, targets: npt.ArrayLike) -> Score:
    """The share of records whose answer is right. logits real (N, K), targets integer (N,). Raises DataError."""
    return top_k(logits, targets, 1)


def largest_class(targets: npt.ArrayLike, largest: int) -> Score:
    """What always answering class index `largest`, the largest class of *training*, scores on these targets (N,).

    It is chosen from training because the test may not choose anything. Raises DataError.
    """
    true = _indices("targets", targets, np.iinfo(np.int64).max)
    return wilson(int((true == largest).sum()), len(true))


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


def _sums(draws: Ints, labels: Ints, classes: int) -> Ints:
    """Counts of cells (B, C) added up by the class that `labels` (C,) names: (B, K)."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    out = np.zeros((len(draws), classes), np.int64)
    if present.size:
        out[:, present] = np.add.reduceat(draws[:, order], starts, axis=1)
    return out


def _draw(matrix: Ints, draws: int) -> Floats:
    """AVERAGES of `draws` resamples, (draws, 4).

    Drawing N records with replacement and counting them is drawing the non-zero cells of the confusion matrix from
    a multinomial. A class that a resample does not hold is untested there, as it would be in a test.
    """
    generator = np.random.Generator(np.random.Philox(_SEED))
    true, answered = np.nonzero(matrix)
    counts, classes, right = matrix[true, answered], len(matrix), true == answered
    step = max(1, _CELLS_AT_ONCE // max(len(counts), classes))
    parts = []
    for start in range(0, draws, step):
        drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=min(step, draws - start))
        hits = _sums(drawn[:, right], true[right], classes)
        parts.append(_average(hits, _sums(drawn, true, classes), _sums(drawn, answered, classes)))
    return np.concatenate(parts)


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


def _bca(value: float, draws: Floats, jackknife: Floats, counts: Ints) -> tuple[float, float]:
    """The bias-corrected and accelerated interval (Efron, JASA 1987) of `value` from its draws (B,).

    Falls back to the percentile interval where the correction is undefined: all draws on one side of the value.
    """
    below = 0.5 - float(np.sign(np.round(draws - value, 12)).mean()) / 2  # a draw that ties counts half
    away = np.average(jackknife, weights=counts) - jackknife
    spread = float((counts * away**2).sum())
    bias = _NORMAL.inv_cdf(below) if 0 < below < 1 else 0.0
    skew = float((counts * away**3).sum()) / (6 * spread**1.5) if spread and 0 < below < 1 else 0.0
    # |skew| ≤ 1/6 and |bias| < 3.6 for 2,000 draws, so the denominator stays positive
    bent = [(bias + z) / (1 - skew * (bias + z)) for z in (-_Z, _Z)]
    low, high = np.quantile(draws, [_NORMAL.cdf(bias + z) for z in bent])
    return float(low), float(high)


def _effective(matrix: Ints) -> float:
    """The number of records that a mean over classes is worth: as many in one pot would make its variance as large."""
    records = matrix.sum(axis=1)
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
        raise _wrong("nothing to average", "a record", "an empty confusion matrix", "Give a test with records")
    values = _average(np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0))
    n, worth = int(matrix.sum()), _effective(matrix)
    drawn = _draw(matrix, draws)
    left_out, counts = _jackknife(matrix) if n > 1 else (values[None], np.ones(1, np.int64))
    scores = {}
    for i, (name, value) in enumerate(zip(AVERAGES, values.tolist())):
        if np.ptp(drawn[:, i]) < 1e-12:
            low, high = _wilson(min(value, 1.0), n if name == "weighted F1" else worth)
        else:
            low, high = _bca(value, drawn[:, i], left_out[:, i], counts)
        scores[name] = Score(value, min(low, value), max(high, value), n)
    return scores


# ---- probabilities


def softmax(logits: npt.ArrayLike) -> Floats:
    """Probabilities, float64 (N, K), of finite logits (N, K). Raises DataError.

    >>> softmax([[1000.0, 1000.0]]).tolist()
    [[0.5, 0.5]]
    """
    return np.exp(_log_softmax(_matrix("logits", logits)))


def _log_softmax(logits: npt.NDArray[Any]) -> Floats:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def nll(logits: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """The mean negative log-likelihood of the targets (N,), in nats, 0…∞, from *logits* (N, K). Raises DataError."""
    rows, true = _pair(logits, targets)
    return float(-_log_softmax(rows)[np.arange(len(true)), true].mean())


def brier(probabilities: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """The mean squared distance to the truth, summed over classes, 0…2 (Brier 1950). Raises DataError.

    probabilities (N, K), targets integer (N,).
    """
    rows, true = _distributions(probabilities, targets)
    rows[np.arange(len(true)), true] -= 1  # our own copy
    return float((rows**2).sum(axis=1).mean())


def ece(probabilities: npt.ArrayLike, targets: npt.ArrayLike, *, bins: int = 15) -> float:
    """The expected calibration error of the answer, 0…1: Σ (records in bin / N) |accuracy - mean confidence|.

    Confidence is the highest probability of a row. The bins hold equally many records, not equal widths (the
    adaptive bins of Nixon et al., CVPR workshops 2019, here for the answer only); records of equal confidence
    share one, so their order does not matter. probabilities (N, K), targets integer (N,). Raises DataError, CallError.
    """
    if bins < 1:
        raise CallError("bins", expected="1 or more", received=bins)
    rows, true = _distributions(probabilities, targets)
    confidence = rows.max(axis=1)
    first = np.searchsorted(np.sort(confidence), confidence)  # how many are less sure
    excess = np.bincount(first * bins // len(true), weights=(rows.argmax(axis=1) == true) - confidence)
    return float(np.abs(excess).sum() / len(true))


def mae(predictions: Floats, targets: Floats) -> float:
    """The mean absolute error, in the unit of the targets. Two float arrays of one shape."""
    return float(np.abs(predictions - targets).mean())


def rmse(predictions: Floats, targets: Floats) -> float:
    """The root of the mean squared error, in the unit of the targets. Two float arrays of one shape."""
    return math.sqrt(((predictions - targets) ** 2).mean())


# ---- all together


def _checked_names(classes: Sequence[str], wanted: int, largest: int) -> tuple[str, ...]:
    names = tuple(classes)
    if len(names) != wanted or len(set(names)) != wanted:
        do = "Give the class names that the network was trained with"
        raise _wrong("class names do not fit the logits", f"{wanted} different names", f"{len(names)}: {names}", do)
    if not 0 <= largest < wanted:
        raise CallError("largest is not a class", expected=f"0…{wanted - 1}", received=largest)
    return names


def score(logits: npt.ArrayLike, targets: npt.ArrayLike, classes: Sequence[str], *, largest: int) -> Scores:
    """All that a test found.

    logits: finite, (N, K), one row a record. targets: integer (N,), 0…K - 1. classes: the K names. largest: index of
    the largest class of training. Raises DataError: no record, NaN, wrong shapes, targets out of range; CallError.
    """
    rows, true = _pair(logits, targets)
    names = _checked_names(classes, rows.shape[1], largest)
    ranks = _ranks(rows, true)
    matrix = confusion(true, rows.argmax(axis=1), len(names))
    overall = {"accuracy": wilson(int((ranks < 1).sum()), len(true))}
    if len(names) > 5:
        overall["top-5"] = wilson(int((ranks < 5).sum()), len(true))
    overall |= averages(matrix) | {"largest class": largest_class(true, largest)}
    each = zip(names, matrix.sum(axis=1), precision(matrix), recall(matrix), f1(matrix))
    return Scores(
        n=len(true),
        overall=overall,
        per_class={name: {"precision": p, "recall": r, "F1": f} for name, records, p, r, f in each if records},
        confusion=tuple(map(tuple, matrix.tolist())),
        classes=names,
        largest_class=names[largest],
        untested=tuple(name for name, records in zip(names, matrix.sum(axis=1)) if not records),
    )


# ---- as JSON


def _score_to(score: Score) -> dict[str, Any]:
    value = score.value if math.isfinite(score.value) else None
    return {"value": value, "low": score.low, "high": score.high, "n": score.n}


def _score_from(data: Mapping[str, Any]) -> Score:
    value = math.nan if data["value"] is None else float(data["value"])
    return Score(value, float(data["low"]), float(data["high"]), int(data["n"]))


def to_dict(scores: Scores) -> dict[str, Any]:
    """Scores as plain values for JSON, every score as {value, low, high, n}; NaN, which JSON lacks, as None."""
    return {
        "n": scores.n,
        "overall": {name: _score_to(score) for name, score in scores.overall.items()},
        "per_class": {c: {name: _score_to(s) for name, s in each.items()} for c, each in scores.per_class.items()},
        "confusion": [list(row) for row in scores.confusion],
        "classes": list(scores.classes),
        "largest_class": scores.largest_class,
        "untested": list(scores.untested),
    }


def from_dict(data: Mapping[str, Any]) -> Scores:
    """The Scores that `to_dict` gave. Raises ModelError where a part is missing or of the wrong kind."""
    try:
        return Scores(
            n=int(data["n"]),
            overall={name: _score_from(score) for name, score in data["overall"].items()},
            per_class={c: {name: _score_from(s) for name, s in each.items()} for c, each in data["per_class"].items()},
            confusion=tuple(tuple(int(count) for count in row) for row in data["confusion"]),
            classes=tuple(data["classes"]),
            largest_class=str(data["largest_class"]),
            untested=tuple(data["untested"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        do = "Score again from the saved logits"
        raise ModelError("unreadable scores", expected="what to_dict gave", received=repr(error), do=do) from error

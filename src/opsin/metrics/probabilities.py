"""How honest probabilities are: likelihood, Brier score, calibration error; and errors of numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CallError
from .given import Bools, Floats, Ints, distributions, matrix, pair


def softmax(logits: npt.ArrayLike) -> Floats:
    """Probabilities, float64 (N, K), of finite logits (N, K). Raises DataError.

    >>> softmax([[1000.0, 1000.0]]).tolist()
    [[0.5, 0.5]]
    """
    return np.exp(log_softmax(matrix("logits", logits)))


def log_softmax(logits: npt.NDArray[Any]) -> Floats:
    """The logarithm of `softmax`, exact where that would be 0."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def nll(logits: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """The mean negative log-likelihood of the targets (N,), in nats, 0…∞, from *logits* (N, K). Raises DataError."""
    rows, true = pair(logits, targets)
    return float(-log_softmax(rows)[np.arange(len(true)), true].mean())


def brier(probabilities: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """The mean squared distance to the truth, summed over classes, 0…2 (Brier 1950). Raises DataError.

    probabilities (N, K), targets integer (N,).
    """
    rows, true = distributions(probabilities, targets)
    rows[np.arange(len(true)), true] -= 1  # our own copy
    return float((rows**2).sum(axis=1).mean())


def ece(probabilities: npt.ArrayLike, targets: npt.ArrayLike, *, bins: int = 15, corrected: bool = False) -> float:
    """The expected calibration error of the answer, 0…1: Σ (records in bin / N) |accuracy - mean confidence|.

    Confidence is the highest probability of a row. The bins hold equally many records, not equal widths (the
    adaptive bins of Nixon et al., CVPR workshops 2019, here for the answer only); records of equal confidence
    share one, so their order does not matter. probabilities (N, K), targets integer (N,). Raises DataError, CallError.

    corrected: take off what the error would come to by chance. A bin's gap is known with noise, and the mean of its
    absolute value is too large even where nothing is wrong (Kumar, Liang & Ma, NeurIPS 2019, 4; Roelofs et al.,
    AISTATS 2022); the bias is that of the absolute value of a normal with the bin's gap and standard error.
    """
    if bins < 1:
        raise CallError("bins", expected="1 or more", received=bins)
    rows, true = distributions(probabilities, targets)
    share, gap, error = calibration_gaps(rows.max(axis=1), rows.argmax(axis=1) == true, bins)
    size = np.abs(gap)
    if corrected:
        size = 2 * size - _folded(gap, error)
    return max(0.0, float((share * size).sum()))


def equal_mass(confidence: Floats, bins: int) -> Ints:
    """The bin of each record, (N,) in 0…bins - 1: equally many in each, equal confidences in one."""
    first = np.searchsorted(np.sort(confidence), confidence)  # how many are less sure
    return np.asarray(first * bins // len(confidence), np.int64)


def calibration_gaps(confidence: Floats, right: Bools, bins: int) -> tuple[Floats, Floats, Floats]:
    """Of every bin with records: its share of them, accuracy minus mean confidence, and that gap's standard error."""
    _, place, n = np.unique(equal_mass(confidence, bins), return_inverse=True, return_counts=True)
    accuracy, sure = (np.bincount(place, weights) / n for weights in (right, confidence))
    error = np.sqrt(accuracy * (1 - accuracy) / np.maximum(n - 1, 1))
    return n / len(confidence), accuracy - sure, error


def _folded(mean: Floats, deviation: Floats) -> Floats:
    """The mean of the absolute value of a normal."""
    from scipy.special import ndtr

    z = np.clip(mean / np.maximum(deviation, 1e-12), -30, 30)
    normal = deviation * math.sqrt(2 / math.pi) * np.exp(-(z**2) / 2)
    return np.asarray(normal + mean * (1 - 2 * ndtr(-z)))


def mae(predictions: Floats, targets: Floats) -> float:
    """The mean absolute error, in the unit of the targets. Two float arrays of one shape."""
    return float(np.abs(predictions - targets).mean())


def rmse(predictions: Floats, targets: Floats) -> float:
    """The root of the mean squared error, in the unit of the targets. Two float arrays of one shape."""
    return math.sqrt(((predictions - targets) ** 2).mean())

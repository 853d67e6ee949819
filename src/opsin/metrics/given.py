"""What is accepted, and in what form the rest of `metrics` gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Groups = Sequence[str | None] | npt.NDArray[Any]


def wrong(what: str, expected: str, received: object, do: str) -> DataError:
    return DataError(what, expected=expected, received=received, do=do)


def indices(name: str, values: npt.ArrayLike, classes: int, n: int | None = None) -> Ints:
    """`values` as int64 (N,), all in 0…classes - 1."""
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or (n is not None and len(array) != n):
        shape = "(N,), N ≥ 1" if n is None else f"({n},), one for each row of logits"
        raise wrong(f"{name} have the wrong shape", shape, array.shape, "Give one class index for every record")
    if array.dtype.kind not in "iu":
        raise wrong(f"{name} are not class indices", "integers", array.dtype, "Give indices into the class names")
    bad = np.flatnonzero((array < 0) | (array >= classes))
    if bad.size:
        received = f"{array[bad[0]]} in record {bad[0]} ({bad.size} in all)"
        do = "Were targets and logits made with the same class names?"
        raise wrong(f"{name} out of range", f"0…{classes - 1}", received, do)
    return array.astype(np.int64)


def matrix(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """`values` as a finite real array (N, K), N ≥ 1, K ≥ 1."""
    array = np.asarray(values)
    if array.ndim != 2 or not array.size:
        do = "There must be a record, and a row of one value a class for each"
        raise wrong(f"{name} have the wrong shape", "(N, K), N ≥ 1, K ≥ 1", array.shape, do)
    if array.dtype.kind not in "fiu":
        raise wrong(f"{name} are not numbers", "floats", array.dtype, "Give the network's output as it is")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        received = f"NaN or infinity in {bad.size} of {len(array)} rows, first in row {bad[0]}"
        raise wrong(
            f"{name} are not finite", "finite values", received, "The network diverged: lower the rate, or fp32"
        )
    return array


def pair(logits: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[npt.NDArray[Any], Ints]:
    """Logits real (N, K) and targets int64 (N,)."""
    rows = matrix("logits", logits)
    return rows, indices("targets", targets, rows.shape[1], len(rows))


def distributions(probabilities: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Floats, Ints]:
    """Logits given where probabilities are meant would yield a plausible wrong number; so it is checked."""
    rows = matrix("probabilities", probabilities).astype(np.float64)
    if rows.min() < 0 or np.abs(rows.sum(axis=1) - 1).max() > 1e-3:
        received = f"values from {rows.min():.4g} to {rows.max():.4g}"
        raise wrong("not probabilities", "rows of values ≥ 0 with sum 1", received, "Apply softmax to logits first")
    return rows, indices("targets", targets, rows.shape[1], len(rows))


def binary(scores: npt.ArrayLike, positive: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Scores float64 (N,), higher for what is more likely positive, and which records are, bool (N,)."""
    values, are = np.asarray(scores, np.float64), np.asarray(positive)
    if values.ndim != 1 or are.shape != values.shape or are.dtype != np.bool_:
        received = f"{values.shape} and {are.dtype} {are.shape}"
        raise wrong(
            "scores and truths do not fit", "(N,) numbers and (N,) booleans", received, "Give one of each a record"
        )
    if not np.isfinite(values).all():
        raise wrong("scores are not finite", "finite values", "NaN or infinity", "Leave those records out")
    if are.all() or not are.any():
        received = f"{are.sum()} of {len(are)} positive"
        raise wrong("nothing to tell apart", "positive and other records", received, "Test on both kinds")
    return values, are


def units(groups: Groups | None, n: int) -> Ints | None:
    """The number of each record's group, int64 (N,), from 0; None where every record stands alone.

    A record whose group is None or "" is a group of its own.
    """
    if groups is None:
        return None
    if len(groups) != n:
        raise wrong(
            "groups have the wrong shape", f"({n},), one for each record", len(groups), "Give None for no group"
        )
    numbers: dict[object, int] = {}
    own = [group if group not in (None, "") else (index,) for index, group in enumerate(list(groups))]
    found = np.array([numbers.setdefault(name, len(numbers)) for name in own], np.int64)
    return found if len(numbers) < n else None

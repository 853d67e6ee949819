"""Where it fails: accuracy on the parts of a test that share something, the worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..vocabulary import Score
from .given import Bools, Groups, pair
from .rates import ranks, share

LEAST = 10  # records; of fewer nothing can be said
BINS = 4


@dataclass(frozen=True, slots=True)
class Slice:
    """The records that have one value in one column: their accuracy, and that of all others."""

    column: str
    value: str
    accuracy: Score
    others: Score


def slices(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    columns: Mapping[str, npt.ArrayLike],
    *,
    groups: Groups | None = None,
    least: int = LEAST,
) -> tuple[Slice, ...]:
    """Every slice of `least` records or more that leaves others, worst first.

    logits (N, K), targets (N,). columns: name → one label or number a record, (N,); numbers are cut into BINS parts
    of about equally many, missing labels (None, "") are in no slice. The worst is the one whose interval ends
    lowest, so that three unlucky pictures do not lead. Of many slices some look bad by luck alone: the first is
    where to look, not yet a finding. Raises DataError.
    """
    rows, true = pair(logits, targets)
    right = ranks(rows, true) < 1
    found = [
        Slice(column, value, _share(right, inside, groups), _share(right, ~inside, groups))
        for column, values in columns.items()
        for value, inside in _parts(column, np.asarray(values), len(true))
        if least <= inside.sum() < len(true)
    ]
    return tuple(sorted(found, key=lambda s: (s.accuracy.high, s.accuracy.value, s.column, s.value)))


def _share(right: Bools, inside: Bools, groups: Groups | None) -> Score:
    chosen = None if groups is None else [group for group, keep in zip(groups, inside.tolist()) if keep]
    return share(right[inside], groups=chosen)


def _parts(column: str, values: npt.NDArray[Any], n: int) -> Iterator[tuple[str, Bools]]:
    """The labels of a column and the records that have each."""
    if values.shape != (n,):
        raise DataError(f"column {column!r} does not fit", expected=f"({n},), one a record", received=values.shape)
    if values.dtype.kind in "fiu" and len(np.unique(values)) > BINS:
        yield from _ranges(values.astype(np.float64))
        return
    labels = np.array(["" if value is None else str(value) for value in values.tolist()])
    names, place = np.unique(labels, return_inverse=True)
    yield from ((str(name), place == i) for i, name in enumerate(names) if name)


def _ranges(values: npt.NDArray[np.float64]) -> Iterator[tuple[str, Bools]]:
    """Numbers in BINS parts of about equally many, named by their smallest and largest."""
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, values, side="right")
    for i in range(len(edges) + 1):
        inside = (place == i) & ~np.isnan(values)
        if inside.any():
            yield f"{values[inside].min():,.3g} to {values[inside].max():,.3g}", inside

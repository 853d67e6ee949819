"""Where it fails: the share that is right on the parts of a test that share something, the worst first."""

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
    return slices_of(ranks(rows, true) < 1, columns, groups=groups, least=least)


def slices_of(
    right: Bools, columns: Mapping[str, npt.ArrayLike], *, groups: Groups | None = None, least: int = LEAST
) -> tuple[Slice, ...]:
    """`slices` of records that are right or not, bool (N,), whatever that means."""
    found = [
        Slice(column, value, _share(right, inside, groups), _share(right, others, groups))
        for column, values in columns.items()
        for value, inside, others in _parts(column, np.asarray(values), len(right))
        if inside.sum() >= least and others.any()
    ]
    return tuple(sorted(found, key=lambda s: (s.accuracy.high, s.accuracy.value, s.column, s.value)))


def _share(right: Bools, inside: Bools, groups: Groups | None) -> Score:
    chosen = None if groups is None else [group for group, keep in zip(groups, inside.tolist()) if keep]
    return share(right[inside], groups=chosen)


def _parts(column: str, values: npt.NDArray[Any], n: int) -> Iterator[tuple[str, Bools, Bools]]:
    """The labels of a column, the records that have each, and those that have another one."""
    if values.shape != (n,):
        raise DataError(f"column {column!r} does not fit", expected=f"({n},), one a record", received=values.shape)
    labels = _ranges(values.astype(np.float64)) if values.dtype.kind in "fiu" else list(map(_label, values.tolist()))
    names, place = np.unique(labels, return_inverse=True)
    known = names[place] != ""
    yield from ((str(name), place == i, known & (place != i)) for i, name in enumerate(names) if name)


def _label(value: object) -> str:
    return "" if value is None else str(value)


def _ranges(values: npt.NDArray[np.float64]) -> list[str]:
    """Numbers in BINS parts of about equally many, named by their smallest and largest; "" for NaN."""
    known = values[~np.isnan(values)]
    if not known.size:
        return [""] * len(values)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
    names = {-1: ""}
    for part in np.unique(place[place >= 0]).tolist():
        low, high = (f"{bound(values[place == part]):,.3g}" for bound in (np.min, np.max))
        names[part] = low if low == high else f"{low} to {high}"
    return [names[part] for part in place.tolist()]

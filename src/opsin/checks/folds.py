"""Who is judged by whom: folds in which no record is judged by what was fitted on it, or on its like."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

FOLDS = 5
Folds: TypeAlias = list[tuple[np.ndarray, np.ndarray]]  # rows to fit on, rows to judge, int


def folds(targets: np.ndarray, groups: Mapping[int, str]) -> Folds:
    """At most FOLDS, stratified by class; fewer where no class has that many records or groups.

    A fold that would be fitted on one class alone is left out, and so are its records: there may be none at all.

    Args:
        targets: int `(N,)`.
        groups: row → group; those of one group are in one fold. A row without one stands alone.
    """
    from sklearn.model_selection import StratifiedKFold

    numbers: dict[str | int, int] = {}
    of = np.array([numbers.setdefault(groups.get(row, row), len(numbers)) for row in range(len(targets))], int)
    classes = targets[np.unique(of, return_index=True)[1]]  # of a group its first record's
    count = min(FOLDS, np.unique(classes, return_counts=True)[1].max(initial=0))
    if count < 2:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes smaller than the folds
        parts = list(StratifiedKFold(count, shuffle=True, random_state=0).split(classes, classes))
    found = [(np.flatnonzero(np.isin(of, train)), np.flatnonzero(np.isin(of, test))) for train, test in parts]
    return [(train, test) for train, test in found if len(np.unique(targets[train])) > 1]

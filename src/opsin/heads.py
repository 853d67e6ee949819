"""Heads of the other tasks, fitted on vectors: of each label a logistic regression, of each quantity a ridge.

Every output is fitted on the rows whose target is known, by itself, at a strength chosen by cross-validation on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import features
from .features import Head
from .vocabulary import Task

PENALTIES = tuple(10 ** (half / 2) for half in range(-2, 13))  # 0.1 … 1,000,000


def best_heads(
    vectors: np.ndarray,
    targets: np.ndarray,
    task: Task,
    *,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
) -> tuple[Head, str]:
    """The head of several labels or quantities, and a sentence on what it is.

    Args:
        vectors: float32 `(N, D)`.
        targets: float `(N, K)`: 0 or 1, or quantities at mean 0 and deviation 1; NaN where unknown.
        groups: of every row; rows of a group are never on both sides of a fold.

    Returns:
        float32 weight `(K, D)` and bias `(K,)`: logits of labels, or quantities. A label that is always there, or
        never, and a quantity that is known of one row, have weight 0.
    """
    one = _label if task == "multi-label" else _quantity
    fitted = []
    for column in targets.T:
        known = np.flatnonzero(~np.isnan(column))
        own = [groups[row] for row in known.tolist()] if groups is not None else None
        fitted.append(one(vectors[known], column[known], own, seed))
    weight, bias, strengths = map(np.stack, zip(*fitted))
    kind = "a logistic regression a label" if task == "multi-label" else "ridge regression"
    low, high = strengths.min(), strengths.max()
    told = f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"
    word = "strength" if task == "multi-label" else "penalty"
    return (weight.astype(np.float32), bias.astype(np.float32)), (
        f"head: {kind}, {word} {told} by cross-validation on training pictures"
    )


Fit = tuple[np.ndarray, float, float]  # weight (D,), bias, and the strength or penalty


def _label(vectors: np.ndarray, column: np.ndarray, groups: Sequence[str | None] | None, seed: int) -> Fit:
    there = column.astype(np.int64)
    if len(np.unique(there)) < 2:  # the log odds of one more of each kind
        return np.zeros(vectors.shape[1]), float(np.log((there.sum() + 1) / ((1 - there).sum() + 1))), 0.0
    strength, _ = features.choose_strength(vectors, there, groups=groups, seed=seed)
    weight, bias = features.fit_head(vectors, there, 2, strength=strength)
    return weight[1] - weight[0], float(bias[1] - bias[0]), strength


def _quantity(vectors: np.ndarray, column: np.ndarray, groups: Sequence[str | None] | None, seed: int) -> Fit:
    if len(column) < 2:
        return np.zeros(vectors.shape[1]), float(column.sum()), 0.0
    penalty, _ = choose_penalty(vectors, column, groups=groups, seed=seed)
    return *ridge(vectors, column, penalty), penalty


def ridge(vectors: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weight `(D,)` and bias of least Σ error² + penalty · ‖weight‖² (Hoerl & Kennard 1970), the bias being free.

    The weight meant is that of vectors divided by one number, as `features.fit_head` does.
    """
    with features.one_thread():
        axes = features.Axes(vectors)
        slopes = axes.z.T @ (targets - targets.mean()) / (axes.spread + penalty)
        weight = axes.rotation @ slopes / axes.scale
    return weight, float(targets.mean() - axes.centre @ weight)


def choose_penalty(
    vectors: np.ndarray,
    targets: np.ndarray,
    *,
    groups: Sequence[str | None] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> tuple[float, dict[float, float]]:
    """The penalty of PENALTIES whose `ridge` has the least mean squared error on rows that it was fitted without.

    By k-fold cross-validation, on features.MOST_ROWS rows at most. No fold is fitted by itself: of the fit of all rows,
    with residuals e = (I - H) y, the rows of a fold F have (I - H_FF)⁻¹ e_F left when they are left out.

    Returns:
        the penalty, and the mean squared error of all that were tried.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(targets))[: features.MOST_ROWS])
    y = targets[rows].astype(np.float64)
    fold = features.deal(
        np.zeros(len(rows), np.int64),
        [groups[row] for row in rows] if groups is not None else None,
        folds=folds,
        seed=seed,
    )
    found = {}
    with features.one_thread():
        axes = features.Axes(vectors[rows])
        along = axes.z.T @ y
        for penalty in PENALTIES:
            shrunk = axes.z / (axes.spread + penalty)
            residuals = y - y.mean() - shrunk @ along
            total = 0.0
            for number in np.unique(fold):
                held = fold == number
                hat = shrunk[held] @ axes.z[held].T + 1 / len(y)
                total += float((np.linalg.solve(np.eye(len(hat)) - hat, residuals[held]) ** 2).sum())
            found[penalty] = total / len(y)
    return min(found, key=found.__getitem__), found

"""Heads of labels and quantities: the same as scikit-learn's, at strengths that plain cross-validation finds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from opsin import features, heads

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(1, 2, (120, 20)).astype(np.float32)
TRUTH = VECTORS[:, :3] @ RNG.normal(0, 1, (3, 2)) + RNG.normal(0, 1, (120, 2))


def test_ridge_is_scikit_learns() -> None:
    scale = np.sqrt(VECTORS.var(0).mean())
    for penalty in (0.1, 100.0):
        weight, bias = heads.ridge(VECTORS, TRUTH[:, 0], penalty)
        wanted = Ridge(penalty).fit(VECTORS / scale, TRUTH[:, 0])
        np.testing.assert_allclose(weight * scale, wanted.coef_, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(VECTORS @ weight + bias, wanted.predict(VECTORS / scale), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_penalty_is_that_of_fits_without_each_fold(grouped: bool) -> None:
    """The formula for rows that are left out gives what leaving them out gives, but for the centre and scale."""
    groups = [f"g{row // 6}" for row in range(120)] if grouped else None
    _, found = heads.choose_penalty(VECTORS, TRUTH[:, 1], groups=groups)
    fold = features.deal(np.zeros(120, int), groups)
    scale = np.sqrt(VECTORS.var(0).mean())
    for penalty in (0.1, 10.0, 1000.0):
        key = min(found, key=lambda one: abs(one - penalty))
        errors = []
        for number in range(5):
            held = fold == number
            fitted = Ridge(key).fit(VECTORS[~held] / scale, TRUTH[~held, 1])
            errors.extend((fitted.predict(VECTORS[held] / scale) - TRUTH[held, 1]) ** 2)
        assert found[key] == pytest.approx(np.mean(errors), rel=1e-3)


def test_labels_are_fitted_one_by_one_on_the_rows_that_are_known() -> None:
    labels = (TRUTH > 0).astype(np.float32)
    labels[::4, 0] = np.nan
    (weight, bias), told = heads.best_heads(VECTORS, labels, "multi-label")
    assert weight.shape == (2, 20)
    assert "a logistic regression a label" in told
    known = ~np.isnan(labels[:, 0])
    strength, _ = features.choose_strength(VECTORS[known], labels[known, 0].astype(int))
    scale = np.sqrt(VECTORS[known].var(0).mean())
    centred = (VECTORS - VECTORS[known].mean(0)) / scale
    wanted = LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(centred[known], labels[known, 0])
    np.testing.assert_allclose(VECTORS @ weight[0] + bias[0], wanted.decision_function(centred), rtol=2e-2, atol=2e-2)


def test_quantities_and_their_unknown_values() -> None:
    values = TRUTH.copy()
    values[::2, 1] = np.nan
    (weight, bias), told = heads.best_heads(VECTORS, values, "regression")
    said = VECTORS @ weight.T + bias
    assert np.corrcoef(said[::2, 1], TRUTH[::2, 1])[0, 1] > 0.8  # rows that it has not seen
    assert "ridge regression" in told


def test_a_label_that_is_always_there_is_said_always() -> None:
    labels = np.stack([np.ones(120), (TRUTH[:, 0] > 0)], axis=1)
    (weight, bias), _ = heads.best_heads(VECTORS, labels, "multi-label")
    assert (weight[0] == 0).all()
    assert bias[0] == pytest.approx(np.log(121))

"""Scores of labels and of quantities against scikit-learn; their intervals against what was simulated."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as reference

from opsin import metrics
from opsin.errors import DataError
from opsin.reports import tasks

RNG = np.random.default_rng(1)
N, K = 300, 4
TRUE = (RNG.random((N, K)) < [0.5, 0.3, 0.1, 0.05]).astype(float)
PROBABILITIES = 1 / (1 + np.exp(-(2 * TRUE - 1 + RNG.normal(0, 1.2, (N, K)))))
LEAST = [0.5, 0.4, 0.6, 0.3]
LABELS = ("a", "b", "c", "d")


def test_labels_are_scored_as_scikit_learn_does() -> None:
    found = metrics.score_labels(PROBABILITIES, TRUE, LABELS, LEAST)
    said = PROBABILITIES >= LEAST
    wanted = {
        "mAP": reference.average_precision_score(TRUE, PROBABILITIES, average="macro"),
        "macro AUROC": reference.roc_auc_score(TRUE, PROBABILITIES, average="macro"),
        "micro F1": reference.f1_score(TRUE, said, average="micro"),
        "macro F1": reference.f1_score(TRUE, said, average="macro"),
        "exact match": reference.accuracy_score(TRUE, said),
        "no skill mAP": TRUE.mean(0).mean(),
    }
    assert {name: score.value for name, score in found.overall.items()} == pytest.approx(wanted)
    rates = reference.precision_recall_fscore_support(TRUE, said)[:3]
    for c, label in enumerate(LABELS):
        own = [found.per_class[label][name].value for name in ("precision", "recall", "F1")]
        assert own == pytest.approx([rate[c] for rate in rates])
        precision = reference.average_precision_score(TRUE[:, c], PROBABILITIES[:, c])
        assert found.per_class[label]["average precision"].value == pytest.approx(precision)
    for score in found.overall.values():
        assert score.low <= score.value <= score.high


def test_what_is_unknown_is_left_out_label_by_label() -> None:
    masked = np.where(RNG.random((N, K)) < 0.3, np.nan, TRUE)
    found = metrics.score_labels(PROBABILITIES, masked, LABELS, LEAST)
    for c, label in enumerate(LABELS):
        known = ~np.isnan(masked[:, c])
        wanted = reference.average_precision_score(TRUE[known, c], PROBABILITIES[known, c])
        assert found.per_class[label]["average precision"].value == pytest.approx(wanted)
        assert found.per_class[label]["F1"].value == pytest.approx(
            reference.f1_score(TRUE[known, c], PROBABILITIES[known, c] >= LEAST[c])
        )
    known, said = ~np.isnan(masked), PROBABILITIES >= LEAST
    assert found.overall["micro F1"].value == pytest.approx(reference.f1_score(TRUE[known], said[known]))
    assert found.overall["exact match"].value == pytest.approx(
        ((said == (TRUE == 1)) | ~known).all(1)[known.any(1)].mean()  # of one nothing may be known
    )


def test_a_label_without_a_positive_is_untested() -> None:
    true = TRUE.copy()
    true[:, 3] = 0
    found = metrics.score_labels(PROBABILITIES, true, LABELS, LEAST)
    assert found.untested == ("d",)
    assert found.overall["mAP"].value == pytest.approx(
        reference.average_precision_score(true[:, :3], PROBABILITIES[:, :3], average="macro")
    )
    with pytest.raises(DataError, match="no label was tested"):
        metrics.score_labels(PROBABILITIES, true * 0, LABELS, LEAST)


def test_thresholds_are_those_of_the_best_f1() -> None:
    found = metrics.best_thresholds(PROBABILITIES, TRUE)
    for c, least in enumerate(found):
        best = max(reference.f1_score(TRUE[:, c], PROBABILITIES[:, c] >= p) for p in PROBABILITIES[:, c])
        assert reference.f1_score(TRUE[:, c], PROBABILITIES[:, c] >= least) == pytest.approx(best)
    assert metrics.best_thresholds(PROBABILITIES[:, :1], np.full((N, 1), np.nan)) == [0.5]


VALUES = RNG.normal(20, 8, (N, 2))
ANSWERS = VALUES + RNG.normal(1, [2, 6], (N, 2))


def test_quantities_are_scored_as_scikit_learn_does() -> None:
    found = metrics.score_quantities(ANSWERS, VALUES, ("x", "y"), [19, 21])
    for c, name in enumerate(("x", "y")):
        wanted = {
            "MAE": reference.mean_absolute_error(VALUES[:, c], ANSWERS[:, c]),
            "RMSE": reference.root_mean_squared_error(VALUES[:, c], ANSWERS[:, c]),
            "R2": reference.r2_score(VALUES[:, c], ANSWERS[:, c]),
            "always the mean": reference.mean_absolute_error(VALUES[:, c], np.full(N, [19, 21][c])),
            "median absolute error": reference.median_absolute_error(VALUES[:, c], ANSWERS[:, c]),
        }
        assert {key: score.value for key, score in found.per_class[name].items()} == pytest.approx(wanted)
    assert found.overall["mean R2"].value == pytest.approx(reference.r2_score(VALUES, ANSWERS))
    alone = metrics.score_quantities(ANSWERS[:, :1], VALUES[:, :1], ("x",), [19])
    assert alone.overall == alone.per_class["x"]
    assert alone.overall == found.per_class["x"]


def test_unknown_values_are_left_out() -> None:
    masked = VALUES.copy()
    masked[::3, 0] = np.nan
    found = metrics.score_quantities(ANSWERS, masked, ("x", "y"), [19, 21])
    known = ~np.isnan(masked[:, 0])
    assert found.per_class["x"]["R2"].value == pytest.approx(reference.r2_score(VALUES[known, 0], ANSWERS[known, 0]))
    assert found.per_class["x"]["median absolute error"].value == pytest.approx(
        np.median(np.abs(ANSWERS - VALUES)[known, 0])
    )
    assert found.per_class["x"]["MAE"].n == known.sum()


def test_intervals_of_quantities_cover_and_groups_widen_them() -> None:
    """Of 60 tests of 100 records the 95 % interval of MAE holds the truth nearly always; 6 misses have p < 0.03."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(60):
        errors = rng.normal(0, 1, (100, 1))
        score = metrics.score_quantities(errors, np.zeros((100, 1)), ("x",), [0]).overall["MAE"]
        held += score.low <= np.sqrt(2 / np.pi) <= score.high
    assert held >= 54
    groups = [str(row // 10) for row in range(100)]
    alike = np.repeat(rng.normal(0, 1, (10, 1)), 10, axis=0)
    apart, whole = (
        metrics.score_quantities(alike, np.zeros((100, 1)), ("x",), [0], groups=g).overall["MAE"]
        for g in (None, groups)
    )
    assert whole.high - whole.low > 2 * (apart.high - apart.low)


@pytest.mark.parametrize(("n", "groups"), [(1, None), (5, ["one patient"] * 5)])
def test_one_record_or_group_has_no_interval(n: int, groups: list[str] | None) -> None:
    true = np.arange(10.0, 10 + n)[:, None]
    found = metrics.score_quantities(true + 0.2, true, ("x",), [0], groups=groups)
    for name in ("MAE", "RMSE", "median absolute error"):
        assert found.overall[name].value == pytest.approx(0.2)
        assert (found.overall[name].low, found.overall[name].high) == (-np.inf, np.inf)
    assert str(found.overall["MAE"]) == "0.200 [no interval]"
    assert metrics.from_dict(json.loads(json.dumps(metrics.to_dict(found), allow_nan=False))) == found
    assert "clearly better" not in " ".join(tasks.summary(found)).replace("not clearly better", "")
    both = np.column_stack([true, np.where(np.arange(n)[:, None] == 0, true, np.nan)])
    several = metrics.score_quantities(np.repeat(true + 0.2, 2, axis=1), both, ("x", "y"), [0, 0])
    assert not several.overall["mean relative MAE"].bounded


@pytest.mark.parametrize("unit", [1e-15, 1e9])
def test_intervals_do_not_depend_on_the_unit(unit: float) -> None:
    plain, other = (
        metrics.score_quantities(u * ANSWERS, u * VALUES, ("x", "y"), [19 * u, 21 * u]) for u in (1.0, unit)
    )
    for name, score in plain.per_class["x"].items():
        scale = 1 if name == "R2" else unit
        found = other.per_class["x"][name]
        assert found.high > found.low
        assert np.array([found.low, found.value, found.high]) / scale == pytest.approx(
            [score.low, score.value, score.high], rel=1e-9
        )


def test_scores_survive_json() -> None:
    for found in (
        metrics.score_labels(PROBABILITIES, TRUE, LABELS, LEAST),
        metrics.score_quantities(ANSWERS, VALUES, ("x", "y"), [19, 21]),
    ):
        assert metrics.from_dict(metrics.to_dict(found)) == found

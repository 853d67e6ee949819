"""Metrics against scikit-learn and scipy, their intervals against what they promise, and the edges."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from opsin import metrics
from opsin.errors import CallError, DataError, ModelError
from opsin.metrics import intervals, rates
from opsin.vocabulary import Score, Scores

if TYPE_CHECKING:
    from scipy.stats._resampling import BootstrapResult

EXACT = {"rel": 0, "abs": 1e-9}
NAMES = tuple("abcdefghijklmnopqrstuvwxyz")


def made(seed: int, n: int, k: int, skill: float = 1.5, present: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Float32 logits (n, k) that know something, and targets (n,) among the first `present` classes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, present or k, n)
    logits = rng.normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), targets] += skill
    return logits, targets


def values(scores: tuple[Score, ...]) -> list[float]:
    return [score.value for score in scores]


def plain_averages(targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The four averages the long way, record by record: the reference for resampling."""
    rows = []
    for c in np.unique(targets):
        hits, said, are = np.sum((targets == c) & (answers == c)), np.sum(answers == c), np.sum(targets == c)
        rows.append((hits / said if said else 0.0, hits / are, 2 * hits / (said + are), are))
    p, r, f, are = np.array(rows).T
    return np.array([p.mean(), r.mean(), f.mean(), (f * are).sum() / are.sum()])


# ---- values, against scikit-learn


@pytest.mark.parametrize(("k", "n", "present"), [(2, 50, 2), (7, 300, 7), (12, 40, 9), (26, 500, 26)])
def test_scores_equal_those_of_scikit_learn(k: int, n: int, present: int) -> None:
    from sklearn import metrics as sk

    logits, targets = made(k, n, k, present=present)
    answers, tested = logits.argmax(axis=1), np.unique(targets)
    scores = metrics.score(logits, targets, NAMES[:k], largest=1)
    options = {"labels": tested, "zero_division": 0}
    expected = {
        "accuracy": sk.accuracy_score(targets, answers),
        "macro precision": sk.precision_score(targets, answers, average="macro", **options),
        "macro recall": sk.recall_score(targets, answers, average="macro", **options),
        "macro F1": sk.f1_score(targets, answers, average="macro", **options),
        "weighted F1": sk.f1_score(targets, answers, average="weighted", **options),
        "largest class": np.mean(targets == 1),
    }
    if k > 5:
        expected["top-5"] = sk.top_k_accuracy_score(targets, logits, k=5, labels=np.arange(k))
    columns = {c: (targets == c, metrics.softmax(logits)[:, c]) for c in tested}
    ranked = {"AUROC": sk.roc_auc_score, "average precision": sk.average_precision_score}
    for name, measure in ranked.items():
        expected[f"macro {name}"] = np.mean([measure(*column) for column in columns.values()])
    assert {name: s.value for name, s in scores.overall.items()} == pytest.approx(expected, **EXACT)
    per_class = sk.precision_recall_fscore_support(targets, answers, **options)
    assert list(scores.per_class) == [NAMES[c] for c in tested]
    for i, each in enumerate(scores.per_class.values()):
        assert [each[m].value for m in ("precision", "recall", "F1")] == pytest.approx(
            [column[i] for column in per_class[:3]], **EXACT
        )
        assert each["recall"].n == per_class[3][i]
        for name, measure in ranked.items():
            assert each[name].value == pytest.approx(measure(*columns[tested[i]]), **EXACT)
    assert np.array_equal(scores.confusion, sk.confusion_matrix(targets, answers, labels=np.arange(k)))


@pytest.mark.parametrize("k", [2, 9])
def test_losses_of_probabilities_equal_those_of_scikit_learn(k: int) -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    logits, targets = made(3, 200, k)
    probabilities = metrics.softmax(logits)
    assert metrics.nll(logits, targets) == pytest.approx(log_loss(targets, probabilities), **EXACT)
    ours = metrics.brier(probabilities, targets)
    sk_input = probabilities[:, 1] if k == 2 else probabilities
    assert ours == pytest.approx(brier_score_loss(targets, sk_input, scale_by_half=False), **EXACT)


def test_brier_leaves_its_input_as_it_was() -> None:
    given = np.array([[0.25, 0.75]])
    metrics.brier(given, [1])
    assert given.tolist() == [[0.25, 0.75]]


def test_softmax_equals_scipys_and_survives_large_logits() -> None:
    from scipy.special import softmax

    logits, _ = made(0, 20, 5)
    assert metrics.softmax(logits) == pytest.approx(softmax(logits.astype(float), axis=1), abs=1e-12)
    huge = metrics.softmax(np.array([[3e38, -3e38], [-3e38, -3e38]], np.float32))
    assert huge.dtype == np.float64
    assert huge.tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert metrics.nll([[1e4, 0.0]], [1]) == 1e4  # log of softmax would be infinite


def test_ece_by_hand() -> None:
    confidence = np.array([0.9, 0.6, 0.8, 0.7])
    rows, right = np.stack([confidence, 1 - confidence], axis=1), [0, 1, 0, 0]
    # two bins: {0.6 wrong, 0.7 right} 0.5 against 0.65, {0.8, 0.9} both right against 0.85
    assert metrics.ece(rows, right, bins=2) == pytest.approx((2 * 0.15 + 2 * 0.15) / 4)
    assert metrics.ece(rows, right, bins=1) == pytest.approx(0.0)
    assert metrics.ece(rows, right, bins=4) == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)


def test_ece_does_not_depend_on_the_order_of_records() -> None:
    rng = np.random.default_rng(0)
    top = rng.choice([0.6, 0.7, 0.9], 200)
    rows, targets = np.stack([top, 1 - top], axis=1), (rng.random(200) > top).astype(int)
    order = np.argsort(targets)
    assert metrics.ece(rows, targets) == pytest.approx(metrics.ece(rows[order], targets[order]), abs=1e-12)


def test_ece_is_small_for_calibrated_and_large_for_oversure() -> None:
    rng = np.random.default_rng(1)
    top = rng.uniform(0.5, 1, 20_000)
    rows, targets = np.stack([top, 1 - top], axis=1), (rng.random(20_000) > top).astype(int)
    assert metrics.ece(rows, targets) < 0.02
    sure = np.where(rows > 0.5, 1.0, 0.0)
    assert metrics.ece(sure, targets) == pytest.approx(0.25, abs=0.02)


def test_errors_of_regression_by_hand() -> None:
    predictions, targets = np.array([1.0, 2.0, 5.0]), np.array([1.0, 4.0, 4.0])
    assert metrics.mae(predictions, targets) == pytest.approx(1.0)
    assert metrics.rmse(predictions, targets) == pytest.approx(math.sqrt(5 / 3))


# ---- Wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 7), (4, 6), (7, 7), (85, 100), (9_999, 10_000)])
def test_wilson_equals_scipys(hits: int, n: int) -> None:
    from scipy.stats import binomtest

    score, expected = metrics.wilson(hits, n), binomtest(hits, n).proportion_ci(method="wilson")
    assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert score.low <= score.value == hits / n <= score.high
    assert score.n == n


def test_wilson_of_nothing_knows_nothing() -> None:
    score = metrics.wilson(0, 0)
    assert math.isnan(score.value)
    assert (score.low, score.high, score.n) == (0.0, 1.0, 0)


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 2), (0, -1)])
def test_wilson_refuses_what_is_no_share(hits: int, n: int) -> None:
    with pytest.raises(CallError, match="0 ≤ successes ≤ n"):
        metrics.wilson(hits, n)


def test_the_interval_of_f1_is_wilsons_for_the_jaccard_index() -> None:
    from scipy.stats import binomtest

    logits, targets = made(4, 120, 4)
    matrix = metrics.confusion(targets, logits.argmax(axis=1), 4)
    for c, score in enumerate(metrics.f1(matrix)):
        hits, union = matrix[c, c], matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]
        ci = binomtest(hits, union).proportion_ci(method="wilson")
        assert (score.low, score.high) == pytest.approx([2 * j / (1 + j) for j in ci], abs=1e-12)
        assert score.n == union


# ---- the bootstrap


SKEWED = np.array([[100, 1, 2], [1, 12, 0], [0, 0, 30]])  # where percentile and BCa intervals part
CELLS = rates.Cells(*np.nonzero(SKEWED), SKEWED[SKEWED > 0], 3)


def skewed() -> tuple[np.ndarray, np.ndarray]:
    """The records behind SKEWED: targets and answers."""
    true, answered = (np.repeat(axis, SKEWED.ravel()) for axis in np.indices((3, 3)).reshape(2, -1))
    return true, answered


def scipys(column: int, draws: int) -> BootstrapResult:
    from scipy.stats import bootstrap

    def statistic(t: np.ndarray, a: np.ndarray) -> float:
        return float(plain_averages(t, a)[column])

    rng = np.random.default_rng(5)
    return bootstrap(skewed(), statistic, paired=True, vectorized=False, n_resamples=draws, method="BCa", rng=rng)


@pytest.mark.parametrize("column", range(4))
def test_bca_equals_scipys_on_the_same_draws(column: int) -> None:
    """The formula and the jackknife of all four averages: to rounding, as the draws are scipy's."""
    expected = scipys(column, 999)
    left_out, counts = rates._jackknife(SKEWED)
    value = plain_averages(*skewed())[column]
    ours = intervals.bca(value, expected.bootstrap_distribution, left_out[:, column], counts)
    assert ours == pytest.approx(tuple(expected.confidence_interval), **EXACT)


def test_macro_f1_agrees_with_scipys_bootstrap_of_records() -> None:
    """Each with its own draws, to a quarter of a standard error. The percentile interval is far outside of that."""
    ours, expected = metrics.averages(SKEWED, draws=10_000)["macro F1"], scipys(2, 10_000)
    quarter = 0.25 * expected.standard_error
    assert (ours.low, ours.high) == pytest.approx(tuple(expected.confidence_interval), abs=quarter)
    assert abs(ours.low - np.quantile(expected.bootstrap_distribution, 0.025)) > 2 * quarter


def test_drawing_cells_is_drawing_records() -> None:
    targets, answers = skewed()
    cells = rates._draw(CELLS, 40_000)
    picks = np.random.default_rng(0).integers(0, len(targets), (10_000, len(targets)))
    records = np.array([plain_averages(targets[i], answers[i]) for i in picks])
    assert (cells.mean(axis=0) - records.mean(axis=0)) / records.std(axis=0) == pytest.approx(0, abs=0.04)
    assert cells.std(axis=0) == pytest.approx(records.std(axis=0), rel=0.03)


def test_the_jackknife_leaves_out_one_record() -> None:
    """With a class of one record, an untested class and one never answered, against leaving out for real."""
    targets = np.array([0, 0, 0, 0, 1, 1, 2, 3, 3, 3])
    answers = np.array([0, 0, 1, 4, 1, 0, 2, 0, 0, 4])
    matrix = metrics.confusion(targets, answers, 5)
    left_out, counts = rates._jackknife(matrix)
    keep = [np.arange(10) != i for i in range(10)]
    expected = sorted(tuple(plain_averages(targets[k], answers[k]).round(9)) for k in keep)
    assert sorted(map(tuple, np.repeat(left_out, counts, axis=0).round(9))) == expected


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rates._draw(CELLS, 50)
    monkeypatch.setattr(intervals, "CELLS_AT_ONCE", 20)
    assert np.array_equal(rates._draw(CELLS, 50), whole)


def test_scores_are_the_same_every_time_and_in_any_order() -> None:
    logits, targets = made(8, 150, 6)
    once = metrics.score(logits, targets, NAMES[:6], largest=1)
    order = np.random.default_rng(0).permutation(150)
    assert metrics.score(logits, targets, NAMES[:6], largest=1) == once
    assert metrics.score(logits[order], targets[order], NAMES[:6], largest=1) == once


def test_a_perfect_test_is_not_sure() -> None:
    """All resamples agree; Wilson's interval takes over, on what the smallest class leaves."""
    matrix = np.diag([90, 6])
    scores = metrics.averages(matrix)
    worth = 4 / (1 / 90 + 1 / 6)
    z2 = 1.959963984540054**2
    for name in ("macro precision", "macro recall", "macro F1"):
        assert (scores[name].value, scores[name].high) == (1.0, 1.0)
        assert scores[name].low == pytest.approx(worth / (worth + z2))
    assert scores["weighted F1"].low == pytest.approx(96 / (96 + z2))
    assert 0.6 < metrics.f1(matrix)[1].low < metrics.f1(matrix)[0].low < 1


def test_draws_far_to_one_side_move_a_normal_interval_by_their_bias() -> None:
    draws = np.linspace(0.4, 0.5, 2000)
    low, high = intervals.bca(0.55, draws, np.array([0.5, 0.6]), np.array([5, 5]))
    half = 1.959963984540054 * draws.std()
    assert (low, high) == pytest.approx((0.65 - half, 0.65 + half))
    assert intervals.bca(0.99, draws + 0.3, np.array([0.5, 0.6]), np.array([5, 5]))[1] == 1.0


def test_an_interval_that_misses_its_value_is_widened_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "bca", lambda *_: (0.1025, 0.2))
    score = metrics.averages(SKEWED)["macro F1"]
    assert score.high == score.value > 0.9
    assert score.low == pytest.approx(0.1025)


@pytest.mark.parametrize("seed", range(8))
def test_every_interval_holds_its_value_and_stays_within_0_and_1(seed: int) -> None:
    logits, targets = made(seed, 3 + 4 * seed, 8, skill=seed)
    scores = metrics.score(logits, targets, NAMES[:8], largest=0)
    for s in [*scores.overall.values(), *(s for each in scores.per_class.values() for s in each.values())]:
        assert 0 <= s.low <= s.value <= s.high <= 1
        assert s.high - s.low > 0


def simulated(share: np.ndarray, n: int, times: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2024)
    return [rng.multinomial(n, share.ravel()).reshape(share.shape) for _ in range(times)]


TRUTH = np.array([[0.50, 0.06, 0.04], [0.04, 0.20, 0.01], [0.03, 0.02, 0.10]])


def true_f1() -> np.ndarray:
    return 2 * np.diagonal(TRUTH) / (TRUTH.sum(axis=0) + TRUTH.sum(axis=1))


@pytest.mark.slow
def test_95_percent_of_intervals_of_averages_hold_the_truth() -> None:
    truth = {"macro F1": true_f1().mean(), "weighted F1": (true_f1() * TRUTH.sum(axis=1)).sum()}
    truth["macro recall"] = (np.diagonal(TRUTH) / TRUTH.sum(axis=1)).mean()
    truth["macro precision"] = (np.diagonal(TRUTH) / TRUTH.sum(axis=0)).mean()
    found = [metrics.averages(matrix) for matrix in simulated(TRUTH, 500, 2000)]
    for name, value in truth.items():
        held = np.mean([scores[name].low <= value <= scores[name].high for scores in found])
        assert 0.93 <= held <= 0.97, (name, held)


def test_95_percent_of_intervals_of_f1_of_a_class_hold_the_truth() -> None:
    found = [metrics.f1(matrix) for matrix in simulated(TRUTH, 500, 2000)]
    for c, value in enumerate(true_f1()):
        held = np.mean([scores[c].low <= value <= scores[c].high for scores in found])
        assert 0.93 <= held <= 0.97, (c, held)


# ---- edges


def test_equal_logits_are_ranked_by_index_and_never_by_luck() -> None:
    constant = np.zeros((7, 7))
    scores = metrics.score(constant, np.arange(7), NAMES[:7], largest=0)
    assert scores.overall["accuracy"].value == pytest.approx(1 / 7)
    assert scores.overall["top-5"].value == pytest.approx(5 / 7)
    assert np.array_equal(np.sum(scores.confusion, axis=0), [7, 0, 0, 0, 0, 0, 0])
    assert metrics.top_k(constant[:1], [4], 4).value == 0
    assert metrics.top_k(constant[:1], [4], 5).value == 1
    assert metrics.top_k(constant[:1], [6], 7).value == 1
    assert metrics.accuracy([[0.0, 1.0, 1.0]], [2]).value == 0


def test_overall_scores_come_in_their_order() -> None:
    order = ["accuracy", "top-5", "macro precision", "macro recall", "macro F1", "weighted F1"]
    order += ["macro AUROC", "macro average precision", "largest class"]
    assert list(metrics.score(*made(0, 30, 6), NAMES[:6], largest=0).overall) == order
    assert list(metrics.score(*made(0, 30, 5), NAMES[:5], largest=0).overall) == [n for n in order if n != "top-5"]


def test_a_class_without_records_is_untested_even_when_it_is_answered() -> None:
    scores = metrics.score(np.eye(3)[[0, 0, 2, 1]], [0, 0, 1, 1], ["a", "b", "c"], largest=0)
    assert scores.untested == ("c",)
    assert list(scores.per_class) == ["a", "b"]
    assert scores.overall["macro recall"].value == pytest.approx((1 + 0.5) / 2)


def test_a_class_that_is_never_answered_has_precision_0_and_nothing_is_known() -> None:
    scores = metrics.score(np.eye(2)[[0, 0, 0]], [0, 0, 1], ["a", "b"], largest=0)
    assert scores.per_class["b"]["precision"] == Score(0.0, 0.0, 1.0, 0)
    assert scores.per_class["b"]["recall"] == metrics.wilson(0, 1)
    assert scores.overall["macro precision"].value == pytest.approx(1 / 3)


def test_a_single_record() -> None:
    scores = metrics.score([[0.0, 1.0]], [1], ["a", "b"], largest=0)
    assert scores.n == 1
    assert scores.overall["macro F1"] == metrics.wilson(1, 1)
    assert scores.overall["largest class"].value == 0
    wrong = metrics.score([[0.0, 1.0]], [0], ["a", "b"], largest=0)
    assert wrong.overall["macro F1"] == metrics.wilson(0, 1)


def test_targets_of_any_integer_type_are_welcome() -> None:
    logits, targets = made(0, 20, 4)
    expected = metrics.score(logits, targets, NAMES[:4], largest=3)
    for kind in (np.uint8, np.int16, np.uint64):
        assert metrics.score(logits.astype(np.float64), targets.astype(kind), NAMES[:4], largest=3) == expected
    assert expected.largest_class == "d"


@pytest.mark.parametrize(
    ("logits", "targets", "says"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), r"logits have the wrong shape: expected \(N, K\).*received \(0, 2\)"),
        (np.zeros(4), [0], r"received \(4,\)"),
        (np.zeros((2, 2)), [0], r"targets have the wrong shape: expected \(2,\).*received \(1,\)"),
        (np.zeros((2, 2)), [[0, 1]], r"received \(1, 2\)"),
        (np.zeros((2, 2)), [0, 2], r"expected 0…1, received 2 in record 1 \(1 in all\)"),
        (np.zeros((2, 2)), [-1, 0], "received -1 in record 0"),
        (np.zeros((2, 2)), [0.0, 1.0], "expected integers, received float64"),
        (np.array([[0, 1], [0, np.nan]]), [0, 1], "NaN or infinity in 1 of 2 rows, first in row 1"),
        (np.array([[np.inf, 1]]), [0], "NaN or infinity in 1 of 1 rows"),
        (np.array([["x", "y"]]), [0], "logits are not numbers"),
    ],
)
def test_wrong_data_is_refused_with_its_reason(logits: object, targets: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        metrics.score(logits, targets, ["a", "b"], largest=0)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", "a"]])
def test_class_names_must_fit(names: list[str]) -> None:
    with pytest.raises(DataError, match="expected 2 different names"):
        metrics.score(np.zeros((1, 2)), [0], names, largest=0)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(CallError, match=r"expected 0…1, received 2"):
        metrics.score(np.zeros((1, 2)), [0], ["a", "b"], largest=2)
    for k in (0, 3):
        with pytest.raises(CallError, match="k is out of range"):
            metrics.top_k(np.zeros((1, 2)), [0], k)
    with pytest.raises(CallError, match="bins"):
        metrics.ece([[0.5, 0.5]], [0], bins=0)
    with pytest.raises(DataError, match="an empty confusion matrix"):
        metrics.averages(np.zeros((2, 2), np.int64))


@pytest.mark.parametrize("measure", [metrics.brier, metrics.ece])
def test_logits_are_not_taken_for_probabilities(measure: object) -> None:
    for rows in ([[2.0, -1.0]], [[0.4, 0.4]]):
        with pytest.raises(DataError, match="Apply softmax"):
            measure(rows, [0])


# ---- JSON


def test_scores_go_to_json_and_back() -> None:
    scores = metrics.score(*made(6, 60, 7, present=5), NAMES[:7], largest=2)
    text = json.dumps(metrics.to_dict(scores), allow_nan=False)
    assert metrics.from_dict(json.loads(text)) == scores
    assert json.loads(text)["overall"]["accuracy"].keys() == {"value", "low", "high", "n"}


def test_nan_goes_to_json_as_none_and_back() -> None:
    nothing = Scores(0, {"accuracy": metrics.wilson(0, 0)}, {}, (), (), "")
    plain = metrics.to_dict(nothing)
    assert plain["overall"]["accuracy"] == {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    assert math.isnan(metrics.from_dict(plain).overall["accuracy"].value)


@pytest.mark.parametrize(
    "change", [{"n": "x"}, {"overall": 3}, {"overall": {"accuracy": {"value": 1}}}, {"classes": 1}]
)
def test_unreadable_scores_are_refused(change: dict[str, object]) -> None:
    plain = metrics.to_dict(metrics.score(*made(0, 9, 2), ["a", "b"], largest=0))
    with pytest.raises(ModelError, match="unreadable scores"):
        metrics.from_dict(plain | change)


# ---- speed


def test_ten_thousand_records_of_ten_classes_take_a_moment() -> None:
    import time

    logits, targets = made(0, 10_000, 10)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        metrics.score(logits, targets, NAMES[:10], largest=0)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.3

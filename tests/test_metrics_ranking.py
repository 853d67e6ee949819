"""AUROC, average precision, rates at a threshold, grouped records, slices: against scikit-learn and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from opsin import metrics
from opsin.errors import CallError, DataError
from opsin.metrics import intervals, ranking, rates

EXACT = {"rel": 0, "abs": 1e-9}


def drawn(seed: int, n: int = 300, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores that know something, and which records are positive."""
    rng = np.random.default_rng(seed)
    are = rng.random(n) < 0.3
    scores = rng.normal(size=n) + are
    return (scores.round(1) if ties else scores), are


def by_hand(scores: np.ndarray, are: np.ndarray) -> float:
    """DeLong's variance of AUROC, pair by pair."""
    wins = (scores[are][:, None] > scores[~are]) + 0.5 * (scores[are][:, None] == scores[~are])
    return float(wins.mean(axis=1).var(ddof=1) / are.sum() + wins.mean(axis=0).var(ddof=1) / (~are).sum())


# ---- values


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_rankings_equal_those_of_scikit_learn(seed: int, ties: bool) -> None:
    scores, are = drawn(seed, 20 + 100 * seed, ties)
    assert metrics.auroc(scores, are).value == pytest.approx(sk.roc_auc_score(are, scores), **EXACT)
    ours = metrics.average_precision(scores, are)
    assert ours.value == pytest.approx(sk.average_precision_score(are, scores), **EXACT)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("wanted", [0.0, 0.01, 0.05, 0.31, 0.9, 1.0])
def test_rates_at_a_threshold_equal_those_of_scikit_learns_curve(wanted: float, ties: bool) -> None:
    scores, are = drawn(3, 400, ties)
    alarms, hits, _ = sk.roc_curve(are, scores, drop_intermediate=False)
    found = metrics.recall_at(scores, are, false_alarms=wanted)
    assert found.value == pytest.approx(hits[alarms <= wanted + 1e-12].max(), **EXACT)
    found = metrics.false_alarms_at(scores, are, recall=wanted)
    assert found.value == pytest.approx(alarms[hits >= wanted - 1e-12].min(), **EXACT)


def test_two_classes_have_one_auroc() -> None:
    logits, targets = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    scores = metrics.score(logits, targets, ["a", "b"], largest=0)
    expected = sk.roc_auc_score(targets, logits[:, 1] - logits[:, 0])
    for score in (scores.overall["macro AUROC"], *(each["AUROC"] for each in scores.per_class.values())):
        assert score.value == pytest.approx(expected, **EXACT)


def test_a_test_of_one_class_has_no_ranking() -> None:
    scores = metrics.score(np.eye(2), [0, 0], ["a", "b"], largest=0)
    assert "macro AUROC" not in scores.overall
    assert "AUROC" not in scores.per_class["a"]


# ---- their intervals


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("measure", "plain"), [(ranking._auroc, sk.roc_auc_score), (ranking._average_precision, sk.average_precision_score)]
)
def test_influence_is_the_derivative_by_a_records_weight(measure: object, plain: object, ties: bool) -> None:
    scores, are = drawn(5, 40, ties)
    ranked = ranking.ranking(scores, are)
    influence = ranking._by_record(ranked, measure(ranked))
    nudges = 1e-6 * np.eye(40)
    slopes = [
        (plain(are, scores, sample_weight=1 + d) - plain(are, scores, sample_weight=1 - d)) / 2e-6 for d in nudges
    ]
    assert influence == pytest.approx(slopes, abs=1e-8)
    assert influence.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_the_interval_of_auroc_has_delongs_variance(ties: bool) -> None:
    scores, are = drawn(7, 200, ties)
    found, error, rarer = metrics.auroc(scores, are), np.sqrt(by_hand(scores, are)), int(are.sum())
    low, high = (np.log(x / (1 - x)) for x in (found.low, found.high))
    half = stats.t.ppf(0.975, rarer - 1) * error / (found.value * (1 - found.value))
    assert (high - low) / 2 == pytest.approx(half, abs=1e-9)
    middle = (found.value * rarer + 0.1) / (rarer + 0.2)  # towards one half
    assert (high + low) / 2 == pytest.approx(np.log(middle / (1 - middle)), abs=1e-9)


def test_groups_of_one_change_nothing_and_copies_of_records_add_nothing() -> None:
    scores, are = drawn(9, 120)
    for measure in (metrics.auroc, metrics.average_precision):
        once = measure(scores, are)
        assert measure(scores, are, groups=[str(i) for i in range(120)]) == once
        assert measure(scores, are, groups=[None] * 120) == once
        thrice = measure(np.repeat(scores, 3), np.repeat(are, 3), groups=np.repeat(np.arange(120), 3).astype(str))
        assert thrice.value == pytest.approx(once.value, abs=0.02)  # average precision counts ties as one threshold
        assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.05)
        lone = measure(np.repeat(scores, 3), np.repeat(are, 3))
        assert lone.high - lone.low < 0.65 * (once.high - once.low)


def test_a_perfect_ranking_is_not_sure() -> None:
    are = np.arange(30) < 5
    for measure in (metrics.auroc, metrics.average_precision):
        found = measure(are.astype(float), are)
        assert (found.value, found.high) == (1.0, 1.0)
        assert found.low == pytest.approx(metrics.wilson(5, 5).low)
    assert metrics.recall_at(are.astype(float), are, false_alarms=0).low == pytest.approx(metrics.wilson(5, 5).low)


@pytest.mark.parametrize("seed", range(4))
def test_every_interval_holds_its_value(seed: int) -> None:
    scores, are = drawn(seed, 60 + seed, ties=seed % 2 == 0)
    groups = np.random.default_rng(seed).integers(0, 15, len(are)).astype(str)
    for labels in (None, groups):
        for found in (
            metrics.auroc(scores, are, groups=labels),
            metrics.average_precision(scores, are, groups=labels),
            metrics.recall_at(scores, are, false_alarms=0.1, groups=labels),
            metrics.false_alarms_at(scores, are, recall=0.9, groups=labels),
        ):
            assert 0 <= found.low <= found.value <= found.high <= 1
            assert found.low < found.high


@pytest.mark.slow
def test_95_percent_of_intervals_of_auroc_hold_the_truth() -> None:
    rng, held = np.random.default_rng(1), []
    for _ in range(1000):
        are = rng.random(500) < 0.2
        found = metrics.auroc(rng.normal(size=500) + are * np.sqrt(2) * 0.8416212335729143, are)
        held.append(found.low <= 0.8 <= found.high)
    assert 0.93 <= np.mean(held) <= 0.97


# ---- groups


def patients(seed: int, groups: int, each: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Answers' logits (N, 3), targets and groups: a patient is of one class, and easy or hard as a whole."""
    rng = np.random.default_rng(seed)
    targets = np.repeat(rng.integers(0, 3, groups), each)
    logits = rng.normal(size=(groups * each, 3)) + np.repeat(rng.normal(size=(groups, 3)), each, axis=0)
    logits[np.arange(len(targets)), targets] += 1.5
    return logits, targets, np.repeat(np.arange(groups), each).astype(str).tolist()


def test_values_do_not_depend_on_groups_and_intervals_do() -> None:
    logits, targets, groups = patients(0, 60, 10)
    alone, grouped = (metrics.score(logits, targets, "abc", largest=0, groups=g) for g in (None, groups))
    for name, score in grouped.overall.items():
        assert score.value == pytest.approx(alone.overall[name].value, abs=1e-12)
        assert score.high - score.low > 1.5 * (alone.overall[name].high - alone.overall[name].low), name
        assert score.n == 600
    for name, each in grouped.per_class.items():
        for rate, score in each.items():
            assert score.value == pytest.approx(alone.per_class[name][rate].value, abs=1e-12)
            assert 0 <= score.low <= score.value <= score.high <= 1
            assert score.high - score.low > alone.per_class[name][rate].high - alone.per_class[name][rate].low


def test_records_without_a_group_stand_alone() -> None:
    logits, targets, _ = patients(1, 40, 1)
    expected = metrics.score(logits, targets, "abc", largest=0)
    assert metrics.score(logits, targets, "abc", largest=0, groups=[None, ""] * 20) == expected
    assert metrics.score(logits, targets, "abc", largest=0, groups=[f"{i}" for i in range(40)]) == expected


def test_the_order_of_records_does_not_matter_with_groups() -> None:
    logits, targets, groups = patients(2, 30, 4)
    once = metrics.score(logits, targets, "abc", largest=0, groups=groups)
    order = np.repeat(np.arange(30) * 4, 4) + np.tile([2, 0, 3, 1], 30)  # within the groups
    again = metrics.score(logits[order], targets[order], "abc", largest=0, groups=groups)
    for name, score in once.overall.items():
        found = again.overall[name]
        assert (found.low, found.value, found.high) == pytest.approx((score.low, score.value, score.high), abs=1e-12)


def test_a_clustered_share_is_worth_its_design_effect() -> None:
    """Against the textbook: the linearised variance of a ratio, and as many records in a simple sample."""
    hits = np.array([9, 2, 5, 8, 10, 4, 7, 6])
    hit = np.concatenate([np.arange(10) < h for h in hits])
    groups = np.repeat(np.arange(8), 10).astype(str)
    share = hits.sum() / 80
    variance = ((hits - 10 * share) ** 2).sum() / 80**2 * 8 / 7
    worth = share * (1 - share) / variance
    assert 5 < worth < 40
    found = metrics.share(hit, groups=groups)
    assert (found.low, found.high) == pytest.approx(intervals.wilson_bounds(share, worth, intervals.student(7)))


def test_one_group_is_worth_one_record() -> None:
    assert metrics.share([True] * 50, groups=["a"] * 50).low == pytest.approx(metrics.wilson(1, 1).low)
    scores = metrics.score(np.eye(2)[[0, 1, 0, 1]], [0, 1, 0, 1], "ab", largest=0, groups=["p"] * 4)
    assert scores.overall["macro F1"].low < 0.4


def test_all_right_in_five_groups_is_worth_five_records() -> None:
    found = metrics.share([True] * 50, groups=[str(i // 10) for i in range(50)])
    assert found.low == pytest.approx(intervals.wilson_bounds(1.0, 5, intervals.student(4))[0])


def test_drawing_groups_is_drawing_their_cells() -> None:
    logits, targets, groups = patients(3, 25, 4)
    of, answers = np.array(groups).astype(int), logits.argmax(1)
    cells = rates.cells(targets, answers, 3, of)
    assert cells.by_unit.sum() == 100
    for counts in cells.resampled(10):
        assert counts.sum(axis=1).tolist() == [100] * 10
    left, ones = rates._jackknife_units(cells)
    keep = of != 7
    other = rates.cells(targets[keep], answers[keep], 3)
    assert left[7] == pytest.approx(other.averages(other.counts[None])[0])
    assert len(ones) == 25


@pytest.mark.slow
def test_95_percent_of_grouped_intervals_hold_the_truth_and_ungrouped_ones_do_not() -> None:
    logits, targets, _ = patients(100, 100_000, 8)
    truth = (logits.argmax(1) == targets).mean()
    held = {True: 0, False: 0}
    for seed in range(600):
        logits, targets, groups = patients(seed, 80, 8)
        for grouped in held:
            found = metrics.accuracy(logits, targets, groups=groups if grouped else None)
            held[grouped] += found.low <= truth <= found.high
    assert 0.93 <= held[True] / 600 <= 0.97
    assert held[False] / 600 < 0.85


# ---- slices


def test_the_worst_slice_comes_first() -> None:
    targets = np.zeros(200, int)
    dark = np.arange(200) < 50
    logits = np.where((dark & (np.arange(200) % 2 == 0))[:, None], [0.0, 1.0], [1.0, 0.0])
    columns = {"light": np.where(dark, "dark", "bright"), "camera": np.array(["a", "b"] * 100), "one": ["x"] * 200}
    found = metrics.slices(logits, targets, columns)
    assert [(s.column, s.value) for s in found] == [
        ("light", "dark"), ("camera", "a"), ("camera", "b"), ("light", "bright")
    ]  # fmt: skip
    assert found[0].accuracy == metrics.wilson(25, 50)
    assert found[0].others == metrics.wilson(150, 150)


def test_numbers_are_cut_into_parts_and_small_parts_left_out() -> None:
    logits, targets = np.eye(2)[np.zeros(100, int)], np.zeros(100, int)
    found = metrics.slices(logits, targets, {"brightness": np.arange(100.0)})
    assert sorted(s.accuracy.n for s in found) == [25, 25, 25, 25]
    assert {s.value for s in found} == {"0 to 24", "25 to 49", "50 to 74", "75 to 99"}
    assert metrics.slices(logits, targets, {"x": ["a"] * 95 + ["b"] * 5}, least=10)[0].value == "a"
    labels = np.array(["a"] * 50 + ["b"] * 20 + [None] * 30, object)
    unknown = metrics.slices(logits, targets, {"x": labels})
    assert {(s.value, s.accuracy.n, s.others.n) for s in unknown} == {("a", 50, 20), ("b", 20, 50)}
    holes = metrics.slices(logits, targets, {"x": np.where(np.arange(100) < 50, np.nan, np.arange(100.0))})
    assert sum(s.accuracy.n for s in holes) == 50
    assert all(s.accuracy.n + s.others.n == 50 for s in holes)
    few = metrics.slices(logits, targets, {"x": np.array([np.nan] * 20 + [32.0] * 40 + [64.0] * 40)})
    assert {(s.value, s.others.n) for s in few} == {("32", 40), ("64", 40)}
    assert metrics.slices(logits, targets, {"x": np.full(100, np.nan), "y": np.full(100, 7.0)}) == ()


def test_slices_use_groups() -> None:
    logits, targets, groups = patients(4, 40, 6)
    column = {"half": np.arange(240) < 120}
    alone, grouped = metrics.slices(logits, targets, column), metrics.slices(logits, targets, column, groups=groups)
    assert grouped[0].accuracy.high - grouped[0].accuracy.low > alone[0].accuracy.high - alone[0].accuracy.low


# ---- what is refused


def test_what_cannot_be_ranked_is_refused() -> None:
    for scores, are, says in (
        ([0.1, 0.2], [True, True], "nothing to tell apart"),
        ([0.1, 0.2], [0, 1], "booleans"),
        ([0.1], [True, False], "do not fit"),
        ([np.nan, 0.2], [True, False], "not finite"),
    ):
        with pytest.raises(DataError, match=says):
            metrics.auroc(scores, np.array(are))
    with pytest.raises(CallError, match="recall"):
        metrics.false_alarms_at([0.1, 0.2], np.array([True, False]), recall=1.5)
    with pytest.raises(DataError, match="groups have the wrong shape"):
        metrics.auroc([0.1, 0.2], np.array([True, False]), groups=["a"])
    with pytest.raises(DataError, match="column 'x' does not fit"):
        metrics.slices(np.eye(2), [0, 1], {"x": ["a"]})


# ---- answers under thresholds


def test_thresholds_decide_answers() -> None:
    rows = np.array([[0.9, 0.1, 0.0], [0.99, 0.01, 0.0], [0.2, 0.2, 0.6], [0.1, 0.5, 0.4]])
    assert metrics.named(rows, {}).tolist() == rows.argmax(1).tolist()
    assert metrics.named(rows, {1: 0.05}).tolist() == [1, 0, 1, 1]
    assert metrics.named(rows, {1: 0.05, 2: 0.1}).tolist() == [1, 0, 2, 1]
    assert metrics.named(rows, {0: 0.95, 1: 0.6}).tolist() == [metrics.UNSURE, 0, 2, metrics.UNSURE]

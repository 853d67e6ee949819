"""Temperature and calibration error against independent implementations; thresholds by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import log_loss

from opsin import answers, calibration, evaluation, metrics
from opsin.calibration import Want
from opsin.classifier import Classifier
from opsin.errors import CallError, DataError
from tiny import ROAD, Net, seeded


def drawn(seed: int, n: int = 600, k: int = 5, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `sharpness` times as sharp as the truth from which targets are drawn."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    targets = np.array([rng.choice(k, p=row) for row in metrics.softmax(logits)])
    return logits * sharpness, targets


# ---- the temperature


@pytest.mark.parametrize("sharpness", [0.3, 1.5, 4.0])
def test_the_temperature_is_that_of_a_grid(sharpness: float) -> None:
    """Against scikit-learn's loss on a fine grid, written out."""
    logits, targets = drawn(0, sharpness=sharpness)
    grid = np.geomspace(0.1, 10, 2001)
    losses = []
    for t in grid:
        raised = np.exp(logits / t - (logits / t).max(axis=1, keepdims=True))
        losses.append(log_loss(targets, raised / raised.sum(axis=1, keepdims=True)))
    found = calibration.temperature(logits, targets)
    assert found == pytest.approx(grid[np.argmin(losses)], rel=0.004)
    assert found == pytest.approx(sharpness, rel=0.2)


def test_a_new_classifier_comes_out_and_answers_stay() -> None:
    clf = Classifier(seeded(Net), None, ROAD, ("a", "b", "c"))
    logits, targets = drawn(1, k=3, sharpness=3)
    found = calibration.calibrate(clf, logits, targets)
    assert clf.temperature == 1.0
    assert found.temperature == calibration.temperature(logits, targets) > 2
    assert (found.network, found.classes) == (clf.network, clf.classes)
    assert np.array_equal((logits / found.temperature).argmax(1), logits.argmax(1))


@pytest.mark.parametrize("seed", range(12))
def test_the_likelihood_is_never_worse_and_the_result_always_the_same(seed: int) -> None:
    logits, targets = drawn(seed, n=3 + 5 * seed, sharpness=0.5 + seed / 4)
    found = calibration.temperature(logits, targets)
    assert metrics.nll(logits / found, targets) <= metrics.nll(logits, targets)
    assert calibration.temperature(logits, targets) == found


def test_few_records_all_right_do_not_make_it_certain() -> None:
    logits = np.eye(3)[[0, 1, 2, 0]] * 2.0
    found = calibration.temperature(logits, np.array([0, 1, 2, 0]))
    assert calibration.COLDEST <= found <= 1
    assert calibration.temperature(np.array([[1.0, 0.0]]), np.array([1])) == 1.0


def test_what_is_calibrated_stays_as_it_is_on_new_records() -> None:
    """The guard: on records it has not seen, a fitted temperature costs next to nothing."""
    worse = []
    for seed in range(40):
        logits, targets = drawn(seed, n=100)
        fresh = drawn(seed + 1000, n=4000)
        found = calibration.temperature(logits, targets)
        worse.append(metrics.nll(fresh[0] / found, fresh[1]) - metrics.nll(*fresh))
    assert np.mean(worse) < 0.004
    assert max(worse) < 0.05


def test_wrong_logits_are_refused() -> None:
    for logits, targets in ((np.zeros((0, 2)), np.zeros(0, int)), (np.array([[np.nan, 1]]), np.array([0]))):
        with pytest.raises(DataError):
            calibration.temperature(logits, targets)


# ---- the calibration error


def by_hand(probabilities: np.ndarray, targets: np.ndarray, bins: int, corrected: bool) -> float:
    """Equal-mass bins by sorting and cutting; the correction by drawing the gaps' noise."""
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    order, rng, total = np.argsort(sure, kind="stable"), np.random.default_rng(0), 0.0
    edges = [-(-i * len(sure) // bins) for i in range(bins + 1)]
    for low, high in itertools.pairwise(edges):
        rows = order[low:high]
        if len(rows):
            gap, share = right[rows].mean() - sure[rows].mean(), right[rows].mean()
            noise = rng.normal(size=400_000) * np.sqrt(share * (1 - share) / (len(rows) - 1))
            bias = np.abs(gap + noise).mean() - abs(gap) if corrected else 0.0
            total += len(rows) / len(sure) * (abs(gap) - bias)
    return max(0.0, total)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_the_calibration_error_is_that_of_another_implementation(sharpness: float, corrected: bool) -> None:
    logits, targets = drawn(4, n=900, sharpness=sharpness)
    probabilities = metrics.softmax(logits)
    found = metrics.ece(probabilities, targets, bins=15, corrected=corrected)
    tolerance = 3e-4 if corrected else 1e-12
    assert found == pytest.approx(by_hand(probabilities, targets, 15, corrected), abs=tolerance)


def test_the_correction_takes_off_what_chance_makes() -> None:
    plain, corrected = [], []
    for seed in range(30):
        logits, targets = drawn(seed, n=300)
        probabilities = metrics.softmax(logits)
        plain.append(metrics.ece(probabilities, targets))
        corrected.append(metrics.ece(probabilities, targets, corrected=True))
    assert np.mean(plain) > 0.05  # of a classifier without any error
    assert np.mean(corrected) < 0.6 * np.mean(plain)


def test_calibrating_makes_honest() -> None:
    logits, targets = drawn(5, n=4000, sharpness=3)
    found = calibration.temperature(*drawn(6, n=2000, sharpness=3))
    before, after = (calibration.honesty(logits, targets, temperature=t) for t in (1.0, found))
    assert before.ece > 0.1
    assert after.ece < 0.02
    assert after.nll < before.nll
    assert after.brier < before.brier


def test_bins_of_the_diagram_hold_every_record_once() -> None:
    logits, targets = drawn(7, n=310)
    bins = calibration.reliability(logits, targets, bins=10)
    assert [b.accuracy.n for b in bins] == [31] * 10
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)
    assert sum(b.accuracy.value * 31 for b in bins) == pytest.approx((logits.argmax(1) == targets).sum())


# ---- thresholds


@pytest.mark.parametrize("rate", ["recall", "precision"])
@pytest.mark.parametrize("least", [0.5, 0.8, 0.95])
def test_a_threshold_is_the_cheapest_that_reaches_what_was_wanted(rate: str, least: float) -> None:
    logits, targets = drawn(8, n=400, k=3)
    probabilities = metrics.softmax(logits)
    found = calibration.threshold(probabilities, targets, "abc", Want("b", rate, least))
    scores, are = probabilities[:, 1], targets == 1
    of = {"recall": lambda t: are, "precision": lambda t: scores >= t}[rate]
    fitting = [t for t in np.unique(scores) if (are & (scores >= t)).sum() / (of(t).sum() + 1) >= least]
    cheapest = max(fitting) if rate == "recall" else min(fitting)
    np.testing.assert_array_equal(scores >= found, scores >= cheapest)
    below = scores[scores < cheapest].max(initial=0.0)
    assert found == pytest.approx((cheapest + below) / 2, rel=1e-12)  # no rounding error loses a picture
    assert 0 <= found <= 1


def test_what_cannot_be_reached_says_so() -> None:
    probabilities = np.array([[0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    with pytest.raises(DataError, match=r"b precision>=0.9 cannot.*9 or more pictures.*0.667 .* on 3 .*at most 0.5,"):
        calibration.threshold(probabilities, np.array([0, 1, 1]), "ab", Want("b", "precision", 0.9))
    with pytest.raises(DataError, match="no picture on 0"):
        calibration.threshold(probabilities, np.zeros(3, int), "ab", Want("b", "recall", 0.9))
    rows, targets = np.tile([[0.4, 0.6], [0.6, 0.4]], (50, 1)), np.ones(100, int)
    targets[::4] = 0
    with pytest.raises(DataError, match="a network that is so good"):
        calibration.threshold(rows, targets, "ab", Want("b", "precision", 0.9))


def test_so_few_pictures_promise_nothing_before_any_work() -> None:
    wanted = calibration.wants("b recall>=0.98", "ab")
    calibration.refuse_hopeless(wanted, {"a": 3, "b": 49})
    with pytest.raises(DataError, match=r"49 or more of 'b', received 48; all of them right would be 1.000 \[0.92"):
        calibration.refuse_hopeless(wanted, {"a": 300, "b": 48})
    with pytest.raises(DataError, match="49 or more of 'b', received 10"):
        calibration.refuse_hopeless(calibration.wants("b precision>=0.98", "ab"), {"a": 990, "b": 10})
    calibration.refuse_hopeless(calibration.wants("accuracy>=0.98", "ab"), {"a": 990, "b": 10})


def test_neighbouring_probabilities_keep_a_threshold_between_them() -> None:
    one = 0.7
    steps = np.array([one, np.nextafter(one, 1), np.nextafter(np.nextafter(one, 1), 1)])
    assert one < calibration._below(steps, 1) <= steps[1] < calibration._below(steps, 2) <= steps[2]
    assert (calibration._below(np.array([0.0, 1.0]), 0), calibration._below(np.array([0.5, 1.0]), 0)) == (0.0, 0.25)


def test_a_wanted_recall_holds_on_average_on_new_pictures() -> None:
    """Split conformal prediction's promise, which the smallest threshold that does it on the fitting part breaks."""
    rng = np.random.default_rng(0)
    new, reached = rng.normal(size=20_000), []
    for _ in range(400):
        scores = 1 / (1 + np.exp(-rng.normal(size=30)))
        rows = np.column_stack([1 - scores, scores])
        least = calibration.threshold(rows, np.ones(30, int), "ab", Want("b", "recall", 0.9))
        reached.append((1 / (1 + np.exp(-new)) >= least).mean())
    assert 0.9 <= np.mean(reached) < 0.93


def test_thresholds_are_stored_and_decide() -> None:
    clf = Classifier(seeded(Net), None, ROAD, ("a", "b", "c"), temperature=2.0)
    logits, targets = drawn(9, n=500, k=3)
    changed, (found,) = calibration.with_thresholds(clf, logits, targets, [Want("c", "recall", 0.9)])
    assert clf.thresholds == {}
    assert changed.thresholds == {"c": found.probability}
    answers = metrics.named(metrics.softmax(logits / 2), {2: found.probability})
    price = found.price["calibration"]
    assert (answers[targets == 2] == 2).mean() == pytest.approx(price["recall"].value)
    assert (answers[targets != 2] == 2).mean() == pytest.approx(price["false alarms"].value)
    assert price["recall"].value >= 0.9
    (priced,) = calibration.priced(changed, [found], "test", logits[:100], targets[:100])
    assert priced.price["test"]["recall"].n == (targets[:100] == 2).sum()


def test_a_wanted_accuracy_leaves_the_rest_unsure() -> None:
    clf = Classifier(seeded(Net), None, ROAD, ("a", "b", "c"))
    logits, targets = drawn(9, n=2000, k=3)
    plain = metrics.accuracy(logits, targets).value
    wanted = calibration.wants("accuracy>=95%; c recall>=0.9", clf.classes)
    assert [str(one) for one in wanted] == ["c recall>=0.9", "accuracy>=0.95"]
    alone, (found,) = calibration.with_thresholds(clf, logits, targets, wanted[1:])
    price = found.price["calibration"]
    said = answers.named(alone, metrics.softmax(logits))
    sure = metrics.softmax(logits).max(1) >= alone.unsure_below
    assert plain < 0.95
    assert (said == metrics.UNSURE).tolist() == (~sure).tolist()
    assert price["accuracy on answered"].value == pytest.approx((said == targets)[sure].mean())
    assert 0.95 <= price["accuracy on answered"].value < 0.96
    assert price["coverage"].value == pytest.approx(sure.mean())
    scores = evaluation.score(alone, logits, targets, "a")
    assert scores.overall["accuracy"].value == pytest.approx((said == targets).mean())
    assert scores.overall["accuracy on answered"] == price["accuracy on answered"]
    assert sum(scores.unsure) + sum(map(sum, scores.confusion)) == 2000
    assert scores.per_class["a"]["recall"].value == pytest.approx((said == 0)[targets == 0].mean())
    assert metrics.from_dict(metrics.to_dict(scores)) == scores


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bad recall>=0.98", Want("bad", "recall", 0.98)),
        ("very bad  precision >= 95 %", Want("very bad", "precision", 0.95)),
        ("recall recall>=.9", Want("recall", "recall", 0.9)),
        ("accuracy>=99%", Want("", "accuracy", 0.99)),
    ],
)
def test_wants_are_read(text: str, expected: Want) -> None:
    assert calibration.want(text, ["good", "bad", "very bad", "recall"]) == expected


@pytest.mark.parametrize(
    "text",
    ["bad", "bad recall>0.9", "bad f1>=0.9", "bad recall>=0", "bad recall>=1", "bad recall>=.", "bad accuracy>=0.9"],
)
def test_wrong_wants_are_refused(text: str) -> None:
    with pytest.raises(CallError, match="want"):
        calibration.want(text, ["good", "bad"])


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(CallError, match="Did you mean 'bad'"):
        calibration.want("bda recall>=0.9", ["good", "bad"])

"""Two classifiers: differences by hand and by simulation, plain words, the gate, the command."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from opsin import comparison, metrics
from opsin.app import cli
from opsin.classifier import Classifier
from opsin.comparison import Difference
from opsin.errors import CallError, DataError
from opsin.vocabulary import finished
from tiny import ROAD, Linear, digits, seeded, write_pngs

NAMES = ("a", "b", "c")


def answers(seed: int, n: int = 400, right: tuple[float, float] = (0.7, 0.8)) -> tuple[np.ndarray, ...]:
    """Targets and two sets of answers that are right so often."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, n)
    return targets, *(np.where(rng.random(n) < p, targets, rng.integers(0, 3, n)) for p in right)


def test_values_are_those_of_metrics() -> None:
    targets, first, second = answers(0)
    found = comparison.compare(first, second, targets, NAMES)
    matrices = [metrics.confusion(targets, answer, 3) for answer in (first, second)]
    assert found.overall["accuracy"].value == pytest.approx((second == targets).mean() - (first == targets).mean())
    macro = found.overall["macro F1"]
    assert (macro.first, macro.second) == pytest.approx([metrics.macro_f1(m) for m in matrices])
    for c, one in enumerate(found.per_class.values()):
        assert (one.first, one.second) == pytest.approx([metrics.f1(m)[c].value for m in matrices])
        assert one.n == (targets == c).sum()
        assert one.low <= one.value <= one.high
    assert found.only_first == ((first == targets) & (second != targets)).sum()


def test_mid_p_is_the_definition() -> None:
    for b, c in ((0, 0), (0, 3), (5, 5), (2, 9), (30, 12)):
        k = np.arange(b + c + 1)
        weights = stats.binom.pmf(k, b + c, 0.5)
        tail = weights[k < min(b, c)].sum() + weights[k == min(b, c)].sum() / 2
        assert comparison.mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail))
        assert comparison.mcnemar(c, b) == comparison.mcnemar(b, c)


@pytest.mark.parametrize("groups", [None, [f"g{row // 8}" for row in range(400)]])
def test_accuracy_alone_is_that_of_all(groups: list[str] | None) -> None:
    targets, first, second = answers(3)
    whole = comparison.compare(first, second, targets, NAMES, groups=groups)
    assert comparison.compare_accuracy(first, second, targets, groups=groups) == (whole.overall["accuracy"], whole.p)
    rows = np.arange(400).reshape(50, 8) if groups else np.arange(400)[:, None]
    drawn = np.random.default_rng(0).integers(0, len(rows), (4000, len(rows)))
    gap = ((second == targets).astype(float) - (first == targets))[rows].mean(1)[drawn].mean(1)
    found = whole.overall["accuracy"]
    assert (found.low, found.high) == pytest.approx(np.quantile(gap, [0.025, 0.975]), abs=0.01)


def test_the_paired_interval_is_narrower_than_that_of_two_tests() -> None:
    rng = np.random.default_rng(3)
    targets, first, _ = answers(1, 1000)
    second = np.where(rng.random(1000) < 0.05, targets, first)
    found = comparison.compare(first, second, targets, NAMES).overall["accuracy"]
    alone = metrics.accuracy(np.eye(3)[first], targets)
    assert found.high - found.low < (alone.high - alone.low) / 2
    assert found.shown == 1
    expected = comparison.paired_shares(0, round(found.value * 1000), 1000)
    assert (found.low, found.high) == pytest.approx(expected)


def test_swapping_the_sides_turns_the_difference() -> None:
    targets, first, second = answers(2)
    there, back = (comparison.compare(*pair, targets, NAMES) for pair in ((first, second), (second, first)))
    for name, one in there.overall.items():
        assert one.value == pytest.approx(-back.overall[name].value)
        assert one.low == pytest.approx(-back.overall[name].high, abs=0.01)
    assert there.p == back.p


def test_the_same_answers_show_nothing_and_are_not_certain() -> None:
    targets, first, _ = answers(4, 50)
    found = comparison.compare(first, first, targets, NAMES)
    for one in (*found.overall.values(), *found.per_class.values()):
        assert one.shown == 0
        assert one.low < 0 < one.high
    assert found.p == 1.0
    assert "no difference shown: +0.0 points" in comparison.words(found)


def test_about_five_in_a_hundred_pairs_of_equal_ones_look_different() -> None:
    shown = {"accuracy": 0, "macro F1": 0}
    for seed in range(200):
        targets, first, second = answers(seed, 300, (0.75, 0.75))
        found = comparison.compare(first, second, targets, NAMES)
        for name in shown:
            shown[name] += found.overall[name].shown != 0
    assert all(2 <= count <= 20 for count in shown.values()), shown  # 1 to 10 %


def test_groups_widen_the_interval() -> None:
    targets, first, second = (np.repeat(column, 10) for column in answers(5, 60))
    groups = np.repeat(np.arange(60), 10).astype(str)
    alone, grouped = (comparison.compare(first, second, targets, NAMES, groups=g) for g in (None, groups))
    for name, one in grouped.overall.items():
        assert one.high - one.low > 2 * (alone.overall[name].high - alone.overall[name].low)
    assert grouped.p is None
    assert "p " not in comparison.words(grouped).splitlines()[0]


def test_untested_classes_are_left_out_and_wrong_answers_refused() -> None:
    found = comparison.compare(np.array([0, 2, 1]), np.array([0, 0, 1]), np.array([0, 0, 1]), NAMES)
    assert list(found.per_class) == ["a", "b"]
    with pytest.raises(DataError, match="out of range"):
        comparison.compare(np.array([3]), np.array([0]), np.array([0]), NAMES)


# ---- several labels, quantities


def labelled(seed: int, n: int = 200, noise: tuple[float, float] = (1.0, 1.0)) -> tuple[np.ndarray, ...]:
    """Targets of three labels, a tenth of them unknown, and two probabilities that are off by so much."""
    rng = np.random.default_rng(seed)
    true = (rng.random((n, 3)) < (0.5, 0.3, 0.2)).astype(float)
    sides = (1 / (1 + np.exp(-2 * (true - 0.5 + rng.normal(0, each, true.shape)))) for each in noise)
    return np.where(rng.random(true.shape) < 0.1, np.nan, true), *sides


def measured(seed: int, n: int = 200, noise: tuple[float, float] = (1.0, 1.0)) -> tuple[np.ndarray, ...]:
    """The same of two quantities, one a hundred times as large as the other."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1, (n, 2))
    sides = ((true + rng.normal(0, each, true.shape)) * (1, 100) for each in noise)
    return np.where(rng.random(true.shape) < 0.1, np.nan, true * (1, 100)), *sides


LEAST = [(0.5, 0.5, 0.5), (0.4, 0.5, 0.6)]
SCALE = ((0.0, 1.0), (0.0, 100.0))


def test_values_of_labels_are_those_of_metrics() -> None:
    true, *sides = labelled(0)
    found = comparison.compare_labels(*sides, true, NAMES, LEAST)
    first, second = (metrics.score_labels(each, true, NAMES, least) for each, least in zip(sides, LEAST))
    for name, one in found.overall.items():
        assert (one.first, one.second) == pytest.approx((first.overall[name].value, second.overall[name].value))
    for name, one in found.per_class.items():
        assert (one.first, one.second) == pytest.approx([s.per_class[name]["F1"].value for s in (first, second)])
        assert one.low <= one.value <= one.high
    exact = [round(each.overall["exact match"].value * each.overall["exact match"].n) for each in (first, second)]
    assert found.only_second - found.only_first == exact[1] - exact[0]


def test_values_of_quantities_are_those_of_metrics() -> None:
    true, *sides = measured(0)
    found = comparison.compare_quantities(*sides, true, ("a", "b"), SCALE)
    first, second = (metrics.score_quantities(each, true, ("a", "b"), (0, 0)) for each in sides)
    one = found.overall["mean relative MAE"]
    expected = [each.overall["mean relative MAE"].value for each in (first, second)]
    assert (one.first, one.second) == pytest.approx(expected)
    for name, one in found.per_class.items():
        assert (one.first, one.second) == pytest.approx([s.per_class[name]["MAE"].value for s in (first, second)])
    alone = comparison.compare_quantities(*(s[:, :1] for s in sides), true[:, :1], ("a",), SCALE[:1])
    assert list(alone.overall) == ["MAE", "RMSE"]
    assert alone.overall["MAE"] == alone.per_class["a"]
    assert alone.overall["RMSE"].first == pytest.approx(first.per_class["a"]["RMSE"].value)
    nearer = np.abs(sides[0] - true)[:, 0] < np.abs(sides[1] - true)[:, 0]
    assert alone.only_first == nearer.sum()


@pytest.mark.parametrize("made", [labelled, measured])
def test_a_better_one_of_another_task_is_shown_and_groups_widen(made) -> None:
    true, *sides = made(1, 400, (1.5, 0.9))
    rows = np.repeat(np.arange(400), 5)
    groups = rows.astype(str)

    def of(one, other, groups=None):
        if made is labelled:
            return comparison.compare_labels(one, other, true[rows], NAMES, [LEAST[0]] * 2, groups=groups)
        return comparison.compare_quantities(one, other, true[rows], ("a", "b"), SCALE, groups=groups)

    one, other = (side[rows] for side in sides)
    there, back, alone = of(one, other, groups), of(other, one, groups), of(one, other)
    for name, found in there.overall.items():
        assert (found.shown, back.overall[name].shown) == (1, -1)
        assert "B is better by" in found.words()
        assert "A is better by" in back.overall[name].words()
        assert found.low == pytest.approx(-back.overall[name].high, abs=0.02)
        narrow = alone.overall[name]
        assert found.high - found.low > 1.8 * (narrow.high - narrow.low)
    assert there.p is None
    assert alone.only_second > alone.only_first
    assert of(one, one).p == 1.0
    same = of(one, one)
    assert {each.shown for each in (*same.overall.values(), *same.per_class.values())} == {0}
    assert made is measured or all(each.low < 0 < each.high for each in same.overall.values())


@pytest.mark.parametrize(("made", "names"), [(labelled, ["mAP", "macro F1"]), (measured, ["mean relative MAE"])])
def test_about_five_in_a_hundred_pairs_of_equal_ones_of_another_task_look_different(made, names) -> None:
    shown = dict.fromkeys(names, 0)
    for seed in range(100):
        true, *sides = made(seed, 120)
        if made is labelled:
            found = comparison.compare_labels(*sides, true, NAMES, [LEAST[0]] * 2)
        else:
            found = comparison.compare_quantities(*sides, true, ("a", "b"), SCALE)
        for name in names:
            shown[name] += found.overall[name].shown != 0
    assert all(1 <= count <= 12 for count in shown.values()), shown


def test_errors_in_words_and_at_the_gate() -> None:
    lower = Difference(2.0, 1.5, -0.75, -0.25, 9, error=True)
    assert lower.words() == "B is better by 0.5 [0.25, 0.75]"
    assert Difference(1.5, 2.0, 0.25, 0.75, 9, error=True).words() == "A is better by 0.5 [0.25, 0.75]"
    assert Difference(1.5, 1.6, -0.1, 0.3, 9, error=True).words() == "no difference shown: +0.1 [-0.1, +0.3]"
    found = comparison.Comparison(
        9, {"MAE": Difference(1.5, 1.6, -0.1, 0.3, 9, True)}, {"x": lower}, 1, 2, 0.5, "regression"
    )
    texts = "mae not worse, MAE within 20 points, MAE within 19 points, MAE better, every class better"
    assert [verdict.passed for verdict in comparison.gate(found, texts)] == [True, True, False, False, True]
    with pytest.raises(CallError, match="unknown score 'accuracy'"):
        comparison.gate(found, "accuracy better")
    assert comparison.to_dict(found)["task"] == "regression"
    assert comparison.words(found).startswith("9 pictures; A is closer on 1, B on 2; by chance")


def test_one_record_or_one_patient_shows_nothing() -> None:
    true, first, second = measured(0, n=20, noise=(1.0, 0.1))
    one = comparison.compare_quantities(first, second, true, ("a", "b"), SCALE, groups=["patient"] * 20)
    assert all(difference.shown == 0 for difference in (*one.overall.values(), *one.per_class.values()))
    assert [verdict.passed for verdict in comparison.gate(one, "every class better")] == [False]
    assert "no interval" in comparison.words(one)
    assert json.loads(json.dumps(comparison.to_dict(one), allow_nan=False))["per_class"]["a"]["low"] is None
    alone = comparison.compare_quantities(first[:1], second[:1], true[:1], ("a", "b"), SCALE)
    assert alone.per_class["a"].shown == 0


# ---- words and the gate


def test_differences_in_plain_words() -> None:
    assert Difference(0.9, 0.88, -0.03, -0.01, 9).words("old", "new") == "old is better by 2.0 points [1.0, 3.0]"
    assert Difference(0.9, 0.91, -0.01, 0.03, 9).words() == "no difference shown: +1.0 points [-1.0, +3.0]"


FOUND = comparison.Comparison(
    100,
    {"accuracy": Difference(0.9, 0.88, -0.04, 0.0, 100), "macro F1": Difference(0.9, 0.93, 0.01, 0.05, 100)},
    {"a": Difference(0.9, 0.885, -0.03, -0.001, 50), "b, bad": Difference(0.9, 0.95, 0.01, 0.09, 50)},
    5,
    3,
    0.7,
)


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("macro-f1 not worse, every class within 3 points", [True, True]),
        ("Macro F1 better, accuracy not worse", [True, True]),
        ("accuracy better", [False]),
        ("accuracy within 1 point, accuracy within 2.5 points, accuracy within 4 points", [False, False, True]),
        ("every class not worse", [False]),
        ("class a within 2.9 points, class a within 3.0 points", [False, True]),
    ],
)
def test_the_gate(text: str, passed: list[bool]) -> None:
    verdicts = comparison.gate(FOUND, text)
    assert [verdict.passed for verdict in verdicts] == passed
    assert all(bool(verdict.reason) != verdict.passed for verdict in verdicts)


def test_the_gate_tells_on_how_few_pictures_no_loss_is_shown() -> None:
    """On three pictures nothing is shown, and nothing is ruled out either."""
    right = np.arange(3) % 2
    found = comparison.compare(right, np.array([right[0], *(1 - right[1:])]), right, ("a", "b"))
    assert found.overall["accuracy"].value == pytest.approx(-2 / 3)
    kept, within, each = comparison.gate(
        found, "accuracy not worse, accuracy within 67 points, every class within 60 points"
    )
    assert (kept.passed, kept.n) == (True, 3)
    assert (within.passed, within.n) == (False, 3)
    assert (each.passed, each.n) == (False, 1)
    assert "gate: accuracy not worse: passed on 3 pictures" in comparison.words(found, [kept])


@pytest.mark.parametrize(
    "text", ["", "macro-f1", "f1 not worse", "every class within two points", "accuracy not worse,"]
)
def test_other_conditions_are_refused(text: str) -> None:
    with pytest.raises(CallError, match="gate"):
        comparison.conditions(text)
    with pytest.raises(CallError, match="unknown class 'x'"):
        comparison.gate(FOUND, "class x not worse")


def test_json_has_it_all() -> None:
    plain = json.loads(json.dumps(comparison.to_dict(FOUND, comparison.gate(FOUND, "accuracy better"))))
    assert plain["overall"]["macro F1"]["shown"]
    assert plain["per_class"]["a"]["value"] == pytest.approx(-0.015)
    assert plain["gate"][0]["passed"] is False


# ---- of two classifiers


def test_classes_in_another_order_are_matched_by_name() -> None:
    data = digits(each=8, names=("a", "b", "c"))
    clf = Classifier(seeded(Linear), None, ROAD, NAMES)
    turned = dataclasses.replace(clf, classes=("c", "a", "b"))
    found = finished(comparison.comparing(clf, clf, data))
    assert (found.n, found.only_first, found.only_second) == (24, 0, 0)
    other = finished(comparison.comparing(clf, turned, data))
    assert other.only_first + other.only_second > 0
    with pytest.raises(DataError, match=r"know different classes: expected a, b, c, received a, b, x"):
        finished(comparison.comparing(clf, dataclasses.replace(clf, classes=("a", "b", "x")), data))


@pytest.fixture
def two(tmp_path, monkeypatch) -> list[str]:
    """Two trained runs on a folder of pictures, one of them hardly trained."""
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "pictures", {"dark": 30, "light": 30})
    for name, epochs in (("a", "1"), ("b", "6")):
        line = ["train", "pictures", "--recipe", "textbook", "--out", name, "--json", "--device", "cpu"]
        choices = [f"epochs={epochs}", "size=8", "batch=16", "lr=0.02"]
        line += ["--precision", "fp32", "--threads", "1"]
        assert cli.run(line + [word for choice in choices for word in ("--set", choice)]) == 0
    return ["compare", "a", "b", "pictures"]


def test_the_command_tells_and_gates(two, capsys) -> None:
    capsys.readouterr()
    assert cli.run(two) == 0
    told = capsys.readouterr().out
    assert "pictures; A alone is right on" in told
    assert "macro F1" in told
    assert cli.run([*two, "--gate", "accuracy within 100 points", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["gate"] == [{"condition": "accuracy within 100 points", "passed": True, "reason": "", "n": plain["n"]}]
    assert cli.run(["compare", "a", "a", "pictures", "--gate", "macro-f1 better"]) == 1
    assert "NOT passed" in capsys.readouterr().out
    assert cli.run([*two, "--gate", "nonsense"]) == 2

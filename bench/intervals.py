"""Do 95 % intervals hold the truth 95 times in 100? `python bench/intervals.py [LOGITS.npz]`: a few minutes, one core.

Truths are known because records are drawn here. The last table takes the logits that a run kept (logits/test.npz).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from record import conditions, write
from scipy.special import ndtri
from scipy.stats import binom, norm

from opsin import metrics
from opsin.metrics import intervals
from opsin.vocabulary import Score

DRAWS = 1000
COLUMNS = ("what", "conditions", "coverage", "below the truth", "above", "median width")
# joint shares [true][said] of three classes, the rarest a tenth
TRUTH = np.array([[0.50, 0.06, 0.04], [0.04, 0.20, 0.01], [0.03, 0.02, 0.10]])


def covered(truth: float, found: list[Score]) -> list[str]:
    """Coverage, misses on each side, median width; all in percent but the last."""
    low, high = np.array([(s.low, s.high) for s in found]).T
    inside = ((low <= truth) & (truth <= high)).mean()
    return [
        f"{inside:.1%}", f"{(high < truth).mean():.1%}", f"{(low > truth).mean():.1%}", f"{np.median(high - low):.3f}"
    ]  # fmt: skip


def wilsons() -> Iterator[list[str]]:
    """Exact, by summing over all outcomes: p 0.50 to 0.99, n 100 to 1,000."""
    held = []
    for n in range(100, 1001, 50):
        bounds = np.array([intervals.wilson_bounds(k / n, n) for k in range(n + 1)])
        for p in np.arange(0.5, 0.995, 0.01):
            inside = (bounds[:, 0] <= p) & (p <= bounds[:, 1])
            held.append(binom.pmf(np.arange(n + 1), n, p)[inside].sum())
    conditions_ = "p 0.50 to 0.99, n 100 to 1,000, exact"
    yield ["Wilson, mean", conditions_, f"{np.mean(held):.2%}", "", "", ""]
    yield ["Wilson, worst", conditions_, f"{np.min(held):.2%}", "", "", ""]


def f1s(rng: np.random.Generator) -> Iterator[list[str]]:
    truth = 2 * np.diagonal(TRUTH) / (TRUTH.sum(axis=0) + TRUTH.sum(axis=1))
    for n in (500, 1000):
        drawn = [rng.multinomial(n, TRUTH.ravel()).reshape(3, 3) for _ in range(DRAWS)]
        yield ["F1 of the rarest class", f"n {n}, Wilson on J", *covered(truth[2], [metrics.f1(m)[2] for m in drawn])]
        found = [metrics.averages(m)["macro F1"] for m in drawn]
        yield ["macro F1", f"n {n}, BCa, 3 classes", *covered(truth.mean(), found)]


def many(rng: np.random.Generator) -> Iterator[list[str]]:
    """200 classes of about ten records, 70 % right."""
    k, n = 200, 2000
    share = np.where(np.eye(k, dtype=bool), 0.7, 0.3 / (k - 1)) / k
    found = [metrics.averages(rng.multinomial(n, share.ravel()).reshape(k, k))["macro F1"] for _ in range(DRAWS // 5)]
    yield ["macro F1", f"n {n}, {k} classes, {DRAWS // 5} draws", *covered(0.7, found)]


def six(rng: np.random.Generator) -> Iterator[list[str]]:
    """A class of exactly six records among 600, of which 67 % are found, and 0.3 % of the others are named so."""
    hits, alarms = rng.binomial(6, 0.67, DRAWS), rng.binomial(594, 0.003, DRAWS)
    matrices = [np.array([[594 - a, a], [6 - h, h]]) for h, a in zip(hits, alarms)]
    truth = 2 * 0.67 * 6 / (6 + 0.67 * 6 + 0.003 * 594)
    where = "6 positives of 600"
    yield ["F1, six positives", f"{where}, Wilson on J", *covered(truth, [metrics.f1(m)[1] for m in matrices])]
    naive = []
    for m in matrices:
        drawn = rng.multinomial(600, m.ravel() / 600, 1000)
        f1 = 2 * drawn[:, 3] / np.maximum(2 * drawn[:, 3] + drawn[:, 1] + drawn[:, 2], 1)
        naive.append(Score(0, *np.quantile(f1, [0.025, 0.975]), 600))
    yield ["the same, percentile bootstrap", where, *covered(truth, naive)]
    yield [
        "what it says of 4 of 6 found, 2 false alarms",
        where,
        str(metrics.f1(np.array([[592, 2], [2, 4]]))[1]),
        "",
        "",
        "",
    ]


def normals(rng: np.random.Generator, n: int, positive: float, auroc: float) -> tuple[np.ndarray, np.ndarray]:
    are = rng.random(n) < positive
    return rng.normal(size=n) + are * np.sqrt(2) * ndtri(auroc), are


def ap(scores: np.ndarray, are: np.ndarray) -> float:
    return metrics.average_precision(scores, are).value


def rankings(rng: np.random.Generator) -> Iterator[list[str]]:
    for n, positive, auroc in ((500, 0.5, 0.8), (500, 0.1, 0.9), (500, 0.1, 0.98), (1000, 0.05, 0.9)):
        tests = [normals(rng, n, positive, auroc) for _ in range(DRAWS)]
        where = f"n {n}, {positive:.0%} positive"
        gap = np.sqrt(2) * ndtri(auroc)
        whole = normals(np.random.default_rng(1), 4_000_000, positive, auroc)
        yield [f"AUROC {auroc}", where, *covered(auroc, [metrics.auroc(*t) for t in tests])]
        truth = ap(*whole)
        yield [f"average precision {truth:.2f}", where, *covered(truth, [metrics.average_precision(*t) for t in tests])]
        truth = norm.sf(norm.isf(0.05) - gap)
        found = [metrics.recall_at(*t, false_alarms=0.05) for t in tests[:400]]
        yield [f"recall {truth:.2f} at 5 % false alarms", where + ", 400 draws", *covered(truth, found)]
        truth = norm.sf(norm.isf(0.9) + gap)
        found = [metrics.false_alarms_at(*t, recall=0.9) for t in tests[:400]]
        yield [f"false alarms {truth:.3f} at 90 % recall", where + ", 400 draws", *covered(truth, found)]


def patients(rng: np.random.Generator, groups: int, each: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Logits (N, 2), targets and groups: a patient has one class, and a shift of its own of all its logits."""
    target = np.repeat(rng.random(groups) < 0.4, each).astype(int)
    shift = np.repeat(rng.normal(size=groups), each)
    logit = 1.5 * (2 * target - 1) + shift + rng.normal(size=groups * each)
    names = np.repeat(np.arange(groups), each).astype(str).tolist()
    return np.stack([np.zeros_like(logit), logit], axis=1), target, names


def clusters(rng: np.random.Generator) -> Iterator[list[str]]:
    logits, targets, _ = patients(np.random.default_rng(2), 300_000, 10)
    truths = {
        "accuracy": (logits.argmax(1) == targets).mean(),
        "macro F1": metrics.macro_f1(metrics.confusion(targets, logits.argmax(1), 2)),
        "macro AUROC": metrics.auroc(logits[:, 1], targets == 1).value,
        "macro average precision": np.mean([ap(side * logits[:, 1], targets == k) for k, side in ((0, -1), (1, 1))]),
    }
    for groups in (50, 100):
        tests = [patients(rng, groups, 10) for _ in range(DRAWS)]
        scored = {
            "with groups": [metrics.score(t[0], t[1], "ab", largest=0, groups=t[2]) for t in tests],
            "taken for independent": [metrics.score(t[0], t[1], "ab", largest=0) for t in tests],
        }
        for name, truth in truths.items():
            for how, scores in scored.items():
                found = [s.overall[name] for s in scores]
                yield [name, f"{groups} patients of 10 pictures, {how}", *covered(truth, found)]
        for how, scores in scored.items():
            truth = (logits[targets == 1].argmax(1) == 1).mean()
            found = [s.per_class["b"]["recall"] for s in scores]
            yield ["recall of one class", f"{groups} patients of 10 pictures, {how}", *covered(truth, found)]
        yield [
            "accuracy",
            f"{groups} patients of 10 pictures, with groups, BCa bootstrap of groups instead",
            *covered(truths["accuracy"], [bootstrapped_accuracy(*t) for t in tests]),
        ]


def bootstrapped_accuracy(logits: np.ndarray, targets: np.ndarray, names: list[str]) -> Score:
    right = (logits.argmax(1) == targets).reshape(-1, 10).sum(axis=1)
    weights = next(intervals.resampled(len(right), 1000, 1))
    left = (right.sum() - right) / (10 * (len(right) - 1))
    low, high = intervals.bca(right.mean() / 10, weights @ right / len(targets), left, np.ones(len(right), int))
    return Score(0, low, high, len(right))


def false_alarms(file: str, rng: np.random.Generator) -> Iterator[list[str]]:
    """Pairs of answers drawn from one model's own probabilities: no difference is there to be found."""
    from opsin import comparison

    with np.load(file) as kept:
        logits, targets, names = kept["logits"], kept["targets"], kept["classes"].tolist()
    sure = np.cumsum(metrics.softmax(logits), axis=1)
    for n in (500, len(targets)):
        found = []
        for _ in range(200):
            rows = rng.choice(len(targets), n, replace=n < len(targets))
            drawn = [(rng.random((n, 1)) > sure[rows]).sum(axis=1).clip(max=len(names) - 1) for _ in range(2)]
            found.append(comparison.compare(*drawn, targets[rows], names))
        for what in ("accuracy", "macro F1"):
            shown = np.mean([c.overall[what].shown != 0 for c in found])
            yield [what, f"200 pairs, n {n:,}", f"{shown:.1%}"]
        yield ["McNemar's mid-p below 0.05", f"200 pairs, n {n:,}", f"{np.mean([c.p < 0.05 for c in found]):.1%}"]
        each = np.mean([d.shown != 0 for c in found for d in c.per_class.values()])
        yield ["F1 of a class", f"200 pairs, n {n:,}", f"{each:.1%}"]


def main() -> None:
    """Every table."""
    parts: tuple[Callable[[np.random.Generator], Iterator[list[str]]], ...] = (f1s, many, six, rankings, clusters)
    began = time.perf_counter()
    rows = [*wilsons()]
    for part in parts:
        rows += part(np.random.default_rng(20_26))
        print(f"{part.__name__}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    notes = [f"{DRAWS:,} draws where nothing else is said: a coverage is known to ± 1.4 points; goal 93 to 97 %"]
    write(
        "intervals",
        "Do 95 % intervals hold the truth?",
        COLUMNS,
        rows,
        conditions=conditions("numpy", "scipy"),
        notes=notes,
    )
    for file in sys.argv[1:]:
        rows = [*false_alarms(file, np.random.default_rng(1))]
        notes = ["answers drawn twice from one model's probabilities on its test; goal about 5 %"]
        title = "How often compare shows a difference where there is none"
        write(
            "compare",
            title,
            ("what", "conditions", "shown"),
            rows,
            conditions=conditions("numpy", "scipy"),
            notes=notes,
        )


if __name__ == "__main__":
    main()

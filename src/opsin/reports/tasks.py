"""What a report says of several labels or of quantities, where it says something else than of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import metrics
from ..metrics import labels
from ..vocabulary import Scale, Score, Scores, Task

if TYPE_CHECKING:
    from .contents import Answers

MISTAKES = 12
POINTS = 1_000  # of a chart


def scores(tested: Answers, answers: np.ndarray, task: Task, least: Sequence[float], scale: Scale) -> Scores:
    """The Scores of answers, (N, K) probabilities or quantities, under thresholds (K,)."""
    if task == "multi-label":
        return metrics.score_labels(answers, tested.targets, tested.classes, least, groups=tested.groups)
    means = [mean for mean, _ in scale]
    return metrics.score_quantities(answers, tested.targets, tested.classes, means, groups=tested.groups)


def summary(found: Scores, *, grouped: bool = False) -> list[str]:
    """What matters most, in sentences for people who do not program."""
    said = list(_of_labels(found) if found.task == "multi-label" else _of_quantities(found))
    if found.untested:
        said.append(f"Not tested, for want of pictures: {', '.join(found.untested)}.")
    if grouped:
        said.append("Pictures come in groups, and all intervals count whole groups, not single pictures.")
    return said


def _between(score: Score, digits: int = 0) -> str:
    low, value, high = (f"{100 * share:.{digits}f}" for share in (score.low, score.value, score.high))
    return f"{value} (with 95 % confidence between {low} and {high})"


def _of_labels(found: Scores) -> Iterator[str]:
    exact = found.overall["exact match"]
    yield (
        f"Of 100 new pictures like those tested, all labels are right on about {_between(exact)}; {found.n:,} pictures "
        "were tested."
    )
    if "mAP" in found.overall:
        base = found.overall["no skill mAP"]
        yield (
            f"Mean average precision is {found.overall['mAP']}; scores that say nothing would have {base.value:.3f}."
        )
    worst = min(found.per_class, key=lambda name: found.per_class[name]["F1"].value)
    recall, precision = (found.per_class[worst][rate] for rate in ("recall", "precision"))
    yield (
        f"The label known worst is “{worst}”: {round(recall.value * recall.n):,} of its {recall.n:,} pictures are "
        f"found, and of 100 that are said to have it {100 * precision.value:.0f} have it."
    )


def _of_quantities(found: Scores) -> Iterator[str]:
    for name, each in found.per_class.items():
        error, base, half = (each[key] for key in ("MAE", "always the mean", "median absolute error"))
        better = "clearly better" if error.high < base.low else "not clearly better"
        sure = "one picture or group tells nothing of others"
        if error.bounded:
            sure = f"with 95 % confidence between {error.low:.4g} and {error.high:.4g}"
        yield (
            f"“{name}” is off by {error.value:.4g} on average ({sure}; {error.n:,} pictures were tested), half of the "
            f"time by less than {half.value:.4g}. That is {better} than always answering the mean, which is off by "
            f"{base.value:.4g}."
        )


def right(tested: Answers, answers: np.ndarray, task: Task, least: Sequence[float]) -> np.ndarray:
    """bool `(N,)`: all known labels are right; quantities are off by no more than half of all records are."""
    known = ~np.isnan(tested.targets)
    if task == "multi-label":
        return labels.all_right(answers >= np.array(least), tested.targets == 1, known)
    off = np.abs(answers - tested.targets) / np.maximum(np.nanstd(tested.targets, axis=0), 1e-300)
    mean = np.where(known, off, 0).sum(1) / known.sum(1)
    return np.asarray(mean <= np.median(mean))


def mistakes(tested: Answers, answers: np.ndarray, task: Task, least: Sequence[float]) -> list[dict[str, Any]]:
    """The answers that are furthest off: mislabelled pictures are found here first."""
    wrong = np.abs(answers - tested.targets)
    if task == "multi-label":
        wrong = np.where((answers >= np.array(least)) == (tested.targets == 1), 0, wrong)
    else:
        wrong = wrong / np.maximum(np.nanstd(tested.targets, axis=0), 1e-300)
    wrong = np.nan_to_num(wrong, nan=0.0)
    found = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:MISTAKES]:
        row, column = divmod(int(place), wrong.shape[1])
        if wrong[row, column] > 0:
            name, true, said = tested.classes[column], tested.targets[row, column], answers[row, column]
            text = f"{name}: is {true:.4g}, was said to be {said:.4g}"
            if task == "multi-label":
                text = f"{name if true else 'no ' + name}, probability of {name} {said:.2f}"
            found.append({"key": tested.keys[row], "text": text})
    return found


def charts(tested: Answers, answers: np.ndarray) -> list[dict[str, Any]]:
    """Of every quantity, what was said against what is, in a box of 100 × 100, y down; POINTS at most."""
    found = []
    for name, true, said in zip(tested.classes, tested.targets.T, answers.T):
        rows = np.flatnonzero(~np.isnan(true))
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), POINTS)).astype(int)] if len(rows) else rows
        if len(rows):
            low, high = float(min(true[rows].min(), said[rows].min())), float(max(true[rows].max(), said[rows].max()))
            x, y = (100 * (values[rows] - low) / ((high - low) or 1) for values in (true, said))
            points = [[round(float(a), 2), round(float(100 - b), 2)] for a, b in zip(x, y)]
            found.append({"name": name, "low": low, "high": high, "points": points, "n": int((~np.isnan(true)).sum())})
    return found


def rows(per_class: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The columns of a table of labels or quantities: the names of all their scores."""
    return list(dict.fromkeys(name for each in per_class.values() for name in each))

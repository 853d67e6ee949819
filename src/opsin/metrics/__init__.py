"""How good were the answers: scores with honest 95 % intervals, computed from logits and targets.

    logits (N, K), targets (N,) ─┬─> confusion (K, K) ─> shares, F1, averages ─┬─> Scores
                                 └─> probabilities ─> AUROC, average precision ┘

One rule everywhere: the answer is the highest logit, and among equal logits the one of lowest index. A network that
gives a constant row therefore answers class 0; it is never called right because the target was among the equals.
A class without a record in the test is *untested*: it has no score of its own and is in no average. A class that is
tested and never answered has precision 0.

Four kinds of interval, each the simplest that holds what it promises:

- a share of records (accuracy, top-k, precision, recall): Wilson's score interval;
- F1 of one class: Wilson's interval of hits among the records that have the class as target or as answer, carried
  over to F1. Given how many such records there are, hits are binomial, so nothing need be simulated, and a perfect
  F1 on four records does not claim to be certain;
- averages over classes: the BCa bootstrap. Like every bootstrap it knows only what it saw: where a class has a handful
  of records, the interval of macro recall is too narrow;
- AUROC and average precision: the variance of what each record adds (DeLong's), on the logit scale.

Several pictures of one patient are not independent. Given `groups`, every interval is that of drawing whole groups;
without, records are taken to be independent, and if they are not, the truth is wider.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CallError, ModelError
from ..vocabulary import UNSURE, Score, Scores
from .given import Floats, Groups, Ints, pair, wrong
from .intervals import DRAWS, wilson
from .labels import best_thresholds, mean_average_precision, score_labels
from .probabilities import brier, ece, mae, nll, rmse, softmax
from .quantities import brief_errors, score_quantities
from .ranking import auroc, average_precision, false_alarms_at, one_against_rest, recall_at
from .rates import (
    AVERAGES,
    accuracy,
    averages,
    averages_of,
    confusion,
    f1,
    largest_class,
    macro_f1,
    named,
    per_class,
    precision,
    ranks,
    recall,
    share,
    top_k,
)
from .slices import Slice, slices, slices_of

__all__ = [
    "AVERAGES",
    "DRAWS",
    "UNSURE",
    "Floats",
    "Groups",
    "Ints",
    "Slice",
    "accuracy",
    "auroc",
    "average_precision",
    "averages",
    "averages_of",
    "best_thresholds",
    "brief_errors",
    "brier",
    "confusion",
    "ece",
    "f1",
    "false_alarms_at",
    "from_dict",
    "largest_class",
    "macro_f1",
    "mae",
    "mean_average_precision",
    "named",
    "nll",
    "per_class",
    "plain",
    "precision",
    "recall",
    "recall_at",
    "rmse",
    "score",
    "score_labels",
    "score_quantities",
    "share",
    "slices",
    "slices_of",
    "softmax",
    "to_dict",
    "top_k",
    "wilson",
]


def _checked_names(classes: Sequence[str], wanted: int, largest: int) -> tuple[str, ...]:
    names = tuple(classes)
    if len(names) != wanted or len(set(names)) != wanted:
        do = "Give the class names that the network was trained with"
        raise wrong("class names do not fit the logits", f"{wanted} different names", f"{len(names)}: {names}", do)
    if not 0 <= largest < wanted:
        raise CallError("largest is not a class", expected=f"0…{wanted - 1}", received=largest)
    return names


def score(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    classes: Sequence[str],
    *,
    largest: int,
    groups: Groups | None = None,
    answers: Ints | None = None,
) -> Scores:
    """All that a test found.

    logits: finite, (N, K), one row a record, already divided by a temperature where there is one. targets: integer
    (N,), 0…K - 1. classes: the K names. largest: index of the largest class of training. groups: the group of each
    record, (N,), None for one that stands alone; intervals are then those of drawing whole groups. answers: what was
    said under thresholds, (N,), as `named` gives it; UNSURE is never right, so `accuracy` counts it as wrong, and
    `accuracy on answered` and `coverage` are told as well. Raises DataError: no record, NaN, wrong shapes, targets out
    of range; CallError.
    """
    rows, true = pair(logits, targets)
    names = _checked_names(classes, rows.shape[1], largest)
    said = rows.argmax(axis=1) if answers is None else answers
    answered = np.where(said == UNSURE, len(names), said)  # as one class more, that no record has
    width = len(names) + int((said == UNSURE).any())
    macro, ranked = one_against_rest(softmax(rows), true, groups=groups)
    overall = {"accuracy": share(said == true, groups=groups)}
    if answers is not None:
        overall |= _selective(said, true, groups)
    if len(names) > 5:
        overall["top-5"] = share(ranks(rows, true) < 5, groups=groups)
    overall |= averages_of(true, answered, width, groups=groups) | macro
    overall["largest class"] = largest_class(true, largest, groups=groups)
    records = np.bincount(true, minlength=len(names))
    each = list(zip(*per_class(true, answered, width, groups=groups)))
    matrix = confusion(true, answered, len(names) + 1)[:-1]
    tested = np.flatnonzero(records).tolist()
    return Scores(
        n=len(true),
        overall=overall,
        per_class={names[c]: dict(zip(("precision", "recall", "F1"), each[c])) | ranked.get(c, {}) for c in tested},
        confusion=tuple(map(tuple, matrix[:, :-1].tolist())),
        classes=names,
        largest_class=names[largest],
        untested=tuple(name for name, count in zip(names, records) if not count),
        unsure=() if answers is None else tuple(matrix[:, -1].tolist()),
    )


def _selective(said: Ints, true: Ints, groups: Groups | None) -> dict[str, Score]:
    """What answers are worth, and how many there are, where UNSURE is one."""
    sure = said != UNSURE
    own = None if groups is None else [group for group, one in zip(groups, sure) if one]
    right = share(said[sure] == true[sure], groups=own) if sure.any() else Score(math.nan, 0.0, 1.0, 0)
    return {"accuracy on answered": right, "coverage": share(sure, groups=groups)}


# ---- as JSON


def plain(score: Score) -> dict[str, Any]:
    """A score as plain values for JSON; NaN as None, and as both bounds None where there is no interval."""
    value = score.value if math.isfinite(score.value) else None
    low, high = (score.low, score.high) if score.bounded else (None, None)
    return {"value": value, "low": low, "high": high, "n": score.n}


def _score_from(data: Mapping[str, Any]) -> Score:
    value = math.nan if data["value"] is None else float(data["value"])
    low, high = (-math.inf, math.inf) if data["low"] is None else (float(data["low"]), float(data["high"]))
    return Score(value, low, high, int(data["n"]))


def to_dict(scores: Scores) -> dict[str, Any]:
    """Scores as plain values for JSON, every score as {value, low, high, n}; what JSON lacks as None."""
    return {
        "n": scores.n,
        "overall": {name: plain(score) for name, score in scores.overall.items()},
        "per_class": {c: {name: plain(s) for name, s in each.items()} for c, each in scores.per_class.items()},
        "confusion": [list(row) for row in scores.confusion],
        "classes": list(scores.classes),
        "largest_class": scores.largest_class,
        "untested": list(scores.untested),
        "unsure": list(scores.unsure),
    } | ({"task": scores.task} if scores.task != "single-label" else {})


def from_dict(data: Mapping[str, Any]) -> Scores:
    """The Scores that `to_dict` gave. Raises ModelError where a part is missing or of the wrong kind."""
    try:
        return Scores(
            n=int(data["n"]),
            overall={name: _score_from(score) for name, score in data["overall"].items()},
            per_class={c: {name: _score_from(s) for name, s in each.items()} for c, each in data["per_class"].items()},
            confusion=tuple(tuple(int(count) for count in row) for row in data["confusion"]),
            classes=tuple(data["classes"]),
            largest_class=str(data["largest_class"]),
            untested=tuple(data["untested"]),
            unsure=tuple(data.get("unsure", ())),
            task=data.get("task", "single-label"),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        do = "Score again from the saved logits"
        raise ModelError("unreadable scores", expected="what to_dict gave", received=repr(error), do=do) from error

"""Probabilities that mean what they say, and thresholds with their price.

    logits, targets of the calibration part ─┬─> temperature (Guo et al., ICML 2017) ─┬─> a new Classifier
                                             └─> thresholds for what was wanted       ┘

The calibration part is used for nothing else: not for training, not for choosing an epoch, not for the test.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import errors, metrics
from .classifier import Classifier
from .metrics import probabilities as rules
from .vocabulary import Score

COLDEST, HOTTEST = 0.05, 20.0
FOLDS = 5
BINS = 15

Rate = Literal["recall", "precision"]


# ---- the temperature


def calibrate(clf: Classifier, logits: np.ndarray, targets: np.ndarray) -> Classifier:
    """The classifier with the temperature that fits these logits; answers stay, probabilities change.

    Args:
        logits: float `(N, K)`, of the calibration part, as `evaluation.logits` gives them.
        targets: int `(N,)`.

    Raises:
        DataError: wrong shapes, NaN, no record.
    """
    return dataclasses.replace(clf, temperature=temperature(logits, targets))


def temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature that logits `(N, K)` are divided by for the least negative log-likelihood of targets `(N,)`.

    Between COLDEST and HOTTEST, and the same every time. It is 1 where a fitted temperature does not do better than
    that on records it was not fitted on (FOLDS folds, every fifth record): few records, or all of them right, would
    otherwise ask for too much certainty.

    Raises:
        DataError: wrong shapes, NaN, no record.
    """
    metrics.nll(logits, targets)  # refuses what is wrong
    rows, true = np.asarray(logits, np.float64), np.asarray(targets)
    fold = np.arange(len(true)) % FOLDS
    unseen = 0.0
    for held in range(min(FOLDS, len(true))):
        seen = fold != held
        fitted = _fitted(rows[seen], true[seen]) if seen.any() else 1.0
        unseen += metrics.nll(rows[~seen] / fitted, true[~seen]) * int((~seen).sum())
    best = _fitted(rows, true)
    plain = metrics.nll(rows, true)
    return best if unseen / len(true) < plain and metrics.nll(rows / best, true) < plain else 1.0


def _fitted(logits: np.ndarray, targets: np.ndarray) -> float:
    """The minimum over log T: convex in 1 / T, so there is one."""
    from scipy.optimize import minimize_scalar

    bounds = (float(np.log(COLDEST)), float(np.log(HOTTEST)))
    found = minimize_scalar(
        lambda x: metrics.nll(logits / np.exp(x), targets), bounds=bounds, method="bounded", options={"xatol": 1e-7}
    )
    return float(np.exp(found.x))


# ---- how honest


@dataclass(frozen=True, slots=True)
class Honesty:
    """How far probabilities can be believed; all three are better when smaller.

    Attributes:
        nll: mean negative log-likelihood, nats.
        brier: mean squared distance to the truth, 0…2.
        ece: expected calibration error in bins of equal mass, corrected for chance, 0…1.
    """

    nll: float
    brier: float
    ece: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Records of about equal confidence: how sure the classifier was, and how often it was right."""

    confidence: float
    accuracy: Score


def honesty(logits: np.ndarray, targets: np.ndarray, *, temperature: float = 1.0) -> Honesty:
    """The Honesty of logits `(N, K)` at a temperature against targets `(N,)`. Raises DataError."""
    rows = np.asarray(logits, np.float64) / temperature
    probabilities = metrics.softmax(rows)
    return Honesty(
        metrics.nll(rows, targets),
        metrics.brier(probabilities, targets),
        metrics.ece(probabilities, targets, bins=BINS, corrected=True),
    )


def reliability(
    logits: np.ndarray, targets: np.ndarray, *, temperature: float = 1.0, bins: int = BINS
) -> tuple[Bin, ...]:
    """The reliability diagram's bins, the least sure first; each holds about N / bins records. Raises DataError."""
    probabilities = metrics.softmax(np.asarray(logits, np.float64) / temperature)
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(targets)
    place = rules.equal_mass(sure, bins)
    return tuple(
        Bin(float(sure[place == b].mean()), metrics.wilson(int(right[place == b].sum()), int((place == b).sum())))
        for b in np.unique(place)
    )


# ---- thresholds


@dataclass(frozen=True, slots=True)
class Want:
    """A recall or precision of one class that must be reached."""

    cls: str
    rate: Rate
    least: float

    def __str__(self) -> str:
        return f"{self.cls} {self.rate}>={self.least:g}"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least probability at which a class is named, and what that gives on the calibration part.

    Attributes:
        false_alarms: the share of all other records that are named so.
        reached: whether any threshold gives what was wanted; if none does, this is the nearest.
    """

    want: Want
    probability: float
    recall: Score
    precision: Score
    false_alarms: Score
    reached: bool

    def __str__(self) -> str:
        miss = "" if self.reached else "not reached: "
        return (
            f"{miss}{self.want}: named {self.want.cls!r} from probability {self.probability:.3f} on; "
            f"recall {self.recall}, precision {self.precision}, false alarms {self.false_alarms}"
        )


_WANT = re.compile(r"^\s*(?P<cls>.+?)\s+(?P<rate>recall|precision)\s*>=\s*(?P<least>[0-9.]+)\s*(?P<percent>%?)\s*$")


def want(text: str, classes: Sequence[str]) -> Want:
    """What `--want` says: a class, `recall` or `precision`, `>=`, a share or a percentage.

    Raises:
        CallError: when it is of another form, or names no class.

    >>> want("bad recall>=98%", ["good", "bad"])
    Want(cls='bad', rate='recall', least=0.98)
    """
    found = _WANT.match(text)
    if not found:
        raise errors.CallError("want", expected="'CLASS recall>=0.98' or 'CLASS precision>=0.98'", received=repr(text))
    if found["cls"] not in classes:
        raise errors.unknown("class", found["cls"], classes)
    try:
        least = float(found["least"]) / (100 if found["percent"] else 1)
    except ValueError:
        least = -1.0
    if not 0 < least <= 1:
        raise errors.CallError("want", expected="a share above 0 and up to 1", received=found["least"])
    return Want(found["cls"], found["rate"], least)  # type: ignore[arg-type]


def threshold(probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], wanted: Want) -> Threshold:
    """The threshold on one class's probability that gives what is wanted at the least price.

    For a recall: the highest threshold that reaches it, so with the fewest false alarms. For a precision: the lowest
    that reaches it, so with the most recall. Where none reaches a precision, the one with the highest.

    Args:
        probabilities: `(N, K)` of the calibration part, at the classifier's temperature.
        targets: int `(N,)`.

    Raises:
        DataError: when the calibration part has no record of the class.
    """
    index = list(classes).index(wanted.cls)
    scores, positive = np.asarray(probabilities)[:, index], np.asarray(targets) == index
    if not positive.any():
        raise errors.DataError(f"no record of {wanted.cls!r} to set a threshold on", do="Calibrate on more records")
    steps = np.unique(scores)  # rising; named from a step on
    hits = positive.sum() - np.searchsorted(np.sort(scores[positive]), steps)
    named = len(scores) - np.searchsorted(np.sort(scores), steps)
    rate = hits / (positive.sum() if wanted.rate == "recall" else named)
    fits = np.flatnonzero(rate >= wanted.least - 1e-12)
    best = int(rate.argmax()) if not fits.size else int(fits[-1] if wanted.rate == "recall" else fits[0])
    hit, said, others = int(hits[best]), int(named[best]), int((~positive).sum())
    return Threshold(
        wanted,
        float(steps[best]),
        metrics.wilson(hit, int(positive.sum())),
        metrics.wilson(hit, said),
        metrics.wilson(said - hit, others),
        bool(fits.size),
    )


def with_thresholds(
    clf: Classifier, logits: np.ndarray, targets: np.ndarray, wants: Sequence[Want]
) -> tuple[Classifier, tuple[Threshold, ...]]:
    """The classifier with a threshold for every want, and their prices, on the calibration part at its temperature.

    Raises:
        DataError: when the calibration part has no record of a class.
    """
    probabilities = metrics.softmax(np.asarray(logits, np.float64) / clf.temperature)
    found = tuple(threshold(probabilities, targets, clf.classes, wanted) for wanted in wants)
    chosen = {**clf.thresholds, **{one.want.cls: one.probability for one in found}}
    return dataclasses.replace(clf, thresholds=chosen), found

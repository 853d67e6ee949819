"""Probabilities that mean what they say, and thresholds with their price.

    logits, targets of the calibration part ─┬─> temperature (Guo et al., ICML 2017) ─┬─> a new Classifier
                                             └─> thresholds for what was wanted       ┘

The calibration part is pictures that were not trained on and are no test: validation, of `opsin train`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from . import answers, errors, metrics
from .classifier import Classifier
from .metrics import Groups
from .metrics import probabilities as rules
from .vocabulary import UNSURE, Score, Task

COLDEST, HOTTEST = 0.05, 20.0
FOLDS = 5
BINS = 15

Rate = Literal["recall", "precision", "accuracy"]


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
    """A recall or precision of one class, or an accuracy of all answers (`cls` is ""), that must be reached."""

    cls: str
    rate: Rate
    least: float

    def __str__(self) -> str:
        return f"{self.cls} {self.rate}>={self.least:g}".lstrip()


@dataclass(frozen=True)
class Threshold:
    """What was wanted, the least probability that gives it, and what that costs.

    Attributes:
        probability: from here on the class is named; of an accuracy, any class that no other threshold names.
        price: part (`calibration`, `test`) → `recall`, `precision`, `false alarms` (the share of all other records that
            are named so) of the class; `accuracy on answered`, `coverage` of an accuracy.
    """

    want: Want
    probability: float
    price: Mapping[str, Mapping[str, Score]]

    def __str__(self) -> str:
        who = f"{self.want.cls!r} is named" if self.want.cls else "a class is named, else 'unsure',"
        costs = "".join(
            f"\n  on {part}: " + ", ".join(f"{name} {score}" for name, score in found.items())
            for part, found in self.price.items()
        )
        return f"{self.want}: {who} from probability {self.probability:.3f} on{costs}"


_WANT = re.compile(
    r"^\s*((?P<cls>.+?)\s+(?P<rate>recall|precision)|accuracy)\s*>=\s*(?P<least>[0-9.]+)\s*(?P<percent>%?)\s*$"
)


def want(text: str, classes: Sequence[str]) -> Want:
    """What `--want` says: a class and `recall` or `precision`, or `accuracy`; `>=`; a share or a percentage.

    Raises:
        CallError: when it is of another form, or names no class.

    >>> want("bad recall>=98%", ["good", "bad"])
    Want(cls='bad', rate='recall', least=0.98)
    """
    found = _WANT.match(text)
    if not found:
        forms = "'CLASS recall>=0.98', 'CLASS precision>=0.98' or 'accuracy>=0.98'"
        raise errors.CallError("want", expected=forms, received=repr(text))
    if found["cls"] is not None and found["cls"] not in classes:
        raise errors.unknown("class", found["cls"], classes)
    try:
        least = float(found["least"]) / (100 if found["percent"] else 1)
    except ValueError:
        least = -1.0
    if not 0 < least < 1:
        raise errors.CallError("want", expected="a share above 0 and below 1", received=found["least"])
    return Want(found["cls"] or "", found["rate"] or "accuracy", least)  # type: ignore[arg-type]


def wants(text: str, classes: Sequence[str], task: Task = "single-label") -> tuple[Want, ...]:
    """Several of them, with semicolons between; the classes' first, because an accuracy is of what these leave.

    Raises:
        CallError: as `want` does, where a class or an accuracy is wanted twice, and for a task that has no such thing.
    """
    found = [want(part, classes) for part in text.split(";") if part.strip()]
    if found and (task == "regression" or (task == "multi-label" and not all(one.cls for one in found))):
        raise errors.CallError(
            "want", expected="recalls and precisions of classes or labels", received=f"{text!r} of {task}"
        )
    if len({one.cls for one in found}) < len(found):
        raise errors.CallError("want", expected="one threshold for each class", received=repr(text))
    return tuple(sorted(found, key=lambda one: not one.cls))


def needed(wanted: Want) -> int:
    """How many records a want needs, all of them right, so that one more that is wrong would not break it."""
    return math.ceil(wanted.least / (1 - wanted.least) - 1e-9)


def refuse_hopeless(wanted: Sequence[Want], counts: Mapping[str, int]) -> None:
    """Refuse what so many records of each class could not show, however good the network is: before the work.

    Raises:
        DataError: it says how many are needed.
    """
    for one in wanted:
        there = counts[one.cls] if one.cls else sum(counts.values())
        if there < needed(one):
            best = metrics.wilson(there, there)
            raise errors.DataError(
                f"{one} cannot be promised by so few validation pictures",
                expected=f"{needed(one):,} or more" + (f" of {one.cls!r}" if one.cls else ""),
                received=f"{there:,}; all of them right would be {best}",
                do=f"Want at most {math.floor(1000 * there / (there + 1)) / 1000:g}, or give more pictures",
            )


def with_thresholds(
    clf: Classifier,
    logits: np.ndarray,
    targets: np.ndarray,
    wanted: Sequence[Want],
    *,
    groups: Groups | None = None,
) -> tuple[Classifier, tuple[Threshold, ...]]:
    """The classifier with a threshold for every want instead of those it had, and what they cost on these logits.

    A threshold must keep what is wanted even if one more picture went wrong: for a recall it is the highest that finds
    so many of n + 1 when n are there. On new pictures like these the mean recall is then no less than was wanted,
    whatever the network (split conformal prediction: Vovk; Angelopoulos & Bates, arXiv 2107.07511, with one
    class's records); and a promise that so few pictures cannot carry is refused. A precision's and an accuracy's is
    the lowest that gives them: it is chosen among many, so they can be a little less on new pictures. A threshold is
    set half way to the next lower probability.
    Pictures of one group, such as a patient, are alike, so in truth there are fewer than they seem: with groups the
    mean recall can be less. Only the price counts by group.
    That holds strictly for pictures that chose nothing else; where they set the temperature or chose the epoch too, as
    validation does, only nearly: the price on the test is what to believe.

    Args:
        logits, targets: float `(N, K)`, int `(N,)`, of the calibration part; of several labels targets `(N, K)`, NaN
            where unknown. Labels of which nothing is wanted keep their thresholds.

    Raises:
        DataError: when a want cannot be met, or there are too few records to know. It says what could be promised.
    """
    shares = answers.answers(clf, np.asarray(logits, np.float64))
    kept = clf.thresholds if clf.task == "multi-label" else {}
    new = dataclasses.replace(clf, thresholds=kept, unsure_below=0.0)
    for one in wanted:
        if one.cls:
            least = threshold(shares, targets, clf.classes, one)
            new = dataclasses.replace(new, thresholds={**new.thresholds, one.cls: least})
        else:
            new = dataclasses.replace(new, unsure_below=_least_sure(new, shares, targets, one))
    settled = [Threshold(one, new.thresholds[one.cls] if one.cls else new.unsure_below, {}) for one in wanted]
    found = _priced(new, settled, "calibration", shares, targets, groups)
    for each in found:
        reached = next(score for name, score in each.price["calibration"].items() if each.want.rate in name)
        if reached.value < each.want.least:
            raise errors.DataError(f"{each.want} cannot be met together with the others", received=str(reached))
    return new, found


def priced(
    clf: Classifier,
    found: Sequence[Threshold],
    part: str,
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    groups: Groups | None = None,
) -> tuple[Threshold, ...]:
    """The thresholds with what the classifier's answers come to on another part, by its name."""
    return _priced(clf, found, part, answers.answers(clf, np.asarray(logits, np.float64)), targets, groups)


def threshold(shares: np.ndarray, targets: np.ndarray, classes: Sequence[str], wanted: Want) -> float:
    """The threshold on one class's probability, of `(N, K)`, that gives what is wanted at the least price.

    For a recall: the highest that reaches it, so with the fewest false alarms. For a precision: the lowest that reaches
    it, so with the most recall. Both as `with_thresholds` says, which this is a part of.

    Raises:
        DataError: as there.
    """
    index = list(classes).index(wanted.cls)
    positive, known = _one_class(np.asarray(targets), index)
    scores, positive = np.asarray(shares)[known, index], positive[known]
    steps = np.unique(scores)  # rising; named from a step on
    hits = positive.sum() - np.searchsorted(np.sort(scores[positive]), steps)
    named = len(scores) - np.searchsorted(np.sort(scores), steps)
    of = np.full_like(named, positive.sum()) if wanted.rate == "recall" else named
    return _below(steps, _chosen(wanted, hits, of, last=wanted.rate == "recall"))


def _one_class(targets: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """bool `(N,)` each: which records are of a class, or have a label, and of which that is known."""
    if targets.ndim == 1:
        return targets == index, np.ones(len(targets), bool)
    return targets[:, index] == 1, ~np.isnan(targets[:, index])


def _least_sure(clf: Classifier, shares: np.ndarray, targets: np.ndarray, wanted: Want) -> float:
    """The lowest probability of an answer from which on all answers are as accurate as wanted."""
    said, sure = answers.named(clf, shares), shares.max(axis=1)
    own = np.array([clf.thresholds.get(name, np.inf) for name in clf.classes])
    sure[(shares >= own).any(axis=1)] = np.inf  # a threshold names these anyway
    kept = said != UNSURE
    steps = np.unique(np.append(0.0, sure[kept & np.isfinite(sure)]))
    answered = kept.sum() - np.searchsorted(np.sort(sure[kept]), steps)
    right = said == targets
    hits = right.sum() - np.searchsorted(np.sort(sure[right]), steps)
    return _below(steps, _chosen(wanted, hits, answered, last=False))


def _below(steps: np.ndarray, index: int) -> float:
    """Half way from a step to the one below, or to 0: it names the same records.

    At the step itself the record that carries the promise would be lost to a rounding error, such as in another batch.
    """
    least = float(steps[index - 1]) if index else 0.0
    middle = (least + float(steps[index])) / 2
    return middle if middle > least else float(steps[index])


def _chosen(wanted: Want, hits: np.ndarray, of: np.ndarray, *, last: bool) -> int:
    """The first or last step at which hits of one more are what is wanted; refuses where there is none."""
    fits = np.flatnonzero(hits >= wanted.least * (of + 1) - 1e-9)
    if fits.size:
        return int(fits[-1 if last else 0])
    best = int((hits / (of + 1)).argmax())
    most, n, few = hits[best] / (of[best] + 1), int(of[best]), int(of[best]) < needed(wanted)
    reached = metrics.wilson(int(hits[best]), n) if n else "no picture"
    raise errors.DataError(
        f"{wanted} cannot be promised",
        expected=f"{needed(wanted):,} or more pictures to know it from" if few else "a network that is so good",
        received=f"{reached} on {n:,} pictures at best",
        do=f"Want at most {math.floor(1000 * most) / 1000:g}, or give more pictures to set it on",
    )


def _priced(
    clf: Classifier,
    found: Sequence[Threshold],
    part: str,
    shares: np.ndarray,
    targets: np.ndarray,
    groups: Groups | None,
) -> tuple[Threshold, ...]:
    several = clf.task == "multi-label"
    said = np.empty(0, np.int64) if several else answers.named(clf, shares)

    def share(hit: np.ndarray, of: np.ndarray) -> Score:
        own = None if groups is None else [group for group, one in zip(groups, of) if one]
        return metrics.share(hit[of], groups=own) if of.any() else metrics.wilson(0, 0)

    def price(cls: str) -> dict[str, Score]:
        if not cls:
            return {
                "accuracy on answered": share(said == targets, said != UNSURE),
                "coverage": share(said != UNSURE, np.ones(len(said), bool)),
            }
        index = clf.classes.index(cls)
        are, known = _one_class(targets, index)
        named = known & (shares[:, index] >= clf.thresholds[cls] if several else said == index)
        return {"recall": share(named, are), "precision": share(are, named), "false alarms": share(named, known & ~are)}

    return tuple(dataclasses.replace(one, price={**one.price, part: price(one.want.cls)}) for one in found)


def to_dict(found: Sequence[Threshold]) -> list[dict[str, Any]]:
    """Thresholds as plain values: `want`, `class` ("" for an accuracy), `probability`, `price`."""
    return [
        {
            "want": str(one.want),
            "class": one.want.cls,
            "probability": one.probability,
            "price": {part: {name: metrics.plain(s) for name, s in each.items()} for part, each in one.price.items()},
        }
        for one in found
    ]

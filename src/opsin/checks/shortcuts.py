"""What tells the class without looking at the picture: how large it is, its file, its border, its mean colour.

Geirhos et al., "Shortcut learning in deep neural networks", Nature Machine Intelligence 2 (2020). Each set of facts is
given to a small tree, alone, and what it gets right on other folds is compared with always naming the largest class.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from .. import metrics
from ..vocabulary import Finding
from .looks import Looks
from .subject import Subject

FOLDS = 5
FEWEST = 100  # pictures; with fewer a tree finds anything
GAIN = 0.25  # of what the largest class leaves open, that the low end of the interval must have won
TOLD = 0.75  # F1 of one class, low end, from which the facts tell it by themselves


def _columns(*names: str) -> Callable[[Looks], np.ndarray]:
    return lambda looks: np.stack([looks.fact(name) for name in names], axis=1)


def _types(looks: Looks) -> np.ndarray:
    return np.unique(np.array(looks.formats, object).astype(str), return_inverse=True)[1][:, None].astype(np.float32)


def _packed(looks: Looks) -> np.ndarray:
    rate: np.ndarray = looks.fact("bytes") / (looks.fact("width") * looks.fact("height"))
    return rate[:, None]


# What it is called → its facts, and whether it says nothing of what is on the picture, so that it is always wrong.
SHORTCUTS: dict[str, tuple[Callable[[Looks], np.ndarray], bool]] = {
    "the picture's size": (_columns("width", "height"), True),
    "the file's type": (_types, True),
    "the file's bytes per pixel": (_packed, False),
    "the border": (_columns("border red", "border green", "border blue", "border contrast"), False),
    "the mean colour": (_columns("red", "green", "blue"), False),
}


def shortcuts(subject: Subject) -> list[Finding]:
    """Facts that predict the class by themselves."""
    looks = subject.looks
    if looks is None or len(looks.data) < FEWEST:
        return []
    targets = np.array([-1 if record.target is None else record.target for record in looks.data.records])
    found = []
    for name, (facts, foreign) in SHORTCUTS.items():
        values = facts(looks)
        if len(np.unique(values, axis=0)) > 1:
            found += _told(subject, name, values, targets, foreign)
    return found


def _told(subject: Subject, name: str, values: np.ndarray, targets: np.ndarray, foreign: bool) -> list[Finding]:
    said = _predicted(values, targets)
    right = metrics.wilson(int((said == targets).sum()), len(targets))
    largest = np.bincount(targets[targets >= 0]).max() / len(targets)
    classes = _classes(said, targets, subject.data.classes)
    if right.low < largest + GAIN * (1 - largest) and not classes:
        return []
    known = f"; it gives away {', '.join(classes)}" if classes else ""
    return [
        Finding(
            "shortcuts",
            "warning" if foreign or classes else "note",
            f"{name} alone tells the class of {right.value:.1%} [{right.low:.1%}, {right.high:.1%}] of the pictures, "
            f"where always naming the largest class is right on {largest:.1%}{known}",
            "a network can score well by it without looking at what is on the picture, and fails where it is missing",
            f"find out why {name} goes with the class; crop it away, or take pictures of all classes the same way",
        )
    ]


def _predicted(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=6, min_samples_leaf=5, random_state=0)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes smaller than the folds
        said: np.ndarray = cross_val_predict(tree, values, targets, cv=folds)
    return said


def _classes(said: np.ndarray, targets: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """The classes that are told nearly by themselves, with what is right of them."""
    known = targets >= 0
    scores = metrics.f1(metrics.confusion(targets[known], said[known], len(names)))
    return [f"{name!r} (F1 {score.value:.2f})" for name, score in zip(names, scores) if score.low >= TOLD]

"""What tells the class without looking at the picture: how large it is, its file, its border, its mean colour.

Geirhos et al., "Shortcut learning in deep neural networks", Nature Machine Intelligence 2 (2020). Each set of facts is
given to a small tree, alone, and what it gets right on other folds is compared with always naming the largest class.
Records of one group, or that show one picture, share a fold, and the intervals are those of whole groups.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import metrics
from ..vocabulary import Finding
from .folds import Folds, folds
from .labels import too_few
from .looks import Looks
from .subject import Subject

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
    parts = folds(targets, subject.group_of_row)
    if not parts:
        return [too_few("shortcuts", "facts that tell the class by themselves")]
    found = []
    for name, (facts, foreign) in SHORTCUTS.items():
        values = facts(looks)
        if len(np.unique(values, axis=0)) > 1:
            found += _told(subject, name, _predicted(values, targets, parts), targets, foreign)
    return found


def _told(subject: Subject, name: str, said: np.ndarray, targets: np.ndarray, foreign: bool) -> list[Finding]:
    rows = np.flatnonzero((said >= 0) & (targets >= 0))
    groups = [subject.group_of_row.get(row) for row in rows.tolist()]
    said, targets = said[rows], targets[rows]
    right = metrics.share(said == targets, groups=groups)
    largest = np.bincount(targets).max() / len(targets)
    classes = _classes(said, targets, subject.data.classes, groups)
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


def _predicted(values: np.ndarray, targets: np.ndarray, parts: Folds) -> np.ndarray:
    """int `(N,)`: what a tree that was fitted on other folds says; -1 where none was."""
    from sklearn.tree import DecisionTreeClassifier

    said = np.full(len(targets), -1)
    for train, test in parts:
        tree = DecisionTreeClassifier(max_depth=6, min_samples_leaf=5, random_state=0)
        said[test] = tree.fit(values[train], targets[train]).predict(values[test])
    return said


def _classes(said: np.ndarray, targets: np.ndarray, names: tuple[str, ...], groups: metrics.Groups) -> list[str]:
    """The classes that are told nearly by themselves, with what is right of them."""
    scores = metrics.per_class(targets, said, len(names), groups=groups)[2]
    return [f"{name!r} (F1 {score.value:.2f})" for name, score in zip(names, scores) if score.low >= TOLD]

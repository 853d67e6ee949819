"""Classifier × Dataset → Scores, from logits that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from . import classifier, errors, metrics
from .cache import Pixels
from .classifier import Classifier
from .vocabulary import Dataset, Scores, Work


def logits(clf: Classifier, pixels: Pixels) -> Work[np.ndarray]:
    """float32 `(N, K)`: the reference logits of pictures prepared by the classifier's own preprocessing. Long work."""
    found = []
    for start in range(0, len(pixels), classifier.BATCH):
        found.append(classifier.logits(clf, torch.from_numpy(pixels.array[start : start + classifier.BATCH])))
        yield min(start + classifier.BATCH, len(pixels))
    return np.concatenate(found)


def targets(clf: Classifier, data: Dataset) -> np.ndarray:
    """int64 `(N,)`: each record's class as an index into the classifier's classes, found by name.

    Raises:
        DataError: for records without a class, and for classes that the classifier does not know.
    """
    classifier.checked_classes(clf.classes, [name for name, count in data.counts().items() if count])
    place = {name: index for index, name in enumerate(clf.classes)}
    if any(record.target is None for record in data.records):
        raise errors.DataError(f"{data.name}: records without a class", expected="a class for every picture")
    return np.array([place[data.classes[record.target]] for record in data.records if record.target is not None])


def score(clf: Classifier, found: np.ndarray, expected: np.ndarray, largest: str) -> Scores:
    """The Scores of logits `(N, K)` against targets `(N,)`; `largest` is the largest class of the training data."""
    return metrics.score(found, expected, clf.classes, largest=clf.classes.index(largest))


def save_logits(file: Path, data: Dataset, found: np.ndarray, classes: Sequence[str]) -> None:
    """Write a split's logits as `.npz`: `logits` float32 `(N, K)`, `targets` int64 `(N,)`, `keys`, `classes`.

    Raises:
        MachineError: when it cannot be written.
    """
    with errors.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            file,
            logits=found,
            targets=np.array([-1 if r.target is None else r.target for r in data.records], dtype=np.int64),
            keys=np.array([record.key for record in data.records]),
            classes=np.array(classes),
        )

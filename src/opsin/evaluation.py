"""Classifier, or exported file, × Dataset → Scores, from logits that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from . import answers, classifier, errors, metrics
from .answers import Answering
from .cache import Pixels, picture
from .preprocessing import THREADS
from .vocabulary import Dataset, Scores, Work


def logits(clf: Answering, pixels: Pixels, *, mirrored: bool = False) -> Work[np.ndarray]:
    """float `(N, K)`: the logits of pictures prepared by the classifier's own preprocessing. Long work.

    Args:
        mirrored: of their mirror images, left for right, instead.
    """
    found = []
    for start in range(0, len(pixels), answers.BATCH):
        images = pixels.array[start : start + answers.BATCH]
        found.append(clf.run(np.ascontiguousarray(images[..., ::-1]) if mirrored else images))
        yield min(start + answers.BATCH, len(pixels))
    return np.concatenate(found)


def targets(clf: Answering, data: Dataset) -> np.ndarray:
    """int64 `(N,)`: each record's class as an index into the classifier's classes, found by name.

    For the other tasks float32 `(N, K)`, NaN where unknown; a label or quantity that the data has not is unknown.

    Raises:
        DataError: for records without a class, and for classes that the classifier does not know.
    """
    classifier.checked_classes(clf.classes, [name for name, count in data.counts().items() if count])
    if data.task != clf.task:
        raise errors.DataError(
            f"{data.name} is for another task", expected=clf.task, received=data.task, do="Name it with --task"
        )
    if clf.task != "single-label":
        return _targets_by_name(clf, data)
    place = {name: index for index, name in enumerate(clf.classes)}
    if any(record.target is None for record in data.records):
        raise errors.DataError(f"{data.name}: records without a class", expected="a class for every picture")
    return np.array([place[data.classes[record.target]] for record in data.records if record.target is not None])


def _targets_by_name(clf: Answering, data: Dataset) -> np.ndarray:
    column = {name: index for index, name in enumerate(data.classes)}
    found = np.full((len(data), len(clf.classes)), np.nan, np.float32)
    for row, record in enumerate(data.records):
        values = (record.targets[column[name]] if name in column else None for name in clf.classes)
        found[row] = [np.nan if value is None else value for value in values]
    return found


def score(
    clf: Answering,
    found: np.ndarray,
    expected: np.ndarray,
    largest: str,
    *,
    groups: Sequence[str | None] | None = None,
) -> Scores:
    """The Scores of logits `(N, K)` against targets `(N,)` or `(N, K)`, at the classifier's temperature and thresholds.

    Args:
        largest: the largest class of the training data; "" for the other tasks.
        groups: the group of every record, `(N,)`, as `groups` gives them: intervals are then those of whole groups.
    """
    if clf.task == "multi-label":
        least = answers.blank(clf).thresholds
        return metrics.score_labels(answers.answers(clf, found), expected, clf.classes, least, groups=groups)
    if clf.task == "regression":
        means = [mean for mean, _ in clf.scale]
        return metrics.score_quantities(answers.answers(clf, found), expected, clf.classes, means, groups=groups)
    decided = answers.named(clf, answers.probabilities(clf, found)) if answers.decides(clf) else None
    return metrics.score(
        found / clf.temperature,
        expected,
        clf.classes,
        largest=clf.classes.index(largest),
        groups=groups,
        answers=decided,
    )


def groups(data: Dataset) -> list[str | None] | None:
    """The group of every record, or None where no record has one."""
    found = [record.group for record in data.records]
    return found if any(found) else None


def columns(data: Dataset, *, most: int = 2000) -> Work[dict[str, np.ndarray]]:
    """What slices are made of, `(N,)` each: group, and shorter side in pixels and brightness 0…255 of pictures.

    Of `most` pictures, evenly chosen: the others, and what cannot be read, have NaN. Long work: these are decoded.
    """
    found = np.full((len(data), 2), np.nan)

    def look(row: int) -> None:
        with suppress(errors.PictureError):
            decoded = picture(data, data.records[row])
            found[row] = (
                min(decoded.shape[:2]),
                decoded[:: len(decoded) // 64 + 1, :: decoded.shape[1] // 64 + 1].mean(),
            )

    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), most)).astype(int)).tolist()
    with ThreadPoolExecutor(THREADS) as pool:
        for row, _ in zip(rows, pool.map(look, rows)):
            yield row + 1
    named = {"shorter side in pixels": found[:, 0], "brightness (0 black, 255 white)": found[:, 1]}
    labels = groups(data)
    return named | ({"group": np.array(labels, object)} if labels else {})


def save_logits(file: Path, data: Dataset, found: np.ndarray, classes: Sequence[str]) -> None:
    """Write a split's logits as `.npz`: `logits` float32 `(N, K)`, `targets` int64 `(N,)` or, of the other tasks,
    float32 `(N, K)`, `keys`, `groups` ("" for none), `classes`.

    Raises:
        MachineError: when it cannot be written.
    """
    indices = [-1 if record.target is None else record.target for record in data.records]
    rows = np.array(indices, dtype=np.int64)
    if data.task != "single-label":
        rows = np.array([record.targets for record in data.records], dtype=np.float32)  # None becomes NaN
    with errors.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            file,
            logits=found,
            targets=rows,
            keys=np.array([record.key for record in data.records]),
            groups=np.array([record.group or "" for record in data.records]),
            classes=np.array(classes),
        )

"""What becomes of a label map, int32 `(H, W)`: an overlay, a cut-out, measures, COCO's run lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..errors import CallError


@dataclass(frozen=True)
class Measures:
    """One region of a label map. Lengths are in pixels; x runs to the right, y down."""

    label: int
    area: int
    box: tuple[int, int, int, int]  # x, y, width, height
    centre: tuple[float, float]  # x, y of the centroid; the first pixel's centre is at ½
    perimeter: float  # length of the outer outlines, through the border pixels' centres
    mean: tuple[float, ...]  # of each channel of the picture, where one was given


def measures(labels: np.ndarray, picture: np.ndarray | None = None) -> list[Measures]:
    """What each label but 0 covers, in the order of the labels; with `picture` `(H, W, 3)` also its mean colour.

    Raises:
        CallError: when `labels` is not a map of the picture.
    """
    _check(labels, picture)
    return [_measured(labels == label, int(label), picture) for label in np.unique(labels) if label]


def _measured(mask: np.ndarray, label: int, picture: np.ndarray | None) -> Measures:
    y, x = np.nonzero(mask)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return Measures(
        label,
        len(x),
        (int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1),
        (float(x.mean()) + 0.5, float(y.mean()) + 0.5),
        float(sum(cv2.arcLength(outline, True) for outline in outlines)),
        () if picture is None else tuple(picture[mask].reshape(len(x), -1).mean(axis=0).tolist()),
    )


def colours(labels: np.ndarray) -> np.ndarray:
    """uint8 `(H, W, 3)`: each label in a colour of its own, 0 black; hues go round by the golden ratio."""
    hues = (np.arange(int(labels.max()) + 1) * 0.618034 % 1 * 179).astype(np.uint8)
    table = np.stack([hues, np.full_like(hues, 200), np.full_like(hues, 255)], axis=-1)[None]
    table = cv2.cvtColor(table, cv2.COLOR_HSV2RGB)[0]
    table[0] = 0
    return table[labels.astype(np.intp)]  # bool would be taken for a mask


def overlay(picture: np.ndarray, labels: np.ndarray, *, strength: float = 0.5) -> np.ndarray:
    """The picture, uint8 `(H, W, 3)`, with every label but 0 in a colour of its own."""
    _check(labels, picture)
    mixed = picture * (1 - strength) + colours(labels) * strength
    return np.where((labels > 0)[..., None], mixed, picture).round().astype(np.uint8)


def cut_out(picture: np.ndarray, labels: np.ndarray, label: int = 1) -> np.ndarray:
    """The label's part of the picture, uint8 `(h, w, 3)`, white around it, as large as its box.

    Raises:
        CallError: when the map does not have the label.
    """
    _check(labels, picture)
    y, x = np.nonzero(labels == label)
    if not len(x):
        known = [int(number) for number in np.unique(labels)[:20]]
        raise CallError("cut_out: no such label", expected=f"one of {known}", received=label)
    place = np.s_[y.min() : y.max() + 1, x.min() : x.max() + 1]
    return np.where((labels[place] == label)[..., None], picture[place], 255).astype(picture.dtype)


def to_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run lengths of a mask `(H, W)`: of 0 and 1 in turn, down the columns, 0 first.

    >>> to_rle(np.array([[0, 1], [1, 1]]))
    {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = (np.asarray(mask) != 0).reshape(-1, order="F")
    turns = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], turns, [flat.size]]))
    return {"size": list(mask.shape), "counts": ([0] if flat[0] else []) + counts.tolist()}


def from_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """bool `(H, W)`: the mask that `to_rle` was given.

    Raises:
        CallError: when the counts are no counts (COCO's compressed form is text), or do not fill the size.
    """
    rows, columns = rle["size"]
    counts = np.asarray(rle["counts"])
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
        do = "pycocotools.mask.decode reads compressed ones" if counts.dtype.kind in "US" else ""
        raise CallError("run lengths", expected="whole numbers from 0 on", received=str(rle["counts"])[:60], do=do)
    if counts.sum() != rows * columns:
        raise CallError("run lengths", expected=f"a sum of {rows * columns}", received=int(counts.sum()))
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(rows, columns, order="F")


def _check(labels: np.ndarray, picture: np.ndarray | None) -> None:
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise CallError("a label map", expected="integers (H, W)", received=f"{labels.dtype} {labels.shape}")
    if picture is not None and picture.shape[:2] != labels.shape:
        raise CallError("the map of another picture", expected=picture.shape[:2], received=labels.shape)

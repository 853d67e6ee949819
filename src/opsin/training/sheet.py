"""A contact sheet: the pictures of a batch as the network gets them, with their labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from ..batches import Batch

SMALLEST = 128  # pixels; a smaller picture is shown larger, every pixel as a square
GAP, LINE = 8, 18  # pixels between tiles, of a line of text


def contact_sheet(batch: Batch, classes: Sequence[str], *, most: int = 24, columns: int = 6) -> np.ndarray:
    """uint8 `(H, W, 3)`: at most so many pictures of `batch`, under each its class, and the one mixed into it."""
    pictures = batch.images[:most].permute(0, 2, 3, 1).numpy()
    labels = [_labels(batch, place, classes) for place in range(len(pictures))]
    lines = max(map(len, labels))
    tiles = [_tile(picture, label, lines) for picture, label in zip(pictures, labels)]
    blank = np.full_like(tiles[0], 255)
    columns = min(columns, len(tiles))
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    return np.vstack(rows)


def _labels(batch: Batch, place: int, classes: Sequence[str]) -> list[str]:
    """The class, or both with their shares, the larger one first, where two are to be seen."""
    own, other = _called(batch.targets[place], classes), _called(batch.others[place], classes)
    share = float(batch.shares[place])
    if own == other or share >= 0.995 or share < 0.005:
        return [other if share < 0.005 else own]
    return [f"{part:.2f} {name}" for part, name in sorted([(share, own), (1 - share, other)], reverse=True)]


def _called(target: Tensor, classes: Sequence[str]) -> str:
    """A class by its index; of several targets the labels that are there, or the quantities."""
    if not target.is_floating_point():
        return classes[int(target)]
    values = dict(zip(classes, target.tolist()))
    if all(value in (0, 1) or math.isnan(value) for value in values.values()):
        return ", ".join(name for name, value in values.items() if value == 1) or "no label"
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _tile(picture: np.ndarray, labels: Sequence[str], lines: int) -> np.ndarray:
    times = -(-SMALLEST // len(picture))
    large = picture.repeat(times, 0).repeat(times, 1)
    side = len(large)
    tile = np.full((side + GAP + lines * LINE, side + GAP, 3), 255, np.uint8)
    tile[GAP // 2 : GAP // 2 + side, GAP // 2 : GAP // 2 + side] = large
    font = cv2.FontFace("sans")
    for line, label in enumerate(labels):
        base = (GAP // 2, side + GAP // 2 + (line + 1) * LINE - 4)
        cv2.putText(tile, label, base, (0, 0, 0), font, 13)
    return tile

"""What training changes at random: sample parameters with an explicit generator, then apply a pure function.

A draw belongs to (seed, epoch, record), whatever the batch, so the crop of picture 17 in epoch 3 can be shown. All
of the geometry is one map and one interpolation, in uint8, a picture at a time: threads over pictures pay, since
OpenCV works without Python's lock. Then come the CHANGES that are on; two pictures are mixed when a batch is whole.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..recipe import AugmentChoice
from .changes import CHANGES
from .mixing import mix, sample_mixes
from .moving import move
from .streams import generator

__all__ = [
    "CHANGES",
    "MARGIN",
    "Draws",
    "apply",
    "generator",
    "make",
    "margin",
    "mix",
    "move",
    "relabelling",
    "resolved",
    "sample",
    "sample_mixes",
]

# The cache that random resized crops read from is larger than the network's input by this factor, so that a crop of
# the mean size is hardly interpolated. More would cost memory and aliasing, less would blur.
MARGIN = 1.15


@dataclass(frozen=True)
class Draws:
    """One draw a record.

    Attributes:
        maps: float32 `(N, 2, 3)`, output → input positions in -1…1 (torch's affine_grid, corners unaligned); with
            perspective `(N, 3, 3)`.
        colours: float32 `(N, 3)`, factors of brightness, contrast and saturation; 1 leaves a picture as it is.
        changes: name in CHANGES → float64 `(N, …)`, of those that are on, in the order in which they are applied.
    """

    maps: np.ndarray
    colours: np.ndarray
    changes: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, rows: np.ndarray) -> Draws:
        """The draws of the records with these row numbers."""
        return Draws(self.maps[rows], self.colours[rows], {name: draw[rows] for name, draw in self.changes.items()})


def sample(choice: AugmentChoice, seed: int, epoch: int, n: int, size: int) -> Draws:
    """The draws of `n` records in one epoch.

    Args:
        choice: how much of what; flips must be resolved to `yes` or `no`.
        seed, epoch: they and the row number decide a record's draw.
        n: N.
        size: side of the network's input, for shifts by whole pixels.

    A flip alternates over the epochs from a random start, so that two epochs see both sides of every picture; four
    epochs see all four where both flips are on (alternating flip: Jordan 2024, arXiv 2404.00498).
    """
    rng = generator(seed, epoch)
    uniform = rng.random((10, n))
    starts = generator(seed, 2**32).random((2, n)) < 0.5
    horizontal = (starts[0] ^ bool(epoch & 1)) & (choice.hflip == "yes")
    vertical = (starts[1] ^ bool(epoch & 2)) & (choice.vflip == "yes")
    maps = (
        _crops(choice, uniform[:4]) @ _turns(choice, uniform[4]) @ _diagonal(1 - 2.0 * horizontal, 1 - 2.0 * vertical)
    )
    maps[:, 0, 2] += _shift(choice, uniform[5], size)
    maps[:, 1, 2] += _shift(choice, uniform[6], size)
    largest = np.array([[choice.brightness], [choice.contrast], [choice.saturation]])
    colours = 1 + largest * (2 * uniform[7:10] - 1)
    changes = {
        name: change.sample(choice, generator(seed, epoch, change.stream), n, size)
        for name, change in CHANGES.items()
        if change.on(choice)
    }
    if choice.perspective:
        return Draws(_tilts(choice, seed, epoch, maps).astype(np.float32), colours.T.astype(np.float32), changes)
    return Draws(maps[:, :2].astype(np.float32), colours.T.astype(np.float32), changes)


def apply(images: Tensor, draws: Draws, *, size: int, border: str) -> Tensor:
    """Batch of uint8 `(B, 3, T, T)` → uint8 `(B, 3, size, size)`, channels last in memory: `make` for each picture."""
    made = np.empty((len(images), size, size, 3), np.uint8)
    for row, (picture, out) in enumerate(zip(images.permute(0, 2, 3, 1).numpy(), made)):
        make(picture, draws, row, out, border=border)
    return torch.from_numpy(made).permute(0, 3, 1, 2)


def make(picture: np.ndarray, draws: Draws, row: int, out: np.ndarray, *, border: str) -> None:
    """One picture, uint8 `(T, T, 3)`, by row `row` of `draws`, into `out`, uint8 `(S, S, 3)`: `move`, then CHANGES."""
    move(picture, draws.maps[row], draws.colours[row], out, border=border)
    for name, rows in draws.changes.items():
        out[...] = CHANGES[name].apply(out, rows[row], border)


def margin(choice: AugmentChoice) -> float:
    """How much longer than the network's input the side of a cached training picture is."""
    return MARGIN if choice.resized_crop < 1 else 1.0


def _diagonal(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    maps = np.zeros((len(x), 3, 3))
    maps[:, 0, 0], maps[:, 1, 1], maps[:, 2, 2] = x, y, 1
    return maps


def _turns(choice: AugmentChoice, uniform: np.ndarray) -> np.ndarray:
    angle = np.deg2rad(choice.rotate) * (2 * uniform - 1)
    maps = _diagonal(np.cos(angle), np.cos(angle))
    maps[:, 0, 1], maps[:, 1, 0] = -np.sin(angle), np.sin(angle)
    return maps


def _tilts(choice: AugmentChoice, seed: int, epoch: int, maps: np.ndarray) -> np.ndarray:
    """The maps of pictures that lean: what is seen at (x, y) stands at (x, y) / (1 + px + qy) before the other map."""
    tilts = _diagonal(np.ones(len(maps)), np.ones(len(maps)))
    tilts[:, 2, :2] = choice.perspective * (2 * generator(seed, epoch, 1).random((2, len(maps))).T - 1)
    tilted: np.ndarray = maps @ tilts
    return tilted


def _crops(choice: AugmentChoice, uniform: np.ndarray) -> np.ndarray:
    """Random resized crops (Szegedy et al. 2015): area uniform, aspect ratio log-uniform in 3/4…4/3."""
    if choice.resized_crop == 1:
        ones = np.ones(uniform.shape[1])
        return _diagonal(ones, ones)
    area = choice.resized_crop + (1 - choice.resized_crop) * uniform[0]
    ratio = (4 / 3) ** (2 * uniform[1] - 1)
    width, height = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
    maps = _diagonal(width, height)
    maps[:, 0, 2], maps[:, 1, 2] = (1 - width) * (2 * uniform[2] - 1), (1 - height) * (2 * uniform[3] - 1)
    return maps


def _shift(choice: AugmentChoice, uniform: np.ndarray, size: int) -> np.ndarray:
    """Shifts of translation and of padded crops, together, by whole pixels, in coordinates where the side is 2."""
    most = round(choice.translate * size) + round(choice.crop * size)
    shifts: np.ndarray = (np.floor(uniform * (2 * most + 1)) - most) * 2 / size
    return shifts


_SIDES = {
    "hflip": {"left", "right", "links", "rechts", "gauche", "droite"},
    "vflip": {"up", "down", "top", "bottom", "upper", "lower", "above", "below"},
}
_COLOURS = {"red", "orange", "yellow", "green", "blue", "purple", "brown", "pink", "black", "white", "gray", "grey"}
_COLOURS |= {"rot", "gelb", "blau", "braun", "schwarz", "rouge", "jaune", "vert", "bleu", "noir", "blanc"}
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")  # of turn_left, turn-left, turnLeft, LEFT


def relabelling(classes: Sequence[str], flip: str) -> str:
    """Why the flip (`hflip` or `vflip`) would turn a picture into one of another class; "" where it would not."""
    if all(name.strip().isdigit() for name in classes):
        return "the classes are digits"
    if all(len(name.strip()) == 1 and name.strip().isalpha() for name in classes):
        return "the classes are letters"
    sided = [name for name in classes if _SIDES[flip] & _words(name)]
    return f"class {sided[0]!r} names a side" if sided else ""


def _words(name: str) -> set[str]:
    """The words of a class name, also where only capitals part them: `turnLeft`."""
    return {word.lower() for word in _WORDS.findall(name)}


def resolved(choice: AugmentChoice, classes: Sequence[str]) -> tuple[AugmentChoice, list[str]]:
    """`safe` flips decided for these classes, and a sentence for each one refused, or for what may relabel."""
    decided: dict[str, Any] = {}
    refusals = []
    for flip in ("hflip", "vflip"):
        reason = relabelling(classes, flip) if getattr(choice, flip) == "safe" else ""
        if reason:
            refusals.append(f"{flip} refused: {reason}, and a mirrored one is another; ask with --set {flip}=yes")
        if getattr(choice, flip) == "safe":
            decided[flip] = "no" if reason else "yes"
    coloured = [name for name in classes if _COLOURS & _words(name)]
    if choice.policy != "none" and coloured:
        refusals.append(
            f"{choice.policy} changes colours, and class {coloured[0]!r} names one: --set policy=none is safe"
        )
    return dataclasses.replace(choice, **decided), refusals

"""What training changes at random: sample parameters with an explicit generator, then apply a pure function.

A draw belongs to (seed, epoch, record), whatever the batch, so the crop of picture 17 in epoch 3 can be shown. All
of the geometry is one affine map and one interpolation, in uint8, a picture at a time: threads over pictures pay, since
OpenCV works without Python's lock.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from .recipe import AugmentChoice

# The cache that random resized crops read from is larger than the network's input by this factor, so that a crop of
# the mean size is hardly interpolated. More would cost memory and aliasing, less would blur.
MARGIN = 1.15


@dataclass(frozen=True)
class Draws:
    """One draw a record.

    Attributes:
        maps: float32 `(N, 2, 3)`, output → input positions in -1…1 (torch's affine_grid, corners unaligned).
        colours: float32 `(N, 3)`, factors of brightness, contrast and saturation; 1 leaves a picture as it is.
    """

    maps: np.ndarray
    colours: np.ndarray

    def of(self, rows: np.ndarray) -> Draws:
        """The draws of the records with these row numbers."""
        return Draws(self.maps[rows], self.colours[rows])


def generator(seed: int, epoch: int) -> np.random.Generator:
    """The generator of one epoch's draws: counter-based (Philox, Salmon et al. 2011), so no epoch needs another's."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)))


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
    return Draws(maps[:, :2].astype(np.float32), colours.T.astype(np.float32))


def apply(images: Tensor, draws: Draws, *, size: int, border: str) -> Tensor:
    """Batch of uint8 `(B, 3, T, T)` → uint8 `(B, 3, size, size)`, channels last in memory: `move` for each picture."""
    made = np.empty((len(images), size, size, 3), np.uint8)
    for picture, where, colours, out in zip(images.permute(0, 2, 3, 1).numpy(), draws.maps, draws.colours, made):
        move(picture, where, colours, out, border=border)
    return torch.from_numpy(made).permute(0, 3, 1, 2)


def move(picture: np.ndarray, where: np.ndarray, colours: np.ndarray, out: np.ndarray, *, border: str) -> None:
    """One picture, uint8 `(T, T, 3)`, by one draw, into `out`, uint8 `(S, S, 3)`; the picture is left as it is.

    Args:
        where, colours: a row of `Draws.maps` and of `Draws.colours`.
        border: `zeros` (black) or `reflection`, where the map asks for what is beyond the picture.

    Flips and shifts by whole pixels are exact. A crop's window is rounded to whole pixels of `picture`; every other map
    is bilinear and right to half a level. Colours are within one level of their definition, see `_recoloured`.
    """
    moved = np.ascontiguousarray(picture)
    size, side = len(out), len(picture)
    (xx, xy, x0), (yx, yy, y0) = where.tolist()
    left, right = (round((x0 + sign * abs(xx) + 1) * side / 2) for sign in (-1, 1))
    top, bottom = (round((y0 + sign * abs(yy) + 1) * side / 2) for sign in (-1, 1))
    if xy or yx or not (0 <= left < right <= side and 0 <= top < bottom <= side):
        moved = _warped(moved, where, size, border)
    else:
        moved = moved[top:bottom, left:right]
        flips = xx < 0 or yy < 0
        if moved.shape != out.shape:
            moved = cv2.resize(moved, (size, size), dst=None if flips else out, interpolation=cv2.INTER_LINEAR)
        if flips:
            moved = cv2.flip(moved, -1 if xx < 0 and yy < 0 else int(xx < 0), dst=out)
    moved = _recoloured(moved, *colours.tolist())
    if moved is not out:
        out[...] = moved


_BORDERS = {"zeros": cv2.BORDER_CONSTANT, "reflection": cv2.BORDER_REFLECT}


def _warped(picture: np.ndarray, where: np.ndarray, size: int, border: str) -> np.ndarray:
    """By the whole map, from coordinates of -1…1 to pixels, whose centres are whole numbers for OpenCV."""
    side = len(picture)
    turn, shift = where[:, :2].astype(np.float64), where[:, 2].astype(np.float64)
    centre = side / 2 * (turn.sum(1) * (1 / size - 1) + shift + 1) - 0.5
    pixels = np.column_stack([turn * side / size, centre])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped: np.ndarray = cv2.warpAffine(picture, pixels, (size, size), flags=flags, borderMode=_BORDERS[border])
    return warped


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


_GRAY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def _recoloured(picture: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Brightness, then contrast about the mean gray, then saturation about each pixel's gray, clipped at the end.

    All three are linear in the colour, so they are one matrix and one shift, which depends on the picture's mean.
    """
    if brightness == contrast == saturation == 1:
        return picture
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * _GRAY)
    shift = (1 - contrast) * brightness * (_GRAY @ cv2.mean(picture)[:3])
    recoloured: np.ndarray = cv2.transform(picture, np.column_stack([matrix, [shift] * 3]))
    return recoloured


_SIDES = {
    "hflip": {"left", "right", "links", "rechts", "gauche", "droite"},
    "vflip": {"up", "down", "top", "bottom", "upper", "lower", "above", "below"},
}
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
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def resolved(choice: AugmentChoice, classes: Sequence[str]) -> tuple[AugmentChoice, list[str]]:
    """`safe` flips decided for these classes, and a sentence for each one refused."""
    decided: dict[str, Any] = {}
    refusals = []
    for flip in ("hflip", "vflip"):
        reason = relabelling(classes, flip) if getattr(choice, flip) == "safe" else ""
        if reason:
            refusals.append(f"{flip} refused: {reason}, and a mirrored one is another; ask with --set {flip}=yes")
        if getattr(choice, flip) == "safe":
            decided[flip] = "no" if reason else "yes"
    return dataclasses.replace(choice, **decided), refusals

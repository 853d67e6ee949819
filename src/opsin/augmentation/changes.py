"""What becomes of a picture after it was moved: a table of changes, each of them draws and a pure function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ..recipe import AugmentChoice
from . import policies

LARGEST_HOLE = 1 / 3  # of the picture's area, so that what it shows can still be told
SMALLEST_HOLE = 0.02


@dataclass(frozen=True)
class Change:
    """One line of the table.

    Attributes:
        on: whether the recipe asks for it.
        sample: choice, generator, N, S → float64 `(N, …)`, a row a record.
        apply: uint8 `(S, S, 3)`, a row, border → uint8 `(S, S, 3)`; the picture is left as it is.
        stream: of `generator`, its own.
    """

    on: Callable[[AugmentChoice], bool]
    sample: Callable[[AugmentChoice, np.random.Generator, int, int], np.ndarray]
    apply: Callable[[np.ndarray, np.ndarray, str], np.ndarray]
    stream: int


def _sigmas(choice: AugmentChoice, rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    return choice.blur * rng.random(n)


def blurred(picture: np.ndarray, sigma: np.ndarray, border: str) -> np.ndarray:
    """Under a Gaussian of `sigma` pixels, cut off at 4 sigma, mirrored at the border."""
    side = 2 * int(4 * sigma + 0.5) + 1
    if side == 1:
        return picture
    made: np.ndarray = cv2.GaussianBlur(picture, (side, side), float(sigma), borderType=cv2.BORDER_REFLECT)
    return made


def _noises(choice: AugmentChoice, rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """`(N, 2)`: a deviation, and a number that the noise of this record in this epoch grows from."""
    return np.column_stack([choice.noise * rng.random(n), rng.integers(0, 2**53, n).astype(np.float64)])


def noisy(picture: np.ndarray, row: np.ndarray, border: str) -> np.ndarray:
    """With Gaussian noise of deviation `row[0]` (white is 1), every value its own, rounded and held in range."""
    rng = np.random.Generator(np.random.Philox(key=int(row[1])))
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(255 * row[0])
    made: np.ndarray = np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)
    return made


def _holes(choice: AugmentChoice, rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """`(N, 4)`: left, top, right, bottom in pixels; all 0 for no hole.

    Area uniform between SMALLEST_HOLE and LARGEST_HOLE, aspect ratio log-uniform in 0.3…1/0.3 (Zhong et al. 2017).
    """
    uniform = rng.random((5, n))
    area = size**2 * (SMALLEST_HOLE + (LARGEST_HOLE - SMALLEST_HOLE) * uniform[1])
    ratio = 0.3 ** (2 * uniform[2] - 1)
    # A side that would be longer than the picture is its side, and the other one longer instead.
    width = np.clip(np.sqrt(area * ratio), area / size, size)
    sides = np.floor(np.stack([width, area / width]))
    corner = np.floor(uniform[3:] * (size - sides + 1))
    return np.where(uniform[0] < choice.erase, np.concatenate([corner, corner + sides]), 0.0).T


def erased(picture: np.ndarray, hole: np.ndarray, border: str) -> np.ndarray:
    """With the picture's mean colour in a rectangle."""
    left, top, right, bottom = hole.astype(int)
    made = picture.copy()
    made[top:bottom, left:right] = np.rint(cv2.mean(picture)[:3])
    return made


# In the order in which they are applied.
CHANGES: dict[str, Change] = {
    "policy": Change(lambda choice: choice.policy != "none", policies.sample, policies.apply, 2),
    "blur": Change(lambda choice: choice.blur > 0, _sigmas, blurred, 3),
    "noise": Change(lambda choice: choice.noise > 0, _noises, noisy, 4),
    "erase": Change(lambda choice: choice.erase > 0, _holes, erased, 5),
}

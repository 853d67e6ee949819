"""Filters: neighbourhoods, by OpenCV. The picture is mirrored about its border's pixels."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
from annotated_types import Interval, doc

from ..errors import CallError
from .contract import image_op
from .enhancement import blurred

Radius = Annotated[int, Interval(ge=1, le=100), doc("of the window, pixels; its side is 2·radius + 1")]
Shape = Annotated[Literal["square", "disc", "cross"], doc("of the window")]


@image_op("pictures")
def gaussian(
    image: np.ndarray, *, sigma: Annotated[float, Interval(ge=0.1, le=100), doc("pixels")] = 2.0
) -> np.ndarray:
    """Blurred by a Gaussian, cut off at 4 sigma."""
    return blurred(image, sigma)


@image_op("pictures")
def box(image: np.ndarray, *, radius: Radius = 2) -> np.ndarray:
    """The mean of a square window."""
    return cv2.blur(image, (2 * radius + 1, 2 * radius + 1))


@image_op("pictures")
def sobel(image: np.ndarray) -> np.ndarray:
    """How steep each channel is: the length of Sobel's 3 × 3 gradient; 1 is a clean edge from 0 to 1, or more."""
    across, down = (cv2.Sobel(image, cv2.CV_32F, *order, ksize=3, scale=0.25) for order in ((1, 0), (0, 1)))
    return np.sqrt(across**2 + down**2)


@image_op("pictures")
def laplacian(image: np.ndarray) -> np.ndarray:
    """How far a pixel stands out from its four neighbours: |4 v - sum|, at most 1."""
    return np.abs(cv2.Laplacian(image, cv2.CV_32F, ksize=1))


@image_op("gray 8 bits")
def canny(
    image: np.ndarray,
    *,
    low: Annotated[float, Interval(ge=0, le=1), doc("steepness, as sobel gives it, that goes on with an edge")] = 0.1,
    high: Annotated[float, Interval(ge=0, le=1), doc("steepness that begins an edge")] = 0.2,
) -> np.ndarray:
    """Edges, one pixel thin, white on black (Canny 1986); of the gray picture, 8 bits."""
    if low > high:
        raise CallError("canny: low is above high", expected=f"low ≤ {high:g}", received=f"{low:g}")
    return cv2.Canny(image, low * 4 * 255, high * 4 * 255, L2gradient=True)


@image_op("pictures")
def erode(image: np.ndarray, *, radius: Radius = 2, shape: Shape = "square") -> np.ndarray:
    """The darkest value of the window: bright things shrink."""
    return _morphology(image, cv2.MORPH_ERODE, radius, shape)


@image_op("pictures")
def dilate(image: np.ndarray, *, radius: Radius = 2, shape: Shape = "square") -> np.ndarray:
    """The brightest value of the window: bright things grow."""
    return _morphology(image, cv2.MORPH_DILATE, radius, shape)


@image_op("pictures")
def opening(image: np.ndarray, *, radius: Radius = 2, shape: Shape = "square") -> np.ndarray:
    """Eroded, then dilated: small bright things vanish."""
    return _morphology(image, cv2.MORPH_OPEN, radius, shape)


@image_op("pictures")
def closing(image: np.ndarray, *, radius: Radius = 2, shape: Shape = "square") -> np.ndarray:
    """Dilated, then eroded: small dark things vanish."""
    return _morphology(image, cv2.MORPH_CLOSE, radius, shape)


@image_op("pictures")
def top_hat(image: np.ndarray, *, radius: Radius = 8, shape: Shape = "square") -> np.ndarray:
    """What opening takes away: small bright things, without an uneven background."""
    return _morphology(image, cv2.MORPH_TOPHAT, radius, shape)


def _morphology(image: np.ndarray, kind: int, radius: int, shape: str) -> np.ndarray:
    """Only pixels of the picture count, at the border as well."""
    return cv2.morphologyEx(image, kind, _window(radius, shape))


def _window(radius: int, shape: str) -> np.ndarray:
    """uint8 `(2·radius + 1, 2·radius + 1)`: 1 where the window is."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    inside = {"square": (x == x) & (y == y), "disc": x**2 + y**2 <= radius**2, "cross": (x == 0) | (y == 0)}[shape]
    return inside.astype(np.uint8)


FAMILY = (gaussian, box, sobel, laplacian, canny, erode, dilate, opening, closing, top_hat)

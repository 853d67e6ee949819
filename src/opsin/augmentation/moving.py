"""One picture by one draw: all of the geometry as one map and one interpolation, then its colours."""

from __future__ import annotations

import cv2
import numpy as np


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
    (xx, xy, x0), (yx, yy, y0) = where[:2].tolist()
    left, right = (round((x0 + sign * abs(xx) + 1) * side / 2) for sign in (-1, 1))
    top, bottom = (round((y0 + sign * abs(yy) + 1) * side / 2) for sign in (-1, 1))
    if xy or yx or len(where) == 3 or not (0 <= left < right <= side and 0 <= top < bottom <= side):
        moved = warped(moved, where, size, border)
    else:
        moved = moved[top:bottom, left:right]
        flips = xx < 0 or yy < 0
        if moved.shape != out.shape:
            moved = cv2.resize(moved, (size, size), dst=None if flips else out, interpolation=cv2.INTER_LINEAR)
        if flips:
            moved = cv2.flip(moved, -1 if xx < 0 and yy < 0 else int(xx < 0), dst=out)
    moved = recoloured(moved, *colours.tolist())
    if moved is not out:
        out[...] = moved


_BORDERS = {"zeros": cv2.BORDER_CONSTANT, "reflection": cv2.BORDER_REFLECT}


def warped(picture: np.ndarray, where: np.ndarray, size: int, border: str) -> np.ndarray:
    """By the whole map, from coordinates of -1…1 to pixels, whose centres are whole numbers for OpenCV."""
    if len(where) == 3:
        return _tilted(picture, where, size, border)
    side = len(picture)
    turn, shift = where[:, :2].astype(np.float64), where[:, 2].astype(np.float64)
    centre = side / 2 * (turn.sum(1) * (1 / size - 1) + shift + 1) - 0.5
    pixels = np.column_stack([turn * side / size, centre])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    made: np.ndarray = cv2.warpAffine(picture, pixels, (size, size), flags=flags, borderMode=_BORDERS[border])
    return made


def _tilted(picture: np.ndarray, where: np.ndarray, size: int, border: str) -> np.ndarray:
    """The same with a perspective in the map's third row."""
    pixels = _to_pixels(len(picture)) @ where.astype(np.float64) @ np.linalg.inv(_to_pixels(size))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    made: np.ndarray = cv2.warpPerspective(picture, pixels, (size, size), flags=flags, borderMode=_BORDERS[border])
    return made


def _to_pixels(side: int) -> np.ndarray:
    """float64 `(3, 3)`: -1…1 → pixels."""
    return np.array([[side / 2, 0, side / 2 - 0.5], [0, side / 2, side / 2 - 0.5], [0, 0, 1]])


_GRAY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def recoloured(picture: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Brightness, then contrast about the mean gray, then saturation about each pixel's gray, clipped at the end.

    All three are linear in the colour, so they are one matrix and one shift, which depends on the picture's mean.
    """
    if brightness == contrast == saturation == 1:
        return picture
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * _GRAY)
    shift = (1 - contrast) * brightness * (_GRAY @ cv2.mean(picture)[:3])
    recoloured: np.ndarray = cv2.transform(picture, np.column_stack([matrix, [shift] * 3]))
    return recoloured

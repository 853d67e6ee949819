"""Geometry: where pixels stand. `x` and lengths of width run to the right, `y` and lengths of height downwards.

Pixel i covers i…i + 1, its centre is at i + ½. Turns are counter-clockwise. torch resizes and interpolates.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Interval, doc
from torch import Tensor
from torch.nn import functional

from ..errors import CallError
from .contract import image_op

LONGEST = 16_384

Length = Annotated[int, Interval(ge=0, le=LONGEST)]
Mode = Literal["nearest", "bilinear", "bicubic"]
Fill = Annotated[float, Interval(ge=0, le=1), doc("gray of what lies outside: 0 black, 1 white")]
Fraction = Annotated[float, Interval(ge=-1, le=1), doc("fraction of the side")]


@image_op("tensors")
def resize(
    image: Tensor,
    *,
    side: Annotated[int, Interval(ge=1, le=LONGEST), doc("longer side, where neither width nor height is given")] = 256,
    width: Annotated[Length, doc("0: follows the height")] = 0,
    height: Annotated[Length, doc("0: follows the width")] = 0,
    mode: Annotated[Mode, doc("interpolation")] = "bilinear",
    antialias: Annotated[bool, doc("average over all that a smaller pixel covers; not for nearest")] = True,
) -> Tensor:
    """A picture of another size; its shape is kept unless both width and height are given."""
    return _resized(image, *_target(image, side, width, height), mode, antialias)


def _target(image: Tensor, side: int, width: int, height: int) -> tuple[int, int]:
    """(height, width) to resize to."""
    rows, columns = image.shape[-2:]
    if not width and not height:
        width, height = (side, 0) if columns >= rows else (0, side)
    return height or max(1, round(rows * width / columns)), width or max(1, round(columns * height / rows))


def _resized(image: Tensor, height: int, width: int, mode: str = "bilinear", antialias: bool = True) -> Tensor:
    if image.shape[-2:] == (height, width):
        return image
    smooth = mode != "nearest"
    # torch resizes uint8 on the CPU only, and its bicubic there cuts off what overshoots between rows and columns.
    values = image if image.device.type == "cpu" and mode != "bicubic" else image.to(torch.float32)
    done = functional.interpolate(
        values,
        size=(height, width),
        mode=mode if smooth else "nearest-exact",
        antialias=antialias and smooth,
        align_corners=False if smooth else None,
    )
    return done if done.dtype == image.dtype else done.round_().clamp_(0, 255).to(image.dtype)


@image_op("tensors")
def crop(
    image: Tensor,
    *,
    left: Annotated[Length, doc("pixels cut off at the left")] = 0,
    top: Annotated[Length, doc("pixels cut off at the top")] = 0,
    width: Annotated[Length, doc("pixels kept; 0: up to the border")] = 0,
    height: Annotated[Length, doc("pixels kept; 0: up to the border")] = 0,
) -> Tensor:
    """A rectangle of the picture; it must lie inside."""
    rows, columns = image.shape[-2:]
    right, bottom = left + width if width else columns, top + height if height else rows
    if not (left < right <= columns and top < bottom <= rows):
        raise CallError(
            "crop: the rectangle leaves the picture",
            expected=f"inside {columns} × {rows} (width × height)",
            received=f"{left}…{right} × {top}…{bottom}",
            do="Choose a smaller one, or pad before",
        )
    return image[..., top:bottom, left:right]


@image_op("tensors")
def centre_crop(
    image: Tensor,
    *,
    width: Annotated[Length, doc("pixels; 0: the shorter side")] = 0,
    height: Annotated[Length, doc("pixels; 0: the shorter side")] = 0,
) -> Tensor:
    """The middle of the picture: the largest square, or what is asked for, which must fit."""
    rows, columns = image.shape[-2:]
    width, height = width or min(rows, columns), height or min(rows, columns)
    if width > columns or height > rows:
        raise CallError(
            "centre_crop: the picture is too small",
            expected=f"at least {width} × {height} (width × height)",
            received=f"{columns} × {rows}",
            do="Resize or pad before",
        )
    left, top = (columns - width) // 2, (rows - height) // 2
    return image[..., top : top + height, left : left + width]


@image_op("tensors")
def pad(
    image: Tensor,
    *,
    left: Annotated[Length, doc("pixels")] = 16,
    top: Annotated[Length, doc("pixels")] = 16,
    right: Annotated[Length, doc("pixels")] = 16,
    bottom: Annotated[Length, doc("pixels")] = 16,
    border: Annotated[Literal["constant", "edge", "reflect"], doc("what the new pixels hold")] = "constant",
    fill: Fill = 0.0,
) -> Tensor:
    """More picture on each side: of one gray, the border's pixel again, or mirrored about it."""
    if border == "constant":
        return functional.pad(image, [left, right, top, bottom], value=_level(image, fill))
    rows, columns = (
        torch.from_numpy(np.pad(np.arange(length), sides, border)).to(image.device)
        for length, sides in zip(image.shape[-2:], ((top, bottom), (left, right)))
    )
    return image.index_select(-2, rows).index_select(-1, columns)


@image_op("tensors")
def letterbox(
    image: Tensor,
    *,
    width: Annotated[int, Interval(ge=1, le=LONGEST), doc("pixels")] = 256,
    height: Annotated[int, Interval(ge=1, le=LONGEST), doc("pixels")] = 256,
    fill: Fill = 0.5,
) -> Tensor:
    """The whole picture as large as it fits into width × height, in the middle, with bars."""
    rows, columns = image.shape[-2:]
    scale = min(width / columns, height / rows)
    inner = _resized(image, max(1, round(rows * scale)), max(1, round(columns * scale)))
    across, down = width - inner.shape[-1], height - inner.shape[-2]
    sides = [across // 2, across - across // 2, down // 2, down - down // 2]
    return functional.pad(inner, sides, value=_level(image, fill))


@image_op("tensors")
def flip(
    image: Tensor, *, axis: Annotated[Literal["horizontal", "vertical", "both"], doc("what is mirrored")] = "horizontal"
) -> Tensor:
    """Mirrored: left and right, top and bottom, or both."""
    return image.flip({"horizontal": [-1], "vertical": [-2], "both": [-2, -1]}[axis])


@image_op("tensors")
def rotate(
    image: Tensor,
    *,
    angle: Annotated[float, Interval(ge=-360, le=360), doc("degrees, counter-clockwise")] = 90.0,
    expand: Annotated[bool, doc("grow the picture so that no corner is lost")] = False,
    mode: Annotated[Literal["nearest", "bilinear"], doc("interpolation")] = "bilinear",
    fill: Fill = 0.0,
) -> Tensor:
    """Turned about its centre. Quarter turns are exact where the shape allows: with expand, squares, and 180°."""
    quarters, rest = divmod(angle, 90)
    if not rest and (expand or quarters % 2 == 0 or image.shape[-1] == image.shape[-2]):
        return image.rot90(int(quarters), (-2, -1))
    turn = _linear(angle)
    rows, columns = image.shape[-2:]
    if expand:
        columns, rows = (math.ceil(length - 1e-6) for length in np.abs(turn[:2, :2]) @ (columns, rows))
    return _warped(image, _about_centre(image, turn, rows, columns), rows, columns, mode, fill)


@image_op("tensors")
def translate(image: Tensor, *, x: Fraction = 0.1, y: Fraction = 0.1, fill: Fill = 0.0) -> Tensor:
    """Shifted to the right by `x` of its width and down by `y` of its height, in whole pixels."""
    right, down = round(x * image.shape[-1]), round(y * image.shape[-2])
    rows, columns = image.shape[-2:]
    moved = torch.full_like(image, _level(image, fill))
    kept = image[..., max(0, -down) : rows - max(0, down), max(0, -right) : columns - max(0, right)]
    moved[..., max(0, down) : rows + min(0, down), max(0, right) : columns + min(0, right)] = kept
    return moved


@image_op("tensors")
def affine(
    image: Tensor,
    *,
    angle: Annotated[float, Interval(ge=-360, le=360), doc("degrees, counter-clockwise")] = 15.0,
    scale: Annotated[float, Interval(ge=0.01, le=100), doc("1 keeps the size")] = 1.0,
    shear_x: Annotated[float, Interval(ge=-80, le=80), doc("degrees")] = 0.0,
    shear_y: Annotated[float, Interval(ge=-80, le=80), doc("degrees")] = 0.0,
    x: Fraction = 0.0,
    y: Fraction = 0.0,
    fill: Fill = 0.0,
) -> Tensor:
    """Sheared, scaled and turned about its centre, in this order, then shifted; bilinear."""
    rows, columns = image.shape[-2:]
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = math.tan(math.radians(shear_x)), math.tan(math.radians(shear_y))
    if abs(np.linalg.det(shear)) < 1e-3:
        raise CallError("affine: these shears make a line of the picture", received=f"{shear_x}° and {shear_y}°")
    moved = _shift(x * columns, y * rows) @ _about_centre(image, _linear(angle, scale) @ shear, rows, columns)
    return _warped(image, moved, rows, columns, "bilinear", fill)


@image_op("tensors")
def perspective(
    image: Tensor,
    *,
    corners: Annotated[
        str, doc("where the corners go, from top left clockwise: x y four times, fractions of width and height")
    ] = "0.1 0.1 0.9 0 1 1 0 0.9",
    fill: Fill = 0.0,
) -> Tensor:
    """Seen from elsewhere: its four corners are moved to where `corners` says; bilinear."""
    rows, columns = image.shape[-2:]
    size = np.array([columns, rows])
    moved = _homography(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size, _corners(corners) * size)
    return _warped(image, moved, rows, columns, "bilinear", fill)


# --- maps of the plane, 3 × 3, from positions in the picture to positions in the result -------------------------------


def _linear(angle: float, scale: float = 1.0) -> np.ndarray:
    """A turn, counter-clockwise as one sees it (y runs down), and a scale."""
    cosine, sine = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    return np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def _about_centre(image: Tensor, moved: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The map that takes the picture's centre to the centre of a result of `rows` × `columns`."""
    back = _shift(-image.shape[-1] / 2, -image.shape[-2] / 2)
    return _shift(columns / 2, rows / 2) @ moved @ back


def _warped(image: Tensor, moved: np.ndarray, rows: int, columns: int, mode: str, fill: float) -> Tensor:
    """`(B, C, rows, columns)`: each pixel taken from where the inverse of `moved` says; `fill` lies around the picture.

    What is sampled is the difference from `fill`, so that the zeros that torch finds outside mean `fill`.
    """
    back = torch.tensor(np.linalg.inv(moved), dtype=torch.float32, device=image.device)
    x = torch.arange(columns, device=image.device) + 0.5
    y = torch.arange(rows, device=image.device)[:, None] + 0.5
    u, v, w = (back[i, 0] * x + back[i, 1] * y + back[i, 2] for i in range(3))
    grid = torch.stack((u / w * (2 / image.shape[-1]) - 1, v / w * (2 / image.shape[-2]) - 1), dim=-1)
    grid[w <= 0] = 4.0  # behind the eye: outside
    level = _level(image, fill)
    grids = grid.expand(len(image), *grid.shape)
    found = functional.grid_sample(image.to(torch.float32) - level, grids, mode=mode, align_corners=False) + level
    return found if image.dtype == torch.float32 else found.round_().clamp_(0, 255).to(image.dtype)


def _corners(text: str) -> np.ndarray:
    """float64 `(4, 2)`: the points in `text`, if they are the corners of a convex quadrilateral, clockwise."""
    try:
        points = np.array([float(word) for word in text.split()]).reshape(4, 2)
    except ValueError:
        points = np.full((4, 2), np.nan)
    edges = np.roll(points, -1, axis=0) - points
    turns = edges[:, 0] * np.roll(edges[:, 1], -1) - edges[:, 1] * np.roll(edges[:, 0], -1)
    if not (turns > 1e-6).all() or np.abs(points).max() > 10:
        raise CallError(
            "perspective: corners",
            expected="eight numbers in -10…10: x and y of a convex quadrilateral's corners, clockwise from top left",
            received=repr(text),
        )
    return points


def _homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The map that takes four points to four others: `x' = (a x + b y + c) / (g x + h y + 1)`, `y' = (d x + …) / …`."""
    rows = []
    for (x, y), (u, v) in zip(source, target):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.append(np.linalg.solve(np.array(rows), target.reshape(-1)), 1).reshape(3, 3)


def _level(image: Tensor, fill: float) -> float:
    """`fill` in the units of the picture."""
    return fill if image.dtype == torch.float32 else round(fill * 255)


FAMILY = (resize, crop, centre_crop, pad, letterbox, flip, rotate, translate, affine, perspective)

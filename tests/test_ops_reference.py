"""Every image operation and every number against a reference that is not the library that the operation calls.

References are written here in float64, by the published formula, or come from scipy, scikit-image or the standard
library where the operation calls torch or OpenCV. Each is tried on random, constant, 1 × 1, odd-sized, gray and colour
pictures, in float32 and uint8, within a tolerance in 8-bit levels; 0 is exact.
"""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import skimage
from scipy import ndimage

from opsin import ops
from opsin.errors import CallError
from opsin.ops import OPS

Picture = np.ndarray  # float64 (H, W, C) in 0…1
Reference = Callable[..., np.ndarray]

RNG = np.random.default_rng(1)
NOISE = RNG.integers(0, 256, (24, 31, 3), dtype=np.uint8)
SMOOTH = (ndimage.gaussian_filter(RNG.random((29, 22, 3)), (3, 3, 0), mode="wrap") * 4 - 1.5).clip(0, 1)
PICTURES = {
    "random": NOISE,
    "smooth": (SMOOTH * 255).round().astype(np.uint8),
    "constant": np.full((12, 17, 3), [60, 130, 200], np.uint8),
    "1×1": np.array([[[10, 200, 30]]], np.uint8),
    "odd": NOISE[:7, :5],
    "gray": NOISE[..., :1],
}


def each_channel(function: Callable[[np.ndarray], np.ndarray]) -> Reference:
    """A function of one channel as one of pictures."""
    return lambda image: np.stack([function(image[..., i]) for i in range(image.shape[2])], axis=-1)


def luma(image: Picture) -> np.ndarray:
    return image @ [0.299, 0.587, 0.114] if image.shape[2] == 3 else image[..., 0]


# Geometry ------------------------------------------------------------------------------------------------------------


def triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    def weights(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    return weights


def weights(n: int, wanted: int, kernel: Callable, antialias: bool) -> np.ndarray:
    """`(wanted, n)`: what each pixel of the result takes from each of the picture."""
    scale = n / wanted
    wide = max(scale, 1) if antialias else 1
    centres = (np.arange(wanted)[:, None] + 0.5) * scale
    if antialias:
        matrix = kernel((np.arange(n) + 0.5 - centres) / wide)
        return matrix / matrix.sum(axis=1, keepdims=True)
    reach = np.arange(-3, n + 3)  # beyond the border stands the border's pixel again
    matrix = kernel(reach + 0.5 - centres)
    folded = np.zeros((wanted, n))
    for column, place in enumerate(reach.clip(0, n - 1)):
        folded[:, place] += matrix[:, column]
    return folded


def resized(image: Picture, height: int, width: int, kernel: Callable = triangle, antialias: bool = True) -> Picture:
    rows, columns = (weights(n, m, kernel, antialias) for n, m in zip(image.shape, (height, width)))
    return np.einsum("ih,jw,hwc->ijc", rows, columns, image).clip(0, 1)


def nearest(image: Picture, height: int, width: int) -> Picture:
    rows, columns = (((np.arange(m) + 0.5) * n / m).astype(int) for n, m in zip(image.shape, (height, width)))
    return image[rows][:, columns]


def letterboxed(image: Picture) -> Picture:
    rows, columns = image.shape[:2]
    scale = min(20 / columns, 30 / rows)
    inner = resized(image, max(1, round(rows * scale)), max(1, round(columns * scale)))
    whole = np.full((30, 20, image.shape[2]), 0.25)
    top, left = (30 - inner.shape[0]) // 2, (20 - inner.shape[1]) // 2
    whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return whole


def sampled(image: Picture, x: np.ndarray, y: np.ndarray, fill: float) -> Picture:
    """Values at positions where pixel centres are at i + ½, `fill` around the picture."""

    def channel(values: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(values, [y - 0.5, x - 0.5], order=1, mode="grid-constant", cval=fill)

    return each_channel(channel)(image)


def grid(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:rows, :columns] + 0.5
    return x, y


def turned(image: Picture, degrees: float, fill: float, expand: bool = False) -> Picture:
    """By complex numbers, the imaginary axis up."""
    rows, columns = image.shape[:2]
    turn = np.exp(1j * np.deg2rad(degrees))
    wide, high = columns, rows
    if expand:
        corners = [turn * complex(sx * columns / 2, sy * rows / 2) for sx in (-1, 1) for sy in (-1, 1)]
        wide, high = (
            int(np.ceil(2 * max(part) - 1e-6)) for part in ([c.real for c in corners], [c.imag for c in corners])
        )
    x, y = grid(high, wide)
    back = ((x - wide / 2) - 1j * (y - high / 2)) / turn
    return sampled(image, back.real + columns / 2, rows / 2 - back.imag, fill)


def affine(image: Picture) -> Picture:
    """Solved for each pixel, step by step backwards: shift, turn, scale, shear."""
    rows, columns = image.shape[:2]
    x, y = grid(rows, columns)
    x, y = x - columns / 2 - 0.1 * columns, y - rows / 2 + 0.2 * rows
    angle = np.deg2rad(-25)  # back; y runs down
    x, y = (x * np.cos(angle) + y * np.sin(angle)) / 1.3, (-x * np.sin(angle) + y * np.cos(angle)) / 1.3
    a, b = np.tan(np.deg2rad(10)), np.tan(np.deg2rad(-5))
    x, y = (x - a * y) / (1 - a * b), (y - b * x) / (1 - a * b)
    return sampled(image, x + columns / 2, y + rows / 2, 0.3)


CORNERS = np.array([[0.2, 0.1], [0.9, 0.0], [1.1, 0.8], [-0.1, 1.0]])


def perspective(image: Picture) -> Picture:
    """By the projective map that skimage estimates."""
    size = np.array(image.shape[1::-1])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    back = skimage.transform.ProjectiveTransform.from_estimate(CORNERS * size, square * size)
    x, y = grid(*image.shape[:2])
    there = back(np.stack([x.ravel(), y.ravel()], axis=-1)).reshape(*x.shape, 2)
    return sampled(image, there[..., 0], there[..., 1], 0.7)


def shifted(image: Picture) -> Picture:
    rows, columns = image.shape[:2]
    return ndimage.shift(image, (round(-0.4 * rows), round(0.3 * columns), 0), order=0, cval=0.5)


def padded(mode: str) -> Reference:
    constant: dict[str, Any] = {"constant_values": 0.5} if mode == "constant" else {}
    return lambda image: np.pad(image, ((9, 40), (3, 5), (0, 0)), mode, **constant)  # type: ignore[call-overload]


# Colour --------------------------------------------------------------------------------------------------------------


def by_pixel(function: Callable[[float, float, float], tuple[float, float, float]]) -> Reference:
    return lambda image: np.array([[function(*pixel) for pixel in row] for row in image])


def lab(image: Picture) -> Picture:
    return (skimage.color.rgb2lab(image) + np.array([0, 128, 128])) / [100, 255, 255]


def from_lab(image: Picture) -> Picture:
    """IEC 61966-2-1 and CIE 15; colours that sRGB cannot show are cut off."""
    lightness, a, b = np.moveaxis(image * [100, 255, 255] - [0, 128, 128], -1, 0)
    fy = (lightness + 16) / 116
    curved = np.stack([fy + a / 500, fy, fy - b / 200], axis=-1)
    xyz = np.where(curved > 6 / 29, curved**3, 3 * (6 / 29) ** 2 * (curved - 4 / 29)) * [0.950456, 1, 1.088754]
    matrix = [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
    linear = (xyz @ np.array(matrix).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def white_patch(image: Picture) -> Picture:
    bright = [sorted(image[..., i].ravel())[image[..., i].size - int(0.05 * image[..., i].size) - 1] for i in range(3)]
    return image / np.where(np.array(bright) > 0, bright, 1)


def normalised(image: Picture) -> Picture:
    deviation = image.std()
    return (image - image.mean()) * (0.2 / deviation if deviation > 1e-6 else 0) + 0.4


# Enhancement ---------------------------------------------------------------------------------------------------------


def autocontrast(image: Picture) -> Picture:
    def channel(values: np.ndarray) -> np.ndarray:
        order = sorted(values.ravel())
        cut = int(0.1 * len(order))
        low, high = order[cut], order[-1 - cut]
        return (values - low) / (high - low) if high > low else values

    return each_channel(channel)(image)


def on_luma(change: Callable[[np.ndarray], np.ndarray]) -> Reference:
    """Luma, in whole levels, changed; chroma (JFIF 1.02) added again."""

    def changed(image: Picture) -> Picture:
        before = np.floor(luma(image) * 255 + 0.5).astype(int)
        after = change(before)
        if image.shape[2] == 1:
            return after[..., None] / 255
        return image + ((after - before) / 255)[..., None]

    return changed


def equalised(levels: np.ndarray) -> np.ndarray:
    """Gonzalez & Woods, with the darkest level that is used at 0."""
    counts = np.bincount(levels.ravel(), minlength=256).cumsum()
    darkest = counts[levels.min()]
    if darkest == levels.size:
        return levels
    return np.round((counts - darkest) / (levels.size - darkest) * 255)[levels]


def clahe(levels: np.ndarray, clip: float = 3.0, tiles: int = 4) -> np.ndarray:
    """Zuiderveld 1994: clipped histograms of tiles, excess spread evenly, tables interpolated between tile centres."""
    rows, columns = levels.shape
    pad = [(0, tiles - n % tiles if rows % tiles or columns % tiles else 0) for n in levels.shape]  # so does OpenCV
    grown = np.pad(levels, pad, "reflect")
    high, wide = grown.shape[0] // tiles, grown.shape[1] // tiles
    limit = max(1, int(clip * high * wide / 256))
    tables = np.empty((tiles, tiles, 256))
    for i, j in itertools.product(range(tiles), repeat=2):
        counts = np.bincount(grown[i * high : (i + 1) * high, j * wide : (j + 1) * wide].ravel(), minlength=256)
        excess = int(np.maximum(counts - limit, 0).sum())
        counts = np.minimum(counts, limit) + excess // 256
        rest = excess % 256
        if rest:
            counts[:: max(256 // rest, 1)][:rest] += 1
        tables[i, j] = np.round(counts.cumsum() * 255 / (high * wide)).clip(0, 255)
    y, x = (np.arange(rows) / high - 0.5)[:, None], (np.arange(columns) / wide - 0.5)[None]
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = y - i, x - j
    above, below, left, beside = (index.clip(0, tiles - 1) for index in (i, i + 1, j, j + 1))
    upper = tables[above, left, levels] * (1 - right) + tables[above, beside, levels] * right
    lower = tables[below, left, levels] * (1 - right) + tables[below, beside, levels] * right
    return np.round(upper * (1 - down) + lower * down)


def gauss(image: Picture, sigma: float) -> Picture:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="mirror", truncate=4)


def unsharp(image: Picture) -> Picture:
    more = image - gauss(image, 1.5)
    return image + 2 * np.where(np.abs(more) >= 0.02, more, 0)


def surroundings(image: Picture, radius: int) -> np.ndarray:
    """`(H, W, 2r + 1, 2r + 1, C)`: every pixel's window, the picture mirrored about its border's pixels."""
    grown = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), "reflect")
    return np.lib.stride_tricks.sliding_window_view(grown, (2 * radius + 1,) * 2, (0, 1)).transpose(0, 1, 3, 4, 2)


def bilateral(image: Picture) -> Picture:
    """Tomasi & Manduchi 1998, in a disc; colours differ by the sum over channels."""
    windows = surroundings(image, 4)
    y, x = np.mgrid[-4:5, -4:5]
    space = np.exp(-(x**2 + y**2) / (2 * 2.0**2)) * (x**2 + y**2 <= 16)
    difference = np.abs(windows - image[:, :, None, None]).sum(axis=-1)
    weight = space * np.exp(-(difference**2) / (2 * 0.15**2))
    return (windows * weight[..., None]).sum(axis=(2, 3)) / weight.sum(axis=(2, 3))[..., None]


def non_local(image: Picture) -> Picture:
    """Buades, Coll & Morel 2005: patches of 3 × 3 in a window of 9 × 9."""
    patches = surroundings(image, 1).reshape(*image.shape[:2], -1)
    others = surroundings(patches, 4)
    # The window's patches lie in a picture that is mirrored before patches are taken, not after.
    grown = np.pad(image, ((5, 5), (5, 5), (0, 0)), "reflect")
    whole = np.lib.stride_tricks.sliding_window_view(grown, (3, 3), (0, 1)).transpose(0, 1, 3, 4, 2)
    whole = whole.reshape(*whole.shape[:2], -1)
    others = np.lib.stride_tricks.sliding_window_view(whole, (9, 9), (0, 1)).transpose(0, 1, 3, 4, 2)
    distance = np.mean((others - patches[:, :, None, None]) ** 2, axis=-1)
    weight = np.exp(-distance / 0.1**2)
    values = surroundings(image, 4)
    return (values * weight[..., None]).sum(axis=(2, 3)) / weight.sum(axis=(2, 3))[..., None]


def total_variation(image: Picture) -> Picture:
    """The minimum of |u - f|² / 2 + 0.1 TV(u) of each channel, by accelerated projection (Beck & Teboulle 2009)."""

    def gradient(u: np.ndarray) -> np.ndarray:
        return np.stack([np.diff(u, axis=0, append=u[-1:]), np.diff(u, axis=1, append=u[:, -1:])])

    def divergence(p: np.ndarray) -> np.ndarray:
        down, right = p[0].copy(), p[1].copy()
        down[-1], right[:, -1] = 0, 0
        return np.diff(down, axis=0, prepend=0) + np.diff(right, axis=1, prepend=0)

    def channel(f: np.ndarray) -> np.ndarray:
        p = ahead = np.zeros((2, *f.shape))
        momentum = 1.0
        for _ in range(600):
            moved = ahead + gradient(f + 0.1 * divergence(ahead)) / (8 * 0.1)
            new = moved / np.maximum(1, np.sqrt((moved**2).sum(axis=0)))
            following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            ahead = new + (momentum - 1) / following * (new - p)
            p, momentum = new, following
        return f + 0.1 * divergence(p)

    return each_channel(channel)(image)


# Filters -------------------------------------------------------------------------------------------------------------


def steepness(values: np.ndarray) -> np.ndarray:
    return np.hypot(*(ndimage.sobel(values, axis, mode="mirror") for axis in (0, 1))) / 4


def canny(image: Picture) -> Picture:
    """Canny 1986: gradients, thinned in four directions, edges that hold on to a strong one."""
    gray = np.floor(luma(image) * 255 + 0.5).astype(int)
    across, down = (ndimage.sobel(gray, axis, mode="nearest") for axis in (1, 0))
    strength = across**2 + down**2
    around = np.pad(strength, 1)
    rows, columns = gray.shape

    def neighbour(dy: int, dx: int) -> np.ndarray:
        return around[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]

    flat = np.abs(down) < np.tan(np.pi / 8) * np.abs(across)
    steep = np.abs(down) > np.tan(3 * np.pi / 8) * np.abs(across)
    falling = (across ^ down) >= 0
    peak = np.where(
        flat,
        (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1)),
        np.where(
            steep,
            (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0)),
            np.where(
                falling,
                (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1)),
                (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1)),
            ),
        ),
    )
    weak, strong = (peak & (strength > (share * 4 * 255) ** 2) for share in (0.15, 0.3))
    joined, _ = ndimage.label(weak, np.ones((3, 3)))
    edges = np.isin(joined, np.unique(joined[strong & weak])) & weak
    return np.repeat(edges[..., None].astype(float), image.shape[2], axis=2)


def morphology(*kinds: str, shape: str = "square") -> Reference:
    y, x = np.mgrid[-2:3, -2:3]
    window = {"square": x == x, "disc": x**2 + y**2 <= 4, "cross": (x == 0) | (y == 0)}[shape]

    def channel(values: np.ndarray) -> np.ndarray:
        for kind in kinds:
            step, outside = (ndimage.grey_erosion, 2) if kind == "erode" else (ndimage.grey_dilation, -1)
            values = step(values, footprint=window, mode="constant", cval=outside)
        return values

    return each_channel(channel)


def top_hat(image: Picture) -> Picture:
    return image - morphology("erode", "dilate")(image)


# The table: operation → settings, reference, tolerance in levels -----------------------------------------------------

IMAGES: dict[str, list[tuple[dict[str, Any], Reference, float]]] = {
    "resize": [
        ({"width": 9, "height": 40}, lambda image: resized(image, 40, 9), 0.01),
        ({"width": 8, "height": 9, "mode": "bicubic"}, lambda image: resized(image, 9, 8, cubic(-0.5)), 0.01),
        ({"width": 50, "height": 9, "antialias": False}, lambda image: resized(image, 9, 50, antialias=False), 0.01),
        (
            {"width": 50, "height": 41, "mode": "bicubic", "antialias": False},
            lambda image: resized(image, 41, 50, cubic(-0.75), antialias=False),
            0.01,
        ),
        ({"width": 10, "height": 45, "mode": "nearest"}, lambda image: nearest(image, 45, 10), 0),
    ],
    "crop": [({"left": 0, "top": 0, "width": 1, "height": 1}, lambda image: image[:1, :1], 0)],
    "centre_crop": [({"width": 1, "height": 1}, lambda i: i[(len(i) - 1) // 2 :, (i.shape[1] - 1) // 2 :][:1, :1], 0)],
    "pad": [
        (
            {"top": 9, "bottom": 40, "left": 3, "right": 5, "border": mode, "fill": 0.5},
            padded(mode),
            0.01 * (mode == "constant"),
        )
        for mode in ("constant", "edge", "reflect")
    ],
    "letterbox": [({"width": 20, "height": 30, "fill": 0.25}, letterboxed, 0.01)],
    "flip": [
        ({}, lambda image: image[:, ::-1], 0),
        ({"axis": "vertical"}, lambda image: image[::-1], 0),
        ({"axis": "both"}, lambda image: image[::-1, ::-1], 0),
    ],
    "rotate": [
        ({"angle": 33, "fill": 0.4}, lambda image: turned(image, 33, 0.4), 0.01),
        ({"angle": -170.5, "expand": True}, lambda image: turned(image, -170.5, 0, expand=True), 0.01),
        ({"angle": 90, "expand": True}, lambda image: np.rot90(image, 1), 0),
        ({"angle": -180}, lambda image: image[::-1, ::-1], 0),
    ],
    "translate": [({"x": 0.3, "y": -0.4, "fill": 0.5}, shifted, 0.01)],
    "affine": [
        ({"angle": 25, "scale": 1.3, "shear_x": 10, "shear_y": -5, "x": 0.1, "y": -0.2, "fill": 0.3}, affine, 0.01)
    ],
    "perspective": [({"corners": "0.2 0.1 0.9 0 1.1 0.8 -0.1 1", "fill": 0.7}, perspective, 0.01)],
    "gray": [({}, lambda image: np.repeat(luma(image)[..., None], image.shape[2], axis=2), 0.01)],
    "hsv": [
        ({}, by_pixel(colorsys.rgb_to_hsv), 0.01),
        ({"inverse": True}, by_pixel(colorsys.hsv_to_rgb), 0.01),
    ],
    "lab": [({}, lab, 0.5), ({"inverse": True}, from_lab, 0.5)],
    "white_balance": [
        ({}, lambda image: image * image.mean() / image.mean(axis=(0, 1)), 0.01),
        ({"method": "white-patch", "cutoff": 0.05}, white_patch, 0.01),
    ],
    "invert": [({}, lambda image: 1 - image, 0)],
    "posterise": [({"bits": 2}, lambda image: np.floor(np.round(image * 255) / 64) * 64 / 255, 0)],
    "normalise": [({"mean": 0.4, "deviation": 0.2}, normalised, 0.01)],
    "brightness": [({"factor": 1.7}, lambda image: image * 1.7, 0.01)],
    "contrast": [({"factor": 0.4}, lambda image: (image - luma(image).mean()) * 0.4 + luma(image).mean(), 0.01)],
    "gamma": [({"gamma": 2.2}, lambda image: image**2.2, 0.01)],
    "autocontrast": [({"cutoff": 0.1}, autocontrast, 0.01)],
    "equalise": [({}, on_luma(equalised), 2.6)],
    "clahe": [({"clip": 3, "tiles": 4}, on_luma(clahe), 2.6)],
    "sharpen": [({"amount": 1.5}, lambda i: i + 1.5 * (i - ndimage.uniform_filter(i, (3, 3, 1), mode="mirror")), 0.01)],
    "unsharp_mask": [({"sigma": 1.5, "amount": 2, "threshold": 0.02}, unsharp, 0.01)],
    "median": [({"radius": 2}, lambda image: ndimage.median_filter(image, (5, 5, 1), mode="nearest"), 0)],
    "bilateral": [({"sigma": 2, "tolerance": 0.15}, bilateral, 0.01)],
    "non_local_means": [({"strength": 0.1, "patch": 1, "search": 4}, non_local, 1.1)],
    "total_variation": [({"weight": 0.1}, total_variation, 4)],
    "gaussian": [({"sigma": 2.3}, lambda image: gauss(image, 2.3), 0.01)],
    "box": [({"radius": 3}, lambda image: ndimage.uniform_filter(image, (7, 7, 1), mode="mirror"), 0.01)],
    "sobel": [({}, each_channel(steepness), 0.01)],
    "laplacian": [({}, each_channel(lambda values: np.abs(ndimage.laplace(values, mode="mirror"))), 0.01)],
    "canny": [({"low": 0.15, "high": 0.3}, canny, 0)],
    "erode": [
        ({"radius": 2, "shape": shape}, morphology("erode", shape=shape), 0) for shape in ("square", "disc", "cross")
    ],
    "dilate": [
        ({"radius": 2, "shape": shape}, morphology("dilate", shape=shape), 0) for shape in ("square", "disc", "cross")
    ],
    "opening": [({"radius": 2, "shape": "disc"}, morphology("erode", "dilate", shape="disc"), 0)],
    "closing": [({"radius": 2, "shape": "cross"}, morphology("dilate", "erode", shape="cross"), 0)],
    "top_hat": [({"radius": 2}, top_hat, 0.01)],
}

# Beyond the tolerance, for uint8 that is not exact: resizing rounds between rows and columns, `fill` is a whole level.
ROUNDING = {"geometry": 1.1, "colour": 0.5, "enhancement": 0.5, "filters": 0.5}

CASES = [
    pytest.param(name, *case, picture, id=f"{name}-{number}-{kind}")
    for name, cases in IMAGES.items()
    for number, case in enumerate(cases)
    for kind, picture in PICTURES.items()
    if picture.shape[2] in OPS[name].channels
]


def distance(name: str, found: Picture, known: Picture) -> float:
    """The largest difference in levels; hues, the first channel of hsv, lie on a circle."""
    apart = np.abs(found - known)
    if name == "hsv":
        apart[..., 0] = np.minimum(apart[..., 0], 1 - apart[..., 0])
    return float(apart.max() * 255)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8], ids=["float32", "uint8"])
@pytest.mark.parametrize(("name", "settings", "reference", "levels", "picture"), CASES)
def test_an_image_operation_does_what_its_reference_does(name, settings, reference, levels, picture, dtype) -> None:
    known = np.clip(reference(picture / 255), 0, 1)
    if dtype == np.uint8:
        found = OPS[name].function(picture, **settings) / 255
        levels += ROUNDING[OPS[name].family] if levels else 0
    else:
        found = OPS[name].function((picture / 255).astype(np.float32), **settings).astype(np.float64)
    assert found.shape == known.shape
    assert distance(name, found, known) <= levels + 1e-4


def test_every_image_operation_has_a_reference() -> None:
    named = {name for name, op in OPS.items() if op.kind == "image"}
    assert {*IMAGES, "match_histogram"} == named  # two pictures, below


def test_a_reference_can_fail() -> None:
    turned_wrong = ops.rotate(SMOOTH.astype(np.float32), angle=-33.0, fill=0.4)
    assert distance("rotate", turned_wrong, turned(SMOOTH, 33, 0.4)) > 20


@pytest.mark.parametrize("kind", PICTURES)
def test_matching_a_histogram_does_what_skimage_does(kind: str) -> None:
    picture = PICTURES[kind]
    model = RNG.integers(50, 120, (13, 19, picture.shape[2]), dtype=np.uint8)
    known = skimage.exposure.match_histograms(picture / 255, model / 255, channel_axis=-1)
    assert np.abs(ops.match_histogram(picture, model) / 255 - known).max() * 255 <= 0.502


# Sizes and refusals that the references above do not reach ------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"side": 62}, (48, 62)),
        ({"width": 15}, (12, 15)),
        ({"height": 12}, (12, 16)),
        ({"width": 5, "height": 7}, (7, 5)),
        ({"side": 1}, (1, 1)),
    ],
)
def test_resizing_keeps_the_shape_where_it_can(settings, shape) -> None:
    assert ops.resize(NOISE, **settings).shape[:2] == shape


def test_the_longer_side_is_what_side_means() -> None:
    assert ops.resize(NOISE.swapaxes(0, 1), side=62).shape[:2] == (62, 48)


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("crop", {"left": 20, "width": 12}, r"inside 31 × 24 .*received 20…32 × 0…24"),
        ("crop", {"top": 24}, "leaves the picture"),
        ("centre_crop", {"width": 40}, r"at least 40 × 24 .*received 31 × 24"),
        ("canny", {"low": 0.5, "high": 0.4}, "low is above high"),
        ("grabcut", {"left": 0.5, "right": 0.5}, "the box is empty"),
        ("affine", {"shear_x": 45, "shear_y": 45}, "make a line of the picture"),
        ("perspective", {"corners": "0 0 1 1 1 0 0 1"}, "eight numbers"),
        ("perspective", {"corners": "0 0 1 0 1 1"}, "eight numbers"),
        ("perspective", {"corners": "0 0 0 1 1 1 1 0"}, "clockwise"),
        ("perspective", {"corners": "0 0 1 0 1 1 0 nan"}, "eight numbers"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(name: str, settings, told: str) -> None:
    with pytest.raises(CallError, match=told):
        OPS[name].function(NOISE, **settings)

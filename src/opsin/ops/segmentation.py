"""Segmentation: label maps, int32 `(H, W)`, 0 the background. `labels` makes overlays, cut-outs and measures of them.

Thresholds look at the gray picture. Nothing here is drawn at random: the same picture gives the same map.
"""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from annotated_types import Interval, doc

from ..errors import CallError
from .contract import map_op, skimage

Dark = Annotated[bool, doc("what is dark is the object, not what is bright")]
Part = Annotated[float, Interval(ge=0, le=1), doc("fraction of the side")]


@map_op("gray 8 bits")
def otsu(image: np.ndarray, *, dark: Dark = False) -> np.ndarray:
    """1 where the gray is above the threshold that parts it best into two (Otsu 1979)."""
    return _foreground(image, dark)


def _foreground(image: np.ndarray, dark: bool) -> np.ndarray:
    """bool `(H, W)`."""
    threshold, _ = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return image <= threshold if dark else image > threshold


@map_op("gray 8 bits")
def multi_otsu(image: np.ndarray, *, classes: Annotated[int, Interval(ge=2, le=4), doc("of gray")] = 3) -> np.ndarray:
    """0, 1, 2, … by the thresholds that part the gray best into so many classes (Liao, Chen & Chung 2001)."""
    if len(np.unique(image)) < classes:
        return np.unique(image, return_inverse=True)[1].reshape(image.shape)
    thresholds = skimage("filters").threshold_multiotsu(image, classes)
    return np.digitize(image, thresholds, right=True)


@map_op("gray 8 bits")
def adaptive(
    image: np.ndarray,
    *,
    radius: Annotated[int, Interval(ge=1, le=500), doc("of the neighbourhood, pixels")] = 25,
    offset: Annotated[float, Interval(ge=-1, le=1), doc("how far above the mean the threshold lies")] = 0.05,
    dark: Dark = False,
) -> np.ndarray:
    """1 where the gray is above the mean of its neighbourhood by more than `offset`: light may be uneven.

    With `dark`, where it is below by more than `offset`.
    """
    mean = cv2.blur(image.astype(np.float32), (2 * radius + 1, 2 * radius + 1))
    return (image < mean - 255 * offset) if dark else (image > mean + 255 * offset)


@map_op("pictures")
def kmeans(image: np.ndarray, *, classes: Annotated[int, Interval(ge=2, le=32), doc("of colour")] = 4) -> np.ndarray:
    """0, 1, 2, … from dark to bright: the nearest of so many mean colours (Lloyd 1982)."""
    pixels = image.reshape(-1, image.shape[2])
    order = np.argsort(pixels.mean(axis=1), kind="stable")
    first = np.empty(len(pixels), np.int32)
    first[order] = np.arange(len(pixels)) * classes // len(pixels)  # begins with as many pixels in each, by brightness
    if len(pixels) < classes:
        return first.reshape(image.shape[:2])
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-4)
    _, found, centres = cv2.kmeans(pixels, classes, first[:, None], stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    rank = np.argsort(np.argsort(centres.mean(axis=1), kind="stable"))
    return rank[found.reshape(image.shape[:2])]


@map_op("pictures")
def slic(
    image: np.ndarray,
    *,
    segments: Annotated[int, Interval(ge=1, le=10_000), doc("about how many")] = 200,
    compactness: Annotated[float, Interval(ge=0.01, le=100), doc("larger is squarer")] = 20.0,
) -> np.ndarray:
    """1, 2, 3, …: superpixels, small regions of one colour (Achanta et al. 2012)."""
    colour = image.shape[2] == 3
    return skimage("segmentation").slic(
        image if colour else image[..., 0],
        n_segments=min(segments, image[..., 0].size),
        compactness=compactness if colour else compactness / 100,  # gray spans 0…1, L* of Lab 0…100
        start_label=1,
        channel_axis=-1 if colour else None,
    )


@map_op("gray 8 bits")
def watershed(
    image: np.ndarray,
    *,
    dark: Dark = False,
    core: Annotated[
        float, Interval(gt=0, lt=1), doc("what counts as an object's core: share of its deepest depth")
    ] = 0.6,
) -> np.ndarray:
    """1, 2, 3, …: Otsu's foreground, with objects that touch parted where they are narrow (Meyer 1992).

    A connected foreground has an object for each core, a region deeper than `core` times its deepest depth.
    """
    inside = np.pad(_foreground(image, dark), 1)  # the border of the picture is a border of objects
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    count, whole = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
    deepest = np.zeros(count)
    np.maximum.at(deepest, whole, depth)
    _, cores = cv2.connectedComponents((inside & (depth > core * deepest[whole])).astype(np.uint8), connectivity=8)
    return skimage("segmentation").watershed(-depth, cores, mask=inside)[1:-1, 1:-1]


@map_op("8 bits", channels=(3,))
def grabcut(
    image: np.ndarray,
    *,
    left: Part = 0.1,
    top: Part = 0.1,
    right: Part = 0.9,
    bottom: Part = 0.9,
    rounds: Annotated[int, Interval(ge=1, le=50), doc("of cutting")] = 5,
) -> np.ndarray:
    """1 on the object inside the box, whose colours differ from what is outside (Rother et al. 2004); 8 bits."""
    rows, columns = image.shape[:2]
    x, y, end, low = round(left * columns), round(top * rows), round(right * columns), round(bottom * rows)
    if left >= right or top >= bottom:
        raise CallError(
            "grabcut: the box is empty", expected="left < right, top < bottom", received=_box(left, top, right, bottom)
        )
    found = np.full((rows, columns), cv2.GC_BGD, np.uint8)
    found[y:low, x:end] = cv2.GC_PR_FGD
    if len(np.unique(found)) == 2 and min((found == kind).sum() for kind in (cv2.GC_BGD, cv2.GC_PR_FGD)) > 10:
        cv2.setRNGSeed(0)  # of this thread: where its mixtures begin
        cv2.grabCut(image, found, None, np.zeros((1, 65)), np.zeros((1, 65)), rounds, cv2.GC_INIT_WITH_MASK)
    return np.isin(found, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _box(*numbers: float) -> str:
    return " ".join(f"{number:g}" for number in numbers)


@map_op("gray 8 bits")
def components(
    image: np.ndarray,
    *,
    dark: Dark = False,
    smallest: Annotated[int, Interval(ge=1, le=10**9), doc("pixels of the smallest that counts")] = 1,
) -> np.ndarray:
    """1, 2, 3, …: the connected parts of Otsu's foreground, neighbours by edge or corner, from top to bottom."""
    return connected(_foreground(image, dark), smallest)


def connected(mask: np.ndarray, smallest: int = 1) -> np.ndarray:
    """int32 `(H, W)`: the connected parts of a bool mask, numbered in the order of their first pixels."""
    _, found, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = facts[:, cv2.CC_STAT_AREA] >= smallest
    kept[0] = False
    number = np.where(kept, np.cumsum(kept), 0)
    return number[found].astype(np.int32)


FAMILY = (otsu, multi_otsu, adaptive, kmeans, slic, watershed, grabcut, components)

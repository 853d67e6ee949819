"""Two pictures of a batch in one, and how much of each: MixUp and CutMix. Their labels are mixed as they are."""

from __future__ import annotations

import cv2
import numpy as np

from ..recipe import AugmentChoice
from .streams import generator


def sample_mixes(choice: AugmentChoice, seed: int, epoch: int, n: int, size: int) -> np.ndarray | None:
    """The draws of N records: float64 `(N, 5)`, or None where nothing is mixed.

    A row is the share of the record's own picture, and the rectangle (left, top, right, bottom, in pixels) that shows
    the other one; where it is empty the two are blended. With both kinds on, each is drawn half the time.

    MixUp: shares from Beta(α, α) (Zhang et al. 2017, arXiv 1710.09412). CutMix: the same for the area that is kept,
    the rectangle about any point, and what the border cuts off is not the other's (Yun et al. 2019, arXiv 1905.04899).
    """
    if not choice.mixup and not choice.cutmix:
        return None
    rng = generator(seed, epoch, 32)
    cut = rng.random(n) < (0.5 if choice.mixup and choice.cutmix else float(choice.cutmix > 0))
    draws = np.zeros((n, 5))
    draws[:, 0] = rng.beta(choice.mixup or 1, choice.mixup or 1, n)
    side = size * np.sqrt(1 - rng.beta(choice.cutmix or 1, choice.cutmix or 1, n))
    centre = size * rng.random((2, n))
    corners = np.clip(np.rint(np.concatenate([centre - side / 2, centre + side / 2])), 0, size)
    draws[cut, 1:] = corners.T[cut]
    draws[cut, 0] = 1 - ((corners[2] - corners[0]) * (corners[3] - corners[1]) / size**2)[cut]
    return draws


def mix(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mix into each picture of a batch, uint8 `(B, S, S, 3)`, in place, the one after it; into the last the first.

    Returns the shares of each place's own picture, float32 `(B,)`.
    """
    first = images[0].copy()
    for place, (share, *corners) in enumerate(draws):
        other = images[place + 1] if place + 1 < len(images) else first
        left, top, right, bottom = map(int, corners)
        if right > left and bottom > top:
            images[place, top:bottom, left:right] = other[top:bottom, left:right]
        else:
            cv2.addWeighted(images[place], share, other, 1 - share, 0, dst=images[place])
    return draws[:, 0].astype(np.float32)

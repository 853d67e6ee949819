"""Colour: what the channels mean. Pictures are sRGB; a channel keeps its range, 0…1 or 0…255, whatever it holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from annotated_types import Interval, doc
from torch import Tensor

from . import contract
from .contract import image_op

Inverse = Annotated[bool, doc("the way back")]


@image_op("floats")
def gray(image: Tensor) -> Tensor:
    """The gray of a picture, in each of its channels: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601 luma)."""
    return contract.gray(image)


@image_op("pictures", channels=(3,))
def hsv(image: np.ndarray, *, inverse: Inverse = False) -> np.ndarray:
    """Hue (0…1 for 0…360°, so an 8-bit step is 1.4°), saturation and value in place of R, G and B."""
    circle = np.array([360, 1, 1], np.float32)
    if inverse:
        return cv2.cvtColor(image * circle, cv2.COLOR_HSV2RGB)
    return cv2.cvtColor(image, cv2.COLOR_RGB2HSV) / circle


@image_op("pictures", channels=(3,))
def lab(image: np.ndarray, *, inverse: Inverse = False) -> np.ndarray:
    """CIELAB under D65 in place of R, G and B, as L / 100, (a + 128) / 255, (b + 128) / 255."""
    scale, origin = np.array([100, 255, 255], np.float32), np.array([0, 128, 128], np.float32)
    if inverse:
        return cv2.cvtColor(image * scale - origin, cv2.COLOR_Lab2RGB)
    return (cv2.cvtColor(image, cv2.COLOR_RGB2Lab) + origin) / scale


@image_op("floats", channels=(3,))
def white_balance(
    image: Tensor,
    *,
    method: Annotated[
        Literal["gray-world", "white-patch"], doc("the mean is gray; what each channel has brightest is white")
    ] = "gray-world",
    cutoff: Annotated[float, Interval(ge=0, le=0.49), doc("white-patch: share of brightest pixels left out")] = 0.01,
) -> Tensor:
    """Each channel times a factor that takes a cast of the light away (gray world: Buchsbaum 1980)."""
    if method == "gray-world":
        light = image.mean(dim=(2, 3))
        wanted = light.mean(dim=1, keepdim=True)
    else:
        n = image[0, 0].numel()
        light = image.flatten(2).kthvalue(n - int(cutoff * n), dim=2).values
        wanted = torch.ones_like(light)
    factors = torch.where(light > 0, wanted / light.clamp(min=1e-6), 1)
    return image * factors[..., None, None]


@image_op("tensors")
def invert(image: Tensor) -> Tensor:
    """The negative."""
    return 1 - image if image.dtype == torch.float32 else 255 - image


@image_op("8 bits")
def posterise(
    image: np.ndarray, *, bits: Annotated[int, Interval(ge=1, le=8), doc("kept of each channel's 8")] = 3
) -> np.ndarray:
    """Fewer levels: the low bits are 0; 8 bits."""
    return image & np.uint8(256 - (1 << 8 - bits))


@image_op("floats")
def normalise(
    image: Tensor,
    *,
    mean: Annotated[float, Interval(ge=0, le=1), doc("of the result, before what leaves 0…1 is cut off")] = 0.5,
    deviation: Annotated[float, Interval(ge=0, le=1), doc("standard deviation of the result")] = 0.25,
) -> Tensor:
    """Shifted and scaled, all channels alike, to one brightness and contrast for every picture."""
    deviations, means = torch.std_mean(image, dim=(1, 2, 3), correction=0, keepdim=True)
    return (image - means) * (deviation / deviations.clamp(min=1e-6)) + mean


@image_op("pictures")
def match_histogram(image: np.ndarray, reference: Any) -> np.ndarray:
    """Each channel's values replaced, in their order, so that they are distributed as the second picture's."""
    channels = [_matched(image[..., i], reference[..., i]) for i in range(image.shape[2])]
    return np.stack(channels, axis=-1).astype(np.float32)


def _matched(channel: np.ndarray, reference: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(channel, return_inverse=True, return_counts=True)
    values, wanted = np.unique(reference, return_counts=True)
    shares = np.interp(np.cumsum(counts) / channel.size, np.cumsum(wanted) / reference.size, values)
    return shares[places].reshape(channel.shape)


FAMILY = (gray, hsv, lab, white_balance, invert, posterise, normalise, match_histogram)

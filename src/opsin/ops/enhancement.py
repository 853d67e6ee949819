"""Enhancement: light, contrast, sharpness, noise. What OpenCV or scikit-image do, they do here.

Operations of 8 bits round a float32 picture to 256 levels first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import cv2
import numpy as np
import torch
from annotated_types import Interval, doc
from torch import Tensor

from .contract import gray, image_op, skimage


@image_op("floats")
def brightness(
    image: Tensor, *, factor: Annotated[float, Interval(ge=0, le=10), doc("below 1 is darker")] = 1.25
) -> Tensor:
    """Every value times a factor."""
    return image * factor


@image_op("floats")
def contrast(
    image: Tensor, *, factor: Annotated[float, Interval(ge=0, le=10), doc("below 1 is flatter")] = 1.5
) -> Tensor:
    """Every value's distance from the picture's mean gray times a factor."""
    mean = gray(image).mean(dim=(1, 2, 3), keepdim=True)
    return (image - mean) * factor + mean


@image_op("floats")
def gamma(
    image: Tensor, *, gamma: Annotated[float, Interval(ge=0.05, le=20), doc("below 1 is brighter")] = 0.7
) -> Tensor:
    """Every value to a power."""
    return image**gamma


@image_op("floats")
def autocontrast(
    image: Tensor,
    *,
    cutoff: Annotated[float, Interval(ge=0, le=0.49), doc("share of pixels given up at each end")] = 0.01,
) -> Tensor:
    """Each channel stretched so that its darkest value is 0 and its brightest 1."""
    values, _ = image.flatten(2).sort(dim=2)
    skipped = int(cutoff * values.shape[2])
    low, high = values[..., skipped, None, None], values[..., -1 - skipped, None, None]
    spread = torch.where(high > low, high - low, 1)
    return torch.where(high > low, (image - low) / spread, image)


@image_op("8 bits")
def equalise(image: np.ndarray) -> np.ndarray:
    """Histogram equalisation of the luma, with colour kept (ITU-R BT.601 Y'CbCr); 8 bits."""
    return _on_luma(image, cv2.equalizeHist)


@image_op("8 bits")
def clahe(
    image: np.ndarray,
    *,
    clip: Annotated[float, Interval(ge=1, le=100), doc("most pixels of one level, relative to a flat histogram")] = 2.0,
    tiles: Annotated[int, Interval(ge=1, le=64), doc("tiles in each direction")] = 8,
) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of the luma (Zuiderveld 1994), with colour kept; 8 bits."""
    return _on_luma(image, cv2.createCLAHE(clip, (tiles, tiles)).apply)


def _on_luma(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    if image.shape[2] == 1:
        return change(image[..., 0])
    parts = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    parts[..., 0] = change(np.ascontiguousarray(parts[..., 0]))
    return cv2.cvtColor(parts, cv2.COLOR_YCrCb2RGB)


@image_op("pictures")
def sharpen(
    image: np.ndarray, *, amount: Annotated[float, Interval(ge=0, le=10), doc("0 changes nothing")] = 1.0
) -> np.ndarray:
    """What a pixel has more than the mean of its 3 × 3 neighbourhood is added again, `amount` times."""
    return image + amount * (image - _whole(cv2.blur(image, (3, 3)), image))


@image_op("pictures")
def unsharp_mask(
    image: np.ndarray,
    *,
    sigma: Annotated[float, Interval(ge=0.1, le=100), doc("of the Gaussian, pixels")] = 2.0,
    amount: Annotated[float, Interval(ge=0, le=10), doc("0 changes nothing")] = 1.0,
    threshold: Annotated[float, Interval(ge=0, le=1), doc("differences below stay as they are")] = 0.0,
) -> np.ndarray:
    """What a pixel has more than the picture blurred by a Gaussian is added again, `amount` times."""
    difference = image - blurred(image, sigma)
    return image + amount * np.where(np.abs(difference) >= threshold, difference, 0)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """float32 `(H, W, C)` under a Gaussian cut off at 4 sigma, mirrored about the border's pixels."""
    side = 2 * int(4 * sigma + 0.5) + 1
    return _whole(cv2.GaussianBlur(image, (side, side), sigma), image)


def _whole(result: np.ndarray, image: np.ndarray) -> np.ndarray:
    """OpenCV drops a lone channel."""
    return result.reshape(image.shape)


@image_op("8 bits")
def median(
    image: np.ndarray, *, radius: Annotated[int, Interval(ge=1, le=50), doc("of the square window, pixels")] = 1
) -> np.ndarray:
    """Each channel's median in a square of 2·radius + 1: removes salt and pepper; 8 bits."""
    return cv2.medianBlur(image, 2 * radius + 1)


@image_op("pictures")
def bilateral(
    image: np.ndarray,
    *,
    sigma: Annotated[float, Interval(ge=0.5, le=20), doc("of the distance, pixels")] = 3.0,
    tolerance: Annotated[float, Interval(ge=0.001, le=1), doc("sigma of the difference in value")] = 0.1,
) -> np.ndarray:
    """A Gaussian mean over neighbours that look alike: edges stay (Tomasi & Manduchi 1998)."""
    return cv2.bilateralFilter(image, 2 * int(2 * sigma + 0.5) + 1, tolerance, sigma)


@image_op("8 bits")
def non_local_means(
    image: np.ndarray,
    *,
    strength: Annotated[float, Interval(ge=0.001, le=1), doc("about the noise's standard deviation")] = 0.04,
    patch: Annotated[int, Interval(ge=1, le=10), doc("radius of what is compared, pixels")] = 3,
    search: Annotated[int, Interval(ge=1, le=30), doc("radius of where it is looked for, pixels")] = 10,
) -> np.ndarray:
    """A mean over places whose surroundings look alike (Buades, Coll & Morel 2005); 8 bits."""
    return cv2.fastNlMeansDenoising(image, None, 255 * strength, 2 * patch + 1, 2 * search + 1)


@image_op("pictures")
def total_variation(
    image: np.ndarray, *, weight: Annotated[float, Interval(ge=0.001, le=10), doc("larger is smoother")] = 0.1
) -> np.ndarray:
    """The picture nearby with little total variation: flat areas, clear edges (Chambolle 2004)."""
    denoise = skimage("restoration").denoise_tv_chambolle
    # Its own eps stops up to 13 levels away from the minimum, this one 3.
    return denoise(image, weight=weight, eps=1e-5, channel_axis=-1).astype(np.float32)


FAMILY = (
    brightness,
    contrast,
    gamma,
    autocontrast,
    equalise,
    clahe,
    sharpen,
    unsharp_mask,
    median,
    bilateral,
    non_local_means,
    total_variation,
)

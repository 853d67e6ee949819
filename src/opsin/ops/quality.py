"""Quality: one number a picture, of its own or against another one."""

from __future__ import annotations

import math
from typing import Annotated, Any

import cv2
import numpy as np
from annotated_types import Interval, doc

from .contract import number_op
from .enhancement import blurred


@number_op("pictures")
def psnr(image: np.ndarray, reference: Any) -> float:
    """Peak signal-to-noise ratio to the second picture, dB; infinite where they are equal."""
    error = float(np.mean(np.square(image - reference, dtype=np.float64)))
    return -10 * math.log10(error) if error else math.inf


@number_op("pictures")
def ssim(image: np.ndarray, reference: Any) -> float:
    """Structural similarity to the second picture, -1…1, mean over channels and pixels (Wang et al. 2004).

    Gaussian windows of sigma 1.5 cut off at 4 sigma, mirrored about the border; K1 = 0.01, K2 = 0.03.
    """
    means, others = blurred(image, 1.5), blurred(reference, 1.5)
    variance = blurred(image * image, 1.5) - means * means
    other = blurred(reference * reference, 1.5) - others * others
    covariance = blurred(image * reference, 1.5) - means * others
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * means * others + c1) / (means**2 + others**2 + c1)
    return float(np.mean(light * (2 * covariance + c2) / (variance + other + c2), dtype=np.float64))


@number_op("gray")
def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian of the gray picture in 0…255 (Pech-Pacheco et al. 2000): below about 100 is blurred."""
    return float(cv2.Laplacian(image.astype(np.float64) * 255, cv2.CV_64F, ksize=1).var())


@number_op("gray")
def noise(image: np.ndarray) -> float:
    """Standard deviation of the noise in the gray picture, in 0…1 (Immerkær 1996); fine texture counts as noise."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float64)
    found = cv2.filter2D(image.astype(np.float64), -1, kernel)
    return math.sqrt(math.pi / 2) / 6 * float(np.abs(found).mean())


@number_op("gray")
def exposure(image: np.ndarray) -> float:
    """Mean of the gray picture, 0 black to 1 white: about 0.45 is usual."""
    return float(image.mean(dtype=np.float64))


@number_op("gray")
def clipped(
    image: np.ndarray,
    *,
    margin: Annotated[float, Interval(ge=0, le=0.5), doc("how near counts as black or white")] = 0.01,
) -> float:
    """Share of gray pixels that are black or white: light or shadow that the camera could not hold."""
    return float(((image <= margin) | (image >= 1 - margin)).mean())


@number_op("gray 8 bits")
def entropy(image: np.ndarray) -> float:
    """Shannon entropy of the gray picture's 256 levels, bits: 0 for a flat picture, at most 8."""
    shares = np.bincount(image.reshape(-1), minlength=256) / image.size
    used = shares[shares > 0]
    return float(-(used * np.log2(used)).sum()) + 0.0


FAMILY = (psnr, ssim, sharpness, noise, exposure, clipped, entropy)

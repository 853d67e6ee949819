"""The fifteen common corruptions of Hendrycks & Dietterich (2019, arXiv 1903.12261), five severities each.

Pure functions of a picture and a generator. The kinds and most strengths are theirs; lengths, which they give for
pictures of 224 pixels, grow and shrink with the shorter side. Ours are the textures of snow, frost and fog (no picture
is loaded), and the strengths of frost, fog and elastic, so that every kind changes a picture more from severity to
severity. So what is measured with these is not comparable to published tables of mCE.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from . import codecs, encoding
from .errors import CallError, unknown

SIDE = 224  # the shorter side that lengths are given for
SEVERITIES = (1, 2, 3, 4, 5)

# float32 (H, W, 3) in 0…1, the strength of a severity, who draws → the same shape, not yet held in range
Change = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Corruption:
    """One kind: its family, what it does, and the strength of each of SEVERITIES."""

    family: str  # noise, blur, weather, digital
    change: Change
    strengths: tuple[Any, Any, Any, Any, Any]


def corrupt(picture: np.ndarray, name: str, severity: int, draws: np.random.Generator) -> np.ndarray:
    """The picture, uint8 `(H, W, 3)` of any size, corrupted: a new array of the same shape and type.

    Args:
        name: of CORRUPTIONS.
        severity: 1 to 5.
        draws: with the same draws, a picture is the more changed the higher the severity, and nothing else differs.

    Raises:
        CallError: for another name or severity, and for what is no picture.
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise CallError("severity", expected="1, 2, 3, 4 or 5", received=severity)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise CallError(
            f"{name}: this is no picture", expected="uint8 (H, W, 3)", received=f"{picture.dtype} {picture.shape}"
        )
    kind = CORRUPTIONS[name]
    made = kind.change(picture.astype(np.float32) / 255, kind.strengths[severity - 1], draws)
    return np.clip(made * 255, 0, 255).round().astype(np.uint8)


def generator(seed: int, key: str, name: str) -> np.random.Generator:
    """Who draws for one picture and one corruption: the same whatever else is drawn, and for all severities."""
    digest = hashlib.sha256(f"{seed} {name} {key}".encode("utf-8", "surrogateescape")).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))


def _scale(image: np.ndarray) -> float:
    return min(image.shape[:2]) / SIDE


# --- noise ------------------------------------------------------------------------------------------------------------


def _gaussian_noise(image: np.ndarray, deviation: float, draws: np.random.Generator) -> np.ndarray:
    return image + deviation * draws.standard_normal(image.shape, np.float32)


def _shot_noise(image: np.ndarray, photons: float, draws: np.random.Generator) -> np.ndarray:
    """What counting so many photons of white gives."""
    return draws.poisson(image * photons) / photons


def _impulse_noise(image: np.ndarray, share: float, draws: np.random.Generator) -> np.ndarray:
    drawn = draws.random(image.shape, np.float32)
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 1, image))


# --- blur -------------------------------------------------------------------------------------------------------------


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101).reshape(image.shape)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), max(sigma, 0.1), borderType=cv2.BORDER_REFLECT_101).reshape(image.shape)


def _defocus_blur(image: np.ndarray, radius: float, draws: np.random.Generator) -> np.ndarray:
    """A disc, its edge smooth."""
    radius *= _scale(image)
    reach = np.arange(-math.ceil(radius), math.ceil(radius) + 1)
    return _filtered(image, np.clip(radius + 0.5 - np.hypot(*np.meshgrid(reach, reach)), 0, 1))


def _glass_blur(image: np.ndarray, strength: tuple[float, float, int], draws: np.random.Generator) -> np.ndarray:
    """Every pixel from a place nearby, a few times over, between two small blurs."""
    sigma, reach, times = strength[0] * _scale(image), strength[1] * _scale(image), strength[2]
    image = _blurred(image, sigma)
    rows, columns = np.indices(image.shape[:2], np.float32)
    for _ in range(times):
        away = draws.uniform(-reach, reach, (2, *image.shape[:2])).astype(np.float32)
        image = cv2.remap(image, columns + away[0], rows + away[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return _blurred(image, sigma)


def _motion_kernel(length: float, sigma: float, degrees: float) -> np.ndarray:
    """A line from the centre, weights falling as half a Gaussian; what lies between pixels is shared among them."""
    steps = np.arange(0, max(length, 1e-3), 0.25)
    places = np.outer(steps, [math.sin(math.radians(degrees)), math.cos(math.radians(degrees))])
    reach = math.ceil(length) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    low = np.floor(places).astype(int)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weights = np.prod(1 - np.abs(places - low - corner), axis=1) * np.exp(-(steps**2) / (2 * sigma**2))
        np.add.at(kernel, tuple((low + corner + reach).T), weights)
    return kernel


def _motion_blur(image: np.ndarray, strength: tuple[float, float], draws: np.random.Generator) -> np.ndarray:
    length, sigma = (2 * strength[0] * _scale(image), strength[1] * _scale(image))
    return _filtered(image, _motion_kernel(length, sigma, draws.uniform(-45, 45)))


def _zoom_blur(image: np.ndarray, strength: tuple[float, float], draws: np.random.Generator) -> np.ndarray:
    """The mean of the picture at many zooms about its centre."""
    height, width = image.shape[:2]
    zooms = np.arange(1, *strength)
    total = np.zeros_like(image)
    for zoom in zooms:
        about = np.array([[zoom, 0, (1 - zoom) * (width - 1) / 2], [0, zoom, (1 - zoom) * (height - 1) / 2]])
        total += cv2.warpAffine(image, about, (width, height), borderMode=cv2.BORDER_REFLECT_101).reshape(image.shape)
    return (image + total) / (len(zooms) + 1)


# --- weather ----------------------------------------------------------------------------------------------------------


def _clouds(shape: tuple[int, ...], decay: float, draws: np.random.Generator) -> np.ndarray:
    """float32 `(H, W)` in 0…1: noise of ever finer grain, each octave `decay` times weaker than the one before."""
    height, width = shape[:2]
    total = np.zeros((height, width), np.float32)
    for octave in range(1, 8):
        coarse = draws.random((2**octave + 1, 2**octave + 1), np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / decay**octave
    spread = float(np.ptp(total))
    return (total - total.min()) / spread if spread else total * 0 + 0.5


def _streaks(shape: tuple[int, ...], share: float, length: float, draws: np.random.Generator) -> np.ndarray:
    """float32 `(H, W)` from 0 on: crystals, short lines in six directions that grow from points."""
    points = (draws.random(shape[:2], np.float32) < share).astype(np.float32)
    lines = [_filtered(points, _motion_kernel(length, length / 2, degrees)) for degrees in range(0, 360, 60)]
    return np.sum(lines, axis=0)


def _snow(image: np.ndarray, strength: tuple[float, ...], draws: np.random.Generator) -> np.ndarray:
    """Flakes that fall aslant, before a picture that is paler for it."""
    mean, least, length, sigma, kept = strength
    scale = _scale(image)
    height, width = image.shape[:2]
    coarse = draws.standard_normal((math.ceil(height / 3), math.ceil(width / 3)), np.float32)
    flakes = cv2.resize(mean + 0.3 * coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    kernel = _motion_kernel(2 * length * scale, sigma * scale, draws.uniform(45, 135))
    flakes = _filtered(flakes, kernel)[..., None]
    pale = np.maximum(image, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] * 1.5 + 0.5)
    return kept * image + (1 - kept) * pale + flakes + flakes[::-1, ::-1]


def _frost(image: np.ndarray, strength: tuple[float, float], draws: np.random.Generator) -> np.ndarray:
    """Ice on a pane: crystals where clouds are dense."""
    kept, share = strength
    ice = _clouds(image.shape, 1.6, draws) ** 2
    crystals = _streaks(image.shape, 0.01, 30 * _scale(image), draws)
    ice = np.clip(0.6 * ice + 0.8 * crystals / max(float(crystals.max()), 1e-6) * (0.3 + ice), 0, 1)
    return kept * image + share * ice[..., None] * np.array([0.88, 0.95, 1.0], np.float32)


def _fog(image: np.ndarray, strength: tuple[float, float], draws: np.random.Generator) -> np.ndarray:
    amount, decay = strength
    fog = amount * _clouds(image.shape, decay, draws)[..., None]
    most = float(image.max())
    return (image + fog) * most / (most + amount)


# --- digital ----------------------------------------------------------------------------------------------------------


def _brightness(image: np.ndarray, more: float, draws: np.random.Generator) -> np.ndarray:
    parts = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    parts[..., 2] = np.clip(parts[..., 2] + more, 0, 1)
    return cv2.cvtColor(parts, cv2.COLOR_HSV2RGB)


def _contrast(image: np.ndarray, kept: float, draws: np.random.Generator) -> np.ndarray:
    mean = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * kept + mean


def _elastic(image: np.ndarray, pixels: float, draws: np.random.Generator) -> np.ndarray:
    """Every pixel from so far away, root mean square, by a smooth map."""
    scale = _scale(image)
    away = [_blurred(draws.uniform(-1, 1, image.shape[:2]).astype(np.float32), 5 * scale) for _ in range(2)]
    rows, columns = np.indices(image.shape[:2], np.float32)
    moved = [pixels * scale * each / max(float(each.std()), 1e-6) for each in away]
    return cv2.remap(image, columns + moved[0], rows + moved[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _pixelate(image: np.ndarray, share: float, draws: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, int(width * share)), max(1, int(height * share))), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _jpeg(image: np.ndarray, quality: float, draws: np.random.Generator) -> np.ndarray:
    picture = (image * 255).round().astype(np.uint8)
    return codecs.decode(encoding.jpeg(picture, quality=quality)).astype(np.float32) / 255


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian noise": Corruption("noise", _gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot noise": Corruption("noise", _shot_noise, (60, 25, 12, 5, 3)),
    "impulse noise": Corruption("noise", _impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus blur": Corruption("blur", _defocus_blur, (3, 4, 6, 8, 10)),
    "glass blur": Corruption("blur", _glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion blur": Corruption("blur", _motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom blur": Corruption("blur", _zoom_blur, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.33, 0.03))),
    "snow": Corruption(
        "weather",
        _snow,
        (
            (0.1, 0.5, 10, 4, 0.8),
            (0.2, 0.5, 12, 4, 0.7),
            (0.55, 0.9, 12, 8, 0.7),
            (0.55, 0.85, 12, 8, 0.65),
            (0.55, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corruption("weather", _frost, ((0.85, 0.35), (0.75, 0.5), (0.65, 0.6), (0.55, 0.65), (0.45, 0.7))),
    "fog": Corruption("weather", _fog, ((1.5, 2), (2, 2), (2.5, 1.9), (3, 1.8), (4, 1.7))),
    "brightness": Corruption("weather", _brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption("digital", _contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic": Corruption("digital", _elastic, (1, 1.5, 2, 3, 4)),
    "pixelate": Corruption("digital", _pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": Corruption("digital", _jpeg, (25, 18, 15, 10, 7)),
}

"""Operations that give a number, against references that are not the library they call."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import skimage
from scipy import ndimage, stats

from opsin import ops
from opsin.ops import OPS
from test_ops_reference import PICTURES, gauss, luma

Picture = np.ndarray  # float64 (H, W, C) in 0…1
Reference = Callable[..., np.ndarray]


def structural(image: Picture, other: Picture) -> float:
    """Wang et al. 2004 with scipy's Gaussian."""
    m, n = gauss(image, 1.5), gauss(other, 1.5)
    v, w, c = (
        gauss(a * b, 1.5) - p * q for a, b, p, q in ((image, image, m, m), (other, other, n, n), (image, other, m, n))
    )
    return float((((2 * m * n + 1e-4) * (2 * c + 9e-4)) / ((m**2 + n**2 + 1e-4) * (v + w + 9e-4))).mean())


def immerkaer(image: Picture) -> float:
    kernel = np.outer([1, -2, 1], [1, -2, 1])
    return float(np.abs(ndimage.convolve(luma(image), kernel, mode="mirror")).mean() * np.sqrt(np.pi / 2) / 6)


NUMBERS: dict[str, Callable[[Picture], float]] = {
    "sharpness": lambda image: float(ndimage.laplace(luma(image) * 255, mode="mirror").var()),
    "noise": immerkaer,
    "exposure": lambda image: float(luma(image).mean()),
    "clipped": lambda image: float(np.mean(np.minimum(luma(image), 1 - luma(image)) <= 0.01)),
    "entropy": lambda image: float(stats.entropy(np.bincount(np.round(luma(image) * 255).astype(int).ravel()), base=2)),
}
PAIRS: dict[str, Callable[[Picture, Picture], float]] = {
    "psnr": lambda image, other: float(-10 * np.log10(np.mean((image - other) ** 2))),
    "ssim": structural,
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_what_its_reference_gives(name: str, kind: str) -> None:
    known = NUMBERS[name](PICTURES[kind] / 255)
    assert OPS[name].function(PICTURES[kind]) == pytest.approx(known, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("name", PAIRS)
def test_a_comparison_is_what_its_reference_gives(name: str, kind: str) -> None:
    picture = PICTURES[kind]
    other = (picture // 2 + 40).astype(np.uint8)
    known = PAIRS[name](picture / 255, other / 255)
    assert OPS[name].function(picture, other) == pytest.approx(known, rel=1e-4, abs=1e-5)


def test_every_number_has_a_reference() -> None:
    assert {*NUMBERS, *PAIRS} == {name for name, op in OPS.items() if op.kind == "number"}


def test_ssim_is_near_the_usual_one() -> None:
    photo = skimage.data.astronaut()
    blurred = ops.gaussian(photo, sigma=2.0)
    usual = skimage.metrics.structural_similarity(
        photo, blurred, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1
    )
    assert ops.ssim(photo, blurred) == pytest.approx(usual, abs=0.005)


def test_numbers_say_what_they_are_for() -> None:
    photo = skimage.data.astronaut()
    assert ops.sharpness(photo) > 5 * ops.sharpness(ops.gaussian(photo, sigma=2.0))
    grainy = photo / 255 + np.random.default_rng(1).normal(0, 0.05, photo.shape[:2])[..., None]
    assert ops.noise(grainy.clip(0, 1).astype(np.float32)) - ops.noise(photo) > 0.02
    assert ops.exposure(ops.brightness(photo, factor=0.5)) < 0.6 * ops.exposure(photo)
    assert ops.clipped(ops.brightness(photo, factor=3.0)) > ops.clipped(photo) + 0.2
    assert ops.entropy(ops.posterise(photo, bits=2)) < ops.entropy(photo)

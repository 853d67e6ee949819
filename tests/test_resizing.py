"""Resizing by numpy gives the pixels of torch, which is the reference, to the level."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from opsin import preprocessing, resizing
from opsin.preprocessing import Preprocessing

SIDES = [(1, 1), (1, 40), (7, 5), (16, 16), (37, 300), (224, 224), (225, 223), (500, 375), (1024, 61)]
INTERPOLATION = pytest.mark.parametrize("interpolation", resizing.KERNELS)


def picture(height: int, width: int, *, hard: bool = False) -> np.ndarray:
    """Noise; hard: of black and white alone, where a cubic leaves 0…255."""
    found = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (found > 127).astype(np.uint8) * 255 if hard else found


@INTERPOLATION
@pytest.mark.parametrize("hard", [False, True])
def test_numpy_gives_the_pixels_of_torch(interpolation: str, hard: bool) -> None:
    for height, width in SIDES:
        given = picture(height, width, hard=hard)
        for side in ((1, 1), (8, 8), (32, 224), (224, 32), (225, 500)):
            expected = resizing.by_torch(given, *side, interpolation)
            np.testing.assert_array_equal(resizing.by_numpy(given, *side, interpolation), expected)


def test_a_wide_picture_has_the_finest_weights_that_there_are() -> None:
    """Above 128 inputs an output the sums would leave 32 bits."""
    given = picture(2, 6000, hard=True)
    expected = resizing.by_torch(given, 4, 9, "bicubic")
    np.testing.assert_array_equal(resizing.by_numpy(given, 4, 9, "bicubic"), expected)


@INTERPOLATION
@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
def test_the_whole_road_gives_the_same_by_either(fit: str, interpolation: str) -> None:
    road = Preprocessing(24, fit, interpolation=interpolation)  # type: ignore[arg-type]
    for height, width in SIDES:
        given = picture(height, width)
        expected = preprocessing.load(road, given).numpy()
        np.testing.assert_array_equal(preprocessing.pixels(road, given, resize=resizing.by_numpy), expected)
        np.testing.assert_array_equal(preprocessing.pixels(road, given), expected)


def test_numpy_takes_the_first_pictures_and_torch_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    by: list[str] = []
    for name in ("by_numpy", "by_torch"):
        monkeypatch.setattr(resizing, name, lambda *_, name=name: by.append(name))
    monkeypatch.setattr(resizing, "LITTLE", 250)
    monkeypatch.delitem(sys.modules, "torch")
    resize = resizing.thrifty()
    for _ in range(4):
        resize(picture(10, 10), 4, 4, "bilinear")
    assert by == ["by_numpy", "by_numpy", "by_torch", "by_torch"]
    resizing.thrifty()(picture(10, 10), 4, 4, "bilinear")
    assert by[-1] == "by_numpy"
    monkeypatch.setitem(sys.modules, "torch", object())  # it is there: nothing is left to save
    resizing.thrifty()(picture(10, 10), 4, 4, "bilinear")
    assert by[-1] == "by_torch"

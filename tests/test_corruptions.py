"""The corruptions: reproducible, of the picture's form, stronger from severity to severity, refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from opsin import corruptions
from opsin.corruptions import CORRUPTIONS, SEVERITIES, corrupt, generator
from opsin.errors import CallError

FLOWER = load_sample_images().images[1]
PHOTO = np.ascontiguousarray(FLOWER[100:324, 200:500])  # 224 × 300
NAMES = sorted(CORRUPTIONS)


def made(picture: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    return corrupt(picture, name, severity, generator(seed, "a.jpg", name))


def distance(name: str, severity: int, picture: np.ndarray = PHOTO) -> float:
    return float(np.abs(made(picture, name, severity).astype(float) - picture).mean())


def test_the_fifteen_are_there() -> None:
    families = [kind.family for kind in CORRUPTIONS.values()]
    assert {family: families.count(family) for family in families} == {
        "noise": 3,
        "blur": 4,
        "weather": 4,
        "digital": 4,
    }


@pytest.mark.parametrize("name", NAMES)
def test_they_keep_form_and_input_and_draw_from_the_generator_alone(name: str) -> None:
    for shape in ((40, 31, 3), (1, 1, 3), (5, 64, 3), (2, 1, 3)):
        picture = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        before = picture.copy()
        for severity in SEVERITIES:
            found = made(picture, name, severity)
            assert found.dtype == np.uint8
            assert found.shape == shape
            assert not np.shares_memory(found, picture)
            assert (made(picture, name, severity) == found).all()
        assert (picture == before).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_higher_severity_changes_more(name: str) -> None:
    found = [distance(name, severity) for severity in SEVERITIES]
    assert found[0] > 0.5
    assert found == sorted(found)
    assert found[-1] > 1.2 * found[0]


@pytest.mark.parametrize("name", ["gaussian noise", "glass blur", "motion blur", "snow", "frost", "fog", "elastic"])
def test_another_seed_and_another_picture_draw_otherwise(name: str) -> None:
    assert (made(PHOTO, name, 3) != made(PHOTO, name, 3, seed=1)).any()
    other = corrupt(PHOTO, name, 3, generator(0, "b.jpg", name))
    assert (made(PHOTO, name, 3) != other).any()


def test_noise_has_the_strength_it_names() -> None:
    gray = np.full((224, 224, 3), 128, np.uint8)
    assert made(gray, "gaussian noise", 1).std() / 255 == pytest.approx(0.08, rel=0.02)
    assert made(gray, "shot noise", 1).std() / 255 == pytest.approx((128 / 255 / 60) ** 0.5, rel=0.03)
    assert (made(gray, "impulse noise", 5) != gray).mean() == pytest.approx(0.27, rel=0.02)


@pytest.mark.parametrize("name", [name for name, kind in CORRUPTIONS.items() if kind.family == "blur"])
def test_blurs_keep_what_is_even_and_the_mean(name: str) -> None:
    even = np.full((64, 80, 3), 77, np.uint8)
    assert (made(even, name, 5) == even).all()
    assert made(PHOTO, name, 5).mean() == pytest.approx(PHOTO.mean(), rel=0.05)


def test_lengths_follow_the_size() -> None:
    """A point spreads over a disc whose diameter is as large a share of the picture, whatever its size."""
    for side in (112, 224, 448):
        point = np.zeros((side, side, 3), np.uint8)
        point[side // 2, side // 2] = 255
        spread = corruptions._defocus_blur(point.astype(np.float32), 10, generator(0, "", ""))
        lit = np.flatnonzero(spread[side // 2, :, 0] > spread.max() / 100)
        assert np.ptp(lit) / side == pytest.approx(20 / 224, abs=2 / side)


def test_what_is_asked_for_wrongly_is_refused() -> None:
    with pytest.raises(CallError, match="Did you mean 'frost'"):
        made(PHOTO, "frst", 1)
    with pytest.raises(CallError, match="severity: expected 1, 2, 3, 4 or 5, received 6"):
        made(PHOTO, "fog", 6)
    for wrong in (PHOTO.astype(np.float32), PHOTO[..., 0], PHOTO[:0]):
        with pytest.raises(CallError, match="no picture: expected uint8"):
            made(wrong, "fog", 1)

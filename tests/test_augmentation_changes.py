"""What becomes of a picture after it was moved, and of two in one: each against numpy, scipy or Pillow."""

from __future__ import annotations

import dataclasses
import typing
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from opsin.augmentation import CHANGES, apply, mix, moving, policies, sample, sample_mixes
from opsin.augmentation.changes import blurred, erased, noisy
from opsin.augmentation.policies import OPERATIONS, POLICIES
from opsin.augmentation.streams import generator
from opsin.recipe import AugmentChoice

OFF = AugmentChoice()
SIZE = 48
ON: dict[str, dict[str, Any]] = {
    "perspective": {"perspective": 0.3},
    **{policy: {"policy": policy, "policy_strength": 0.7} for policy in POLICIES},
    "blur": {"blur": 2.0},
    "noise": {"noise": 0.2},
    "erase": {"erase": 0.8},
}
EVERYTHING = dataclasses.replace(
    OFF, hflip="yes", rotate=20.0, brightness=0.2, policy="randaugment", blur=1.0, noise=0.1, erase=0.5, perspective=0.2
)


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """uint8 (8, 3, 48, 48): pieces of a photograph."""
    with Image.open(str(files("sklearn.datasets.images") / "china.jpg")) as image:
        picture = np.array(image)
    parts = [picture[y : y + SIZE, 2 * y : 2 * y + SIZE] for y in range(120, 280, 20)]
    return torch.from_numpy(np.stack(parts).transpose(0, 3, 1, 2).copy())


@pytest.fixture(scope="module")
def picture(photographs: torch.Tensor) -> np.ndarray:
    made = np.ascontiguousarray(photographs[2].permute(1, 2, 0).numpy())
    made.flags.writeable = False
    return made


def chosen(name: str) -> AugmentChoice:
    return dataclasses.replace(OFF, **ON[name])


# The battery ---------------------------------------------------------------------------------------------------------


def test_the_battery_holds_every_change_and_the_recipe_every_policy() -> None:
    on = {change for name in ON for change, kind in CHANGES.items() if kind.on(chosen(name))}
    assert on == set(CHANGES)
    assert not [name for name, kind in CHANGES.items() if kind.on(OFF)]
    assert len({kind.stream for kind in CHANGES.values()}) == len(CHANGES)
    words = typing.get_args(typing.get_args(typing.get_type_hints(AugmentChoice, include_extras=True)["policy"])[0])
    assert set(words) == {"none", *POLICIES}


@pytest.mark.parametrize("name", ON)
def test_a_draw_comes_again_and_belongs_to_seed_epoch_and_record(name: str, photographs: torch.Tensor) -> None:
    first, again, later, other = (
        apply(photographs, sample(chosen(name), seed, epoch, 8, SIZE), size=SIZE, border="reflection")
        for seed, epoch in ((3, 5), (3, 5), (3, 6), (4, 5))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)
    same = photographs[:1].expand(8, -1, -1, -1)
    made = apply(same, sample(chosen(name), 3, 5, 8, SIZE), size=SIZE, border="reflection")
    assert len({image.numpy().tobytes() for image in made}) > 4


@pytest.mark.parametrize("name", ON)
def test_a_batch_is_its_pictures_one_by_one_and_the_input_stays(name: str, photographs: torch.Tensor) -> None:
    before = photographs.clone()
    draws = sample(chosen(name), 0, 2, 8, SIZE)
    together = apply(photographs, draws, size=SIZE, border="zeros")
    assert (together.dtype, together.shape) == (torch.uint8, photographs.shape)
    for row in (5, 0, 7):
        alone = apply(photographs[row : row + 1], draws.of(np.array([row])), size=SIZE, border="zeros")
        assert torch.equal(alone[0], together[row])
    assert torch.equal(photographs, before)


@pytest.mark.parametrize("name", ON)
def test_one_choice_more_leaves_the_other_draws_as_they_were(name: str) -> None:
    base = dataclasses.replace(OFF, hflip="yes", rotate=10.0, brightness=0.2, blur=0.5, noise=0.05)
    before = sample(base, 1, 2, 50, SIZE)
    after = sample(dataclasses.replace(base, **ON[name]), 1, 2, 50, SIZE)
    assert np.array_equal(before.colours, after.colours)
    if name != "perspective":
        assert np.array_equal(before.maps, after.maps)
    for change in before.changes.keys() - {name}:
        assert np.array_equal(before.changes[change], after.changes[change])


def test_everything_together_is_one_after_the_other(photographs: torch.Tensor) -> None:
    draws = sample(EVERYTHING, 0, 1, 8, SIZE)
    assert list(draws.changes) == ["policy", "blur", "noise", "erase"]
    made = apply(photographs, draws, size=SIZE, border="reflection")
    for row in range(8):
        wanted = np.empty((SIZE, SIZE, 3), np.uint8)
        given = photographs[row].permute(1, 2, 0).numpy()
        moving.move(given, draws.maps[row], draws.colours[row], wanted, border="reflection")
        wanted = policies.apply(wanted, draws.changes["policy"][row], "reflection")
        wanted = blurred(wanted, draws.changes["blur"][row], "reflection")
        wanted = noisy(wanted, draws.changes["noise"][row], "reflection")
        wanted = erased(wanted, draws.changes["erase"][row], "reflection")
        assert np.array_equal(made[row].permute(1, 2, 0).numpy(), wanted)


# Perspective ---------------------------------------------------------------------------------------------------------


def test_tilts_stay_within_their_range_and_the_centre_stays_where_it_is() -> None:
    maps = sample(chosen("perspective"), 0, 0, 4000, SIZE).maps.astype(float)
    assert maps.shape == (4000, 3, 3)
    assert (maps[:, :2] == np.eye(2, 3)).all()
    assert (maps[:, 2, 2] == 1).all()
    assert (maps[:, 2, :2].min(), maps[:, 2, :2].max()) == pytest.approx((-0.3, 0.3), abs=0.001)
    assert maps[:, 2, :2].std(0) == pytest.approx(0.6 / np.sqrt(12), abs=0.01)


@pytest.mark.parametrize("side", [SIZE, 30])
def test_tilted_pictures_are_looked_up_where_the_map_says(picture: np.ndarray, side: int) -> None:
    choice = dataclasses.replace(OFF, perspective=0.2, rotate=15.0, translate=0.1, hflip="yes")
    draws = sample(choice, 2, 1, 6, side)
    y, x = (2 * np.mgrid[:side, :side] + 1) / side - 1
    for where in draws.maps.astype(float):
        made = np.empty((side, side, 3), np.uint8)
        moving.move(picture, where, np.ones(3), made, border="zeros")
        across, down, depth = where @ np.stack([x.ravel(), y.ravel(), np.ones(side**2)])
        column, line = ((across / depth + 1) * SIZE / 2 - 0.5, (down / depth + 1) * SIZE / 2 - 0.5)
        inside = (np.minimum(column, line) > 0) & (np.maximum(column, line) < SIZE - 1)
        for channel in range(3):
            wanted = ndimage.map_coordinates(picture[..., channel].astype(float), [line, column], order=1)
            assert np.abs(made[..., channel].ravel() - wanted)[inside].max() <= 2
        assert inside.mean() > 0.5


def test_a_map_without_a_tilt_is_the_affine_one(picture: np.ndarray) -> None:
    flat = sample(dataclasses.replace(OFF, rotate=20.0), 0, 0, 1, SIZE).maps[0]
    whole = np.vstack([flat, [0, 0, 1]])
    found = [moving.warped(picture, where, SIZE, "reflection").astype(int) for where in (flat, whole)]
    assert np.abs(found[0] - found[1]).max() <= 1


# Blur, noise, holes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.8, 2.0, 5.0])
def test_blur_is_scipys(picture: np.ndarray, sigma: float) -> None:
    wanted = ndimage.gaussian_filter(picture.astype(float), (sigma, sigma, 0), truncate=4.0, mode="reflect")
    assert np.abs(blurred(picture, np.float64(sigma), "zeros") - wanted).max() <= 1


@pytest.mark.parametrize("deviation", [0.0, 0.02, 0.2])
def test_noise_has_its_deviation_and_no_mean(deviation: float) -> None:
    gray = np.full((200, 200, 3), 128, np.uint8)
    made = noisy(gray, np.array([deviation, 17.0]), "zeros").astype(float) - 128
    assert made.mean() == pytest.approx(0, abs=1)
    assert made.std() == pytest.approx(255 * deviation, rel=0.03, abs=0.01)
    channels = made.reshape(-1, 3).T
    assert deviation == 0 or np.abs(np.corrcoef(channels) - np.eye(3)).max() < 0.03
    other = noisy(gray, np.array([deviation, 18.0]), "zeros")
    assert deviation == 0 or not np.array_equal(made + 128, other)


def test_noise_stays_within_the_range(picture: np.ndarray) -> None:
    made = noisy(picture, np.array([0.5, 1.0]), "zeros")
    assert ((made > picture) == (made.astype(int) > picture)).all()  # nothing wraps around
    assert {made.min(), made.max()} == {0, 255}
    assert np.corrcoef(made.ravel(), picture.ravel())[0, 1] > 0.1


def test_holes_are_as_often_large_and_long_as_they_say() -> None:
    holes = sample(chosen("erase"), 0, 0, 4000, 224).changes["erase"]
    there = holes.any(1)
    assert there.mean() == pytest.approx(0.8, abs=0.02)
    left, top, right, bottom = holes[there].T
    assert (holes >= 0).all()
    assert (holes <= 224).all()
    width, height = right - left, bottom - top
    assert min(width.min(), height.min()) > 0
    area = width * height / 224**2
    assert (area.min(), area.max()) == pytest.approx((0.02, 1 / 3), abs=0.01)
    assert np.quantile(area, [0.25, 0.5, 0.75]) == pytest.approx(0.02 + np.array([0.25, 0.5, 0.75]) * 0.313, abs=0.02)
    ratio = np.log(width / height)
    assert np.abs(ratio).max() == pytest.approx(np.log(1 / 0.3), abs=0.1)
    assert ratio.mean() == pytest.approx(0, abs=0.05)
    centre = (left / np.maximum(224 - width, 1))[width < 200]
    assert np.histogram(centre, 4, (0, 1.01))[0].min() > 0.2 * len(centre)


def test_a_hole_has_the_mean_colour_and_the_rest_stays(picture: np.ndarray) -> None:
    made = erased(picture, np.array([10.0, 5.0, 30.0, 20.0]), "zeros")
    assert np.abs(made[5:20, 10:30] - picture.reshape(-1, 3).mean(0)).max() <= 0.51
    rest = np.ones((SIZE, SIZE), bool)
    rest[5:20, 10:30] = False
    assert np.array_equal(made[rest], picture[rest])
    assert np.array_equal(erased(picture, np.zeros(4), "zeros"), picture)


# Operations ----------------------------------------------------------------------------------------------------------


def enhanced(kind: Any) -> Any:
    return lambda image, strength: kind(image).enhance(1 + 0.9 * strength)


def transformed(*matrix: Any) -> Any:
    """By Pillow's affine transform, whose six numbers are functions of the strength, in pixels about the centre."""

    def made(image: Image.Image, strength: float) -> Image.Image:
        a, b, c, d, e, f = (number(strength) if callable(number) else number for number in matrix)
        middle = SIZE / 2
        shifts = (c + middle - a * middle - b * middle, f + middle - d * middle - e * middle)
        whole = (a, b, shifts[0], d, e, shifts[1])
        return image.transform((SIZE, SIZE), Image.Transform.AFFINE, whole, Image.Resampling.BILINEAR)

    return made


def flattened(image: Image.Image, strength: float) -> np.ndarray:
    """Each channel's values spread by their cumulative share, from the least on (Gonzalez & Woods, §3.3)."""
    made = np.array(image)
    for channel in range(3):
        values, places, counts = np.unique(made[..., channel], return_inverse=True, return_counts=True)
        below = counts.cumsum() - counts[0]
        levels = np.rint(255 * below / max(1, below[-1])) if len(values) > 1 else values
        made[..., channel] = levels[places].reshape(SIZE, SIZE)
    return made


# name → what Pillow (of equalise numpy: Pillow's is a coarser one) makes of it, how many levels it may be off, and how
# many pixels of the border are left out
PILLOWS: dict[str, tuple[Any, float, int]] = {
    "identity": (lambda image, strength: image, 0, 0),
    "autocontrast": (lambda image, strength: ImageOps.autocontrast(image), 1, 0),
    "equalise": (flattened, 1, 0),
    "rotate": (lambda image, strength: image.rotate(30 * strength, Image.Resampling.BILINEAR), 2, 16),
    "solarise": (lambda image, strength: ImageOps.solarize(image, 256 * (1 - abs(strength))), 0, 0),
    "posterise": (lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))), 0, 0),
    "saturation": (enhanced(ImageEnhance.Color), 2, 0),
    "contrast": (enhanced(ImageEnhance.Contrast), 2, 0),
    "brightness": (enhanced(ImageEnhance.Brightness), 1, 0),
    "sharpness": (enhanced(ImageEnhance.Sharpness), 2, 1),
    "shear x": (transformed(1, lambda v: 0.3 * v, 0, 0, 1, 0), 2, 10),
    "shear y": (transformed(1, 0, 0, lambda v: 0.3 * v, 1, 0), 2, 10),
    "translate x": (transformed(1, 0, lambda v: 0.3 * v * SIZE, 0, 1, 0), 2, 16),
    "translate y": (transformed(1, 0, 0, 0, 1, lambda v: 0.3 * v * SIZE), 2, 16),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("strength", [-1.0, -0.6, 0.0, 0.25, 0.9])
def test_an_operation_is_pillows(picture: np.ndarray, name: str, strength: float) -> None:
    other, levels, border = PILLOWS[name]
    wanted = np.array(other(Image.fromarray(picture), strength)).astype(int)
    made = OPERATIONS[name](picture, strength, "zeros")
    assert (made.dtype, made.shape) == (np.uint8, picture.shape)
    inside = slice(border, SIZE - border)
    assert np.abs(made[inside, inside] - wanted[inside, inside]).max() <= levels
    if strength == 0 and name not in ("autocontrast", "equalise"):
        assert np.array_equal(made, picture)
    if strength in (-1.0, 0.9) and name != "identity":
        assert np.abs(made.astype(int) - picture).max() > levels


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_a_picture_of_one_colour(name: str) -> None:
    for level in (0, 200, 255):
        flat = np.full((16, 16, 3), level, np.uint8)
        for strength in (-1.0, 0.5, 1.0):
            assert OPERATIONS[name](flat, strength, "reflection").shape == flat.shape


# Policies ------------------------------------------------------------------------------------------------------------


def numbers(chains: np.ndarray) -> np.ndarray:
    return chains[..., 1::2]


def strengths(chains: np.ndarray) -> np.ndarray:
    return chains[..., 2::2]


def test_randaugment_draws_its_operations_evenly_and_of_one_strength() -> None:
    choice = dataclasses.replace(OFF, policy="randaugment", policy_ops=3, policy_strength=0.4)
    chains = policies.sample(choice, generator(0, 0), 5000, SIZE)
    assert chains.shape == (5000, 1, 7)
    counts = np.bincount(numbers(chains).astype(int).ravel(), minlength=len(OPERATIONS))
    assert counts.min() > 0.85 * 15000 / len(OPERATIONS)
    assert len(counts) == len(OPERATIONS)
    assert (np.abs(strengths(chains)) == 0.4).all()
    assert (strengths(chains) > 0).mean() == pytest.approx(0.5, abs=0.02)


def test_trivialaugment_draws_one_operation_of_any_strength() -> None:
    chains = policies.sample(dataclasses.replace(OFF, policy="trivialaugment"), generator(0, 0), 5000, SIZE)
    assert chains.shape == (5000, 1, 3)
    assert np.histogram(strengths(chains), 8, (-1, 1))[0].min() > 0.85 * 5000 / 8


def test_augmix_mixes_three_chains_of_one_to_three_with_the_picture() -> None:
    choice = dataclasses.replace(OFF, policy="augmix", policy_strength=0.5)
    chains = policies.sample(choice, generator(0, 0), 5000, SIZE)
    assert chains.shape == (5000, 3, 7)
    weights = chains[..., 0]
    assert weights.min() >= 0
    assert weights.sum(1).max() <= 1
    assert weights.sum(1).mean() == pytest.approx(0.5, abs=0.02)  # Beta(1, 1)
    assert weights.mean(0) == pytest.approx(np.full(3, 1 / 6), abs=0.01)
    names = np.array(list(OPERATIONS))[numbers(chains).astype(int)]
    assert not {"saturation", "contrast", "brightness", "sharpness"} & set(names.ravel())
    changing = (names != "identity").sum(2)
    assert changing.max() == 3
    assert (names[..., 2] == "identity").mean() == pytest.approx(2 / 3 + 1 / 30, abs=0.02)
    assert np.abs(strengths(chains)).max() == pytest.approx(0.5, abs=0.01)


def test_chains_are_applied_in_turn_and_mixed_by_their_weights(picture: np.ndarray) -> None:
    names = list(OPERATIONS)
    solarise, rotate, identity = (names.index(name) for name in ("solarise", "rotate", "identity"))
    chains = np.array([[0.25, solarise, 0.5, rotate, -0.5], [0.35, rotate, 0.5, identity, 1.0]])
    first = OPERATIONS["rotate"](OPERATIONS["solarise"](picture, 0.5, "zeros"), -0.5, "zeros")
    second = OPERATIONS["rotate"](picture, 0.5, "zeros")
    wanted = 0.4 * picture + 0.25 * first + 0.35 * second.astype(float)
    assert np.abs(policies.apply(picture, chains, "zeros") - wanted).max() <= 0.51
    alone = np.array([[1.0, solarise, 0.5, rotate, -0.5]])
    assert np.array_equal(policies.apply(picture, alone, "zeros"), first)


# Two pictures in one -------------------------------------------------------------------------------------------------


def mixes(**changes: Any) -> np.ndarray:
    draws = sample_mixes(dataclasses.replace(OFF, **changes), 0, 0, 6000, SIZE)
    assert draws is not None
    return draws


def test_nothing_is_mixed_unless_asked() -> None:
    assert sample_mixes(OFF, 0, 0, 10, SIZE) is None


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixups_shares_are_betas(alpha: float) -> None:
    draws = mixes(mixup=alpha)
    assert (draws[:, 1:] == 0).all()
    assert draws[:, 0].mean() == pytest.approx(0.5, abs=0.02)
    assert draws[:, 0].var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_cutmixs_shares_are_what_is_left_of_the_picture() -> None:
    draws = mixes(cutmix=1.0)
    share, left, top, right, bottom = draws.T
    assert (draws[:, 1:] >= 0).all()
    assert (draws[:, 1:] <= SIZE).all()
    assert (draws[:, 1:] == draws[:, 1:].round()).all()
    np.testing.assert_allclose(share, 1 - (right - left) * (bottom - top) / SIZE**2, atol=1e-12)
    whole = (left > 0) & (top > 0) & (right < SIZE) & (bottom < SIZE)
    assert np.abs((right - left) - (bottom - top))[whole].max() <= 1  # a square unless the border cuts it
    assert share.min() < 0.1
    assert share.max() > 0.95


def test_with_both_each_is_drawn_half_the_time() -> None:
    draws = mixes(mixup=1.0, cutmix=1.0)
    assert (draws[:, 3] > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_mixes_belong_to_seed_epoch_and_record() -> None:
    choice = dataclasses.replace(OFF, mixup=1.0, cutmix=0.5)
    made = [sample_mixes(choice, *key, 20, SIZE) for key in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert np.array_equal(made[0], made[1])  # type: ignore[arg-type]
    assert not np.array_equal(made[0], made[2])  # type: ignore[arg-type]
    assert not np.array_equal(made[0], made[3])  # type: ignore[arg-type]


def test_every_picture_gets_the_one_after_it_as_it_was(photographs: torch.Tensor) -> None:
    """Not one that was mixed already, and the last one gets the first."""
    given = np.ascontiguousarray(photographs.permute(0, 2, 3, 1).numpy())
    images = given.copy()
    draws = np.array([[0.3, 0, 0, 0, 0], [0.75, 0, 0, 24, 24]] * 4, float)
    shares = mix(images, draws)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, draws[:, 0])
    for place in range(8):
        own, other = given[place].astype(float), given[(place + 1) % 8].astype(float)
        if place % 2:
            assert np.array_equal(images[place, :24, :24], other[:24, :24])
            assert np.array_equal(images[place, 24:], own[24:])
            assert np.array_equal(images[place, :24, 24:], own[:24, 24:])
        else:
            assert np.abs(images[place] - (0.3 * own + 0.7 * other)).max() <= 0.51

"""What training changes at random: each draw by (seed, epoch, record), each picture against numpy and scipy."""

from __future__ import annotations

import dataclasses
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from opsin.augmentation import MARGIN, Draws, apply, generator, margin, move, relabelling, resolved, sample
from opsin.recipe import AugmentChoice

OFF = AugmentChoice()
ALL = AugmentChoice("yes", "yes", 20.0, 0.1, 0.1, 0.5, 0.3, 0.3, 0.3)
SIZE = 32


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """uint8 (8, 3, 32, 32): pieces of a photograph."""
    with Image.open(str(files("sklearn.datasets.images") / "china.jpg")) as image:
        picture = np.array(image)
    parts = [picture[y : y + SIZE, 2 * y : 2 * y + SIZE] for y in range(120, 280, 20)]
    return torch.from_numpy(np.stack(parts).transpose(0, 3, 1, 2).copy())


def identity(n: int) -> Draws:
    return sample(OFF, 0, 0, n, SIZE)


def draws_of(maps: Any = None, colours: Any = None) -> Draws:
    """One draw, with this map or these colours."""
    maps = np.eye(2, 3) if maps is None else maps
    return Draws(np.asarray([maps], np.float32), np.asarray([colours or (1, 1, 1)], np.float32))


# Draws ---------------------------------------------------------------------------------------------------------------


def test_a_draw_belongs_to_seed_epoch_and_record() -> None:
    first = sample(ALL, 3, 5, 100, SIZE)
    again = sample(ALL, 3, 5, 100, SIZE)
    assert np.array_equal(first.maps, again.maps)
    assert np.array_equal(first.colours, again.colours)
    for other in (sample(ALL, 3, 6, 100, SIZE), sample(ALL, 4, 5, 100, SIZE)):
        assert (first.colours != other.colours).any(1).all()
        assert (first.maps != other.maps).any((1, 2)).all()
    assert len(np.unique(first.colours, axis=0)) == 100


def test_sampling_draws_nothing_from_global_generators() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    sample(ALL, 0, 0, 10, SIZE)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


def test_epochs_up_to_the_largest_seed_have_generators_of_their_own() -> None:
    firsts = {generator(seed, epoch).random() for seed in (0, 1, 2**32 - 1) for epoch in (0, 1, 1000, 2**32)}
    assert len(firsts) == 12


def test_a_batch_is_its_pictures_one_by_one(photographs: torch.Tensor) -> None:
    draws = sample(ALL, 0, 2, 8, SIZE)
    together = apply(photographs, draws, size=SIZE, border="reflection")
    order = np.array([6, 1, 3])
    shuffled = apply(photographs[order], draws.of(order), size=SIZE, border="reflection")
    assert torch.equal(shuffled, together[order])
    for row in range(8):
        alone = apply(photographs[row : row + 1], draws.of(np.array([row])), size=SIZE, border="reflection")
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("choice", [{"brightness": 0.5}, {"rotate": 20.0}, {"hflip": "yes"}, {"crop": 0.1}, {}])
def test_a_batch_is_its_pictures_one_by_one_with_one_choice(photographs: torch.Tensor, choice: dict[str, Any]) -> None:
    """Shortcuts that look at the whole batch (nobody moved, nobody coloured) must not change a picture."""
    draws = sample(dataclasses.replace(OFF, **choice), 0, 1, 8, SIZE)
    together = apply(photographs, draws, size=SIZE, border="zeros")
    for row in range(8):
        alone = apply(photographs[row : row + 1], draws.of(np.array([row])), size=SIZE, border="zeros")
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("choice", [ALL, OFF, dataclasses.replace(OFF, contrast=0.5)])
def test_the_input_stays_and_the_output_is_uint8_of_its_own(photographs: torch.Tensor, choice: AugmentChoice) -> None:
    before = photographs.clone()
    made = apply(photographs, sample(choice, 0, 0, 8, SIZE), size=SIZE, border="reflection")
    assert made.dtype == torch.uint8
    assert made.shape == (8, 3, SIZE, SIZE)
    made.zero_()
    assert torch.equal(photographs, before)


def test_with_all_off_nothing_changes(photographs: torch.Tensor) -> None:
    assert torch.equal(apply(photographs, identity(8), size=SIZE, border="zeros"), photographs)


# Flips and shifts: exact ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "y"), [(1, -1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("side", [32, 31, 224, 225])
def test_flips_are_exact(x: int, y: int, side: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), np.uint8)
    made = apply(torch.from_numpy(images), draws_of([[x, 0, 0], [0, y, 0]]), size=side, border="zeros")
    assert np.array_equal(made.numpy(), images[:, :, ::y, ::x])


@pytest.mark.parametrize("border", ["zeros", "reflection"])
@pytest.mark.parametrize("side", [32, 31, 224])
def test_whole_pixel_shifts_are_exact(side: int, border: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), np.uint8)
    mode: Any = {"zeros": "constant", "reflection": "symmetric"}[border]
    padded = np.pad(images, ((0, 0), (0, 0), (8, 8), (8, 8)), mode)
    for right, down in ((0, 1), (1, 0), (-3, 5), (8, -8), (-7, -2)):
        shift = [[1, 0, right * 2 / side], [0, 1, down * 2 / side]]
        made = apply(torch.from_numpy(images), draws_of(shift), size=side, border=border)
        window = padded[:, :, 8 + down : 8 + down + side, 8 + right : 8 + right + side]
        assert np.array_equal(made.numpy(), window), (right, down)


@pytest.mark.parametrize("side", [32, 31, 224, 225])
@pytest.mark.parametrize("border", ["zeros", "reflection"])
def test_sampled_flips_and_padded_crops_are_exact(side: int, border: Any) -> None:
    """Each drawn picture is some window of the padded picture, mirrored or not: nothing is interpolated."""
    images = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), np.uint8).repeat(16, 0)
    choice = dataclasses.replace(OFF, hflip="yes", vflip="yes", crop=2 / side, border=border)
    draws = sample(choice, 0, 0, 16, side)
    made = apply(torch.from_numpy(images), draws, size=side, border=border).numpy()
    mode: Any = {"zeros": "constant", "reflection": "symmetric"}[border]
    padded = np.pad(images[0], ((0, 0), (2, 2), (2, 2)), mode)
    windows = [padded[:, y : y + side, x : x + side] for y in range(5) for x in range(5)]
    possible = {window[:, ::v, ::h].tobytes() for window in windows for v in (1, -1) for h in (1, -1)}
    assert {picture.tobytes() for picture in made} <= possible
    assert len({picture.tobytes() for picture in made}) > 10


def test_flips_alternate_over_the_epochs_from_a_random_start() -> None:
    choice = dataclasses.replace(OFF, hflip="yes", vflip="yes")
    signs = np.stack([np.sign(sample(choice, 0, epoch, 400, SIZE).maps[:, [0, 1], [0, 1]]) for epoch in range(4)])
    assert (signs[0, :, 0] == -signs[1, :, 0]).all()
    assert all(len({tuple(pair) for pair in signs[:, row]}) == 4 for row in range(400))  # all four in four epochs
    assert 150 < (signs[0] > 0).sum(0).min() <= (signs[0] > 0).sum(0).max() < 250


@pytest.mark.parametrize("choice", ["hflip", "vflip"])
def test_one_flip_shows_both_sides_over_the_epochs(choice: str) -> None:
    axis = 0 if choice == "hflip" else 1
    signs = [sample(dataclasses.replace(OFF, **{choice: "yes"}), 1, epoch, 50, SIZE).maps for epoch in range(4)]
    mine = np.stack([maps[:, axis, axis] for maps in signs])
    assert (mine.sum(0) == 0).all()
    assert all((maps[:, 1 - axis, 1 - axis] == 1).all() for maps in signs)


# Rotation and crops --------------------------------------------------------------------------------------------------


def turned(angle: float) -> list[list[float]]:
    """The map that `rotate` makes of an angle: positive turns the picture counter-clockwise as it is seen."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return [[cos, -sin, 0], [sin, cos, 0]]


@pytest.mark.parametrize("angle", [10.0, -20.0, 45.0, 90.0])
@pytest.mark.parametrize(("border", "mode"), [("zeros", "constant"), ("reflection", "reflect")])
def test_a_turn_is_scipys(photographs: torch.Tensor, angle: float, border: str, mode: Any) -> None:
    made = apply(photographs[:1], draws_of(turned(angle)), size=SIZE, border=border)[0].numpy().astype(float)
    given = photographs[0].numpy().astype(float)
    wanted = ndimage.rotate(given, angle, axes=(2, 1), reshape=False, order=1, mode=mode)
    # At the very border scipy and torch continue the picture differently by half a pixel; the inside is the claim.
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    inside = np.hypot(y, x) < SIZE / 2 - 1
    assert np.abs(made - wanted)[:, inside].max() <= 0.51
    assert np.abs(given - wanted)[:, inside].max() > 5


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_sampled_turns_are_rigid_and_within_the_angle(flips: tuple[int, int]) -> None:
    found = []
    for epoch in range(4):
        choice = dataclasses.replace(OFF, rotate=20.0, hflip="yes", vflip="yes")
        maps = sample(choice, 0, epoch, 500, SIZE).maps[:, :, :2].astype(float)
        np.testing.assert_allclose(maps @ maps.transpose(0, 2, 1), np.broadcast_to(np.eye(2), maps.shape), atol=1e-6)
        unflipped = maps / np.array(flips)
        own = np.sign(unflipped[:, 0, 0]) + np.sign(unflipped[:, 1, 1]) == 2
        found.append(np.rad2deg(np.arctan2(unflipped[own, 1, 0], unflipped[own, 0, 0])))
    angles = np.concatenate(found)
    assert len(angles) == 500
    assert np.abs(angles).max() <= 20.0001
    assert angles.min() < -19
    assert angles.max() > 19
    assert np.histogram(angles, 4, (-20, 20))[0].min() > 80


def windows(choice: AugmentChoice, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Scales (N, 2) and centres (N, 2) of sampled maps, x before y."""
    maps = sample(choice, 0, 0, n, SIZE).maps.astype(float)
    return maps[:, [0, 1], [0, 1]], maps[:, :, 2]


def test_resized_crops_stay_inside_and_have_the_areas_and_shapes_they_say() -> None:
    scales, centres = windows(dataclasses.replace(OFF, resized_crop=0.25))
    area, ratio = scales.prod(1), scales[:, 0] / scales[:, 1]
    assert (np.abs(centres) + scales <= 1 + 1e-6).all()
    assert scales.max() <= 1
    assert area.min() == pytest.approx(0.25, abs=0.01)
    assert (ratio.min(), ratio.max()) == pytest.approx((0.75, 4 / 3), abs=0.01)
    fits = (scales < 1).all(1)  # where neither side was cut to the picture's
    assert fits.mean() > 0.7
    assert np.quantile(area[area < 0.7], [0.25, 0.5, 0.75]) == pytest.approx([0.3625, 0.475, 0.5875], abs=0.02)
    reach = np.abs(centres[:, 0] / np.maximum(1 - scales[:, 0], 1e-9))[scales[:, 0] < 0.9]
    assert np.histogram(reach, 4, (0, 1))[0].min() > 0.2 * len(reach)


def test_a_resized_crop_shows_its_window() -> None:
    """A quarter of a picture whose quarters have one colour each is of one colour."""
    images = torch.zeros((1, 3, 64, 64), dtype=torch.uint8)
    images[:, 0, :32, 32:], images[:, 1, 32:, :32], images[:, 2, 32:, 32:] = 100, 150, 200
    for (x, y), colour in {(1, -1): (100, 0, 0), (-1, 1): (0, 150, 0), (1, 1): (0, 0, 200)}.items():
        window = draws_of([[0.25, 0, 0.5 * x], [0, 0.25, 0.5 * y]])
        made = apply(images, window, size=SIZE, border="zeros")
        assert made.shape == (1, 3, SIZE, SIZE)
        assert (made == torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1)).all()


def bilinear(picture: np.ndarray, size: int) -> np.ndarray:
    """float64 (3, size, size) of a window (3, h, w): each pixel's centre, between the four nearest, edges repeated."""
    for axis in (1, 2):
        side = picture.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1 if axis == i else 1 for i in range(3)])
        high = np.minimum(low + 1, side - 1)
        picture = picture.take(low, axis) * (1 - share) + picture.take(high, axis) * share
    return picture


def test_sampled_crops_are_their_windows_in_whole_pixels(photographs: torch.Tensor) -> None:
    large = photographs.repeat(8, 1, 1, 1)
    choice = dataclasses.replace(OFF, resized_crop=0.3, hflip="yes", vflip="yes")
    draws = sample(choice, 0, 0, len(large), 24)
    made = apply(large, draws, size=24, border="zeros").numpy()
    for picture, where, found in zip(large.numpy(), draws.maps.astype(float), made):
        (left, right), (top, bottom) = (
            (SIZE / 2 * (where[i, 2] + np.array([-1, 1]) * abs(where[i, i]) + 1)) for i in (0, 1)
        )
        window = picture[:, round(top) : round(bottom), round(left) : round(right)]
        wanted = bilinear(window, 24)[:, :: int(np.sign(where[1, 1])), :: int(np.sign(where[0, 0]))]
        assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize(("border", "side"), [("zeros", SIZE), ("reflection", SIZE), ("reflection", 24)])
def test_maps_of_all_kinds_are_torchs(photographs: torch.Tensor, border: str, side: int) -> None:
    choice = dataclasses.replace(ALL, brightness=0.0, contrast=0.0, saturation=0.0)
    draws = sample(choice, 5, 1, 8, side)
    maps = torch.from_numpy(draws.maps)
    grid = torch.nn.functional.affine_grid(maps, [8, 3, side, side], align_corners=False)
    wanted = torch.nn.functional.grid_sample(photographs.float(), grid, padding_mode=border, align_corners=False)
    assert (apply(photographs, draws, size=side, border=border) - wanted).abs().max() <= 0.55


def test_a_picture_that_may_not_be_written_is_moved_into_its_place(photographs: torch.Tensor) -> None:
    """What a cache that is a file hands out, in either order of its memory, into one row of a batch."""
    draws = sample(ALL, 0, 3, 8, SIZE)
    wanted = apply(photographs, draws, size=SIZE, border="zeros").permute(0, 2, 3, 1).numpy()
    for order in ("C", "F"):
        batch = np.full((3, SIZE, SIZE, 3), 77, np.uint8)
        for row in range(8):
            picture = np.array(photographs[row].permute(1, 2, 0).numpy(), order=order)  # type: ignore[call-overload]
            picture.flags.writeable = False
            move(picture, draws.maps[row], draws.colours[row], batch[1], border="zeros")
            assert np.array_equal(batch[1], wanted[row])
        assert (batch[[0, 2]] == 77).all()


@pytest.mark.parametrize("name", ["crop", "translate"])
def test_shifts_are_whole_pixels_up_to_their_range(name: str) -> None:
    scales, centres = windows(dataclasses.replace(OFF, **{name: 0.125}))
    steps = centres * SIZE / 2
    assert (scales == 1).all()
    assert (steps == steps.round()).all()
    for axis in (0, 1):
        values, counts = np.unique(steps[:, axis], return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert counts.min() > 0.8 * 4000 / 9
    assert abs(np.corrcoef(steps.T)[0, 1]) < 0.06


@pytest.mark.parametrize(("name", "column"), [("brightness", 0), ("contrast", 1), ("saturation", 2)])
def test_colour_factors_fill_their_range_and_no_other_changes(name: str, column: int) -> None:
    colours = sample(dataclasses.replace(OFF, **{name: 0.4}), 0, 0, 4000, SIZE).colours
    mine = colours[:, column]
    assert (mine.min(), mine.max()) == pytest.approx((0.6, 1.4), abs=0.005)
    assert mine.mean() == pytest.approx(1, abs=0.015)
    assert mine.std() == pytest.approx(0.8 / np.sqrt(12), abs=0.01)
    assert (np.delete(colours, column, 1) == 1).all()


def test_the_choices_are_drawn_independently() -> None:
    draws = sample(dataclasses.replace(ALL, resized_crop=1.0), 0, 0, 4000, SIZE)
    angle = np.arctan(draws.maps[:, 1, 0] / draws.maps[:, 0, 0])
    table = np.stack([angle, *draws.maps[:, :, 2].T, *draws.colours.T])
    assert np.abs(np.corrcoef(table) - np.eye(6)).max() < 0.06


# Colour --------------------------------------------------------------------------------------------------------------


def reference(picture: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """float64 (3, H, W): brightness, contrast about the mean gray, saturation about each pixel's gray."""
    luma = np.array([0.299, 0.587, 0.114])
    bright = picture.astype(np.float64) * brightness
    mean = np.tensordot(luma, bright, 1).mean()
    contrasted = mean + contrast * (bright - mean)
    gray = np.tensordot(luma, contrasted, 1)
    return np.clip(gray + saturation * (contrasted - gray), 0, 255)


@pytest.mark.parametrize(
    "factors", [(0.6, 1, 1), (1.4, 1, 1), (1, 0.5, 1), (1, 1.5, 1), (1, 1, 0), (1, 1, 1.8), (0.8, 1.3, 0.6), (0, 1, 1)]
)
def test_colours_are_numpys(photographs: torch.Tensor, factors: tuple[float, float, float]) -> None:
    made = apply(photographs[:1], draws_of(colours=factors), size=SIZE, border="zeros")[0].numpy()
    assert np.abs(made - reference(photographs[0].numpy(), *factors)).max() <= 1


def test_each_picture_of_a_batch_has_its_own_colours(photographs: torch.Tensor) -> None:
    draws = sample(dataclasses.replace(OFF, brightness=0.5, contrast=0.5, saturation=0.5), 0, 0, 8, SIZE)
    made = apply(photographs, draws, size=SIZE, border="zeros").numpy()
    for row in range(8):
        assert np.abs(made[row] - reference(photographs[row].numpy(), *draws.colours[row])).max() <= 1


# What is kept larger, and which flips would relabel ------------------------------------------------------------------


def test_only_resized_crops_need_a_larger_cache() -> None:
    assert margin(ALL) == MARGIN > 1
    assert margin(dataclasses.replace(ALL, resized_crop=1.0)) == 1


def test_a_larger_cached_picture_is_brought_to_size(photographs: torch.Tensor) -> None:
    large = photographs.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(apply(large, identity(8), size=SIZE, border="zeros"), photographs)


LETTERS = ["A", "b", "C"]


@pytest.mark.parametrize(
    ("classes", "hflip", "vflip"),
    [
        ([str(i) for i in range(10)], "digits", "digits"),
        ([" 1", "22 "], "digits", "digits"),
        (LETTERS, "letters", "letters"),
        (["ä", "ø"], "letters", "letters"),
        (["left", "right"], "'left' names a side", ""),
        (["arrow", "turn_RIGHT"], "'turn_RIGHT' names a side", ""),
        (["hand-left", "foot"], "'hand-left' names a side", ""),
        (["turnLeft", "turnRight"], "'turnLeft' names a side", ""),
        (["LEFT", "none"], "'LEFT' names a side", ""),
        (["links", "rechts"], "'links' names a side", ""),
        (["up", "down"], "", "'up' names a side"),
        (["arrow up", "other"], "", "'arrow up' names a side"),
        (["upper-lid", "x ray"], "", "'upper-lid' names a side"),
        (["cleft", "bright"], "", ""),
        (["cup", "laptop", "downtown", "Topaz", "Rightmove"], "", ""),
        (["cat", "7"], "", ""),
        (["A", "cat"], "", ""),
        (["cat", "dog"], "", ""),
    ],
)
def test_flips_that_would_relabel_are_named(classes: list[str], hflip: str, vflip: str) -> None:
    for flip, reason in (("hflip", hflip), ("vflip", vflip)):
        found = relabelling(classes, flip)
        assert reason in found
        assert bool(reason) == bool(found)


def test_safe_flips_are_decided_and_refusals_told() -> None:
    safe = dataclasses.replace(OFF, hflip="safe", vflip="safe")
    assert resolved(safe, ["cat", "dog"]) == (dataclasses.replace(OFF, hflip="yes", vflip="yes"), [])
    choice, told = resolved(safe, ["left", "right"])
    assert (choice.hflip, choice.vflip) == ("no", "yes")
    assert len(told) == 1
    assert "hflip refused: class 'left' names a side" in told[0]
    assert "--set hflip=yes" in told[0]


def test_flips_that_were_asked_for_or_are_off_stay() -> None:
    asked = dataclasses.replace(OFF, hflip="yes", vflip="no")
    assert resolved(asked, ["0", "1"]) == (asked, [])


def test_policies_that_change_colours_are_told_where_classes_name_them() -> None:
    choice = dataclasses.replace(OFF, policy="randaugment")
    assert resolved(choice, ["cat", "redhead"]) == (choice, [])
    same, told = resolved(choice, ["apple_red", "apple_green"])
    assert same == choice
    assert len(told) == 1
    assert "'apple_red' names one" in told[0]
    assert resolved(OFF, ["red", "green"]) == (OFF, [])

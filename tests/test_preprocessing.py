"""The one road from a picture to the network's input, against Pillow, numpy and shapes whose answer is known."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from opsin import codecs
from opsin.errors import ModelError
from opsin.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    enlarged,
    from_dict,
    load,
    load_each,
    normalise,
    prepare,
)

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def photograph(request: pytest.FixtureRequest) -> np.ndarray:
    """uint8 (427, 640, 3)."""
    with Image.open(str(files("sklearn.datasets.images") / request.param)) as image:
        return np.array(image.convert("RGB"))


def pixels(preprocessing: Preprocessing, picture: np.ndarray) -> np.ndarray:
    """What `prepare` gives, as (S, S, 3) for comparing."""
    prepared = prepare(preprocessing, picture)
    assert prepared.shape == (3, preprocessing.size, preprocessing.size)
    assert prepared.dtype == torch.uint8
    assert prepared.permute(1, 2, 0).is_contiguous()
    return prepared.permute(1, 2, 0).numpy()


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def resized(picture: np.ndarray, height: int, width: int, interpolation: str = "bilinear") -> np.ndarray:
    """Pillow's: the reference, whose filters widen with the scale (that is: antialiased)."""
    return np.array(Image.fromarray(picture).resize((width, height), FILTERS[interpolation]))


@pytest.mark.parametrize("size", [16, 64, 224, 427, 640, 900])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squash_is_pillows_antialiased_resize(
    photograph: np.ndarray, size: int, interpolation: Literal["bilinear", "bicubic"]
) -> None:
    ours = pixels(Preprocessing(size, interpolation=interpolation), photograph)
    reference = resized(photograph, size, size, interpolation)
    assert difference(ours, reference) <= 2  # of 255: the two round between their passes
    assert (np.abs(ours.astype(int) - reference) > 1).mean() < 1e-5


def test_without_antialiasing_the_comparison_would_fail(photograph: np.ndarray) -> None:
    plain = torch.nn.functional.interpolate(torch.from_numpy(photograph).permute(2, 0, 1)[None].float(), size=(64, 64))
    assert difference(plain[0].permute(1, 2, 0).round().numpy(), resized(photograph, 64, 64)) > 50


def jpeg(picture: np.ndarray, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("size", [24, 50, 100, 224, 285])
@pytest.mark.parametrize("portrait", [False, True])
def test_a_reduced_jpeg_is_close_to_one_decoded_whole(
    photograph: np.ndarray, fit: Any, size: int, portrait: bool
) -> None:
    road = Preprocessing(size, fit)
    data = jpeg(np.ascontiguousarray(photograph.transpose(1, 0, 2)) if portrait else photograph)
    reduced, whole = (image.float() for image in (load(road, data), prepare(road, codecs.decode(data))))
    signal = 20 * math.log10(255 / max(float((reduced - whole).square().mean().sqrt()), 1e-3))
    assert signal > 35
    least = {"squash": 427, "crop": 427 * 0.875, "letterbox": 640}[fit] / 1.25 / size
    assert torch.equal(reduced, whole) == (least < 2)


@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
def test_other_pictures_are_loaded_as_decoded(photograph: np.ndarray, fit: Any) -> None:
    road = Preprocessing(32, fit)
    wanted = prepare(road, photograph)
    assert torch.equal(load(road, codecs.encode_png(photograph)), wanted)
    assert torch.equal(load(road, photograph), wanted)


def test_roads_share_a_decoded_picture_only_where_they_reduce_alike(
    photograph: np.ndarray,
) -> None:
    data = jpeg(photograph)
    roads = [Preprocessing(size) for size in (32, 35, 64, 224, 300)]
    alone = [load(road, data) for road in roads]
    decoded: list[int] = []
    decode = codecs.decode

    def watched(given: bytes, *, reduced: int) -> np.ndarray:
        decoded.append(reduced)
        return decode(given, reduced=reduced)

    assert all(torch.equal(a, b) for a, b in zip(load_each(roads, data, decode=watched), alone, strict=True))
    assert decoded == [8, 4, 1]


@pytest.mark.parametrize("portrait", [False, True])
@pytest.mark.parametrize("size", [64, 224, 700])
def test_letterbox_keeps_the_shape_between_bars_of_the_mean_colour(
    photograph: np.ndarray, size: int, portrait: bool
) -> None:
    picture = np.ascontiguousarray(photograph.transpose(1, 0, 2)) if portrait else photograph
    ours = pixels(Preprocessing(size, "letterbox"), picture)
    ours = ours.transpose(1, 0, 2) if portrait else ours
    short = round(427 * size / 640)
    top = (size - short) // 2
    reference = resized(photograph, short, size)
    assert difference(ours[top : top + short], reference) <= 1
    bars = np.concatenate([ours[:top], ours[top + short :]])
    assert len(bars) == size - short
    assert (bars == [124, 116, 104]).all()  # ImageNet's mean in 0…255


@pytest.mark.parametrize("portrait", [False, True])
@pytest.mark.parametrize(("size", "fraction"), [(224, 0.875), (64, 0.875), (64, 1.0), (500, 0.9)])
def test_crop_is_the_centre_of_the_resized_picture(
    photograph: np.ndarray, size: int, fraction: float, portrait: bool
) -> None:
    picture = np.ascontiguousarray(photograph.transpose(1, 0, 2)) if portrait else photograph
    ours = pixels(Preprocessing(size, "crop", crop_fraction=fraction), picture)
    ours = ours.transpose(1, 0, 2) if portrait else ours
    short = round(size / fraction)
    whole = resized(photograph, short, round(640 * short / 427))
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    assert difference(ours, whole[top : top + size, left : left + size]) <= 1


def bars(height: int, width: int) -> np.ndarray:
    """A picture whose left quarter is red, right quarter blue, and the middle white."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[:, : width // 4] = (255, 0, 0)
    picture[:, -(width // 4) :] = (0, 0, 255)
    return picture


def test_squash_and_letterbox_show_the_borders_that_crop_cuts_off() -> None:
    picture = bars(100, 400)
    squashed, boxed, cropped = (pixels(Preprocessing(40, fit), picture) for fit in ("squash", "letterbox", "crop"))
    assert (squashed[:, :9] == (255, 0, 0)).all()
    assert (squashed[:, -9:] == (0, 0, 255)).all()
    assert (squashed[:, 11:29] == 255).all()
    assert (boxed[16:24, :9] == (255, 0, 0)).all()
    assert (boxed[15:25, 11:29] == 255).all()
    assert (cropped == 255).all()


def disc(height: int, width: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    inside = (y + 0.5 - height / 2) ** 2 + (x + 0.5 - width / 2) ** 2 < radius**2
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(("fit", "height", "width"), [("squash", 30, 15), ("letterbox", 15, 15), ("crop", 32, 32)])
def test_a_disc_stays_round_unless_it_is_squashed(fit: Any, height: float, width: float) -> None:
    """A disc of diameter 60 in 120 × 240 pixels; `crop` shows the middle 7/8 of its height on 56 × 56."""
    size = 56 if fit == "crop" else 60
    shape = pixels(Preprocessing(size, fit, mean=(0, 0, 0)), disc(120, 240, 30))[..., 0] / 255.0
    assert shape.sum(0).max() == pytest.approx(height, abs=0.6)
    assert shape.sum(1).max() == pytest.approx(width, abs=0.6)
    rows, columns = (np.arange(size) @ shape.sum(axis) / shape.sum() for axis in (1, 0))
    assert (rows, columns) == pytest.approx(((size - 1) / 2, (size - 1) / 2), abs=0.02)


@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (1, 3000), (63, 64), (64, 64)])
def test_extreme_shapes_come_out_whole(fit: Any, shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), (10, 200, 90), np.uint8)
    ours = pixels(Preprocessing(64, fit, mean=(0.5, 0.5, 0.5)), picture)
    lit = (ours == (10, 200, 90)).all(-1)
    assert ((ours == 128).all(-1) | lit).all()
    assert lit.sum() == (64 * max(1, round(64 * min(shape) / max(shape))) if fit == "letterbox" else 64 * 64)


def test_a_picture_of_the_right_size_is_untouched(photograph: np.ndarray) -> None:
    picture = np.ascontiguousarray(photograph[:224, :224])
    for fit in ("squash", "letterbox"):
        assert (pixels(Preprocessing(224, fit), picture) == picture).all()  # type: ignore[arg-type]
    assert (pixels(Preprocessing(224, "crop", crop_fraction=1.0), picture) == picture).all()


@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
def test_the_road_is_deterministic_on_any_number_of_threads_and_leaves_its_input(
    photograph: np.ndarray, fit: Any
) -> None:
    before = photograph.copy()
    try:
        found = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            prepared = prepare(Preprocessing(224, fit), photograph)
            found.append((prepared, normalise(Preprocessing(224, fit), prepared[None])))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, found[0][0]) and torch.equal(b, found[0][1]) for a, b in found)
    assert (photograph == before).all()


def test_what_prepare_gives_is_a_copy() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    prepare(Preprocessing(64), picture)[:] = 9
    assert not picture.any()


def test_pictures_in_any_memory_order_are_taken(photograph: np.ndarray) -> None:
    road = Preprocessing(64)
    fortran, part = np.asfortranarray(photograph), photograph[::2, 10:400]
    assert (pixels(road, fortran) == pixels(road, photograph)).all()
    assert (pixels(road, part) == pixels(road, part.copy())).all()


def test_normalise_is_exact_to_float32() -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 1.0, 0.03)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8)
    images[0, :, 0, :2] = [[0, 255]] * 3
    given = torch.from_numpy(images.copy())
    ours = normalise(Preprocessing(16, mean=mean, std=std), given)
    wanted = (images / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-6, atol=5e-6)
    assert (given.numpy() == images).all()


def test_normalise_treats_each_picture_alone() -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (5, 3, 8, 8), np.uint8))
    road = Preprocessing(8)
    together = normalise(road, images)
    assert all(torch.equal(together[i : i + 1], normalise(road, images[i : i + 1])) for i in range(5))


def test_enlarged_changes_the_size_only() -> None:
    road = Preprocessing(224, "crop", (0.1, 0.2, 0.3), (1, 1, 1), "bicubic", 0.9)
    assert enlarged(road, 1.15) == Preprocessing(258, "crop", (0.1, 0.2, 0.3), (1, 1, 1), "bicubic", 0.9)
    assert enlarged(road, 1.0) == road


def test_the_plain_form_gives_the_preprocessing_back() -> None:
    road = Preprocessing(96, "letterbox", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bicubic", 0.9)
    assert from_dict(json.loads(json.dumps(road.to_dict()))) == road
    assert from_dict(Preprocessing(32).to_dict()).mean == IMAGENET_MEAN
    assert Preprocessing(32).std == IMAGENET_STD


@pytest.mark.parametrize(
    "change",
    [
        {"sise": 3},
        {"mean": None},
        {"mean": 3},
    ],
)
def test_plain_forms_of_others_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="preprocessing"):
        from_dict({**Preprocessing(96).to_dict(), **change})


@pytest.mark.parametrize("missing", ["size", "mean", "std"])
def test_plain_forms_with_a_gap_are_refused(missing: str) -> None:
    values = Preprocessing(96).to_dict()
    del values[missing]
    with pytest.raises(ModelError, match="preprocessing"):
        from_dict(values)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": "96"},
        {"size": 96.5},
        {"fit": "sqash"},
        {"interpolation": "nearest"},
        {"mean": [0.5, 0.5]},
        {"std": [0.0, 1.0, 1.0]},
        {"crop_fraction": 0.0},
    ],
)
def test_values_that_no_preprocessing_can_have_are_refused(change: dict[str, Any]) -> None:
    """They come from a file that somebody edited: a wrong `fit` must not silently crop."""
    with pytest.raises(ModelError, match="preprocessing"):
        from_dict({**Preprocessing(96).to_dict(), **change})

"""Files of a quality, within a budget, as like as wanted; metadata; the curve."""

from __future__ import annotations

import itertools
from io import BytesIO

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from opsin import codecs, encoding, ops
from opsin.errors import CallError

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[:240, 100:420])
LOSSY = {"jpeg": ops.jpeg, "webp": ops.webp, "avif": ops.avif}
each_lossy = pytest.mark.parametrize("name", LOSSY)


def saved(format: str, **options) -> bytes:
    file = BytesIO()
    Image.fromarray(PHOTO).save(file, format, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


@pytest.mark.parametrize(("name", "format"), [("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("avif", "AVIF")])
def test_the_bytes_are_of_the_format_and_show_the_picture(name: str, format: str) -> None:
    data = getattr(ops, name)(PHOTO)
    assert codecs.sniff(data) == format
    assert ops.psnr(codecs.decode(data), PHOTO) > 30
    gray = getattr(ops, name)(PHOTO[..., 0])
    assert np.abs(codecs.decode(gray).astype(int) - PHOTO[..., :1]).mean() < 4


def test_png_is_lossless_unless_colours_are_asked_for() -> None:
    assert np.array_equal(codecs.decode(ops.png(PHOTO)), PHOTO)
    few = codecs.decode(ops.png(PHOTO, colours=16))
    assert len(np.unique(few.reshape(-1, 3), axis=0)) == 16
    assert len(ops.png(PHOTO, level=9)) < len(ops.png(PHOTO, level=1))


@pytest.mark.parametrize("quality", [1, 20, 50, 85, 100])
def test_a_whole_quality_of_jpeg_is_what_libjpeg_calls_it(quality: int) -> None:
    assert ops.jpeg(PHOTO, quality=quality) == saved("JPEG", quality=quality, subsampling="4:2:0")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(("progressive", "tight"), [(False, False), (False, True), (True, False)])
def test_a_jpeg_has_the_pixels_of_pillows(subsampling: encoding.Subsampling, progressive: bool, tight: bool) -> None:
    rng = np.random.default_rng(7)
    for number in range(30):
        height, width = rng.integers(1, 60, 2)
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        picture, quality = noise[..., 0] if number % 5 == 0 else noise, int(rng.integers(1, 101))
        options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
        ours = encoding.jpeg(picture, tight=tight, **options)
        file = BytesIO()
        Image.fromarray(picture).save(file, "JPEG", optimize=tight, **options)
        assert np.array_equal(codecs.decode(ours), codecs.decode(file.getvalue())), (picture.shape, quality)


@pytest.mark.parametrize("picture", [np.zeros((2, 65_501), np.uint8), np.zeros((4, 4), np.uint16)])
def test_what_cannot_be_a_jpeg_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(CallError, match="cannot be a JPEG"):
        encoding.jpeg(picture)


def test_tables_between_whole_qualities_lie_between_theirs() -> None:
    tables = [np.array([*opened(encoding.jpeg(PHOTO, quality=q)).quantization.values()]) for q in (80, 80.5, 81, 30.25)]
    assert (tables[0] >= tables[1]).all()
    assert (tables[1] >= tables[2]).all()
    assert (tables[0] > tables[1]).any()
    assert (tables[1] > tables[2]).any()
    assert (tables[3] > tables[0]).any()


@pytest.mark.parametrize(("name", "sampling"), [("4:4:4", (1, 1)), ("4:2:2", (2, 1)), ("4:2:0", (2, 2))])
def test_chroma_is_subsampled_as_asked(name: str, sampling) -> None:
    assert opened(ops.jpeg(PHOTO, subsampling=name)).layer[0][1:3] == sampling


def test_progressive_is_told_in_the_file() -> None:
    assert opened(ops.jpeg(PHOTO, progressive=True)).info.get("progressive")
    assert not opened(ops.jpeg(PHOTO)).info.get("progressive")


@pytest.mark.parametrize("budget", [6_000, 12_345, 30_000])
@each_lossy
def test_a_budget_is_met_from_below(name: str, budget: int) -> None:
    data = LOSSY[name](PHOTO, budget=budget)
    assert 0.98 * budget <= len(data) <= budget


@each_lossy
def test_more_bytes_are_spent_on_a_better_picture(name: str) -> None:
    found = [codecs.decode(LOSSY[name](PHOTO, budget=budget)) for budget in (5_000, 10_000, 20_000, 40_000)]
    likeness = [ops.ssim(each, PHOTO) for each in found]
    assert likeness == sorted(likeness)
    assert likeness[-1] > likeness[0] + 0.05


@each_lossy
def test_a_budget_beyond_the_best_quality_gives_that(name: str) -> None:
    data = LOSSY[name](PHOTO, budget=10_000_000)
    assert len(data) <= 10_000_000
    assert ops.psnr(codecs.decode(data), PHOTO) > 35


@pytest.mark.parametrize("name", [*LOSSY, "png"])
def test_a_budget_that_no_quality_meets_is_refused(name: str) -> None:
    with pytest.raises(CallError, match=r"too small for this picture: expected at least [\d,]+ bytes, received 100\."):
        getattr(ops, name)(PHOTO, budget=100)


def test_a_budget_of_png_takes_colours_away() -> None:
    lossless = len(ops.png(PHOTO))
    assert ops.png(PHOTO, budget=lossless) == ops.png(PHOTO)
    data = ops.png(PHOTO, budget=40_000)
    assert 0.9 * 40_000 < len(data) <= 40_000
    assert opened(data).mode == "P"


@pytest.mark.parametrize("wanted", [0.9, 0.96])
@each_lossy
def test_a_wanted_likeness_is_reached_and_hardly_passed(name: str, wanted: float) -> None:
    data = LOSSY[name](PHOTO, ssim=wanted)
    assert wanted <= ops.ssim(codecs.decode(data), PHOTO) < wanted + 0.02


def test_a_likeness_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(CallError, match="cannot be reached: expected at most 0"):
        ops.webp(PHOTO, ssim=0.9999)


def test_a_budget_and_a_likeness_are_one_too_many() -> None:
    with pytest.raises(CallError, match="expected one of them"):
        ops.jpeg(PHOTO, budget=5000, ssim=0.9)


def test_a_batch_gives_a_list() -> None:
    batch = torch.from_numpy(np.stack([PHOTO, PHOTO[::-1]])).permute(0, 3, 1, 2)
    assert ops.jpeg(batch) == [ops.jpeg(PHOTO), ops.jpeg(np.ascontiguousarray(PHOTO[::-1]))]


# Metadata ------------------------------------------------------------------------------------------------------------


def exif(**tags: object) -> bytes:
    made = Image.Exif()
    made[0x010F] = "Maker"
    made[0x0112] = 6
    return made.tobytes()


@pytest.mark.parametrize("name", [*LOSSY, "png"])
def test_metadata_is_in_the_file_only_when_it_is_handed_over(name: str) -> None:
    kept = encoding.exif_of(saved("JPEG", exif=exif()))
    op = getattr(ops, name)
    assert not opened(op(PHOTO)).getexif()
    found = opened(op(PHOTO, exif=kept)).getexif()
    assert found[0x010F] == "Maker"
    assert found.get(0x0112, 1) == 1
    assert op(PHOTO, exif=b"") == op(PHOTO)


@pytest.mark.parametrize("data", [b"", b"no picture", saved("JPEG"), saved("PNG")])
def test_no_metadata_is_empty(data: bytes) -> None:
    assert encoding.exif_of(data) == b""


def test_metadata_too_long_for_a_jpeg_is_left_out() -> None:
    long = Image.Exif()
    long[0x010E] = "x" * 70_000
    assert encoding.exif_of(saved("PNG", exif=long.tobytes())) == b""


# Encoding's own refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", [PHOTO / 255, PHOTO[..., :2], PHOTO[:0], PHOTO.astype(np.uint16)])
def test_what_is_no_picture_is_not_encoded(picture: np.ndarray) -> None:
    with pytest.raises(CallError, match="encoding: expected uint8"):
        encoding.png(picture)


def test_a_picture_too_long_for_a_format_is_refused() -> None:
    with pytest.raises(CallError, match="this picture cannot be a WEBP: received 16384 × 1"):
        ops.webp(np.zeros((1, 16_384, 3), np.uint8))


def test_sixteen_bits_of_gray_make_a_png() -> None:
    values = np.array([[0, 1, 300], [5, 65535, 256]], np.uint16)
    assert np.array_equal(np.asarray(opened(encoding.png(values))), values)


# The curve -----------------------------------------------------------------------------------------------------------


@each_lossy
def test_the_curve_rises(name: str) -> None:
    points = ops.rate_distortion(PHOTO, format=name, qualities=(10, 40, 70, 95))
    assert [point.quality for point in points] == [10, 40, 70, 95]
    for before, after in itertools.pairwise(points):
        assert after.bytes > before.bytes
        assert after.psnr > before.psnr
        assert after.ssim > before.ssim
    data = LOSSY[name](PHOTO, quality=40)
    assert points[1].bytes == len(data)
    assert points[1].bits_per_pixel == 8 * len(data) / (240 * 320)
    assert points[1].psnr == ops.psnr(codecs.decode(data), PHOTO)


def test_the_curve_of_another_format_is_refused() -> None:
    with pytest.raises(CallError, match=r"unknown format 'jepg'.*Did you mean 'jpeg'"):
        ops.rate_distortion(PHOTO, format="jepg")

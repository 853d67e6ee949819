"""Codecs: the colour rules, each by a known answer."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoded import (
    code,
    file,
    hostile,
    linear_gray,
    needs_zip,
    on_white,
    only_black_counts,
    pillow_loads,
    rough,
    srgb_profile,
    swapped_profile,
    tiff,
)
from opsin.codecs import decode, encode_png


def pixels(*values: Any) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, -1, 3)


def test_palette() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 10, 20, 30, 200, 100, 50])
    image.putdata([2, 1, 0])
    for format in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(decode(file(image, format)), pixels((200, 100, 50), (10, 20, 30), (0, 0, 0)))


def test_palette_with_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 10, 20, 30, 200, 100, 50])
    image.putdata([2, 1, 0])
    seen = pixels((200, 100, 50), (255, 255, 255), (0, 0, 0))
    np.testing.assert_array_equal(decode(file(image, "PNG", transparency=1)), seen)
    np.testing.assert_array_equal(decode(file(image, "GIF", transparency=1)), seen)
    half = decode(file(image, "PNG", transparency=bytes([255, 0, 128])))
    np.testing.assert_array_equal(half, pixels((227, 177, 152), (255, 255, 255), (0, 0, 0)))


def test_every_alpha_with_every_gray_is_rounded_exactly() -> None:
    colour, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    expected = on_white(np.stack([colour] * 3, -1), alpha)
    la = Image.merge("LA", [Image.fromarray(colour), Image.fromarray(alpha)])
    np.testing.assert_array_equal(decode(file(la, "PNG")), expected)
    np.testing.assert_array_equal(decode(file(la.convert("RGBA"), "TIFF")), expected)
    np.testing.assert_array_equal(decode(file(la.convert("RGBA"), "WEBP", lossless=True, exact=True)), expected)


def test_one_transparent_colour() -> None:
    rgb = pixels((10, 20, 30), (10, 20, 31), (30, 20, 10))
    seen = pixels((255, 255, 255), (10, 20, 31), (30, 20, 10))
    np.testing.assert_array_equal(decode(file(rgb, "PNG", transparency=(10, 20, 30))), seen)
    gray = Image.fromarray(np.array([[5, 6]], np.uint8))
    np.testing.assert_array_equal(decode(file(gray, "PNG", transparency=6)), pixels((5, 5, 5), (255, 255, 255)))
    deep = Image.fromarray(np.array([[257, 258]], np.uint16))
    np.testing.assert_array_equal(decode(file(deep, "PNG", transparency=257)), pixels((255, 255, 255), (1, 1, 1)))
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert decode(file(bits, "PNG", transparency=0)).min() == 255
    assert decode(file(bits, "PNG", transparency=255)).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_gray_is_rounded(format: str) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257).astype(np.uint8)
    picture = decode(file(Image.fromarray(values), format))
    np.testing.assert_array_equal(picture, np.stack([expected] * 3, -1))


def test_deep_tiffs() -> None:
    values = [0, 257, 40000, 65535]
    expected = [0, 1, 156, 255]
    for order in "<>":
        assert decode(tiff(struct.pack(order + "4H", *values), 16, 1, 1, order))[0, :, 0].tolist() == expected
        assert decode(tiff(struct.pack(order + "4i", *values), 32, 1, 2, order))[0, :, 0].tolist() == expected
    white_is_zero = decode(tiff(struct.pack("<4H", *values), 16, 0))
    assert white_is_zero[0, :, 2].tolist() == [255, 254, 99, 0]
    assert decode(tiff(bytes([0x00, 0x0F, 0xFF]), 12, 1))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    "data",
    [
        tiff(struct.pack("<2f", 0, 1), 32, 1, 3),
        tiff(struct.pack("<2i", 0, 65536), 32, 1, 2),
        tiff(struct.pack("<2i", 0, -1), 32, 1, 2),
        tiff(struct.pack("<2h", 0, -1), 16, 1, 2),
    ],
)
def test_values_of_unknown_range_are_refused(data: bytes) -> None:
    assert code(data) == "unsupported-depth"


def test_gray_and_bits() -> None:
    gray = np.array([[0, 7, 255]], np.uint8)
    np.testing.assert_array_equal(decode(file(gray, "PNG")), np.stack([gray] * 3, -1))
    bits = Image.fromarray(gray).convert("1", dither=Image.Dither.NONE)
    for format in ("PNG", "BMP", "TIFF"):
        assert decode(file(bits, format))[0].tolist() == [[0] * 3, [0] * 3, [255] * 3]


def test_plain_cmyk() -> None:
    """C, M, Y and K alone, white and black; JPEG stores them inverted, as Adobe does."""
    inks = np.eye(4, dtype=np.uint8) * 255
    image = Image.fromarray(np.stack([*inks, inks[0] * 0]).repeat(16, 0).reshape(1, 80, 4).repeat(16, 0), "CMYK")
    expected = [(0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0), (255, 255, 255)]
    for format, options in (("TIFF", {}), ("JPEG", {"quality": 100})):
        centres = decode(file(image, format, **options))[8, 8::16].astype(int)
        assert np.abs(centres - expected).max() <= 3


def test_lab_and_ycbcr_tiffs() -> None:
    lab = Image.new("LAB", (2, 1), (255, 128, 128))
    assert np.abs(decode(file(lab, "TIFF")).astype(int) - 255).max() <= 2
    ycbcr = Image.new("YCbCr", (2, 1), (255, 128, 128))
    assert np.abs(decode(file(ycbcr, "TIFF")).astype(int) - 255).max() <= 2


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, 0…1 to 0…255."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_an_rgb_profile_is_followed(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    picture = decode(file(rough(), format, icc_profile=swapped_profile(), **options))
    assert np.abs(picture.astype(int) - rough()[..., [1, 0, 2]]).max() <= 2


def test_colours_follow_the_profile_before_alpha_is_composited() -> None:
    image = Image.fromarray(rough())
    image.putalpha(Image.fromarray(rough()[..., 2]))
    picture = decode(file(image, "PNG", icc_profile=swapped_profile()))
    assert np.abs(picture.astype(int) - on_white(rough()[..., [1, 0, 2]], rough()[..., 2])).max() <= 2


def test_a_palette_and_gray_follow_an_rgb_profile() -> None:
    palette = Image.new("P", (1, 1))
    palette.putpalette([200, 100, 50])
    picture = decode(file(palette, "PNG", icc_profile=swapped_profile()))
    assert np.abs(picture.astype(int) - (100, 200, 50)).max() <= 2
    gray = decode(file(np.array([[9, 99, 200]], np.uint8), "PNG", icc_profile=swapped_profile()))
    assert np.abs(gray.astype(int) - np.array([9, 99, 200])[None, :, None]).max() <= 40
    assert gray.std() > 50


def test_changed_png_data_is_refused() -> None:
    data = bytearray(encode_png(rough()))
    at = data.rindex(b"IEND") - 8  # the checksum of the last IDAT, which Pillow does not look at
    data[at] ^= 1
    assert pillow_loads(bytes(data))
    assert code(bytes(data)) == "corrupt"


def test_a_gray_profile_is_followed() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = decode(file(ramp, "PNG", icc_profile=linear_gray()))
    assert np.abs(picture - srgb_curve(ramp / 255)[..., None]).max() <= 2


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_a_cmyk_profile_is_followed(format: str) -> None:
    ramp = np.arange(0, 256, 5, dtype=np.uint8).reshape(1, -1).repeat(16, 0).repeat(16, 1)
    inks = np.stack([ramp // 3, ramp // 2, ramp * 0 + 60, ramp], -1)
    options = {"quality": 100} if format == "JPEG" else {}
    picture = decode(file(Image.fromarray(inks, "CMYK"), format, icc_profile=only_black_counts(), **options))
    lightness = 100 * (1 - ramp / 255)
    luminance = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    assert np.abs(picture - srgb_curve(luminance)[..., None]).max() <= 6
    assert np.abs(picture - srgb_curve(luminance)[..., None]).mean() <= 1.5


@pytest.mark.parametrize("profile", [b"junk", b"\0" * 500, srgb_profile()[:200], only_black_counts(), linear_gray()])
def test_a_broken_or_foreign_profile_is_ignored(profile: bytes) -> None:
    np.testing.assert_array_equal(decode(file(rough(), "PNG", icc_profile=profile)), rough())


def test_srgb_by_any_name_changes_nothing() -> None:
    np.testing.assert_array_equal(decode(file(rough(), "PNG", icc_profile=srgb_profile())), rough())


@needs_zip
def test_an_adobe_rgb_photograph_becomes_more_colourful() -> None:
    data = hostile()["vips/test/test-suite/images/sample.jpg"]
    plain, picture = np.array(Image.open(BytesIO(data))).astype(int), decode(data).astype(int)
    assert np.ptp(picture, axis=-1).mean() > np.ptp(plain, axis=-1).mean() + 1

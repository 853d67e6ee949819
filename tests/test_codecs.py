"""Codecs: every picture by a known answer, every refusal by its code, and no other exception, whatever comes in."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageFile, features

from opsin import codecs
from opsin.codecs import CODES, Limits, decode, encode_png, sides, sniff
from opsin.errors import CallError, PictureError

HOSTILE = Path(__file__).parents[2] / "shared" / "data" / "hostile-images.zip"
needs_zip = pytest.mark.skipif(not HOSTILE.exists(), reason="../shared/data/hostile-images.zip is absent")
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")


@cache
def hostile() -> dict[str, bytes]:
    with zipfile.ZipFile(HOSTILE) as archive:
        return {name: archive.read(name) for name in sorted(archive.namelist()) if not name.endswith("/")}


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    """A picture with different corners, soft enough for lossy formats."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // width, 255 * y // height, 255 * (x + y) // (width + height)], -1).astype(np.uint8)


def rough(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def file(image: Image.Image | np.ndarray, format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format, **options)
    return buffer.getvalue()


def code(data: Any, limits: Limits = codecs.LIMITS) -> str:
    """The code that `data` is refused with, or "" where a well-formed picture comes back."""
    try:
        picture = decode(data, limits)
    except PictureError as error:
        return next(listed for listed in CODES if listed == error.code)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.flags.c_contiguous
    assert picture.flags.writeable
    return ""


# --- formats, arrays, limits ------------------------------------------------------------------------------------------

LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate", "big_tiff": True}),
    ("WEBP", {"lossless": True}),
]


@pytest.mark.parametrize(("format", "options"), LOSSLESS)
def test_lossless_formats_give_the_picture_back(format: str, options: dict[str, Any]) -> None:
    data = file(rough(), format, **options)
    assert sniff(data) == format
    np.testing.assert_array_equal(decode(data), rough())


@pytest.mark.parametrize("format", ["JPEG", "WEBP", pytest.param("AVIF", marks=needs_avif)])
def test_lossy_formats_come_near(format: str) -> None:
    data = file(smooth(), format, quality=95)
    assert sniff(data) == format
    assert np.abs(decode(data).astype(int) - smooth()).max() < 20


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_of_several_frames_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = file(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(data), np.full((10, 20, 3), (255, 0, 0)))


def test_png_gives_back_exactly_what_was_encoded() -> None:
    np.testing.assert_array_equal(decode(encode_png(rough(3, 5))), rough(3, 5))
    assert sniff(encode_png(rough(3, 5))) == "PNG"
    with pytest.raises(PictureError, match="float32"):
        encode_png(np.zeros((3, 5, 3), np.float32))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3)])
def test_an_array_is_a_picture(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = array.copy()
    picture = decode(array[:, ::-1])
    expected = before[:, ::-1] if shape[-1] == 3 else np.stack([before.reshape(4, 6)[:, ::-1]] * 3, -1)
    np.testing.assert_array_equal(picture, expected)
    assert picture.flags.c_contiguous
    picture[:] = 0
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 3), np.float32),
        np.zeros((4, 6), np.uint16),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((3, 0, 3), np.uint8),
        np.zeros(6, np.uint8),
        np.zeros((2, 4, 6, 3), np.uint8),
        np.zeros((), np.uint8),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    assert code(array) == "bad-array"


def test_something_else_is_the_callers_mistake() -> None:
    with pytest.raises(CallError, match="received str"):
        decode("a.jpg")  # type: ignore[arg-type]


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (60_000, 60_000, "too-many-pixels"),  # Pillow raises
        (10_000, 10_000, "too-many-pixels"),  # Pillow warns
        (65_501, 1, "too-large-side"),
        (1, 2**31 - 1, "too-many-pixels"),
        (300, 300, "truncated"),
    ],
)
def test_a_header_that_lies(width: int, height: int, expected: str) -> None:
    assert code(png_that_claims(width, height)) == expected


def test_limits_are_the_callers() -> None:
    data = encode_png(rough(10, 20))
    assert code(data, Limits(bytes=len(data), pixels=200, side=20)) == ""
    assert code(data, Limits(bytes=len(data) - 1)) == "too-many-bytes"
    assert code(data, Limits(pixels=199)) == code(rough(10, 20), Limits(pixels=199)) == "too-many-pixels"
    assert code(data, Limits(side=19)) == code(rough(10, 20), Limits(side=19)) == "too-large-side"


def test_pillows_own_line_makes_no_noise_below_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    assert code(encode_png(rough(10, 20))) == ""  # between one and two times: it would warn, and warnings are errors
    assert code(encode_png(rough(20, 20))) == "too-many-pixels"


def test_no_memory_is_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    assert code(file(rough(), "BMP")) == "out-of-memory"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"\0" * 64, "not-a-picture"),
        (b"<!doctype html><img src=a.png>", "not-a-picture"),
        (b"#!/bin/sh\nrm -rf /\n", "not-a-picture"),
        (b"BMW, a text about cars that begins like a bitmap", "not-a-picture"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not-a-picture"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported-format"),
        (b"8BPS\0\1", "unsupported-format"),
        (b"\0" * 128 + b"DICM", "unsupported-format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported-format"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, expected: str) -> None:
    assert code(data) == expected


def test_polyglots() -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as entries:
        entries.writestr("a.png", encode_png(rough()))
    assert code(archive.getvalue()) == "not-a-picture"
    np.testing.assert_array_equal(decode(encode_png(rough()) + archive.getvalue()), rough())  # a tail is not looked at
    assert code(b"GIF89a/*" + b"<script>alert(1)</script>" * 9) in ("truncated", "corrupt", "too-many-pixels")


def test_the_format_is_never_guessed_from_another_decoder() -> None:
    assert code(b"\x89PNG\r\n\x1a\n" + file(smooth(), "JPEG")) == "truncated"


def test_no_torch() -> None:
    script = "import sys, opsin.codecs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- upright ----------------------------------------------------------------------------------------------------------

STORED = {  # what a camera stores of an upright scene: the inverse of what orientation asks for
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("JPEG", {"quality": 95}, 20),
        pytest.param("AVIF", {"quality": 95}, 20, marks=needs_avif),
    ],
)
def test_orientation_is_applied_once(format: str, options: dict[str, Any], tolerance: int, orientation: int) -> None:
    stored = STORED[orientation](Image.fromarray(smooth()))
    picture = decode(file(stored, format, exif=exif(orientation), **options))
    assert picture.shape == smooth().shape
    assert picture.flags.c_contiguous
    assert np.abs(picture.astype(int) - smooth()).max() <= tolerance


@needs_zip
@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_of_camera_files(kind: str, orientation: int) -> None:
    upright = decode(hostile()[f"exif-orientation/{kind}_1.jpg"]).astype(int)
    picture = decode(hostile()[f"exif-orientation/{kind}_{orientation}.jpg"])
    assert picture.shape == upright.shape
    assert np.abs(picture - upright).mean() < 6  # each was compressed by itself
    assert min(np.abs(wrong - upright).mean() for wrong in (picture[::-1], picture[:, ::-1])) > 20


# one entry of five promised, then the end: orientation 6 is still readable, and Pillow warns
CUT_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"


@pytest.mark.parametrize(
    "metadata",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage that is no TIFF",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",  # orientation 9
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\x006\0\0\0\0\0\0\0",  # the letter 6
    ],
)
def test_malformed_exif_means_upright(metadata: bytes) -> None:
    np.testing.assert_array_equal(
        decode(file(smooth(), "JPEG", exif=metadata)), np.array(Image.open(BytesIO(file(smooth(), "JPEG"))))
    )
    np.testing.assert_array_equal(decode(file(rough(), "PNG", exif=metadata)), rough())


@pytest.mark.parametrize("action", ["error", "ignore", "always"])
def test_filters_for_warnings_change_nothing(action: Any) -> None:
    data = file(smooth(), "JPEG", exif=CUT_EXIF)
    expected = np.rot90(decode(file(smooth(), "JPEG")), -1)
    with warnings.catch_warnings(record=action == "always"):
        warnings.simplefilter(action)
        filters = list(warnings.filters)
        np.testing.assert_array_equal(decode(data), expected)
        assert warnings.filters == filters


# --- colour -----------------------------------------------------------------------------------------------------------


def pixels(*values: Any) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, -1, 3)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """By exact fractions: a half cannot happen, 255 being odd."""
    share = alpha.astype(np.float64)[..., None] / 255
    return np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)


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


def tiff(pixel_bytes: bytes, bits: int, photometric: int, sample_format: int = 1, order: str = "<") -> bytes:
    """A TIFF 6.0 file of one row, one strip, one channel."""
    width = len(pixel_bytes) * 8 // bits
    entries = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(pixel_bytes)}
    entries[339] = sample_format
    padded = pixel_bytes + b"\0" * (len(pixel_bytes) % 2)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(padded))
    listed = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries.items())
    return head + padded + struct.pack(order + "H", len(entries)) + listed + b"\0" * 4


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


def icc(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """A profile of ICC.1:2001-04: header, tag table, tags."""
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s12s4s", size, b"\0" * 4, 0x02400000, kind, space, pcs, b"\0" * 12, b"acsp")
    head += b"\0" * 28 + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


WHITE_POINT = b"XYZ \0\0\0\0" + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)


def linear_gray() -> bytes:
    return icc(b"GRAY", {b"wtpt": WHITE_POINT, b"kTRC": b"curv\0\0\0\0" + struct.pack(">I", 0)})


def only_black_counts() -> bytes:
    """A press on which C, M and Y print nothing, and K = v is L* = 100·(1 − v / 255): type lut8, two grid points."""
    ramp = bytes(range(256))
    grid = b"".join(bytes([0 if node & 1 else 255, 128, 128]) for node in range(16))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9I", *np.eye(3, dtype=int).ravel() * 0x10000)
    return icc(b"CMYK", {b"wtpt": WHITE_POINT, b"A2B0": lut + ramp * 4 + grid + ramp * 3}, b"Lab ", b"prtr")


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """sRGB whose red and green primaries have changed places."""
    return srgb_profile().replace(b"rXYZ", b"tmp_").replace(b"gXYZ", b"rXYZ").replace(b"tmp_", b"gXYZ")


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


# --- JPEG, by the fast decoder ----------------------------------------------------------------------------------------

JPEGS: dict[str, dict[str, Any]] = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "coarse": {"quality": 10},
    "restart markers": {"restart_marker_blocks": 1},
    "stored as RGB": {"keep_rgb": True},
}
SHAPES = [(48, 64), (47, 63), (1, 1), (5, 5), (3, 100), (17, 8)]


def by_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> np.ndarray | str:
    """What `decode` gave before there was a fast decoder: the picture, or the code of the refusal."""
    with monkeypatch.context() as patch:
        patch.setattr(codecs, "_fast_jpeg", lambda *_: None)
        try:
            return decode(data)
        except PictureError as error:
            return error.code


@pytest.fixture
def fast_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow may open files but not decode them."""

    def slow(*_: object, **__: object) -> None:
        raise AssertionError("decoded by Pillow")

    monkeypatch.setattr(ImageFile.ImageFile, "load", slow)


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("make", [rough, smooth])
def test_the_fast_decoder_gives_pillows_pixels(
    name: str, mode: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shape in SHAPES:
        data = file(Image.fromarray(make(*shape)).convert(mode), "JPEG", **JPEGS[name])
        np.testing.assert_array_equal(decode(data), np.array(Image.open(BytesIO(data)).convert("RGB")))
        np.testing.assert_array_equal(decode(data), by_pillow(data, monkeypatch))


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpegs_do_not_go_through_pillow(name: str, mode: str, fast_only: None) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    assert code(file(image, "JPEG", **JPEGS[name])) == ""
    assert code(file(image, "JPEG", exif=exif(6), icc_profile=swapped_profile(), **JPEGS[name])) == ""


@pytest.mark.parametrize("profile", [swapped_profile, srgb_profile, linear_gray, lambda: b"junk"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
def test_the_fast_decoder_keeps_the_rules(
    profile: Callable[[], bytes], mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(rough()).convert(mode)
    data = file(image, "JPEG", exif=exif(orientation), icc_profile=profile())
    np.testing.assert_array_equal(decode(data), by_pillow(data, monkeypatch))


def test_other_jpegs_go_through_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    inks = file(Image.fromarray(rough()).convert("CMYK"), "JPEG")
    data = file(smooth(), "JPEG")
    noisy = data[:2] + b"\0\0\0" + data[2:]  # bytes between two markers: libjpeg warns
    at = data.index(b"\xff\xda")
    strewn = data[:at] + b"\0\0\0" + data[at:]
    for one in (inks, noisy, strewn):
        assert str(code(one)) == ("" if isinstance(by_pillow(one, monkeypatch), np.ndarray) else code(one))
        for reduced in (1, 4):
            if not code(one):
                np.testing.assert_array_equal(decode(one, reduced=reduced), by_pillow(one, monkeypatch))
    assert code(inks) == code(strewn) == ""


@needs_zip
def test_hostile_jpegs_end_as_they_do_in_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = {"pictures": 0, "refused": 0}
    for data in (data for data in hostile().values() if sniff(data) == "JPEG" and len(data) < 500_000):
        wanted = by_pillow(data, monkeypatch)
        if isinstance(wanted, str):
            assert code(data) == wanted
        else:
            np.testing.assert_array_equal(decode(data), wanted)
        compared["refused" if isinstance(wanted, str) else "pictures"] += 1
    assert compared["pictures"] > 50
    assert compared["refused"] > 0


def test_limits_hold_for_the_whole_picture_before_it_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", never)
    data = file(smooth(80, 80), "JPEG")
    with pytest.raises(PictureError, match="80×80"):
        decode(data, Limits(pixels=6399), reduced=8)


@pytest.mark.parametrize("reduced", [2, 4, 8])
@pytest.mark.parametrize("shape", [(48, 64), (480, 640), (479, 637), (100, 33), (1, 1), (1, 50)])
@pytest.mark.parametrize("name", ["4:2:0", "4:4:4", "progressive"])
def test_a_reduced_jpeg_is_the_mean_of_its_pixels(name: str, shape: tuple[int, int], reduced: int) -> None:
    data = file(smooth(*shape), "JPEG", **{"quality": 95, **JPEGS[name]})
    small, whole = decode(data, reduced=reduced), decode(data).astype(float)
    height, width = (max(1, int(np.ceil(side / reduced - 0.5))) for side in shape)
    assert small.shape == (height, width, 3)
    assert small.flags.c_contiguous
    assert small.flags.writeable
    inside = whole[: shape[0] // reduced * reduced, : shape[1] // reduced * reduced]
    if inside.size:
        blocks = inside.reshape(shape[0] // reduced, reduced, shape[1] // reduced, reduced, 3).mean((1, 3))
        rows, columns = min(height, len(blocks)), min(width, blocks.shape[1])
        assert np.abs(small[:rows, :columns] - blocks[:rows, :columns]).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright(orientation: int) -> None:
    data = file(STORED[orientation](Image.fromarray(smooth(96, 128))), "JPEG", exif=exif(orientation), quality=95)
    assert np.abs(decode(data, reduced=2).astype(int) - smooth(48, 64)).max() < 20


def test_other_pictures_are_never_reduced() -> None:
    for data in (file(rough(), "PNG"), file(rough(), "BMP"), rough()):
        np.testing.assert_array_equal(decode(data, reduced=8), rough())
        assert sides(data) is None


def test_the_sides_of_what_can_be_reduced() -> None:
    data = file(smooth(400, 600), "JPEG")
    assert sides(data) == sides(file(smooth(600, 400), "JPEG", exif=exif(6))) == (400, 600)
    assert sides(data[:50]) is sides(file(rough(), "PNG")) is sides(b"") is None


# --- PngSuite, against a decoder of our own ---------------------------------------------------------------------------


def reference_png(data: bytes) -> np.ndarray:
    """PNG (W3C, 3rd edition) that is not interlaced, by the colour rules, without Pillow."""
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8]
        chunks[name] = chunks.get(name, b"") + data[at + 8 : at + 8 + size]
        at += 12 + size
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert not interlaced
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    samples = unpacked(zlib.decompress(chunks[b"IDAT"]), width, height, depth, channels)
    top, key = 2**depth - 1, np.frombuffer(chunks.get(b"tRNS", b""), np.uint8 if kind == 3 else ">u2")
    if kind == 3:
        palette = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
        alphas = np.append(key, np.full(256 - len(key), 255)).astype(np.uint8)
        return on_white(palette[samples[..., 0]], alphas[samples[..., 0]])
    alpha = samples[..., -1] >> (depth - 8) if kind in (4, 6) else np.full((height, width), 255)
    if kind in (0, 2) and len(key):
        alpha = np.where((samples == key).all(-1), 0, 255)
    colour = samples[..., : 1 if kind in (0, 4) else 3]
    rounded = np.rint(colour * 255 / top).astype(np.uint8)
    eight = (colour >> 8).astype(np.uint8) if depth == 16 and kind != 0 else rounded
    return on_white(np.broadcast_to(eight, (height, width, 3)), alpha.astype(np.uint8))


def unpacked(raw: bytes, width: int, height: int, depth: int, channels: int) -> np.ndarray:
    """The samples `(H, W, C)` behind the filters of each row (PNG, clause 9)."""
    step, stride = max(1, depth * channels // 8), (width * depth * channels + 7) // 8
    previous, rows = np.zeros(stride, int), []
    for y in range(height):
        kind, *row = raw[y * (stride + 1) : (y + 1) * (stride + 1)]
        for x in range(stride):
            left, up, corner = (row[x - step], previous[x], previous[x - step]) if x >= step else (0, previous[x], 0)
            nearest = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            row[x] = (row[x] + (0, left, up, (left + up) // 2, nearest)[kind]) % 256
        previous = np.array(row, int)
        rows.append(row)
    array = np.array(rows, np.uint8)
    if depth == 16:
        return array.view(">u2").astype(int).reshape(height, width, channels)
    bits = np.unpackbits(array, axis=1).reshape(height, -1, depth)[:, : width * channels]
    return (bits @ (1 << np.arange(depth)[::-1])).reshape(height, width, channels)


def pngsuite() -> dict[str, bytes]:
    names = [name for name in hostile() if name.startswith("png/tests/pngsuite/") and name.endswith(".png")]
    return {Path(name).stem: hostile()[name] for name in names}


@needs_zip
def test_pngsuite_damaged_files_are_refused() -> None:
    codes = {name: code(data) for name, data in pngsuite().items() if name.startswith("x")}
    assert len(codes) == 14
    assert set(codes.values()) <= {"corrupt", "truncated", "not-a-picture"}


@needs_zip
def test_pngsuite_equals_a_decoder_of_our_own() -> None:
    compared = 0
    for name, data in pngsuite().items():
        if name.startswith("x"):
            continue
        picture, interlaced = decode(data), data[28]
        if not interlaced and not name.startswith("exif"):
            np.testing.assert_array_equal(picture, reference_png(data), err_msg=name)
            compared += 1
        elif name.startswith("basi"):
            np.testing.assert_array_equal(picture, decode(pngsuite()[f"basn{name[4:]}"]), err_msg=name)
            compared += 1
    assert compared > 120


# --- hostile input ----------------------------------------------------------------------------------------------------


def pillow_loads(data: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.open(BytesIO(data)).load()
        except Exception:
            return False
    return True


RULES = {  # what Pillow reads, of a listed format, and we refuse, with the rule that refuses it
    "png/tests/pngsuite/xcsn0g01.png": "PNG data with another checksum",
    "png/tests/bugfixes/x_interlaced_chck.png": "PNG data with another checksum",
}


def check_hostile(files: dict[str, bytes]) -> dict[str, int]:
    """Every file is a picture or a code; what Pillow reads and we refuse is of an unlisted format, or in RULES."""
    counts: dict[str, int] = {}
    unexplained = {}
    for name, data in files.items():
        found = code(data)
        counts[found] = counts.get(found, 0) + 1
        if found and sniff(data) and pillow_loads(data):
            with pytest.raises(PictureError) as refused:
                decode(data)
            unexplained[name] = refused.value.received
    assert unexplained == {name: rule for name, rule in RULES.items() if name in files}
    return counts


@needs_zip
def test_a_tenth_of_the_hostile_files() -> None:
    counts = check_hostile(dict(list(hostile().items())[::10]))
    assert counts[""] > 40
    assert counts.keys() >= {"not-a-picture", "unsupported-format", "corrupt"}


@needs_zip
@pytest.mark.slow
def test_all_hostile_files() -> None:
    counts = check_hostile(hostile())
    print(counts)
    assert counts[""] >= 560
    assert counts.keys() >= {"too-many-pixels", "truncated", "corrupt", "not-a-picture", "unsupported-format"}


ENCODED: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: file(smooth(), "JPEG"),
    "jpeg with a thumbnail": lambda: file(smooth(), "JPEG", exif=b"Exif\0\0" + file(smooth(8, 8), "JPEG")),
    "progressive jpeg": lambda: file(smooth(), "JPEG", progressive=True),
    "png": lambda: file(rough(), "PNG"),
    "webp": lambda: file(smooth(), "WEBP"),
    "lossless webp": lambda: file(rough(), "WEBP", lossless=True),
    "gif": lambda: file(Image.fromarray(rough()).quantize(64), "GIF"),
    "bmp": lambda: file(rough(), "BMP"),
    "tiff": lambda: file(rough(), "TIFF"),
    "lzw tiff": lambda: file(smooth(), "TIFF", compression="tiff_lzw"),
    **({"avif": lambda: file(smooth(), "AVIF")} if features.check("avif") else {}),
}


@pytest.mark.parametrize("name", ENCODED)
def test_a_cut_file_is_refused(name: str) -> None:
    whole = ENCODED[name]()
    codes = [code(whole[: max(16, len(whole) * percent // 100)]) for percent in range(5, 100, 5)]
    exact = "tiff" not in name and name != "avif"
    assert set(codes) <= ({"truncated"} if exact else {"truncated", "corrupt"})
    assert code(whole) == ""


@pytest.mark.parametrize("name", ["jpeg", "jpeg with a thumbnail", "progressive jpeg"])
def test_a_jpeg_filled_up_with_zeros_is_refused(name: str) -> None:
    whole = ENCODED[name]()
    for percent in (75, 90, 99):
        cut = whole[: len(whole) * percent // 100]
        assert code(cut + b"\0" * 100_000) == "truncated"
    assert code(whole + b"\0" * 1000) == ""


@pytest.mark.parametrize("name", ["jpeg", "jpeg with a thumbnail", "progressive jpeg"])
@pytest.mark.parametrize("reduced", [1, 4])
def test_a_jpeg_cut_and_closed_with_an_end_marker_is_refused(name: str, reduced: int) -> None:
    whole = ENCODED[name]()
    scan = whole.rindex(b"\xff\xda")
    for percent in (50, 75, 90):
        cut = whole[: scan + (len(whole) - scan) * percent // 100] + b"\xff\xd9"
        assert pillow_loads(cut)
        with pytest.raises(PictureError, match="premature end") as refused:
            decode(cut, reduced=reduced)
        assert refused.value.code == "truncated"


def test_a_tiff_without_all_its_strips_is_refused() -> None:
    def claims(rows: int) -> bytes:
        data = tiff(bytes(range(100)), 8, 1)
        height, per_strip = struct.pack("<HHII", 257, 4, 1, 1), struct.pack("<HHII", 278, 4, 1, 1)
        return data.replace(height, struct.pack("<HHII", 257, 4, 1, rows)).replace(per_strip, per_strip)

    assert code(claims(1)) == ""
    assert code(claims(2)) == "truncated"


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp", "tiff", "webp"])
def test_pillows_switch_for_padding_does_not_reach_us(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = ENCODED[name]()
    assert code(whole[: len(whole) * 8 // 10]) == "truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("name", ENCODED)
def test_flipped_bytes(name: str) -> None:
    generator = np.random.default_rng(11)
    whole = np.frombuffer(ENCODED[name](), np.uint8)
    codes = set()
    for case in range(60):
        damaged = whole.copy()
        reach = 200 if case % 2 else len(damaged)  # half of them in the header
        at = generator.integers(0, min(reach, len(damaged)), 1 + case % 4)
        damaged[at] = generator.integers(0, 256, len(at), np.uint8)
        codes.add(code(damaged.tobytes()))
    assert codes & {"corrupt", "truncated", "not-a-picture"}


def test_threads_agree() -> None:
    files = [make() for make in ENCODED.values()]
    files += [file(rough(), "PNG", icc_profile=swapped_profile()), file(smooth(), "JPEG", exif=CUT_EXIF)] * 3
    files += [file(Image.fromarray(rough()).convert("CMYK"), "TIFF", icc_profile=only_black_counts())] * 3
    expected = [decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for pictures in pool.map(lambda _: [decode(data) for data in files], range(24)):
            for picture, wanted in zip(pictures, expected, strict=True):
                np.testing.assert_array_equal(picture, wanted)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES

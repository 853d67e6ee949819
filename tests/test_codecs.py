"""Codecs: every picture by a known answer, every refusal by its code, and no other exception, whatever comes in."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from encoded import (
    CUT_EXIF,
    STORED,
    code,
    exif,
    file,
    hostile,
    needs_avif,
    needs_zip,
    rough,
    smooth,
)
from opsin.codecs import Limits, decode, encode_png, sniff
from opsin.errors import CallError, PictureError

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
        (b"\0" * 128 + b"DICM", "corrupt"),
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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("sides", [(1, 1), (1, 5), (5, 1)])
def test_pictures_of_one_row_or_column_are_turned_in_memory_too(sides: tuple[int, int], orientation: int) -> None:
    picture = decode(file(Image.new("RGB", sides), "PNG", exif=exif(orientation)))
    assert min(picture.strides) > 0, "no part of a view: torch takes no negative strides"
    assert picture.shape[:2] == (sides if orientation > 4 else sides[::-1])


@needs_zip
@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_of_camera_files(kind: str, orientation: int) -> None:
    upright = decode(hostile()[f"exif-orientation/{kind}_1.jpg"]).astype(int)
    picture = decode(hostile()[f"exif-orientation/{kind}_{orientation}.jpg"])
    assert picture.shape == upright.shape
    assert np.abs(picture - upright).mean() < 6  # each was compressed by itself
    assert min(np.abs(wrong - upright).mean() for wrong in (picture[::-1], picture[:, ::-1])) > 20


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

"""Encoded pictures, and how a refusal is told: what the tests of codecs share."""

from __future__ import annotations

import struct
import warnings
import zipfile
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from conftest import DATA
from opsin import codecs
from opsin.codecs import CODES, Limits, decode
from opsin.errors import PictureError

HOSTILE = DATA / "hostile-images.zip"
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


# one entry of five promised, then the end: orientation 6 is still readable, and Pillow warns
CUT_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """By exact fractions: a half cannot happen, 255 being odd."""
    share = alpha.astype(np.float64)[..., None] / 255
    return np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)


def tiff(pixel_bytes: bytes, bits: int, photometric: int, sample_format: int = 1, order: str = "<") -> bytes:
    """A TIFF 6.0 file of one row, one strip, one channel."""
    width = len(pixel_bytes) * 8 // bits
    entries = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(pixel_bytes)}
    entries[339] = sample_format
    padded = pixel_bytes + b"\0" * (len(pixel_bytes) % 2)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(padded))
    listed = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries.items())
    return head + padded + struct.pack(order + "H", len(entries)) + listed + b"\0" * 4


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


def pillow_loads(data: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.open(BytesIO(data)).load()
        except Exception:
            return False
    return True

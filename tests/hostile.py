"""Hostile pictures, made from small real ones: cut, changed, lying, exploding, two-faced, endless."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, features

Made = tuple[str, bytes]


def base() -> Image.Image:
    """40×32: edges, gradients and noise, so that every stage of every decoder has work."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :40]
    picture = np.stack([x * 6, y * 7, (x + y) % 16 * 16], axis=-1) + rng.integers(0, 20, (32, 40, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def good() -> dict[str, bytes]:
    """A small real picture of each format that is read, some in two variants."""
    image = base()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    made = {
        "jpeg": saved(image, "JPEG", exif=exif),
        "progressive": saved(image, "JPEG", progressive=True),
        "png": saved(image, "PNG"),
        "palette": saved(image.quantize(16), "PNG", transparency=3),
        "webp": saved(image, "WEBP", exif=exif),
        "bmp": saved(image, "BMP"),
        "gif": saved(image, "GIF"),
        "tiff": saved(image, "TIFF"),
        "deflated": saved(image, "TIFF", compression="tiff_adobe_deflate"),
    }
    return made | ({"avif": saved(image, "AVIF")} if features.check("avif") else {})


def cuts(name: str, data: bytes) -> Iterator[Made]:
    for share in np.linspace(0.02, 0.98, 12):
        yield f"{name} cut at {share:.0%}", data[: int(len(data) * share)]
        yield f"{name} filled up from {share:.0%}", data[: int(len(data) * share)] + bytes(400)


def flips(name: str, data: bytes, n: int = 30) -> Iterator[Made]:
    """Some in the first 200 bytes, where headers are."""
    rng = np.random.default_rng(len(data))
    for number in range(n):
        changed = bytearray(data)
        for place in rng.integers(0, min(200, len(data)) if number % 2 else len(data), 1 + number % 4):
            changed[place] ^= 1 << int(rng.integers(0, 8))
        yield f"{name} flipped {number}", bytes(changed)


def noise(name: str, data: bytes) -> Iterator[Made]:
    rng = np.random.default_rng(len(data))
    for kept in (12, 30, 60, 120):
        yield f"{name} noise after {kept}", data[:kept] + rng.bytes(2000)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *between: bytes, rows: bytes = b"") -> bytes:
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(between) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


@functools.cache
def zeros(megabytes: int) -> bytes:
    """So many of them, deflated: a thousandth of their size."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


def lies() -> Iterator[Made]:
    """Headers that claim other sizes than there are."""
    found = good()
    sizes = (0, 1, 0xFFFF, 0x7FFFFFFF)
    for size in sizes:
        yield f"png of {size}", png(size, size, rows=zeros(1))
        yield f"png of {size}×1", png(size, 1, rows=zeros(1))
        bmp = bytearray(found["bmp"])
        bmp[18:26] = struct.pack("<ii", size, size)
        yield f"bmp of {size}", bytes(bmp)
        gif = bytearray(found["gif"])
        gif[6:10] = struct.pack("<HH", size & 0xFFFF, size & 0xFFFF)
        yield f"gif of {size}", bytes(gif)
        for name in ("jpeg", "progressive"):
            at = max(found[name].find(b"\xff\xc0"), found[name].find(b"\xff\xc2"))
            jpeg = bytearray(found[name])
            jpeg[at + 5 : at + 9] = struct.pack(">HH", size & 0xFFFF, size & 0xFFFF)
            yield f"{name} of {size}", bytes(jpeg)
        tiff = tiff_tags({256: size & 0xFFFF, 257: size & 0xFFFF, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 279: size})
        yield f"tiff of {size}", tiff


def tiff_tags(tags: dict[int, int], following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + bytes(64)


def bombs() -> Iterator[Made]:
    yield "png bomb, 8,000×8,000", png(8000, 8000, rows=zeros(200))
    yield "png bomb, 60,000×60,000", png(60_000, 60_000, rows=zeros(20))
    yield "png bomb that ends early", png(9000, 9000, rows=zeros(1))
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        yield f"png with a bomb in {kind.decode()}", png(8, 8, png_chunk(kind, head + zeros(200)), rows=zeros(1))
    many = [png_chunk(b"tEXt", b"k%d\0words" % n) for n in range(20_000)]
    yield "png of 20,000 texts", png(8, 8, *many, rows=zeros(1))
    yield "gif of many pixels", good()["gif"][:6] + struct.pack("<HH", 65_535, 65_535) + good()["gif"][10:]
    sizes = (100, 0, 54, 40, 20_000, 20_000, 1, 8, 1, 0, 0, 0, 256, 0)
    yield "bmp in runs", b"BM" + struct.pack("<IIIIiiHHIIIIII", *sizes) + bytes(1024) + b"\xff\x01" * 500
    webp = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff" * 6
    yield "webp of 2^24 a side", b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp


def endless() -> Iterator[Made]:
    """A progressive JPEG whose scans come again and again, and directories that follow one another in a circle."""
    data = good()["progressive"]
    start = data.find(b"\xff\xda")
    scans = data[start:-2]
    for times in (10, 1000, 5000):
        yield f"progressive jpeg, scans {times} times", data[:start] + scans * times + b"\xff\xd9"
    yield "large progressive jpeg, one scan 200 times", scan_again(2000, 200)
    basic = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    yield "tiff whose next directory is itself", tiff_tags(basic, following=8)
    yield "tiff whose Exif directory is itself", tiff_tags({**basic, 34665: 8, 330: 8})


def scan_again(side: int, times: int) -> bytes:
    """A flat progressive JPEG whose last scan, a few bytes that touch every block, comes so many times."""
    data = saved(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * times + b"\xff\xd9"


def segments() -> Iterator[Made]:
    """JPEGs with more metadata than picture."""
    data = good()["jpeg"]
    for marker, name in ((0xE1, "Exif"), (0xE2, "ICC"), (0xED, "Photoshop"), (0xFE, "comment")):
        head = {0xE1: b"Exif\0\0II*\0\x08\0\0\0\xff\xff", 0xE2: b"ICC_PROFILE\0\1\xff"}.get(marker, b"Photoshop 3.0\0")
        segment = bytes([0xFF, marker]) + struct.pack(">H", 65_000) + head.ljust(64_998, b"8")
        for times in (1, 300):
            yield f"jpeg with {times} of {name}", data[:2] + segment * times + data[2:]
    circle = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    yield "jpeg whose Exif is a circle", data[:2] + b"\xff\xe1" + struct.pack(">H", len(circle) + 2) + circle + data[2:]


def polyglots() -> Iterator[Made]:
    others = {
        "zip": b"PK\x03\x04" + bytes(60),
        "html": b"<html><script>alert(1)</script>",
        "pdf": b"%PDF-1.7\n1 0 obj",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>",
        "php": b"<?php system('id'); ?>",
        "elf": b"\x7fELF\2\1\1",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(w) run",
        "pickle": b"\x80\x04cos\nsystem\n",
    }
    for name, data in good().items():
        for kind, other in others.items():
            yield f"{name} with {kind} behind", data + other
            yield f"{kind} with {name} behind", other + data


def everything() -> Iterator[Made]:
    """All of them, with a name each."""
    for name, data in good().items():
        yield from cuts(name, data)
        yield from flips(name, data)
        yield from noise(name, data)
    for make in (lies, bombs, endless, segments, polyglots):
        yield from make()

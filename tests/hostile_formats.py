"""Hostile pictures of one format each: what its standard allows and nobody expects, and what breaks it in one place."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms, features

from hostile import Made, base, cuts, flips, good, png, png_chunk, saved, tiff_tags, zeros


def everything() -> Iterator[Made]:
    """All of them, with a name each."""
    for make in (animations, tiffs, jpegs, bitmaps, profiles, interlaced):
        yield from make()


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def animations() -> Iterator[Made]:
    """Many frames, none, and screens far larger than what is drawn on them."""
    frames = [base().rotate(angle) for angle in range(0, 90, 9)]
    for format in ("GIF", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])):
        yield f"{format} of many frames", saved(frames[0], format, save_all=True, append_images=frames[1:] * 20)
    gif = saved(base(), "GIF")
    end = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    yield "gif without a frame", gif[:end] + b";"
    yield "gif of comments without end", gif[:end] + (b"!\xfe\xff" + bytes(255) + b"\0") * 5000 + b";"
    yield "gif whose frame lies off its screen", gif.replace(b",\0\0\0\0", b",\xff\xff\xff\xff", 1)
    yield "gif whose blocks never end", gif[:end] + gif[end:-1].rstrip(b"\0") + b"\xff" + bytes(range(255)) * 3000
    yield "gif with 3,000 extensions", gif[:end] + b"!\xf9\4\0\0\0\0\0" * 3000 + gif[end:]
    empty = png_chunk(b"acTL", struct.pack(">II", 0xFFFFFFFF, 0))
    yield "apng of 2^32 frames", png(8, 8, empty, rows=zeros(1))
    yield "apng whose frame is too large", png(8, 8, png_chunk(b"acTL", struct.pack(">II", 2, 0)), png_chunk(
        b"fcTL", struct.pack(">IIIIIHHBB", 0, 60_000, 60_000, 9, 9, 1, 1, 0, 0)), rows=zeros(1))  # fmt: skip
    anim = (b"ANIM", bytes(6)), (b"ANMF", b"\xff" * 16)
    yield "webp of an animation without frames", _riff((b"VP8X", b"\x02" + bytes(9)), anim[0])
    yield "webp whose frame lies outside", _riff((b"VP8X", b"\x02" + bytes(9)), *anim)


def tiffs() -> Iterator[Made]:
    """Every way to lay out pixels, and tags that lie about it."""
    gray = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    for tag, value in (
        (258, 32), (258, 64), (258, 0xFFFFFFFF), (259, 7), (259, 6), (259, 5), (259, 34712), (259, 50000), (259, 0),
        (262, 6), (262, 8), (262, 32803), (266, 2), (273, 0xFFFFFFF0), (277, 0), (277, 65535), (277, 0xFFFFFFFF),
        (278, 0), (278, 0xFFFFFFFF), (279, 0), (279, 0xFFFFFFFF), (284, 2), (317, 2), (317, 9), (339, 3), (339, 6),
        (322, 16), (347, 8), (512, 1), (513, 8), (330, 8), (700, 0xFFFFFFF0), (34377, 8), (34675, 0xFFFFFFFF),
    ):  # fmt: skip
        yield f"tiff with {tag} = {value}", tiff_tags({**gray, tag: value})
    yield "tiff of tiles without end", tiff_tags({**gray, 322: 1, 323: 1, 324: 8, 325: 64, 256: 60_000, 257: 60_000})
    yield "tiff of strips of one row", tiff_tags({**gray, 257: 65_000, 278: 1})
    counted = struct.pack("<HHII", 273, 4, 0xFFFFFFF, 8)
    yield "tiff of 268 million strips", b"II*\0" + struct.pack("<IH", 8, 1) + counted + bytes(80)
    chain = b"".join(struct.pack("<HI", 0, 14 + 6 * n) for n in range(30_000))
    yield "tiff of 30,000 empty directories", b"II*\0" + struct.pack("<I", 8) + chain + bytes(8)
    big = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 0xFFFFFFFFFFFFFFFF)
    yield "bigtiff of 2^64 tags", big + bytes(100)
    yield "bigtiff far away", b"II+\0" + struct.pack("<HHQ", 8, 0, 2**63) + bytes(100)
    for compression in ("jpeg", "tiff_lzw", "packbits", "group4", "tiff_adobe_deflate"):
        image = base().convert("1") if compression == "group4" else base()
        data = saved(image, "TIFF", compression=compression)
        yield f"tiff by {compression}", data
        yield from ((f"{name}", cut) for name, cut in cuts(f"tiff by {compression}", data))
        yield from flips(f"tiff by {compression}", data, 10)
    yield "tiff of floats", saved(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")
    yield "tiff of 32 bits", saved(Image.fromarray(np.full((8, 8), 99_999, np.int32)), "TIFF")
    yield "tiff of cmyk", saved(base().convert("CMYK"), "TIFF")


def jpegs() -> Iterator[Made]:
    data = good()["jpeg"]
    frame = data.find(b"\xff\xc0")
    for kind, called in ((0xC1, "extended"), (0xC3, "lossless"), (0xC5, "hierarchical"), (0xC9, "arithmetic"), (0xCA, "arithmetic progressive")):  # fmt: skip  # noqa: E501
        yield f"{called} jpeg", data[: frame + 1] + bytes([kind]) + data[frame + 2 :]
    for place, value, called in ((4, 12, "12 bits"), (4, 1, "1 bit"), (9, 0, "no parts"), (9, 255, "255 parts"), (11, 0, "no sampling"), (11, 0xFF, "15 by 15 sampling")):  # fmt: skip  # noqa: E501
        yield f"jpeg of {called}", data[: frame + place] + bytes([value]) + data[frame + place + 1 :]
    yield "jpeg in cmyk", saved(base().convert("CMYK"), "JPEG")
    yield "jpeg in cmyk, cut", saved(base().convert("CMYK"), "JPEG")[:900]
    restarts = saved(base().resize((400, 320)), "JPEG", restart_marker_blocks=1)
    yield "jpeg with restarts", restarts
    yield "jpeg without one restart", restarts.replace(b"\xff\xd3", b"", 3)
    yield "jpeg with restarts in another order", restarts.replace(b"\xff\xd2", b"\xff\xd6")
    yield "jpeg of many beginnings", b"\xff\xd8" * 50_000 + data[2:]
    yield "jpeg in a jpeg", data[:2] + data + data[2:]
    yield "jpeg of many fillings", data[:2] + b"\xff" * 500_000 + data[2:]
    yield "jpeg of 20,000 tables", data[:2] + data[data.find(b"\xff\xdb") : frame] * 20_000 + data[2:]
    yield (
        "jpeg with two frames",
        data[:frame] + data[frame : data.find(b"\xff\xda")] * 2 + data[data.find(b"\xff\xda") :],
    )
    yield "jpeg with a segment of no length", data[:2] + b"\xff\xe1\0\0" + data[2:]
    many = struct.pack("<H", 5000) + struct.pack("<HHII", 0x8769, 7, 0xFFFFFFF, 26) * 5000 + bytes(4)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + many[:64_000]
    yield "jpeg of 5,000 Exif tags", data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def bitmaps() -> Iterator[Made]:
    def bmp(
        width: int, height: int, bits: int, packing: int, used: int = 0, head: int = 40, body: bytes = bytes(400)
    ) -> bytes:
        fields = struct.pack("<IiiHHIIIIII", head, width, height, 1, bits, packing, 0, 0, 0, used, 0)
        return b"BM" + struct.pack("<IHHI", 14 + len(fields) + len(body), 0, 0, 54) + fields + body

    for bits in (0, 1, 2, 4, 8, 15, 16, 24, 32, 64, 65535):
        for packing in (0, 1, 2, 3, 4, 5, 6, 11):
            yield f"bmp of {bits} bits packed by {packing}", bmp(8, 8, bits, packing)
    yield "bmp upside down", bmp(8, -8, 24, 0)
    yield "bmp of the least height", bmp(8, -(2**31), 24, 0)
    yield "bmp of negative width", bmp(-8, 8, 24, 0)
    yield "bmp of 2^32 colours", bmp(8, 8, 8, 0, used=0xFFFFFFFF)
    yield "bmp of runs to the left", bmp(8, 8, 8, 1, body=b"\0\2\xff\xff" * 5000)
    yield "bmp of runs without end", bmp(3000, 3000, 8, 1, body=b"\1\7" * 500_000)
    yield "bmp of the largest header", bmp(8, 8, 24, 0, head=0xFF)


def profiles() -> Iterator[Made]:
    """ICC profiles: none of them makes a good picture unreadable."""
    rng = np.random.default_rng(0)
    good_ = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = {
        "empty": b"",
        "of zeros": bytes(200),
        "of noise": rng.bytes(3000),
        "cut": good_[:150],
        "large": good_ + bytes(5 << 20),
    }
    made["of 2^32 tags"] = good_[:128] + b"\xff" * 4 + good_[132:]
    for number in range(20):
        changed = bytearray(good_)
        for place in rng.integers(0, len(good_), 6):
            changed[place] = int(rng.integers(0, 256))
        made[f"changed {number}"] = bytes(changed)
    for name, profile in made.items():
        for format in ("PNG", "WEBP", "TIFF", *(["JPEG"] if len(profile) < 1 << 20 else [])):
            yield f"{format} with a profile {name}", saved(base(), format, icc_profile=profile)


def interlaced() -> Iterator[Made]:
    for width, height, depth, kind in ((3000, 3000, 8, 2), (2000, 2000, 16, 6), (65_000, 200, 8, 0), (1, 65_000, 1, 3), (9, 9, 3, 2), (9, 9, 16, 3)):  # fmt: skip  # noqa: E501
        head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 1))
        palette = png_chunk(b"PLTE", bytes(3)) if kind == 3 else b""
        rows = png_chunk(b"IDAT", zeros(40))
        yield f"interlaced png of {width}×{height}, {depth} bits", b"\x89PNG\r\n\x1a\n" + head + palette + rows + png_chunk(b"IEND", b"")  # fmt: skip  # noqa: E501
    yield "png of 50,000 empty IDAT", png(8, 8, png_chunk(b"IDAT", b"") * 50_000, rows=zeros(1))
    yield (
        "png of two headers",
        png(8, 8, png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), rows=zeros(1)),
    )
    yield "png whose palette is too long", png(8, 8, png_chunk(b"PLTE", bytes(3 * 5000)), rows=zeros(1))
    yield "png with a chunk of 2^31 bytes", png(8, 8, struct.pack(">I", 0x7FFFFFFF) + b"tEXt", rows=zeros(1))
    if features.check("avif"):
        data = good()["avif"]
        at = data.find(b"ispe")
        for size in (0, 1, 60_000, 0xFFFFFFFF):
            yield f"avif of {size}", data[: at + 8] + struct.pack(">II", size, size) + data[at + 16 :]
        for box in (b"meta", b"iloc", b"iprp", b"mdat"):
            found = data.find(box) - 4
            yield f"avif whose {box.decode()} is endless", data[:found] + b"\xff" * 4 + data[found + 4 :]
    webp = saved(base(), "WEBP", lossless=True)
    yield "webp without loss, of 16,383 a side", webp[:21] + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + webp[25:]
    yield from flips("webp without loss", webp)

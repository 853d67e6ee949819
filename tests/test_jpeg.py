"""The walk over a JPEG's header, against libjpeg and Pillow, and what is decoded without asking Pillow."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from encoded import code, exif, file, rough, smooth, swapped_profile
from opsin import codecs, jpeg
from opsin.errors import PictureError

SHAPES = [(48, 64), (1, 1), (3, 300), (257, 8)]
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 1},
    "stored as RGB": {"keep_rgb": True},
    "comment": {"comment": b"\xff\xda a word"},
}
META: dict[str, dict[str, Any]] = {
    "Exif": {"exif": exif(6)},
    "XMP": {"xmp": b"<x:xmpmeta/>"},
    "profile": {"icc_profile": swapped_profile()},
}


@pytest.fixture
def without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)


def encoded(mode: str = "RGB", shape: tuple[int, int] = (48, 64), **options: Any) -> bytes:
    return file(Image.fromarray(rough(*shape)).convert(mode), "JPEG", **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mode", "components"), [("L", 1), ("RGB", 3)])
def test_a_header_is_what_libjpeg_reads(kind: str, mode: str, components: int) -> None:
    for shape in SHAPES:
        data = encoded(mode, shape, **KINDS[kind])
        head = jpeg.header(data)
        assert (head.height, head.width) == simplejpeg.decode_jpeg_header(data)[:2] == shape
        assert (head.components, head.plain) == (components, True)
        assert data[head.scan : head.scan + 2] == b"\xff\xda"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_plain_ones_are_decoded_without_pillow(kind: str, mode: str, without_pillow: None) -> None:
    data = encoded(mode, **KINDS[kind])
    pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    np.testing.assert_array_equal(codecs.decode(data), pixels)


@pytest.mark.parametrize("what", META)
def test_metadata_that_bears_on_pixels_is_pillows(what: str) -> None:
    assert not jpeg.header(encoded(**META[what])).plain


def changed(data: bytes, marker: bytes, at: int, value: bytes) -> bytes:
    place = data.index(marker) + at
    return data[:place] + value + data[place + len(value) :]


ODD = {
    "four components": lambda data: encoded("CMYK"),
    "two frames": lambda data: data.replace(frame := data[data.index(b"\xff\xc0") :][:19], frame * 2),
    "no frame": lambda data: data.replace(data[data.index(b"\xff\xc0") :][:19], b""),
    "twelve bits": lambda data: changed(data, b"\xff\xc0", 4, b"\x0c"),
    "no height": lambda data: changed(data, b"\xff\xc0", 5, b"\0\0"),
    "no width": lambda data: changed(data, b"\xff\xc0", 7, b"\0\0"),
    "arithmetic codes": lambda data: changed(data, b"\xff\xc0", 1, b"\xc9"),
    "lossless": lambda data: changed(data, b"\xff\xc0", 1, b"\xc3"),
    "a segment without a length": lambda data: data[:2] + b"\xff\xfe\0\0" + data[2:],
    "a fill byte": lambda data: data[:2] + b"\xff" + data[2:],
    "bytes between segments": lambda data: data[:20] + b"\0\0" + data[20:],
    "the end": lambda data: data[:20],
}


@pytest.mark.parametrize("name", ODD)
def test_oddities_are_pillows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ODD[name](encoded())
    assert not jpeg.header(data).plain
    asked = []
    monkeypatch.setattr(Image, "open", lambda *_, **__: asked.append(1))
    with pytest.raises(PictureError):  # of a Pillow that answers None
        codecs.decode(data)
    assert asked


def test_limits_hold_before_a_pixel_is_decoded(without_pillow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs.simplejpeg, "decode_jpeg", None)
    large = changed(encoded(), b"\xff\xc0", 5, b"\xff\xff\xff\xff")
    assert code(large) in ("too-large-side", "too-many-pixels")
    assert code(encoded()[:-2]) == "truncated"


@pytest.mark.parametrize("seed", range(200))
def test_a_damaged_header_is_refused_only_where_pillow_refuses_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of a header changed: where both decode, the same pixels; no other error than a PictureError."""
    rng = np.random.default_rng(seed)
    data = bytearray(file(smooth(), "JPEG"))
    data[int(rng.integers(2, jpeg.header(bytes(data)).scan))] = int(rng.integers(256))
    here = decoded(bytes(data))
    monkeypatch.setattr(codecs, "_plain_jpeg", lambda *_: None)
    there = decoded(bytes(data))
    if isinstance(here, np.ndarray) and isinstance(there, np.ndarray):
        np.testing.assert_array_equal(here, there)
    else:  # Pillow may refuse what libjpeg reads without a warning, never the other way
        assert isinstance(here, np.ndarray) or isinstance(there, str)


def decoded(data: bytes) -> np.ndarray | str:
    try:
        return codecs.decode(data)
    except PictureError as error:
        return error.code


def test_the_walk_is_pillows() -> None:
    data = encoded(quality=30, exif=exif(1), comment=b"\xff\xc0 no frame")
    with Image.open(BytesIO(data)) as image:
        head = jpeg.header(data)
        assert image.size == (head.width, head.height)

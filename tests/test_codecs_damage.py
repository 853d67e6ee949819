"""Codecs: the fast decoder against Pillow, PngSuite, and damaged files, each refused by its code."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFile, features

from encoded import (
    CUT_EXIF,
    STORED,
    code,
    exif,
    file,
    hostile,
    linear_gray,
    needs_zip,
    on_white,
    only_black_counts,
    pillow_loads,
    rough,
    smooth,
    srgb_profile,
    swapped_profile,
    tiff,
)
from opsin import codecs, jpeg
from opsin.codecs import Limits, decode, sides, sniff
from opsin.errors import PictureError

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


@pytest.mark.parametrize("reduced", [1, 8])
@pytest.mark.parametrize("name", JPEGS)
def test_the_luma_of_a_jpeg_is_that_of_its_colours(name: str, reduced: int) -> None:
    data = file(smooth(96, 130), "JPEG", **{"quality": 95, **JPEGS[name]}, exif=exif(6))
    luma, colours = decode(data, reduced=reduced, luma=True), decode(data, reduced=reduced)
    assert (luma.dtype, luma.shape, luma.flags.c_contiguous) == (np.uint8, colours.shape[:2], True)
    difference = luma - colours @ np.array([0.299, 0.587, 0.114])
    assert np.abs(difference).max() < 6  # where a colour is beyond what RGB can say
    assert abs(difference.mean()) < 0.3


def test_luma_is_only_of_jpegs_whose_colours_need_no_conversion() -> None:
    profiled = file(smooth(), "JPEG", icc_profile=swapped_profile())
    for data in (profiled, file(smooth(), "PNG"), file(Image.fromarray(smooth()).convert("CMYK"), "JPEG"), smooth()):
        np.testing.assert_array_equal(decode(data, luma=True), decode(data))
    gray = file(smooth()[..., 0], "JPEG")
    np.testing.assert_array_equal(decode(gray, luma=True), decode(gray)[..., 0])


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


@pytest.mark.parametrize("what", [b"\xff", b"\xff\xfe\0\2", b"\xff\xdb\0\2", b"\xff\xf0", b"\xff\0"], ids=bytes.hex)
@pytest.mark.parametrize("before", [b"\xff\xe0", b"\xff\xda"], ids=["first", "last"])
def test_a_jpeg_of_very_many_segments_or_fill_bytes_is_refused_at_once(what: bytes, before: bytes, monkeypatch) -> None:
    whole = file(smooth(), "JPEG")
    at = whole.index(before)
    few, many = (whole[:at] + what * n + whole[at:] for n in (jpeg.MOST_STEPS // 3, 1_000_000))
    if what != b"\xff\xf0":
        assert code(few) == ""
    monkeypatch.setattr(Image, "open", None)  # which takes half a second for each million
    with pytest.raises(PictureError, match="over 4,096 segments") as refused:
        decode(many)
    assert refused.value.code == "corrupt"


def test_a_jpeg_of_very_much_metadata_is_refused_at_once(monkeypatch) -> None:
    whole = file(smooth(), "JPEG")
    segment = b"\xff\xe1\xff\xffExif\0\0" + bytes(65_535 - 8)
    few, many = (whole[:2] + segment * n + whole[2:] for n in (64, 400))
    assert code(few) == ""
    monkeypatch.setattr(Image, "open", None)  # which would copy the first segment four hundred times
    with pytest.raises(PictureError, match="25,165,824 bytes before its first scan") as refused:
        decode(many)
    assert refused.value.code == "corrupt"


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

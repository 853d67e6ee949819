"""Bytes to picture: what may come in, how big it may be, and what its colours mean.

    bytes ─ sniff ─> format ─ header ─> limits ─ pixels ─> colour rules ─ alpha on white ─> upright ─> picture

Formats are recognised by content, never by name: JPEG, PNG, WebP, BMP, GIF and AVIF (first frame), TIFF (first page),
DICOM (extra `dicom`; `dicom` says which).
Whatever is refused is a PictureError whose code is one of `CODES`; no other exception comes out of damaged bytes.

The colour rules:

- A palette gives its colours; gray is replicated to three channels; 1-bit is 0 and 255; 2- and 4-bit gray is stretched.
- Alpha (a channel, a palette's, or one transparent colour, PNG `tRNS`) is composited on white:
  `round((c·a + 255·(255 − a)) / 255)`, in integers. Premultiplied alpha is divided out first.
- Gray deeper than 8 bits is `round(255·v / top)`, top 65535 (so `round(v / 257)`), or 4095 in a 12-bit TIFF.
  16-bit colour, and 16-bit gray with alpha, keep the high byte: Pillow gives no more. Float, and integers outside
  0…65535, are refused.
- An embedded ICC profile is followed: RGB, gray and CMYK go to sRGB by relative colorimetric intent with black point
  compensation. A profile that moves no colour of a 9³ grid by more than 2 levels is sRGB by another name: skipped.
  One that is broken, larger than 4 MiB, or for another kind of picture is ignored. PNG `gAMA` and `cHRM` are ignored.
- CMYK and YCCK without a profile, YCbCr and LAB are converted by Pillow (which also undoes Adobe's inverted CMYK).

Orientation is Exif 2.3 tag 0x0112 (where that is missing, XMP `tiff:Orientation`), applied once; unreadable metadata,
and values other than 1…8, mean upright. Metadata makes no good picture unreadable, as long as Pillow opens the file.

Gray and YCbCr JPEGs are decoded by simplejpeg, three times as fast and without holding Python's lock: the same
libjpeg-turbo, the same pixels. Pillow reads their metadata first, and is not asked where a header has none that bears
on the pixels (it would take a tenth of a small picture's time). What simplejpeg warns of goes through Pillow, as does
every other file, so that both refuse the same. Only a scan that ends too early is refused more strictly: Pillow pads it
and passes no warning on. A progressive JPEG cut exactly between two scans is whole to every decoder.
`ImageFile.LOAD_TRUNCATED_IMAGES` changes nothing.
"""

from __future__ import annotations

import threading
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError, features

from . import dicom, jpeg
from .errors import CallError, PictureError

CODES = {
    "empty": "there are no bytes",
    "not-a-picture": "the bytes do not begin like a picture",
    "unsupported-format": "this kind of picture is not read",
    "too-many-bytes": "the file is larger than the limit",
    "too-many-pixels": "the picture has more pixels than the limit",
    "too-large-side": "a side of the picture is longer than the limit",
    "truncated": "the file ends too early; it is not padded",
    "corrupt": "the file is damaged, or of a variant that Pillow does not know",
    "unsupported-depth": "the range of the values is unknown: float, or integers outside 0…65535",
    "out-of-memory": "there is not enough memory for this picture",
    "bad-array": "the array is not a picture",
}

# Limits are held by this module, so Pillow's own line must not also speak up below a higher one.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Limits:
    """The most that is accepted, held before any pixel is decoded.

    Above 178,956,970 pixels Pillow refuses by itself, whatever is said here (see `Image.MAX_IMAGE_PIXELS`).
    """

    bytes: int = 256 * 2**20
    pixels: int = 89_478_485  # where Pillow begins to warn of decompression bombs
    side: int = 65_500  # libjpeg's longest


LIMITS = Limits()


def decode(data: bytes | np.ndarray, limits: Limits = LIMITS, *, reduced: int = 1, luma: bool = False) -> np.ndarray:
    """The picture in `data`: uint8 `(H, W, 3)` in 0…255, sRGB, upright, C-contiguous, writable, sharing no memory.

    Args:
        data: an encoded file, or a picture that came as an array, uint8 `(H, W)`, `(H, W, 1)` or `(H, W, 3)`, which no
            decoder sees.
        limits: held for the whole picture, before any pixel is decoded.
        reduced: 1, 2, 4 or 8: a JPEG's sides are divided by it, rounded, inside the decoder (fewer coefficients of
            each block are transformed back: cheaper than decoding and resizing). Other pictures come whole.
        luma: a JPEG without a profile comes as its luma (BT.601), uint8 `(H, W)`: its colours are never made. Other
            pictures come in colour.

    Safe to call from several threads. Raises PictureError with one of `CODES`.

    >>> decode(encode_png(np.full((2, 4, 3), 7, np.uint8))).shape
    (2, 4, 3)
    >>> decode(b"PK, an archive")
    Traceback (most recent call last):
    opsin.errors.PictureError: the bytes do not begin like a picture: received b'PK, an archive'
    """
    if isinstance(data, np.ndarray):
        return _from_array(data, limits)
    if not isinstance(data, bytes):
        raise CallError("decode needs a picture", expected="bytes or an array", received=type(data).__name__)
    format = _admitted(data, limits)
    with _TRUNCATION_REFUSED:
        with suppress(Warning):
            return _decoded(data, format, limits, reduced, luma)
        # The user's filters made an exception of a warning about metadata. Only then is it worth a lock to go without.
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decoded(data, format, limits, reduced, luma)


def picture(image: Any) -> np.ndarray:
    """A Pillow image, or an array as `decode` takes it, by the same rules: uint8 `(H, W, 3)`.

    Raises:
        CallError: it is neither; a tensor for example, which is no picture any more.
        PictureError: with one of `CODES`.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, LIMITS)
    if not isinstance(image, Image.Image):
        raise CallError("a picture", expected="a Pillow image or a uint8 array", received=type(image).__name__,
                        do="Take the transform away that makes it: opsin prepares pictures itself")  # fmt: skip
    _check_size(image.width, image.height, LIMITS)
    try:
        image.load()
        return _turned(_picture(image, b""), _orientation(image))
    except (OSError, ValueError, SyntaxError) as error:
        raise _refusal("corrupt", str(error)[:200]) from error


def sides(data: bytes | np.ndarray) -> tuple[int, int] | None:
    """The shorter and the longer side of a JPEG, by its header; None for what `decode` does not reduce.

    >>> sides(b"no JPEG") is None
    True
    """
    if isinstance(data, np.ndarray) or sniff(data) != "JPEG":
        return None
    try:
        head = jpeg.header(data)
    except PictureError:
        return None
    shorter, longer = sorted((head.height, head.width))
    return (shorter, longer) if shorter else None


def encode_png(picture: np.ndarray) -> bytes:
    """`picture`, uint8 `(H, W, 3)` or `(H, W)` in 0…255, as a PNG without metadata; `decode` gives it back exactly."""
    file = BytesIO()
    Image.fromarray(_from_array(picture, LIMITS)).save(file, "PNG")
    return file.getvalue()


# --- which format -----------------------------------------------------------------------------------------------------

_MAGIC: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda head: head.startswith(b"\xff\xd8\xff"),
    "PNG": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP",
    "BMP": lambda head: head.startswith(b"BM") and not head[15:18].strip(b"\0"),  # a DIB header is under 256 bytes
    "GIF": lambda head: head.startswith((b"GIF87a", b"GIF89a")),
    "TIFF": lambda head: head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),  # + is BigTIFF
    "AVIF": lambda head: any(brand in _brands(head) for brand in (b"avif", b"avis")),
    "DICOM": dicom.is_dicom,  # last: its first 128 bytes may be another format's
}
_KNOWN = {  # pictures that are not read, so that the message can name them
    b"8BPS": "Photoshop", b"\0\0\1\0": "ICO", b"icns": "ICNS", b"gimp xcf": "GIMP",
    b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL", b"%PDF": "PDF", b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript",
    b"<svg": "SVG", b"DDS ": "DDS", b"qoif": "QOI", b"v/1\x01": "OpenEXR", b"#?RADIANCE": "Radiance HDR",
    b"SIMPLE  =": "FITS", b"FLIF": "FLIF", b"BPG\xfb": "BPG", b"\x59\xa6\x6a\x95": "Sun raster", b"\x01\xda": "SGI",
    b"P1\n": "PNM", b"P2\n": "PNM", b"P3\n": "PNM", b"P4\n": "PNM", b"P5\n": "PNM", b"P6\n": "PNM", b"BLP": "BLP",
}  # fmt: skip


def sniff(data: bytes) -> str | None:
    """The format of `data` by its first bytes, in Pillow's spelling, or None where it is not on the allow-list.

    JPEG, PNG, WEBP, BMP, GIF, TIFF, DICOM or AVIF. Whether the rest of the file is whole is not looked at.

    >>> sniff(b"GIF89a..."), sniff(b"<html>")
    ('GIF', None)
    """
    return next((format for format, matches in _MAGIC.items() if matches(data[:256])), None)


def _brands(head: bytes) -> bytes:
    """The brands of an ISO base media file (ISO/IEC 14496-12, 4.3), one after the other; empty for any other file."""
    return head[8 : head[3]] if head[4:8] == b"ftyp" else b""


def _admitted(data: bytes, limits: Limits) -> str:
    """The format of `data`, if it is one that is read here."""
    if not data:
        raise PictureError("empty", CODES["empty"])
    if len(data) > limits.bytes:
        raise _refusal("too-many-bytes", len(data), expected=f"at most {limits.bytes}")
    format = sniff(data)
    if format is None:
        raise _unknown(data)
    if format in ("AVIF", "WEBP") and not features.check(format.lower()):
        raise _refusal("unsupported-format", f"{format}, which this Pillow was built without")
    return format


def _unknown(data: bytes) -> PictureError:
    if name := foreign(data):
        return _refusal("unsupported-format", name, expected=", ".join(_MAGIC), do="Convert it, to PNG for example")
    return _refusal("not-a-picture", data[:16])


def foreign(data: bytes) -> str:
    """The name of a kind of picture that is not read, by its first bytes; "" for any other file."""
    names = [name for magic, name in _KNOWN.items() if data.startswith(magic)]
    names += ["SVG"] * (data.startswith(b"<?xml") and b"<svg" in data[:1024])
    names += ["HEIF"] * any(brand in _brands(data[:256]) for brand in (b"heic", b"heix", b"mif1", b"msf1"))
    return next(iter(names), "")


# --- from the file to pixels ------------------------------------------------------------------------------------------


class _TruncationRefused:
    """Keeps Pillow's switch that pads truncated files off for as long as any thread is in here, then puts it back."""

    def __init__(self) -> None:
        self.lock, self.inside, self.was = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            self.was = self.was or ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.was and not self.inside:
                ImageFile.LOAD_TRUNCATED_IMAGES, self.was = True, False


_TRUNCATION_REFUSED = _TruncationRefused()
_QUIET = threading.Lock()  # warnings.catch_warnings is not thread-safe


def _decoded(data: bytes, format: str, limits: Limits, reduced: int, luma: bool) -> np.ndarray:
    """The picture; every exception of Pillow becomes a PictureError, but a Warning stays one."""
    try:
        if format == "DICOM":
            return _from_array(dicom.decode(data, lambda width, height: _check_size(width, height, limits)), limits)
        head = jpeg.header(data) if format == "JPEG" else None
        if head and head.plain and (stored := _plain_jpeg(data, head, limits, reduced, luma)) is not None:
            return stored
        with Image.open(BytesIO(data), formats=[format]) as image:
            _check_size(image.width, image.height, limits)
            _check_whole(image, data, format, head)
            if head and image.mode in ("L", "RGB"):
                profile = image.info.get("icc_profile")
                stored = _fast_jpeg(data, image.size, image.mode == "L", profile, reduced, luma)
                if stored is not None:
                    return _turned(stored, _orientation(image))
            image.load()
            turned = format == "TIFF"  # by Pillow, which does it while loading
            return _turned(_picture(image, data), 1 if turned else _orientation(image))
    except (PictureError, Warning):
        raise
    except MemoryError as error:
        raise PictureError("out-of-memory", CODES["out-of-memory"]) from error
    except Image.DecompressionBombError as error:
        raise _refusal("too-many-pixels", error) from error
    except Exception as error:
        raise _failure(error, data, format) from error


def _plain_jpeg(data: bytes, head: jpeg.Header, limits: Limits, reduced: int, luma: bool) -> np.ndarray | None:
    """The picture, of whose header Pillow has nothing to tell; None for what it should decode, or refuse, itself."""
    _check_size(head.width, head.height, limits)
    if not jpeg.ends(data, head.scan):
        raise _endless()
    return _fast_jpeg(data, (head.width, head.height), head.components == 1, None, reduced, luma)


def _fast_jpeg(
    data: bytes, size: tuple[int, int], gray: bool, profile: Any, reduced: int, luma: bool
) -> np.ndarray | None:
    """The pixels as they are stored, by the colour rules; None for what Pillow should decode, or refuse, itself.

    `size` is width and height, which were found within the limits.
    """
    luma = luma and profile is None
    # The one factor that gives just these sides; 0 is no factor, for 7/8 of 5 pixels are 5 too.
    least = [-(-side // reduced) if reduced > 1 else 0 for side in size]
    width, height = (_divided(side, reduced) for side in size)
    try:
        # In strict mode libjpeg's first warning is an error.
        stored = simplejpeg.decode_jpeg(data, "GRAY" if luma or gray else "RGB", False, False, least[1], least[0])
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise _refusal("truncated", str(error)) from error
        return None
    # The decoder rounds up, and fills the last row and column from beyond the edge: that would stretch the picture.
    stored = np.ascontiguousarray(stored[:height, :width])
    if luma:
        return stored[..., 0]
    if profile is None and not gray:
        return stored
    return np.array(_to_srgb(Image.fromarray(stored[..., 0] if gray else stored), profile))


def _divided(side: int, by: int) -> int:
    """`side / by`, rounded, halves down, and at least 1."""
    return max(1, (side + (by - 1) // 2) // by)


def _check_size(width: int, height: int, limits: Limits) -> None:
    if max(width, height) > limits.side:
        raise _refusal("too-large-side", f"{width}×{height}", expected=f"at most {limits.side}")
    if width * height > limits.pixels:
        raise _refusal("too-many-pixels", f"{width}×{height}", expected=f"at most {limits.pixels}")


def _check_whole(image: ImageFile.ImageFile, data: bytes, format: str, head: jpeg.Header | None) -> None:
    """Refuse what Pillow lets through: a JPEG filled up with other bytes, changed PNG data, a TIFF without strips."""
    if head and not jpeg.ends(data, head.scan):
        raise _endless()
    if format == "PNG" and _changed_png(data):
        raise _refusal("corrupt", "PNG data with another checksum")
    boxes = [tile.extents for tile in image.tile if tile.extents]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if format == "TIFF" and covered < image.width * image.height:
        raise _refusal("truncated", "a TIFF whose strips do not cover the picture")


def _failure(error: Exception, data: bytes, format: str) -> PictureError:
    """What to call an exception of Pillow's: does it, or the frame of the file, say that the end is missing?"""
    text = str(error)
    ends_early = isinstance(error, EOFError) or "truncated" in text.lower() or "not enough image data" in text
    if ends_early or _CUT[format](data):
        return _refusal("truncated", f"{len(data)} bytes of {format}")
    unread = isinstance(error, UnidentifiedImageError)  # its text only has the address of a buffer
    return _refusal("corrupt", f"{format} with an unreadable header" if unread else f"{format}: {text[:200]}")


def _endless() -> PictureError:
    return _refusal("truncated", "a JPEG without an end marker")


def _changed_png(data: bytes) -> bool:
    """Is the checksum of a whole IDAT chunk wrong? (PNG 3rd ed., 5.3.) Pillow looks at those of the other chunks."""
    at = 8
    while data[at + 4 : at + 8] not in (b"IEND", b""):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        checked = data[at + 4 : at + 8] == b"IDAT" and end + 4 <= len(data)
        if checked and zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return True
        at = end + 4
    return False


# Whether the frame of a file that could not be read says that it goes on. Only chooses between two names of a refusal.
_CUT: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda data: not jpeg.ends(data, jpeg.header(data).scan),
    "PNG": lambda data: b"IEND\xaeB`\x82" not in data,
    "WEBP": lambda data: int.from_bytes(data[4:8], "little") + 8 > len(data),
    "BMP": lambda data: len(data) < 26 or int.from_bytes(data[2:6], "little") > len(data),
    "GIF": lambda data: not data.rstrip(b"\0").endswith(b";"),
    "TIFF": lambda data: int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") > len(data) - 2,
    "AVIF": lambda data: False,  # its decoder says so itself, where it got as far as the picture
}


# --- colour -----------------------------------------------------------------------------------------------------------


def _picture(image: Image.Image, data: bytes) -> np.ndarray:
    """The colour rules, in their order; `image` is loaded and not yet turned."""
    profile = image.info.get("icc_profile")
    key = _transparent_colour(image, data)
    alpha = None if key is None else np.uint8(255) * np.any(np.atleast_3d(np.asarray(image)) != key, axis=-1)
    flat, own_alpha = _split(_shallow(image))
    rgb = np.array(_to_srgb(flat, profile))
    alpha = own_alpha if alpha is None else alpha
    return rgb if alpha is None else _on_white(rgb, alpha)


def _transparent_colour(image: Image.Image, data: bytes) -> np.ndarray | None:
    """The colour that stands for transparent, in the units of the loaded pixels (PNG 3rd ed., 11.3.1.1 tRNS)."""
    if image.mode in ("P", "PA") or "transparency" not in image.info:
        return None
    key: np.ndarray = np.asarray(image.info.pop("transparency"))
    depth = data[24] if image.format == "PNG" and data else 8
    top = 2**depth - 1
    if image.mode == "L":  # Pillow stretches 2- and 4-bit gray, but not this
        key = (key & top) * 255 // top
    elif image.mode == "RGB":
        key = (key & top) >> depth - 8
    return key > 0 if image.mode == "1" else key


def _shallow(image: Image.Image) -> Image.Image:
    """Gray of more than 8 bits in 8, any other picture as it is."""
    if image.mode == "F":
        raise _refusal("unsupported-depth", "float")
    if not image.mode.startswith("I"):
        return image
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if values.min() < 0 or values.max() > 65535:
        raise _refusal("unsupported-depth", f"{values.min()}…{values.max()}")
    top = 4095 if tags.get(258) == (12,) else 65535  # BitsPerSample
    if image.mode != "I" and tags and tags.get(262, 0) == 0:  # PhotometricInterpretation: white is zero; left to us
        values = top - values
    return Image.fromarray(((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8))


def _split(image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    """The picture without alpha, as L, RGB or CMYK, and its alpha, uint8 `(H, W)`, if it has one."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    alpha = np.asarray(image.getchannel("A")) if image.mode in ("LA", "RGBA") else None
    flat = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    return image if image.mode == flat else image.convert(flat), alpha


def _on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    cover = alpha[..., None].astype(np.uint16)
    mixed = rgb * cover
    mixed += 255 * (255 - cover) + 127  # at most 65,152: fits
    return (mixed // 255).astype(np.uint8)


def _to_srgb(flat: Image.Image, profile: Any) -> Image.Image:
    """`flat`, of mode L, RGB or CMYK, as sRGB."""
    mode, transform = _transform(profile) if isinstance(profile, bytes) and len(profile) <= 2**22 else ("", None)
    if transform is not None and (mode == flat.mode or (mode, flat.mode) == ("RGB", "L")):
        return _tabled(flat, transform) if mode == "L" else transform.apply(flat.convert(mode))
    return flat if flat.mode == "RGB" else flat.convert("RGB")


def _tabled(gray: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """All 256 grays once: what lcms makes of a steep gray curve for whole pictures is off by up to 10 levels."""
    ramp = transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None]))
    palette = gray.copy()
    palette.putpalette(ramp.tobytes())
    return palette.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """From the profile's colours to sRGB, with the mode it takes; None where there is nothing to do (ICC.1:2022)."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space]
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        flags |= ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE  # see _tabled
        transform = ImageCms.ImageCmsTransform(source, target, mode, "RGB", intent, flags=flags)
    except Exception:
        return "", None
    return mode, None if _is_identity(transform) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
    flat = Image.fromarray(grid).convert(transform.input_mode)
    moved = np.asarray(transform.apply(flat)).astype(int) - np.asarray(flat.convert("RGB"))
    return transform.input_mode != "CMYK" and bool(np.abs(moved).max() <= 2)


# --- upright ----------------------------------------------------------------------------------------------------------

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # Exif 2.3, tag 0x0112: where the stored row 0, column 0 are
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda stored: stored.swapaxes(0, 1)[::-1],  # left, bottom
}


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Warning:
        raise
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    turn = _TURNS.get(orientation)
    return stored if turn is None else turn(stored).copy()  # one pixel wide, it would pass for contiguous


# --- pictures that come as arrays -------------------------------------------------------------------------------------


def _from_array(array: np.ndarray, limits: Limits) -> np.ndarray:
    gray = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.dtype != np.uint8 or not (gray or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        expected = "uint8 (H, W), (H, W, 1) or (H, W, 3), not empty"
        raise _refusal("bad-array", f"{array.dtype} {array.shape}", expected=expected)
    height, width = array.shape[:2]
    _check_size(width, height, limits)
    return np.array(np.broadcast_to(array.reshape(height, width, -1), (height, width, 3)), order="C")


def _refusal(code: str, received: object, *, expected: object = None, do: str = "") -> PictureError:
    return PictureError(code, CODES[code], received=received, expected=expected, do=do)

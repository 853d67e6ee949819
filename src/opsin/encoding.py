"""Picture to bytes: JPEG, PNG, WebP, AVIF, without metadata unless it is handed over.

Pictures are uint8 `(H, W, 3)`, or gray `(H, W)` or `(H, W, 1)`; what is encoded has no profile, so it is sRGB. The same
picture and settings give the same bytes, under one version of Pillow and OpenCV.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from .errors import CallError

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

LONGEST_EXIF = 65_000  # bytes; a JPEG segment holds no more
LONGEST_JPEG = 65_500  # pixels; libjpeg's longest side

_SAMPLING: dict[Subsampling, int] = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
}


def jpeg(
    picture: np.ndarray,
    *,
    quality: float = 85,
    subsampling: Subsampling = "4:2:0",
    progressive: bool = False,
    tight: bool = False,
    exif: bytes = b"",
) -> bytes:
    """A JPEG (ITU-T T.81).

    Args:
        quality: 1…100 as libjpeg has it; between whole numbers its tables lie in between.
        tight: Huffman tables made for this picture: a few per cent smaller, slower. Progressive files always have them.
    """
    whole = float(quality).is_integer()
    if whole and not exif:
        return _jpeg(_plain(picture), int(quality), subsampling, progressive, tight)
    tables: dict[str, Any] = {"quality": int(quality)} if whole else {"qtables": _tables(quality)}
    return _saved(picture, "JPEG", exif, subsampling=subsampling, progressive=progressive, optimize=tight, **tables)


def _jpeg(picture: np.ndarray, quality: int, subsampling: Subsampling, progressive: bool, tight: bool) -> bytes:
    """By OpenCV: the same libjpeg-turbo, the same pixels. Pillow holds Python's lock while it encodes a JPEG."""
    if picture.dtype != np.uint8 or max(picture.shape) > LONGEST_JPEG:
        raise _impossible("JPEG", picture, f"at most {LONGEST_JPEG:,} pixels a side, of 8 bits")
    options = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: _SAMPLING[subsampling],
        cv2.IMWRITE_JPEG_PROGRESSIVE: progressive,
        cv2.IMWRITE_JPEG_OPTIMIZE: tight,
    }
    stored = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", stored, [int(value) for option in options.items() for value in option])
    return encoded.tobytes()


def _tables(quality: float) -> list[list[int]]:
    """Quantisation tables between those of two whole qualities: their entries change over one after the other.

    Were they scaled and rounded together, many would move at once: sizes would jump by a tenth near quality 100.
    """
    worse, better = _scaled(int(quality)), _scaled(int(quality) + 1)
    turns = (np.arange(worse.size) * 0.618034 % 1).reshape(worse.shape)  # spread evenly over 0…1
    return (worse - np.floor((worse - better) * (quality % 1) + turns).astype(int)).tolist()  # type: ignore[no-any-return]


def _scaled(quality: int) -> np.ndarray:
    """int `(2, 64)`: Annex K's tables, of luma and chroma, scaled as libjpeg does (jpeg_quality_scaling)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((_annex_k() * scale + 50) // 100, 1, 255)  # type: ignore[no-any-return]


@cache
def _annex_k() -> np.ndarray:
    with Image.open(BytesIO(jpeg(np.zeros((8, 8, 3), np.uint8), quality=50))) as image:
        return np.array([table for _, table in sorted(image.quantization.items())])  # type: ignore[attr-defined]


def png(picture: np.ndarray, *, colours: int = 0, level: int = 6, exif: bytes = b"") -> bytes:
    """A PNG: lossless, also of uint16 `(H, W)`; or with a palette of so many colours (2…256), chosen by median cut.

    `level`: 0…9, how hard zlib tries.
    """
    return _saved(picture, "PNG", exif, colours=colours, compress_level=level)


def webp(picture: np.ndarray, *, quality: float = 80, exif: bytes = b"") -> bytes:
    """A WebP, lossy, quality 0…100; its chroma is always 4:2:0."""
    return _saved(picture, "WEBP", exif, quality=quality, method=4)


def avif(picture: np.ndarray, *, quality: float = 60, subsampling: Subsampling = "4:2:0", exif: bytes = b"") -> bytes:
    """An AVIF, lossy, quality 0…100 (rounded: AV1 has 64 steps)."""
    return _saved(picture, "AVIF", exif, quality=round(quality), subsampling=subsampling, speed=8, max_threads=1)


def _saved(picture: np.ndarray, format: str, exif: bytes, *, colours: int = 0, **options: Any) -> bytes:
    image = Image.fromarray(_plain(picture))
    if colours:
        image = image.convert("RGB").quantize(colours, Image.Quantize.MEDIANCUT)
    if format == "AVIF" and image.mode == "L":
        options.pop("subsampling")
    file = BytesIO()
    try:
        image.save(file, format, exif=exif, **options)
    except (OSError, ValueError, KeyError) as error:  # KeyError: a Pillow that was built without this format
        raise _impossible(format, picture, error) from error
    return file.getvalue()


def _impossible(format: str, picture: np.ndarray, why: object) -> CallError:
    height, width = picture.shape[:2]
    return CallError(f"this picture cannot be a {format}", received=f"{width} × {height}: {why}", do="Resize it before")


def _plain(picture: np.ndarray) -> np.ndarray:
    """`(H, W, 3)`, or `(H, W)` for gray."""
    picture = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    depth = picture.dtype == np.uint8 or (picture.dtype == np.uint16 and picture.ndim == 2)
    if not depth or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)) or not picture.size:
        raise CallError("encoding", expected="uint8 (H, W, 3) or (H, W)", received=f"{picture.dtype} {picture.shape}")
    return np.ascontiguousarray(picture)


def exif_of(data: bytes) -> bytes:
    """The Exif metadata in an encoded picture, for a picture that was turned upright: without the orientation.

    Empty where there is none, where it cannot be read, and where it is too long for a JPEG. The thumbnail is left out.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            found = image.getexif()
            found.pop(0x0112, None)
            exif = found.tobytes() if found else b""
    except Exception:  # metadata is not worth a picture
        return b""
    return exif if len(exif) <= LONGEST_EXIF else b""

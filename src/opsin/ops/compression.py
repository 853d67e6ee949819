"""Compression: a picture as the bytes of a file, at a quality, within a number of bytes, or as like as is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval, doc
from torch import Tensor

from .. import codecs, encoding
from ..errors import CallError, unknown
from . import quality as measured
from .contract import Given, Image, bytes_op
from .enhancement import blurred

Quality = Annotated[float, Interval(ge=1, le=100), doc("where neither budget nor ssim is given")]
Budget = Annotated[int, Interval(ge=0, le=2**30), doc("most bytes: the best quality that fits; 0: not asked")]
Ssim = Annotated[
    float, Interval(ge=0, lt=1), doc("least structural similarity: the lowest quality that has it; 0: not asked")
]
Chroma = Annotated[encoding.Subsampling, doc("of chroma")]

Encode = Callable[[np.ndarray, float], bytes]

FULL = 0.98  # a budget is met when this much of it is used
NEAR = 0.99  # and the search ends here


@bytes_op
def jpeg(
    image: np.ndarray,
    *,
    quality: Quality = 85.0,
    budget: Budget = 0,
    ssim: Ssim = 0.0,
    subsampling: Chroma = "4:2:0",
    progressive: Annotated[bool, doc("coarse first, fine later; a little smaller")] = False,
    exif: bytes = b"",
) -> bytes:
    """As a JPEG."""
    tight = bool(budget or ssim)

    def encode(picture: np.ndarray, at: float) -> bytes:
        return encoding.jpeg(
            picture, quality=at, subsampling=subsampling, progressive=progressive, tight=tight, exif=exif
        )

    return _sought(image, encode, quality, budget, ssim, step=1 / 128)


@bytes_op
def webp(
    image: np.ndarray, *, quality: Quality = 80.0, budget: Budget = 0, ssim: Ssim = 0.0, exif: bytes = b""
) -> bytes:
    """As a WebP."""
    return _sought(image, lambda picture, at: encoding.webp(picture, quality=at, exif=exif), quality, budget, ssim)


@bytes_op
def avif(
    image: np.ndarray,
    *,
    quality: Quality = 60.0,
    budget: Budget = 0,
    ssim: Ssim = 0.0,
    subsampling: Chroma = "4:2:0",
    exif: bytes = b"",
) -> bytes:
    """As an AVIF."""

    def encode(picture: np.ndarray, at: float) -> bytes:
        return encoding.avif(picture, quality=at, subsampling=subsampling, exif=exif)

    # Its quality 100 is lossless: about twice as many bytes as 99, and nothing in between.
    return _sought(image, encode, quality, budget, ssim, highest=99, step=1)


@bytes_op
def png(
    image: np.ndarray,
    *,
    colours: Annotated[int, Interval(ge=0, le=256), doc("of a palette; 0: lossless")] = 0,
    budget: Budget = 0,
    ssim: Ssim = 0.0,
    level: Annotated[int, Interval(ge=0, le=9), doc("how hard to try")] = 6,
    exif: bytes = b"",
) -> bytes:
    """As a PNG: lossless, or, where that is asked for, with as few colours as it takes."""

    def encode(picture: np.ndarray, at: float) -> bytes:
        return encoding.png(picture, colours=0 if at > 256 else max(2, int(at)), level=level, exif=exif)

    return _sought(image, encode, colours or 257, budget, ssim, lowest=2, highest=257, step=1)


# --- the search -------------------------------------------------------------------------------------------------------


def _sought(
    image: np.ndarray,
    encode: Encode,
    quality: float,
    budget: int,
    ssim: float,
    *,
    lowest: float = 1,
    highest: float = 100,
    step: float = 0.05,
) -> bytes:
    if budget and ssim:
        raise CallError("budget and ssim", expected="one of them", received="both", do="Leave one out")
    if budget:
        return _fitting(image, encode, budget, lowest, highest, step)
    if ssim:
        return _alike(image, encode, ssim, lowest, highest, max(step, 0.5))
    return encode(image, quality)


def _fitting(image: np.ndarray, encode: Encode, budget: int, lowest: float, highest: float, step: float) -> bytes:
    """The best quality within the budget, by bisection; sizes nearly always rise with quality.

    Qualities may be far apart (AVIF has 64 of them). Where the best that fits leaves more than 2 % of the budget
    unused, the next one is tried on the picture blurred a very little: by as much as it takes to fit.
    """
    best = encode(image, lowest)
    if len(best) > budget:
        do = "Resize the picture, or allow more bytes"
        raise CallError(
            "the budget is too small for this picture", expected=f"at least {len(best):,} bytes", received=budget, do=do
        )
    largest = encode(image, highest)
    if len(largest) <= budget:
        return largest
    best, above = _bisected(lambda at: encode(image, at), best, budget, lowest, highest, step)
    if len(best) < FULL * budget:
        blur = blurred(image.astype(np.float32), 1.0)
        softened = lambda at: encode((image + (1 - at) * (blur - image)).round().astype(np.uint8), above)  # noqa: E731
        best, _ = _bisected(softened, best, budget, 0.5, 1.0, 0.005)
    return best


def _bisected(
    encode: Callable[[float], bytes], best: bytes, budget: int, low: float, high: float, step: float
) -> tuple[bytes, float]:
    """The largest bytes found within the budget, and the lowest setting found to be above it."""
    while high - low > step and len(best) < NEAR * budget:
        middle = round((low + high) / 2 / step) * step
        if not low < middle < high:
            break
        data = encode(middle)
        if len(data) <= budget:
            low, best = middle, max(best, data, key=len)
        else:
            high = middle
    return best, high


def _alike(image: np.ndarray, encode: Encode, wanted: float, low: float, high: float, step: float) -> bytes:
    """The lowest quality that is at least as like the picture as is wanted."""
    best = encode(image, high)
    if (reached := _likeness(image, best)) < wanted:
        raise CallError(
            "the wanted ssim cannot be reached", expected=f"at most {reached:.4f}", received=wanted, do="Ask for less"
        )
    while high - low > step:
        middle = round((low + high) / 2 / step) * step
        if not low < middle < high:
            break
        data = encode(image, middle)
        if _likeness(image, data) >= wanted:
            high, best = middle, data
        else:
            low = middle
    first = encode(image, low)
    return first if _likeness(image, first) >= wanted else best


def _likeness(image: np.ndarray, data: bytes) -> float:
    return float(measured.ssim(decoded(data, image), image))


def decoded(data: bytes, image: np.ndarray) -> np.ndarray:
    """The picture in `data`, uint8, with as many channels as `image` `(H, W, C)`, which it was made from."""
    return np.ascontiguousarray(codecs.decode(data)[..., : image.shape[2]])


def reopened(data: bytes | list[bytes], image: Image) -> Image:
    """What compression left: the pictures in `data`, in the form, dtype and channels of `image`, which they were."""
    given = Given(image, (1, 3), "reopened")
    parts = data if isinstance(data, list) else [data]
    return given.returned([decoded(part, _pixels(given)) for part in parts], "image")


def _pixels(given: Given) -> np.ndarray:
    """The first picture, uint8 `(H, W, C)`."""
    return next(given.items("8 bits"))


# --- the curve --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """One point of a rate–distortion curve."""

    quality: float
    bytes: int
    bits_per_pixel: float
    psnr: float  # dB
    ssim: float


def rate_distortion(
    image: np.ndarray | Tensor,
    *,
    format: Literal["jpeg", "webp", "avif"] = "jpeg",
    qualities: Iterable[float] = range(5, 100, 10),
) -> list[Rate]:
    """What each quality costs in bytes, and what it keeps of the one picture `image`."""
    encoders = {"jpeg": jpeg, "webp": webp, "avif": avif}
    if format not in encoders:
        raise unknown("format", format, encoders)
    return [_rate(image, encoders[format](image, quality=at), at) for at in qualities]


def _rate(image: np.ndarray | Tensor, data: bytes, quality: float) -> Rate:
    picture = _pixels(Given(image, (1, 3), "rate_distortion"))
    found = decoded(data, picture)
    pixels = picture.shape[0] * picture.shape[1]
    return Rate(
        quality, len(data), 8 * len(data) / pixels, measured.psnr(found, picture), measured.ssim(found, picture)
    )


FAMILY = (jpeg, png, webp, avif)

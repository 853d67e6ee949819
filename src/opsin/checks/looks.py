"""The one pass over the files that all checks share: every picture is decoded once, in a child process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from .. import codecs, duplicates, preprocessing
from ..errors import PictureError
from ..isolation import Decoder, Decoders
from ..preprocessing import Preprocessing
from ..vocabulary import Dataset, Record, Refusal, Work

# What is measured of a picture; colours are means in 0…255, sharpness is the mean step between neighbours in a row.
# Both are of pictures made equally small: a JPEG, which is reduced while it is decoded, must compare with a PNG.
FACTS = ("width", "height", "bytes", "red", "green", "blue", "contrast", "sharpness",
         "border red", "border green", "border blue", "border contrast")  # fmt: skip
BORDER = 0.04  # of the shorter side
MEASURED = 200  # pixels of the shorter side at which colours and sharpness are measured; smaller pictures as they are
SAMPLED = 100_000  # pixels that means are taken over
SLICE = 256


@dataclass(frozen=True)
class Looks:
    """What was seen of N pictures that could be read, row by row those of `data.records`."""

    data: Dataset  # without the refused ones, which its `refused` lists
    thumbnails: np.ndarray  # uint8 (N, SIDE, SIDE)
    facts: np.ndarray  # float32 (N, len(FACTS))
    formats: tuple[str, ...]  # of each file; "" for arrays
    vectors: np.ndarray | None = None  # float32 (N, D)

    def fact(self, name: str) -> np.ndarray:
        """float32 `(N,)`: one column of FACTS."""
        column: np.ndarray = self.facts[:, FACTS.index(name)]
        return column


@dataclass(frozen=True)
class Probe:
    """Pictures → vectors: how they are prepared, and what takes uint8 `(B, 3, S, S)` to float32 `(B, D)`."""

    road: Preprocessing
    vectors: Callable[[np.ndarray], np.ndarray]


class _Seen(NamedTuple):
    thumbnail: np.ndarray
    facts: list[float]
    format: str
    prepared: np.ndarray | None


def look(data: Dataset, *, probe: Probe | None = None, threads: int = 2) -> Work[Looks]:
    """Decode every picture once, each thread in a child process of its own. Long work: yields how many are done.

    Args:
        data: N records.
        probe: also make a vector of each picture.
        threads: children at work at a time. The result does not depend on it.
    """
    thumbnails = np.zeros((len(data), duplicates.SIDE, duplicates.SIDE), np.uint8)
    measured = np.zeros((len(data), len(FACTS)), np.float32)
    formats: list[str] = []
    vectors: list[np.ndarray] = []
    refused: dict[str, Refusal] = {}
    for start, results in _in_slices(data, probe.road if probe else None, threads):
        for result in results:
            if isinstance(result, Refusal):
                refused[result.key] = result
        good = [result for result in results if isinstance(result, _Seen)]
        if probe and good:
            vectors.append(probe.vectors(np.stack([result.prepared for result in good])))  # type: ignore[misc]
        for one in good:
            thumbnails[len(formats)], measured[len(formats)] = one.thumbnail, one.facts
            formats.append(one.format)
        yield min(start + SLICE, len(data))
    left = data.where(lambda record: record.key not in refused)
    whole = dataclasses.replace(left, refused=(*data.refused, *refused.values()))
    n = len(formats)
    return Looks(whole, thumbnails[:n], measured[:n], tuple(formats), np.concatenate(vectors) if vectors else None)


def _in_slices(data: Dataset, road: Preprocessing | None, threads: int) -> Iterator[tuple[int, list[_Seen | Refusal]]]:
    with Decoders() as children, ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(data), SLICE):
            some = data.records[start : start + SLICE]
            yield start, list(pool.map(lambda record: _seen(data, record, children.decode, road), some))


def _seen(
    data: Dataset, record: Record, decode: Callable[..., np.ndarray], road: Preprocessing | None
) -> _Seen | Refusal:
    try:
        content = data.store.read(record.key)
        # An eighth or a quarter of a JPEG is decoded in a fraction of the time, and is enough for all that is measured.
        reduced = duplicates.reduction(content, max(MEASURED, int(1.25 * road.size) if road else 0))
        picture = decode(content, reduced=reduced)
    except PictureError as error:
        return Refusal(record.key, error.code, str(error))
    format = codecs.sniff(content) or "" if isinstance(content, bytes) else ""
    prepared = preprocessing.prepare(road, picture).numpy() if road else None
    measured = facts(picture, record.size)
    if reduced > 1 and (sides := codecs.sides(content)):
        measured[:2] = sides if picture.shape[0] > picture.shape[1] else sides[::-1]
    return _Seen(duplicates.thumbnail(picture), measured, format, prepared)


def facts(picture: np.ndarray, size: int) -> list[float]:
    """The values of FACTS for a picture, uint8 `(H, W, 3)`, in a file of `size` bytes."""
    height, width = picture.shape[:2]
    seen = _at_one_size(picture)
    step = max(1, int((seen.size / 3 / SAMPLED) ** 0.5))
    some = seen[::step, ::step].astype(np.float32)
    rows = seen[:: max(1, len(seen) // 32), :, 1].astype(np.float32)
    sharpness = np.abs(np.diff(rows, axis=1)).mean() if rows.shape[1] > 1 else 0.0
    border = _border(seen)
    return [width, height, size, *some.mean(axis=(0, 1)), some.mean(axis=2).std(), sharpness,
            *border.mean(axis=0), border.std(axis=0).mean()]  # fmt: skip


def _at_one_size(picture: np.ndarray) -> np.ndarray:
    """The picture, its shorter side at most MEASURED: sharpness and contrast depend on how many pixels show a thing."""
    height, width = picture.shape[:2]
    scale = MEASURED / min(height, width)
    if scale >= 1:
        return picture
    small: np.ndarray = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return small


def _border(picture: np.ndarray) -> np.ndarray:
    """float32 `(P, 3)`: the pixels along the four sides."""
    wide = max(1, round(min(picture.shape[:2]) * BORDER))
    sides = (picture[:wide], picture[-wide:], picture[:, :wide], picture[:, -wide:])
    return np.concatenate([side.reshape(-1, 3)[:: max(1, side.size // 6000)] for side in sides]).astype(np.float32)


def small(data: Dataset, key: str, decoder: Decoder, side: int = 160) -> np.ndarray | None:
    """The picture of a record, at most `side` pixels a side, uint8 `(h, w, 3)`; None where it cannot be read."""
    try:
        picture = decoder.decode(data.store.read(key))
    except PictureError:
        return None
    step = max(1, -(-max(picture.shape[:2]) // side))
    height, width = (n // step * step for n in picture.shape[:2])
    blocks = picture[: max(height, 1), : max(width, 1)]
    if step == 1 or not height or not width:
        return blocks[:side, :side]
    means: np.ndarray = blocks.reshape(height // step, step, width // step, step, 3).mean(axis=(1, 3))
    return means.round().astype(np.uint8)

"""Decode once: every picture through the one road, its bytes kept as uint8 in memory or in a memory-mapped file.

What cannot be decoded is found here, before any training, and comes back as Refusals; nothing stands in its place.
Where there is no room for a cache, its pictures are decoded each time they are asked for: the same bytes, slower.

A cache that fits into memory can be kept in a folder for the next run. Its name says what it was made of, its end what
was refused; it is written whole or not at all, read only when its checksum is right, and dropped for newer data.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from . import codecs, errors, preprocessing, sources
from .preprocessing import THREADS, Preprocessing
from .vocabulary import Dataset, Record, Refusal, Work

# Above this a cache lives in a memory-mapped file: the operating system keeps of it what fits.
MEMORY_BYTES = 2 * 2**30
SPARE_BYTES = 2**30  # that a cache leaves free on its disk
KEPT_BYTES = 8 * 2**30  # of all the caches that are kept for later runs; then the oldest go
ABANDONED = 3600.0  # seconds since a cache that is being written grew last
PASSING = ("unreadable", "out-of-memory")  # refusals that may be over in the next run, of the very same files

Index = int | slice | np.ndarray


class Rows(Protocol):
    """What Pixels need of an array: uint8 `(N, 3, T, T)`, indexed on its first axis."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Index, /) -> np.ndarray: ...


class Undecoded:
    """Stands for an array of prepared pictures that is not kept: what is taken is decoded.

    Raises PictureError when a picture can no longer be read.
    """

    def __init__(self, data: Dataset, road: Preprocessing, threads: int = THREADS) -> None:
        self.data, self.road, self.threads = data, road, threads
        self.shape = (len(data), 3, road.size, road.size)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: Index) -> np.ndarray:
        if not isinstance(rows, slice | np.ndarray):
            return preprocessing.load(self.road, self.data.store.read(self.data.records[rows].key)).numpy()
        numbers = np.arange(len(self))[rows]
        made = np.empty((len(numbers), *self.shape[2:], 3), np.uint8).transpose(0, 3, 1, 2)

        def fill(place: int) -> None:
            made[place] = self[numbers[place]]

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(fill, range(len(numbers))))
        return made


class Selected:
    """Some rows of an array, in any order, without a copy of them all."""

    def __init__(self, array: Rows, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Index) -> np.ndarray:
        return self.array[self.rows[rows]]


@dataclass(frozen=True)
class Pixels:
    """Prepared pictures, row by row those of `data.records`.

    Attributes:
        array: uint8 `(N, 3, T, T)`, channels last in memory.
        notice: what a user should know of this cache; "" for nothing.
    """

    data: Dataset
    array: Rows
    notice: str = ""

    def __len__(self) -> int:
        return len(self.data)

    def picture(self, row: int) -> np.ndarray:
        """uint8 `(T, T, 3)`: not to be changed. Safe to call from several threads."""
        return self.array[row].transpose(1, 2, 0)

    def take(self, rows: np.ndarray) -> Tensor:
        """uint8 `(B, 3, T, T)`: a copy of these rows."""
        return torch.from_numpy(self.array[rows])

    def targets(self) -> Tensor:
        """int64 `(N,)`: the class of every row. For the other tasks float32 `(N, K)`, NaN where unknown."""
        if self.data.task != "single-label":
            rows = [[math.nan if value is None else value for value in record.targets] for record in self.data.records]
            return torch.tensor(rows, dtype=torch.float32)
        return torch.tensor([record.target for record in self.data.records], dtype=torch.int64)

    def part(self, keep: Callable[[Record], bool]) -> Pixels:
        """The rows whose records `keep` says yes to; no picture is copied."""
        rows = np.flatnonzero([keep(record) for record in self.data.records])
        whole = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows) and isinstance(self.array, np.ndarray)
        return Pixels(
            self.data.where(keep), self.array[rows[0] : rows[-1] + 1] if whole else Selected(self.array, rows)
        )


def picture(data: Dataset, record: Record) -> np.ndarray:
    """The picture of a record, uint8 `(H, W, 3)`.

    Raises:
        PictureError: when it cannot be read or is refused.
    """
    return codecs.decode(data.store.read(record.key))


def build(
    data: Dataset,
    roads: Sequence[Preprocessing],
    *,
    threads: int = THREADS,
    folder: Path | None = None,
    keep: Path | None = None,
) -> Work[tuple[Dataset, list[Pixels]]]:
    """Decode every picture once and prepare it by each of `roads`. Long work: yields how many are done.

    Args:
        data: N records.
        roads: how; one cache each.
        threads: decoders at work at a time. The result does not depend on it.
        folder: where a cache that is too large for memory goes; beside the downloads by default.
        keep: the folder of caches that outlive a run: looked into, and written to; None for neither.

    Returns:
        `data` without the refused pictures, which its `refused` lists, and one Pixels a road. Where the disk cannot
        hold one, its `array` is Undecoded and its `notice` says so.

    Raises:
        MachineError: when the folder cannot be written to.
        DataError: when no picture is left.
    """
    files = [_file(keep, data, road) for road in roads]
    keeper = _keeper(os.getpid())
    asked = [keeper.submit(_recalled, file, len(data), road.size) for file, road in zip(files, roads) if file]
    known = [pair for answer in asked if (pair := answer.result())]
    if len(known) == len(roads) and all(refused == known[0][1] for _, refused in known):
        yield len(data)
        data = _without(data, known[0][1])
        return data, [Pixels(data, array.transpose(0, 3, 1, 2)) for array, _ in known]
    arrays = [_allocate(len(data), road.size, folder) for road in roads]
    refused: dict[int, Refusal] = {}
    for row, refusal in enumerate(_fill(data, roads, arrays, threads)):
        if refusal:
            refused[row] = refusal
        if row % 64 == 0 or row == len(data) - 1:
            yield row + 1
    data = _without(data, refused)
    found = []
    for road, array, file in zip(roads, arrays, files):
        if array is None:
            found.append(Pixels(data, Undecoded(data, road, threads), _notice(len(data), road)))
            continue
        array = _compact(array, refused)
        if file:
            # What went wrong with it, but for a disk that is full, is told where it happens and ends nothing.
            keeper.submit(_remember, file, array, refused).add_done_callback(Future.result)
        found.append(Pixels(data, array.transpose(0, 3, 1, 2)))
    return data, found


def _notice(n: int, road: Preprocessing) -> str:
    size = n * 3 * road.size**2 / 2**30
    return (
        f"no room for a cache of {size:,.1f} GiB ({n:,} pictures at {road.size} px): "
        "they are decoded again each time, which is slower and gives the same"
    )


def _without(data: Dataset, refused: Mapping[int, Refusal]) -> Dataset:
    """`data` without the rows of `refused`, which it lists.

    Raises:
        DataError: when no row is left.
    """
    if not refused:
        return data
    found = list(refused.values())
    left = tuple(record for row, record in enumerate(data.records) if row not in refused)
    if not left:
        raise errors.DataError(
            f"{data.name}: no picture could be read",
            received="; ".join(f"{r.key}: {r.reason}" for r in found[:3]),
            do="Look at these files: they are listed with their reasons in data.json",
        )
    return dataclasses.replace(data, records=left, refused=(*data.refused, *found))


def _compact(array: np.ndarray, refused: Mapping[int, Refusal]) -> np.ndarray:
    """Move the rows that were not refused to the front, in place: a cache may be larger than memory."""
    kept = [row for row in range(len(array)) if row not in refused]
    for place, row in enumerate(kept):
        if place != row:
            array[place] = array[row]
    return array[: len(kept)]


def _allocate(n: int, size: int, folder: Path | None) -> np.ndarray | None:
    """uint8 `(n, size, size, 3)`, in memory or in a file; None where the disk has no room for it."""
    shape = (n, size, size, 3)
    length = n * 3 * size * size
    if length <= MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    folder = folder or _on_disk()
    # The file has no name to clean up later, and the map keeps it open for as long as it is needed.
    with errors.writing("the picture cache"), tempfile.TemporaryFile(dir=folder) as file:
        if shutil.disk_usage(folder).free < length + SPARE_BYTES:
            return None
        try:
            # A file with holes meets a full disk only when its map is written to: then a signal ends the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, length)
            else:
                file.truncate(length)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return None
            raise
        return np.memmap(file, np.uint8, "r+", shape=shape)


def _on_disk() -> Path:
    """A folder for what is too large for memory, which is where many systems have their temporary files."""
    folder = sources.cache_dir() / "pixels"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # pictures may be nobody else's business
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


def _fill(
    data: Dataset, roads: Sequence[Preprocessing], arrays: Sequence[np.ndarray | None], threads: int
) -> Iterator[Refusal | None]:
    def one(row: int) -> Refusal | None:
        record = data.records[row]
        try:
            prepared = preprocessing.load_each(roads, data.store.read(record.key))
        except errors.PictureError as error:
            return Refusal(record.key, error.code, str(error))
        for image, array in zip(prepared, arrays):
            if array is not None:
                array[row] = image.permute(1, 2, 0).numpy()
        return None

    with ThreadPoolExecutor(threads) as pool:
        # In slices, so that an interrupt waits for a few pictures and not for all that were queued.
        for start in range(0, len(data), 64 * threads):
            yield from pool.map(one, range(start, min(start + 64 * threads, len(data))))


# --- caches that are kept ---------------------------------------------------------------------------------------------

# What decides the pixels, besides the files and the road; a new layout of the files raises the first number.
_PACKAGES = (
    *("opsin", "torch", "numpy", "pillow", "simplejpeg", "opencv-python-headless", "scikit-image", "scipy", "pydicom"),
    *("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm"),  # what pydicom calls
)


@functools.cache
def _makers() -> tuple[str, ...]:
    found = ["1"]
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return tuple(found)


@functools.cache
def _keeper(process: int) -> ThreadPoolExecutor:
    """What writes caches beside whatever comes next, one after the other, and reads when what it writes is there.

    Of each process its own: one that was forked has its parent's pool, but not the thread in it.
    """
    return ThreadPoolExecutor(1)


def _file(keep: Path | None, data: Dataset, road: Preprocessing) -> Path | None:
    """Where this cache is kept; None where it is not, as it is too large or the records do not know their content."""
    too_large = len(data) * 3 * road.size**2 > MEMORY_BYTES
    if keep is None or too_large or not all(record.size for record in data.records):
        return None
    contents = [(record.key, record.size, record.crc) for record in data.records]
    made_by, made_of = (
        hashlib.sha256(json.dumps(what).encode()).hexdigest() for what in ((_makers(), road.to_dict()), contents)
    )
    name = re.sub(r"\W+", "-", data.name)[:40]
    return keep / f"{name}-{made_by[:16]}-{made_of[:32]}.pixels"


def _recalled(file: Path | None, n: int, size: int) -> tuple[np.ndarray, dict[int, Refusal]] | None:
    """The pictures, uint8 `(n - refused, size, size, 3)`, and the refused rows; None where they are not, or damaged."""
    if file is None:
        return None
    try:
        with open(file, "rb") as opened:
            array = np.load(opened, allow_pickle=False)
            about = json.loads(opened.read())
        refused = {int(row): Refusal(**told) for row, told in about["refused"].items()}
        if array.shape != (n - len(refused), size, size, 3) or zlib.crc32(array.data) != about["crc"]:
            return None
        os.utime(file)  # the oldest go first
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return array, refused


def _remember(file: Path | None, array: np.ndarray, refused: Mapping[int, Refusal]) -> None:
    """Keep a cache, where there is room. That it cannot be kept is no error: nothing was lost but time."""
    if file is None or any(told.code in PASSING for told in refused.values()):
        return
    about = {"refused": {row: dataclasses.asdict(told) for row, told in refused.items()}, "crc": zlib.crc32(array.data)}
    with suppress(errors.MachineError), errors.replacing(file) as part:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_room(file, array.nbytes)
        if shutil.disk_usage(file.parent).free < array.nbytes + SPARE_BYTES:
            raise OSError(errno.ENOSPC, "no room for a cache")
        with open(part, "wb") as opened:
            np.save(opened, array, allow_pickle=False)
            opened.write(json.dumps(about).encode())


def _make_room(file: Path, size: int) -> None:
    """Drop what was kept of older data of this name on this road, and then the oldest, until `size` more bytes fit.

    And what a process that was killed left half written.
    """
    for part in file.parent.glob(".*.pixels.*"):
        if part.stat().st_mtime < time.time() - ABANDONED:
            part.unlink(missing_ok=True)
    stem = file.name[: -len("-") - 32 - len(".pixels")]
    for old in file.parent.glob("*.pixels"):
        if old.name.startswith(stem) and old != file:
            old.unlink(missing_ok=True)
    kept = sorted(file.parent.glob("*.pixels"), key=lambda old: old.stat().st_mtime, reverse=True)
    for old in kept:
        size += old.stat().st_size
        if size > KEPT_BYTES:
            old.unlink(missing_ok=True)

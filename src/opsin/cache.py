"""Decode once: every picture through the one road, its bytes kept as uint8 in memory or in a memory-mapped file.

What cannot be decoded is found here, before any training, and comes back as Refusals; nothing stands in its place.
Where there is no room for a cache, its pictures are decoded each time they are asked for: the same bytes, slower.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from . import codecs, errors, preprocessing
from .preprocessing import Preprocessing
from .vocabulary import Dataset, Record, Refusal, Work

# Above this a cache lives in a memory-mapped file: the operating system keeps of it what fits.
MEMORY_BYTES = 2 * 2**30
SPARE_BYTES = 2**30  # that a cache leaves free on its disk
THREADS = min(16, os.cpu_count() or 2)


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
        """int64 `(N,)`: the class of every row."""
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
) -> Work[tuple[Dataset, list[Pixels]]]:
    """Decode every picture once and prepare it by each of `roads`. Long work: yields how many are done.

    Args:
        data: N records.
        roads: how; one cache each.
        threads: decoders at work at a time. The result does not depend on it.
        folder: where a cache that is too large for memory goes; a temporary folder by default.

    Returns:
        `data` without the refused pictures, which its `refused` lists, and one Pixels a road. Where the disk cannot
        hold one, its `array` is Undecoded and its `notice` says so.

    Raises:
        MachineError: when the folder cannot be written to.
        DataError: when no picture is left.
    """
    arrays = [_allocate(len(data), road.size, folder) for road in roads]
    refused = []
    for row, refusal in enumerate(_fill(data, roads, arrays, threads)):
        if refusal:
            refused.append((row, refusal))
        if row % 64 == 0 or row == len(data) - 1:
            yield row + 1
    kept = np.delete(np.arange(len(data)), [row for row, _ in refused])
    if refused:
        left = [data.records[row] for row in kept]
        data = _without(data, left, [refusal for _, refusal in refused])
    found = []
    for road, array in zip(roads, arrays):
        if array is None:
            found.append(Pixels(data, Undecoded(data, road, threads), _notice(len(data), road)))
        else:
            found.append(Pixels(data, (_compact(array, kept) if refused else array).transpose(0, 3, 1, 2)))
    return data, found


def _notice(n: int, road: Preprocessing) -> str:
    size = n * 3 * road.size**2 / 2**30
    return (
        f"no room for a cache of {size:,.1f} GiB ({n:,} pictures at {road.size} px): "
        "they are decoded again each time, which is slower and gives the same"
    )


def _without(data: Dataset, left: Sequence[Record], refused: Sequence[Refusal]) -> Dataset:
    if not left:
        raise errors.DataError(
            f"{data.name}: no picture could be read",
            received="; ".join(f"{r.key}: {r.reason}" for r in refused[:3]),
            do="Look at these files: they are listed with their reasons in data.json",
        )
    keys = {record.key for record in left}
    whole = data.where(lambda record: record.key in keys)
    return Dataset(**{**vars(whole), "refused": (*data.refused, *refused)})


def _compact(array: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Move the kept rows to the front, in place: a cache may be larger than memory."""
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
    # The file has no name to clean up later, and the map keeps it open for as long as it is needed.
    with errors.writing("the picture cache"), tempfile.TemporaryFile(dir=folder) as file:
        if shutil.disk_usage(folder or tempfile.gettempdir()).free < length + SPARE_BYTES:
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

"""Decode once: every picture through the one road, its bytes kept as uint8 in memory or in a memory-mapped file.

What cannot be decoded is found here, before any training, and comes back as Refusals; nothing stands in its place.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import codecs, errors, preprocessing
from .preprocessing import Preprocessing
from .vocabulary import Dataset, Record, Refusal, Work

# Above this a cache lives in a memory-mapped file: the operating system keeps of it what fits.
MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Pixels:
    """Prepared pictures: uint8 `(N, 3, T, T)`, row by row those of `data.records`."""

    data: Dataset
    array: np.ndarray

    def __len__(self) -> int:
        return len(self.data)

    def take(self, rows: np.ndarray) -> Tensor:
        """uint8 `(B, 3, T, T)`: a copy of these rows."""
        return torch.from_numpy(self.array[rows])

    def targets(self) -> Tensor:
        """int64 `(N,)`: the class of every row."""
        return torch.tensor([record.target for record in self.data.records], dtype=torch.int64)

    def part(self, keep: Callable[[Record], bool]) -> Pixels:
        """The rows whose records `keep` says yes to; they are copied only where they are not one run of rows."""
        rows = np.flatnonzero([keep(record) for record in self.data.records])
        whole = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
        return Pixels(self.data.where(keep), self.array[rows[0] : rows[-1] + 1] if whole else self.array[rows])


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
    threads: int = 2,
    folder: Path | None = None,
) -> Work[tuple[Dataset, list[Pixels]]]:
    """Decode every picture once and prepare it by each of `roads`. Long work: yields how many are done.

    Args:
        data: N records.
        roads: how; one cache each.
        threads: decoders at work at a time. The result does not depend on it.
        folder: where a cache that is too large for memory goes; a temporary folder by default.

    Returns:
        `data` without the refused pictures, which its `refused` lists, and one Pixels a road.

    Raises:
        MachineError: when the disk cannot hold the cache.
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
        arrays = [_compact(array, kept) for array in arrays]
    return data, [Pixels(data, array) for array in arrays]


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


def _allocate(n: int, size: int, folder: Path | None) -> np.ndarray:
    shape = (n, 3, size, size)
    length = n * 3 * size * size
    if length <= MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    # The file has no name to clean up later, and the map keeps it open for as long as it is needed.
    with errors.writing("the picture cache"), tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            # A file with holes meets a full disk only when its map is written to: then a signal ends the process.
            os.posix_fallocate(file.fileno(), 0, length)
        else:
            file.truncate(length)
        return np.memmap(file, np.uint8, "r+", shape=shape)


def _fill(
    data: Dataset, roads: Sequence[Preprocessing], arrays: Sequence[np.ndarray], threads: int
) -> Iterator[Refusal | None]:
    def one(row: int) -> Refusal | None:
        record = data.records[row]
        try:
            decoded = picture(data, record)
        except errors.PictureError as error:
            return Refusal(record.key, error.code, str(error))
        for road, array in zip(roads, arrays):
            array[row] = preprocessing.prepare(road, decoded).numpy()
        return None

    with ThreadPoolExecutor(threads) as pool:
        # In slices, so that an interrupt waits for a few pictures and not for all that were queued.
        for start in range(0, len(data), 64 * threads):
            yield from pool.map(one, range(start, min(start + 64 * threads, len(data))))

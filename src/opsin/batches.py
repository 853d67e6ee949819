"""Seeded order and ready batches. A batch is a function of (seed, epoch, number), so a position is two numbers.

Threads make the next batches while one is used: each takes some rows, which the cache holds or which are decoded now,
augments them, and writes them into their places of the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from . import augmentation
from .augmentation import Draws
from .cache import THREADS, Pixels
from .recipe import AugmentChoice

SLICE = 16  # pictures that a thread makes at a time
AHEAD = 2  # batches in the making: with one, threads would wait for the last slice of it


@dataclass(frozen=True)
class Batch:
    """uint8 images `(B, 3, S, S)`, channels last in memory, int64 targets `(B,)`, and their rows of the Pixels."""

    images: Tensor
    targets: Tensor
    rows: np.ndarray


@dataclass(frozen=True)
class Batches:
    """The batches of all epochs of a training set.

    Attributes:
        pixels: the training pictures, uint8 `(N, 3, T, T)`, kept or decoded when they are asked for.
        batch: the most pictures a batch; an epoch is divided evenly, so no batch is a small rest.
        size: side S of the network's input.
        augment: flips resolved.
        threads: that make batches. The batches do not depend on it.
    """

    pixels: Pixels
    batch: int
    size: int
    augment: AugmentChoice
    seed: int
    threads: int = THREADS

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.pixels) // self.batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; the next ones are made while one is used."""
        order = np.random.Generator(np.random.Philox(key=np.array([self.seed, epoch + 2**33], dtype=np.uint64)))
        parts = np.array_split(order.permutation(len(self.pixels)), len(self))[start:]
        draws = augmentation.sample(self.augment, self.seed, epoch, len(self.pixels), self.size)
        targets = self.pixels.targets()
        pool = ThreadPoolExecutor(self.threads)
        begun = (self._begun(pool, rows, draws) for rows in parts)
        making = deque(islice(begun, AHEAD))
        try:
            for rows in parts:
                images, slices = making.popleft()
                for part in slices:
                    part.result()
                making.extend(islice(begun, 1))
                yield Batch(torch.from_numpy(images).permute(0, 3, 1, 2), targets[rows], rows)
        finally:
            pool.shutdown(cancel_futures=True)

    def _begun(self, pool: ThreadPoolExecutor, rows: np.ndarray, draws: Draws) -> tuple[np.ndarray, list[Future[None]]]:
        """The images of a batch, uint8 `(B, S, S, 3)`, and the work that is filling them."""
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)

        def fill(places: slice) -> None:
            for row, out in zip(rows[places], images[places]):
                picture = self.pixels.picture(row)
                augmentation.move(picture, draws.maps[row], draws.colours[row], out, border=self.augment.border)

        slices = [slice(first, first + SLICE) for first in range(0, len(rows), SLICE)]
        return images, [pool.submit(fill, places) for places in slices]

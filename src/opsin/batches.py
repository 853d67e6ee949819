"""Seeded order and ready batches. A batch is a function of (seed, epoch, number), so a position is two numbers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import augmentation
from .cache import Pixels
from .recipe import AugmentChoice

SLICE = 512  # pictures augmented at a time


@dataclass(frozen=True)
class Batch:
    """uint8 images `(B, 3, S, S)`, int64 targets `(B,)`, and the rows of the Pixels that they came from."""

    images: Tensor
    targets: Tensor
    rows: np.ndarray


@dataclass(frozen=True)
class Batches:
    """The batches of all epochs of a training set.

    Attributes:
        pixels: the training cache, uint8 `(N, 3, T, T)`.
        batch: the most pictures a batch; an epoch is divided evenly, so no batch is a small rest.
        size: side S of the network's input.
        augment: flips resolved.
    """

    pixels: Pixels
    batch: int
    size: int
    augment: AugmentChoice
    seed: int

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.pixels) // self.batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; each is made while the one before it is used."""
        order = np.random.Generator(np.random.Philox(key=np.array([self.seed, epoch + 2**33], dtype=np.uint64)))
        parts = np.array_split(order.permutation(len(self.pixels)), len(self))[start:]
        draws = augmentation.sample(self.augment, self.seed, epoch, len(self.pixels), self.size)
        targets = self.pixels.targets()

        def make(rows: np.ndarray) -> Batch:
            # In slices: full-batch gradient descent takes the whole set at once, and floats need four times its memory.
            moved = [
                augmentation.apply(self.pixels.take(some), draws.of(some), size=self.size, border=self.augment.border)
                for some in np.split(rows, range(SLICE, len(rows), SLICE))
            ]
            return Batch(torch.cat(moved), targets[rows], rows)

        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(make, rows) for rows in parts[:1]]
            for number in range(len(parts)):
                ready = ahead.pop().result()
                ahead.extend(pool.submit(make, rows) for rows in parts[number + 1 : number + 2])
                yield ready

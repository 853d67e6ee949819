"""Seeded order and ready batches. A batch is a function of (seed, epoch, number), so a position is two numbers.

Threads make the next batches while one is used: each takes some rows, which the cache holds or which are decoded now,
augments them, and writes them into their places of the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice

import cv2
import numpy as np
import torch
from torch import Tensor

from . import augmentation
from .augmentation import Draws
from .cache import Pixels
from .preprocessing import THREADS
from .recipe import AugmentChoice

SLICE = 16  # pictures that a thread makes at a time
AHEAD = 2  # batches in the making: with one, threads would wait for the last slice of it


@dataclass(frozen=True)
class Batch:
    """One step's pictures.

    Attributes:
        images: uint8 `(B, 3, S, S)`, channels last in memory.
        targets: int64 `(B,)`.
        rows: of the Pixels.
        others: int64 `(B,)`: the targets of what was mixed into each picture.
        shares: float32 `(B,)`: how much of each is its own target's; 1 where nothing was mixed into it.
    """

    images: Tensor
    targets: Tensor
    rows: np.ndarray
    others: Tensor
    shares: Tensor

    def parts(self, most: int) -> Iterator[tuple[Tensor, ...]]:
        """Images, targets, others and shares of at most so many pictures at a time, evenly divided."""
        count = -(-len(self.images) // most)
        return zip(*(torch.tensor_split(t, count) for t in (self.images, self.targets, self.others, self.shares)))

    def only(self, places: np.ndarray) -> Batch:
        """The pictures at these places of the batch, int `(b,)`."""
        return Batch(**{each.name: getattr(self, each.name)[places] for each in fields(self)})


@dataclass(frozen=True)
class Batches:
    """The batches of all epochs of a training set.

    Attributes:
        pixels: the training pictures, uint8 `(N, 3, T, T)`, kept or decoded when they are asked for.
        batch: the most pictures a batch; an epoch is divided evenly, so no batch is a small rest.
        size: side S of the network's input.
        augment: flips resolved.
        threads: that make batches. The batches do not depend on it.
        balanced: every class as often, its records repeated or left out in turn; an epoch still has N pictures.
        sides: of the pictures in the first epochs, where they grow; made at `size` and then made smaller.
    """

    pixels: Pixels
    batch: int
    size: int
    augment: AugmentChoice
    seed: int
    threads: int = THREADS
    balanced: bool = False
    sides: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.pixels) // self.batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; the next ones are made while one is used."""
        order = np.random.Generator(np.random.Philox(key=np.array([self.seed, epoch + 2**33], dtype=np.uint64)))
        parts = np.array_split(order.permutation(len(self.pixels)), len(self))[start:]
        entries, n = self._entries(epoch), len(self.pixels)
        side = self.sides[epoch] if epoch < len(self.sides) else self.size
        draws = augmentation.sample(self.augment, self.seed, epoch, n, self.size)
        mixes = augmentation.sample_mixes(self.augment, self.seed, epoch, n, side)
        targets = self.pixels.targets()[entries]
        pool = ThreadPoolExecutor(self.threads)
        begun = (self._begun(pool, places, entries, draws, side) for places in parts)
        making = deque(islice(begun, AHEAD))
        try:
            for places in parts:
                images, slices = making.popleft()
                for part in slices:
                    part.result()
                making.extend(islice(begun, 1))
                own, others, shares = targets[places], targets[places], np.ones(len(places), np.float32)
                if mixes is not None:
                    others, shares = own.roll(-1), augmentation.mix(images, mixes[places])
                made = torch.from_numpy(images).permute(0, 3, 1, 2)
                yield Batch(made, own, entries[places], others, torch.from_numpy(shares))
        finally:
            pool.shutdown(cancel_futures=True)

    def _entries(self, epoch: int) -> np.ndarray:
        """int `(N,)`: the row of each draw of an epoch. Each row once; or, balanced, each class N / K times.

        Of a class no row comes twice more than another; who comes once more is drawn, and so is which class does.
        """
        if not self.balanced:
            return np.arange(len(self.pixels))
        rng = augmentation.generator(self.seed, epoch, 33)
        targets = self.pixels.targets().numpy()
        classes = rng.permutation(np.unique(targets))
        entries = []
        for places, target in zip(np.array_split(np.arange(len(targets)), len(classes)), classes):
            rows = rng.permutation(np.flatnonzero(targets == target))
            entries.append(np.resize(rows, len(places)))
        return np.concatenate(entries)

    def _begun(
        self, pool: ThreadPoolExecutor, places: np.ndarray, entries: np.ndarray, draws: Draws, side: int
    ) -> tuple[np.ndarray, list[Future[None]]]:
        """The images of a batch, uint8 `(B, side, side, 3)`, and the work that is filling them."""
        images = np.empty((len(places), side, side, 3), np.uint8)

        def fill(part: slice) -> None:
            for place, out in zip(places[part], images[part]):
                picture = self.pixels.picture(entries[place])
                made = out if side == self.size else np.empty((self.size, self.size, 3), np.uint8)
                augmentation.make(picture, draws, place, made, border=self.augment.border)
                if made is not out:
                    cv2.resize(made, (side, side), dst=out, interpolation=cv2.INTER_AREA)

        slices = [slice(first, first + SLICE) for first in range(0, len(places), SLICE)]
        return images, [pool.submit(fill, part) for part in slices]


def growing(first: int, size: int, epochs: int) -> tuple[int, ...]:
    """The sides of the first half of the epochs: from `first` to `size` in equal steps, all but `size` multiples of 8.

    The second half has `size`, so that the network ends on what it will see (Howard 2018; Tan & Le 2021, arXiv
    2104.00298).

    >>> growing(16, 32, 8)
    (16, 24, 24, 32)
    """
    half = epochs // 2
    steps = [first + (size - first) * epoch / max(1, half - 1) for epoch in range(half)]
    return tuple(size if step == size else min(size, max(8, 8 * round(step / 8))) for step in steps)

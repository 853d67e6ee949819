"""Data, networks and recipes so small that a whole run takes a second: what tests of training and after share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

import opsin
from opsin import losses, runs
from opsin.batches import Batches
from opsin.cache import Pixels
from opsin.plans import Plan
from opsin.preprocessing import Preprocessing
from opsin.recipe import Recipe, preset
from opsin.runs import Execution
from opsin.sources import arrays
from opsin.training import Job
from opsin.vocabulary import Dataset

HOW = Execution("cpu", "fp32", threads=1)
ROAD = Preprocessing(8)


class Net(nn.Module):
    """A user's own network with all that has a state of its own: batch norm, dropout."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8 * 9, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(images)).relu().flatten(1)))


class Linear(nn.Module):
    """The pixels, weighed."""

    def __init__(self, classes: int = 3, side: int = 8) -> None:
        super().__init__()
        self.head = nn.Linear(3 * side * side, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def seeded(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind()


def digits(each: int = 20, names: Sequence[str] = ("zero", "one", "two")) -> Dataset:
    """So many of scikit-learn's handwritten digits of each class, gray, 8 × 8."""
    found = load_digits()
    rows = np.concatenate([np.flatnonzero(found.target == k)[:each] for k in range(len(names))])
    images = (found.images[rows] * 15.9375).astype(np.uint8)
    return arrays.dataset("digits", {None: (images, found.target[rows])}, tuple(names))


def recipe(**changes: object) -> Recipe:
    """The textbook recipe at 8 px, in batches of 16: three steps an epoch on `digits()`."""
    return preset("textbook").set(**{"size": 8, "epochs": 2, "batch": 16, "lr": 0.01, **changes})


def job(choices: Recipe, n: int = 12, *, plan: Plan = Plan(), val: int = 0, seed: int = 0) -> Job:  # noqa: B008
    """The Job of `n` pictures of noise in three classes, not flipped nor turned, the first `val` also validating."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    data = arrays.dataset("noise", {"train": (images, np.arange(n) % 3)}, ("a", "b", "c"))
    order = [data.store.read(record.key).transpose(2, 0, 1) for record in data.records]
    pixels = Pixels(data, np.stack(order))
    quiet = choices.set(hflip="no", vflip="no", rotate=0)
    batch = n if quiet.optim.optimiser == "gd" else quiet.learn.batch * quiet.learn.accumulate
    chosen = {record.key for record in data.records[:val]}
    return Job(
        Batches(pixels, batch, 8, quiet.augment, quiet.seed),
        pixels.part(lambda record: record.key in chosen) if val else None,
        3,
        losses.class_weights(list(data.counts().values()), "none"),
        ROAD,
        quiet,
        plan,
    )


def write_pngs(folder: Path, counts: dict[str, int], side: int = 8, seed: int = 0) -> Path:
    """A folder of class folders: noise, brighter from class to class."""
    rng = np.random.default_rng(seed)
    for shade, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            low = shade * 200 // max(1, len(counts) - 1)
            picture = rng.integers(low, low + 56, (side, side, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / name / f"{number:02d}.png")
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Every file below `folder`: its path and SHA-256."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def net(data: Dataset) -> Net:
    torch.manual_seed(0)
    return Net(len(data.classes))


def train(data: Dataset, folder: Path, *, resume: bool = False, **changes: object) -> runs.Run:
    where = {"resume": folder} if resume else {"out": folder}
    return opsin.train(data, recipe(**changes), network=net(data), how=HOW, **where)

"""What a run would do, without the run: the pictures that its network would be shown, and the rates it would bear."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import torch

from .. import augmentation, preprocessing, training
from ..cache import Pixels, Undecoded
from ..duplicates import Pair
from ..recipe import Recipe
from ..vocabulary import Dataset, Event
from . import origins, scoring, stages

TRIALS = 100  # steps of a range test


def augmented(
    data: Dataset, recipe: Recipe, *, split: str | Path = "", pairs: Sequence[Pair] | None = None, epoch: int = 0
) -> np.ndarray:
    """A contact sheet, uint8 `(H, W, 3)`, of an epoch's first batch as training by `recipe` makes it, with labels.

    It is the run's own as long as no training picture is refused. Where neither a split nor pairs are given all
    pictures are looked at for near-duplicates; decoded whole are only its own, and those of the next batches.

    Args:
        data: split, or it is split as a run would.
        split: the split.csv of another run.
        pairs: what `scoring.alike` found, as for a run.

    Raises:
        PictureError: when one of them cannot be read.
    """
    data = scoring.divided(data, recipe.seed, split=split, pairs=pairs)
    recipe, road, _ = stages._resolved(origins.suited(recipe, None), data)
    road = preprocessing.enlarged(road, augmentation.margin(recipe.augment))
    job = stages._job(recipe, Pixels(data, Undecoded(data, road)), None, road)
    return training.contact_sheet(next(job.batches.epoch(epoch)), data.classes)


def find_rate(
    data: Dataset,
    recipe: Recipe,
    *,
    split: str | Path = "",
    pairs: Sequence[Pair] | None = None,
    how: stages.Execution = stages.MEASURED,
) -> Generator[Event, None, list[training.Trial]]:
    """A learning-rate range test on the run's first weights and batches: (rate, loss) for each of some steps.

    Rates rise a little from step to step, until the loss explodes. Yields what a run would; nothing of it is kept.

    Args:
        data, split, pairs: as for `augmented`.
        how: what to force of the plan.
    """
    data = scoring.divided(data, recipe.seed, split=split, pairs=pairs)
    recipe, road, _ = stages._resolved(origins.suited(recipe, None), data)
    data, pixels, enlarged = yield from stages._decode(data, recipe, road)
    torch.manual_seed(recipe.seed)
    _, network, _ = stages._network(recipe, len(data.classes), None)
    with tempfile.TemporaryDirectory() as folder:
        job = yield from stages._planned(Path(folder), network, stages._job(recipe, pixels, enlarged, road), how)
        train = pixels.part(stages._in("train"))
        yield from stages._first_weights(network, train, job, Path(folder), how)
    return (yield from scoring.told(_counted(network, job), "rates", TRIALS))


def _counted(network: torch.nn.Module, job: training.Job) -> Generator[int, None, list[training.Trial]]:
    found = []
    for trial in training.try_rates(network, job, steps=TRIALS):
        found.append(trial)
        yield len(found)
    return found

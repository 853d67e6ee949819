"""Sets that come as arrays → Dataset: keys such as `train/cat/00017`, and CRCs over the pixels."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..vocabulary import Dataset, Record, Split
from .layout import fingerprint
from .stores import ArrayStore

if TYPE_CHECKING:
    import numpy as np

Part = tuple["np.ndarray", "np.ndarray"]  # pictures uint8 (N, H, W) or (N, H, W, 3); labels, integers (N,)


def dataset(name: str, parts: Mapping[Split | None, Part], classes: tuple[str, ...]) -> Dataset:
    """A Dataset of arrays; a picture's number in its key is its place in its part."""
    pictures: dict[str, np.ndarray] = {}
    records: list[Record] = []
    for split, (images, labels) in parts.items():
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            key = f"{split + '/' if split else ''}{classes[label]}/{number:05d}"
            pictures[key] = image
            records.append(Record(key, label, split, None, image.nbytes, zlib.crc32(image.tobytes())))
    ordered = tuple(sorted(records, key=lambda record: record.key))
    return Dataset(name, ordered, classes, ArrayStore(pictures), fingerprint(ordered, classes))

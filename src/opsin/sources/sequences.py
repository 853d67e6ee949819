"""A torchvision data set, or anything like it → Dataset: `len`, `[i]` giving a picture and its class, `classes`."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .. import codecs
from ..errors import CallError, DataError, PictureError, first_line
from ..vocabulary import Dataset, Record, Refusal, Split
from .layout import SPLIT_NAMES, fingerprint

if TYPE_CHECKING:
    import numpy as np


class Items(Protocol):
    """What is taken: a Pillow image, or uint8 `(H, W)` or `(H, W, 3)`, with the index of its class."""

    classes: Sequence[str]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


class ItemStore:
    """The pictures of such sets, read when they are asked for."""

    def __init__(self, places: Mapping[str, tuple[Items, int]]) -> None:
        self.places = places
        self._lock = threading.Lock()  # nobody says that a set may be read by two threads at a time

    def read(self, key: str) -> np.ndarray:
        """The picture `key`, uint8 `(H, W, 3)`.

        Raises:
            PictureError: `unreadable` where the set raises, and what `codecs.picture` does.
        """
        items, index = self.places[key]
        with self._lock:
            return _item(items, index)[0]


def is_like(source: object) -> bool:
    """Whether `source` can be read by `read`."""
    sets = source.values() if isinstance(source, Mapping) else (source,)
    return all(hasattr(each, "__getitem__") and hasattr(each, "__len__") and hasattr(each, "classes") for each in sets)


def read(source: Items | Mapping[str, Items]) -> Dataset:
    """The Dataset of one set, or of those of its splits: `{"train": …, "test": …}`.

    Every picture is read once, for its digest: the fingerprint of a set that changes from call to call is no use, so
    transforms that draw random numbers, and those that give tensors, do not belong into it.

    Raises:
        CallError: a split of another name, an item that is no picture with the index of a class.
        DataError: other classes in other splits, or no picture at all.
    """
    sets = source if isinstance(source, Mapping) else {"": source}
    if strange := sorted(name for name in sets if name and name not in SPLIT_NAMES):
        raise CallError("splits", expected=", ".join(SPLIT_NAMES), received=", ".join(strange))
    classes = tuple(map(str, next(iter(sets.values())).classes))
    if any(tuple(map(str, items.classes)) != classes for items in sets.values()):
        raise DataError("the splits have other classes", expected=", ".join(classes[:20]))
    places: dict[str, tuple[Items, int]] = {}
    records, refused = [], []
    for name, items in sets.items():
        for index in range(len(items)):
            try:
                picture, target = _item(items, index)
            except PictureError as error:
                refused.append(Refusal(f"{name}/{index:06d}".lstrip("/"), error.code, str(error)))
                continue
            record = _record(picture, target, index, classes, SPLIT_NAMES.get(name))
            places[record.key] = items, index
            records.append(record)
    if not records:
        why = f": {refused[0].reason}" if refused else ""
        raise DataError("no pictures in the data set", received=f"{len(refused):,} that cannot be read{why}")
    ordered = tuple(sorted(records, key=lambda record: record.key))
    called = type(next(iter(sets.values()))).__name__.lower()
    return Dataset(called, ordered, classes, ItemStore(places), fingerprint(ordered, classes), tuple(refused))


def _record(picture: np.ndarray, target: int, index: int, classes: tuple[str, ...], split: Split | None) -> Record:
    if not 0 <= target < len(classes):
        raise CallError("a class", expected=f"an index into {len(classes)} classes", received=target)
    key = f"{split + '/' if split else ''}{classes[target]}/{index:06d}"
    return Record(key, target, split, None, picture.nbytes, zlib.crc32(picture.tobytes()))


def _item(items: Items, index: int) -> tuple[np.ndarray, int]:
    try:
        item = items[index]
    except Exception as error:  # whatever its owner's code raises, of this one picture
        what = f"{type(error).__name__}: {first_line(error)}"
        raise PictureError("unreadable", f"item {index} cannot be read: {what}") from error
    try:
        image, target = item
        target = int(target)
    except (TypeError, ValueError) as error:
        expected, received = "(picture, index of its class)", type(item).__name__
        raise CallError("a data set's item", expected=expected, received=received, do=first_line(error)) from error
    return codecs.picture(image), target

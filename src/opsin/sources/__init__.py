"""Something with pictures in it → Dataset: a folder, a zip that is never unpacked, CIFAR-10's batches, a named set.

    read ─> listing: what lies there ─> layout: classes, splits, groups ─> Dataset, with a store that reads the bytes

Nothing is guessed at: what lies in a source and is not used stands in `Dataset.refused` with its reason.
"""

from __future__ import annotations

import dataclasses
import re
import zipfile
from pathlib import Path

from ..errors import CallError, DataError, unknown
from ..vocabulary import Dataset
from . import cifar, layout
from .downloads import cache_dir
from .layout import fingerprint
from .listing import list_folder, list_zip
from .loose import holds_many, pictures
from .named import NAMED
from .stores import ArrayStore, FolderStore, ZipStore

__all__ = [
    "NAMED",
    "ArrayStore",
    "FolderStore",
    "ZipStore",
    "cache_dir",
    "fingerprint",
    "holds_many",
    "pictures",
    "read",
]

READABLE = f"a folder of class folders, a zip of one, CIFAR-10's batches, or one of {', '.join(NAMED)}"


def read(source: str | Path, *, group: str = "") -> Dataset:
    """The Dataset that `source` holds. Records are sorted by key; classes are numbered by name.

    Args:
        source: a folder, a .zip, a folder or .tar.gz of CIFAR-10's batches, or a name of `NAMED`. A path that exists
            goes before a name.
        group: a regular expression on a record's key; its first group, or all of the match, is the record's group.

    Raises:
        CallError: the path does not exist, the name is unknown, or `group` is not a regular expression.
        DataError: no pictures, one class, a class that training lacks, a broken archive, a record without a group.
        MachineError: a named set had to be downloaded and could not be.
    """
    pattern = layout.pattern_of(group)
    path = Path(source)
    if path.exists():
        data = _read_path(path)
        if str(source) in NAMED:
            note = f"{source} is read from the path of that name, not as the named set"
            data = dataclasses.replace(data, notes=(*data.notes, note))
    elif str(source) in NAMED:
        data = NAMED[str(source)]()
    else:
        raise _missing(source)
    return _with_groups(data, pattern) if pattern else data


def _missing(source: str | Path) -> CallError:
    text = str(source)
    if isinstance(source, Path) or "/" in text or "\\" in text or Path(text).suffix:
        return CallError(f"{text} does not exist", expected=READABLE, do="Look at the path's spelling")
    return unknown("folder, zip or data set", text, NAMED)


def _read_path(path: Path) -> Dataset:
    if path.is_dir():
        return cifar.read_folder(path) if cifar.is_folder(path) else _read_folder(path)
    if zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
        return _read_zip(path)
    if cifar.is_archive(path):
        return cifar.read_archive(path)
    raise DataError(f"{path} is no source of pictures", expected=READABLE, received=f"a {path.suffix or 'plain'} file")


def _read_folder(path: Path) -> Dataset:
    found = layout.arrange(list_folder(path))
    return _dataset(path.resolve().name, found, FolderStore(path.resolve() / found.prefix))


def _read_zip(path: Path) -> Dataset:
    store = ZipStore(path)
    try:
        found = layout.arrange(list_zip(store))
    except BaseException:
        store.close()  # Windows would not let its owner delete or mend it
        raise
    store.prefix = found.prefix
    return _dataset(path.stem, found, store)


def _dataset(name: str, found: layout.Arranged, store: FolderStore | ZipStore) -> Dataset:
    digest = fingerprint(found.records, found.classes)
    return Dataset(name, found.records, found.classes, store, digest, found.refused, tuple(found.notes))


def _with_groups(data: Dataset, pattern: re.Pattern[str]) -> Dataset:
    groups = layout.grouped(data.records, pattern)
    records = tuple(dataclasses.replace(record, group=groups[record.key]) for record in data.records)
    notes = (*data.notes, f"{len(set(groups.values())):,} groups")
    return dataclasses.replace(data, records=records, notes=notes, fingerprint=fingerprint(records, data.classes))

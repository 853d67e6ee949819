"""Something with pictures in it → Dataset: a folder, an archive, a table of paths, CIFAR-10's batches, a named set.

    read ─> listing, archives: what lies there ─> layout: classes, splits, groups ─> Dataset, with a store for the bytes
         ─> manifests: a table's columns ──────────────────────────────────────────┘

Nothing is guessed at: what lies in a source and is not used stands in `Dataset.refused` with its reason.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

from .. import dicom
from ..errors import CallError, DataError, PictureError, unknown
from ..vocabulary import Dataset, Store
from . import beside, cifar, layout, manifests, sequences, targets
from .archives import opened
from .downloads import cache_dir
from .layout import fingerprint
from .listing import Listing, list_folder
from .loose import Gathered, gather, holds_many, pictures
from .named import NAMED
from .sequences import Items
from .stores import ArrayStore, FolderStore, ZipStore
from .tars import TarStore

__all__ = [
    "NAMED",
    "ArrayStore",
    "FolderStore",
    "Gathered",
    "TarStore",
    "ZipStore",
    "cache_dir",
    "fingerprint",
    "gather",
    "given",
    "holds_many",
    "is_table",
    "pictures",
    "read",
]

READABLE = (
    "a folder of class folders, a zip or tar of one, a CSV, text or Parquet file with a column of paths, "
    f"CIFAR-10's batches, or one of {', '.join(NAMED)}"
)


Source = str | os.PathLike[str] | Items | Mapping[str, Items]


def given(data: Dataset | Source) -> Dataset:
    """What a caller gave for data: a Dataset as it is, all else `read`. Raises what `read` does."""
    return data if isinstance(data, Dataset) else read(data)


def read(
    source: Source,
    *,
    group: str = "",
    picture: str = "",
    target: str = "",
    task: str = "",
) -> Dataset:
    """The Dataset that `source` holds. Records are sorted by key; classes are numbered by name.

    Args:
        source: a folder, a .zip, .tar or .tar.gz, a .csv, .tsv, .txt or .parquet, a folder or .tar.gz of CIFAR-10's
            batches, or a name of `NAMED`. A path that exists goes before a name. Or a torchvision data set, or whatever
            has `classes` and gives (picture, index of its class) for each index; or several by their splits' names.
        group: a regular expression on a record's key; its first group, or all of the match, is the record's group.
            For a table also the name of a column. `PatientID`: of DICOM files, the patient, by a name of our own.
        picture, target: a table's columns of paths and of classes, where their names do not tell; several targets
            have commas between them.
        task: `single-label`, `multi-label` or `regression`, where a table's columns do not tell; `multi-label` also of
            class folders: a picture that lies in several of them is one record with all their labels.

    Raises:
        CallError: the path does not exist, the name is unknown, `group` is not a regular expression, or a column or
            a task is named that is not there.
        DataError: no pictures, one class, a class that training lacks, a broken archive, a record without a group.
        MachineError: a named set had to be downloaded and could not be.
        MissingExtra: pyarrow, for Parquet.
    """
    if not isinstance(source, str | os.PathLike):
        if not sequences.is_like(source):
            expected = f"{READABLE}; or a data set with classes and items (picture, index of its class)"
            raise CallError("what to read", expected=expected, received=type(source).__name__)
        data = sequences.read(source)
        return _with_groups(data, pattern) if (pattern := layout.pattern_of(group)) else data
    path = Path(source)
    source = source if isinstance(source, str) else path
    if is_table(path):
        columns = manifests.Columns(picture, target, group, task)
        return manifests.read(path, columns)
    if picture or target or task not in ("", "single-label", "multi-label"):
        raise CallError("columns", expected="a .csv, .tsv, .txt or .parquet file", received=str(source))
    pattern = layout.pattern_of(group)
    if os.path.exists(path):  # Path's raises for names that no system can have
        data = _read_path(path)
        if str(source) in NAMED:
            note = f"{source} is read from the path of that name, not as the named set"
            data = dataclasses.replace(data, notes=(*data.notes, note))
    elif str(source) in NAMED:
        data = NAMED[str(source)]()
    else:
        raise _missing(source)
    data = targets.of_folders(data) if task == "multi-label" else data
    return _with_groups(data, pattern) if pattern else data


def is_table(source: str | Path) -> bool:
    """Whether there is a table of paths at `source`, or a list: by its name."""
    return manifests.is_manifest(Path(source)) and os.path.isfile(source)


def _missing(source: str | Path) -> CallError:
    text = str(source)
    if isinstance(source, Path) or "/" in text or "\\" in text or Path(text).suffix:
        return CallError(f"{text} does not exist", expected=READABLE, do="Look at the path's spelling")
    return unknown("folder, archive or data set", text, NAMED)


def _read_path(path: Path) -> Dataset:
    if path.is_dir():
        return cifar.read_folder(path) if cifar.is_folder(path) else _read_folder(path)
    if holds_many(path) or path.suffix.lower() == ".zip":
        return _read_archive(path)
    raise DataError(f"{path} is no source of pictures", expected=READABLE, received=f"a {path.suffix or 'plain'} file")


def _read_folder(path: Path) -> Dataset:
    found = _arranged(list_folder(path))
    return _dataset(path.resolve().name, found, FolderStore(path.resolve() / found.prefix))


def _read_archive(path: Path) -> Dataset:
    store, listing = opened(path)
    if isinstance(store, TarStore) and cifar.is_among(member.key for member in store.members):
        store.close()
        return cifar.read_archive(path)
    try:
        found = _arranged(listing)
    except BaseException:
        store.close()  # Windows would not let its owner delete or mend it
        raise
    store.prefix = found.prefix
    return _dataset(re.sub(r"\.(zip|tar|tar\.gz|tgz)$", "", path.name, flags=re.IGNORECASE), found, store)


def _arranged(listing: Listing) -> layout.Arranged:
    notes = beside.set_aside(listing)
    found = layout.arrange(listing)
    return dataclasses.replace(found, notes=[*notes, *found.notes])


def _dataset(name: str, found: layout.Arranged, store: Store) -> Dataset:
    digest = fingerprint(found.records, found.classes)
    if any(record.key.lower().endswith((".dcm", ".dicom")) for record in found.records):
        found.notes.append(f"DICOM: --group {dicom.PATIENT} keeps the pictures of each patient in one split")
    return Dataset(name, found.records, found.classes, store, digest, found.refused, tuple(found.notes))


def _with_groups(data: Dataset, pattern: re.Pattern[str]) -> Dataset:
    groups = _patients(data) if pattern.pattern == dicom.PATIENT else layout.grouped(data.records, pattern)
    records = tuple(dataclasses.replace(record, group=groups[record.key]) for record in data.records)
    notes = (*data.notes, f"{len(set(groups.values())):,} groups")
    return dataclasses.replace(data, records=records, notes=notes, fingerprint=fingerprint(records, data.classes))


def _patients(data: Dataset) -> dict[str, str]:
    """Key → patient.

    Raises:
        DataError: for a file that names none; it could be of any patient.
    """
    groups = {}
    for record in data.records:
        try:
            content = data.store.read(record.key)
            groups[record.key] = dicom.patient(content if isinstance(content, bytes) else b"")
        except PictureError as error:
            raise DataError(
                f"no patient of {record.key!r} is known: {error}", do="Leave it out, or group by a pattern"
            ) from error
    return groups

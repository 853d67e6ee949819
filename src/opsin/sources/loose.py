"""Pictures without classes: what `predict` is given."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..errors import CallError
from ..vocabulary import Refusal, Store
from .listing import list_folder, list_zip
from .stores import FolderStore, ZipStore


def holds_many(source: str | Path) -> bool:
    """Whether `source` is a folder or a zip, rather than one file."""
    return Path(source).is_dir() or zipfile.is_zipfile(source)


def pictures(source: str | Path) -> tuple[Store, list[str], list[Refusal]]:
    """Every picture in a folder or zip, or the one file: where to read, the keys in order, and what is none.

    A file that is named is taken at its word and tried, whatever its ending.

    Raises:
        CallError: when there is nothing at `source`.
        DataError: when a folder or zip cannot be read.
    """
    path = Path(source)
    if not path.exists():
        raise CallError(f"{path} does not exist", expected="a picture, a folder or a zip", do="Look at its spelling")
    if not holds_many(path):
        return FolderStore(path.parent), [path.name], []
    store: FolderStore | ZipStore = FolderStore(path) if path.is_dir() else ZipStore(path)
    listing = list_folder(path) if isinstance(store, FolderStore) else list_zip(store)
    return store, sorted(entry.key for entry in listing.entries), sorted(listing.refused, key=lambda r: r.key)

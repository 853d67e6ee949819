"""Pictures without classes: what `predict` is given."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import CallError, DataError, PictureError
from ..vocabulary import Refusal, Store
from . import manifests
from .archives import opened
from .listing import list_folder
from .stores import FolderStore
from .tars import is_tar


def holds_many(source: str | Path) -> bool:
    """Whether `source` is a folder or an archive, rather than one file."""
    return os.path.isdir(source) or is_tar(Path(source)) or zipfile.is_zipfile(source)


def pictures(source: str | Path) -> tuple[Store, list[str], list[Refusal]]:
    """Every picture in a folder, zip or tar, or the one file: where to read, the keys in order, and what is none.

    A file that is named is taken at its word and tried, whatever its ending.

    Raises:
        CallError: when there is nothing at `source`.
        DataError: when a folder or archive cannot be read.
    """
    path = Path(source)
    if not os.path.exists(path):
        raise CallError(
            f"{path} does not exist", expected="a picture, a folder, a zip or a tar", do="Look at its spelling"
        )
    if not holds_many(path):
        return FolderStore(path.parent), [path.name], []
    store: Store
    if path.is_dir():
        store, listing = FolderStore(path), list_folder(path, checksums=False)
    else:
        store, listing = opened(path)
    return store, sorted(entry.key for entry in listing.entries), sorted(listing.refused, key=lambda r: r.key)


class Gathered:
    """Several sources as one store: a name for everything in them, once, in their order.

    What a source holds and is no picture has its place too, and is refused with its reason when it is read.
    """

    def __init__(self) -> None:
        self.places: dict[str, tuple[Store, str] | Refusal] = {}

    def read(self, name: str) -> bytes | np.ndarray:
        """What `name` stands for.

        Raises:
            PictureError: when it cannot be read.
        """
        place = self.places[name]
        if isinstance(place, Refusal):
            raise PictureError(place.code, place.reason)
        store, key = place
        return store.read(key)


def gather(paths: Iterable[Path], *, whole: bool = True) -> Gathered:
    """Every picture of files, folders, zips, tars, and tables (CSV, TSV, TXT, Parquet) with a column of paths.

    Args:
        paths: one that is not there, or cannot be looked into, is refused in its own place.
        whole: names begin with the path, since two folders may hold the same ones; without that there is one path.

    Raises:
        CallError: several paths whose names are not whole.
    """
    found, paths = Gathered(), [*paths]
    if not whole and len(paths) > 1:
        raise CallError("names that are not whole", expected="one path", received=f"{len(paths):,}")
    for path in paths:
        try:
            store, keys, refused = _listed(path)
        except (CallError, DataError) as error:
            name = str(path) if whole else path.name
            found.places[name] = Refusal(name, "unreadable", str(error))
            continue
        many = holds_many(path) or manifests.is_manifest(path)
        base = path.parent if manifests.is_manifest(path) else path
        names = {
            key: (str(base / key if many else path) if whole else key) for key in (*keys, *(r.key for r in refused))
        }
        found.places |= {names[key]: (store, key) for key in keys}
        for r in refused:  # an archive may hold one name twice: the entry that counts is answered
            found.places.setdefault(names[r.key], Refusal(names[r.key], r.code, r.reason))
    return found


def _listed(path: Path) -> tuple[Store, list[str], list[Refusal]]:
    if manifests.is_manifest(path) and os.path.isfile(path):
        root, keys, refused = manifests.paths(path)
        return FolderStore(root), keys, refused
    return pictures(path)

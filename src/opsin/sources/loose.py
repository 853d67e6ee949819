"""Pictures without classes: what `predict` is given."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..errors import CallError
from ..vocabulary import Refusal, Store
from .archives import list_tar, list_zip
from .listing import Listing, list_folder
from .stores import FolderStore, ZipStore
from .tars import TarStore, is_tar


def holds_many(source: str | Path) -> bool:
    """Whether `source` is a folder or an archive, rather than one file."""
    return Path(source).is_dir() or is_tar(Path(source)) or zipfile.is_zipfile(source)


def pictures(source: str | Path) -> tuple[Store, list[str], list[Refusal]]:
    """Every picture in a folder, zip or tar, or the one file: where to read, the keys in order, and what is none.

    A file that is named is taken at its word and tried, whatever its ending.

    Raises:
        CallError: when there is nothing at `source`.
        DataError: when a folder or archive cannot be read.
    """
    path = Path(source)
    if not path.exists():
        raise CallError(
            f"{path} does not exist", expected="a picture, a folder, a zip or a tar", do="Look at its spelling"
        )
    if not holds_many(path):
        return FolderStore(path.parent), [path.name], []
    store, listing = _looked_into(path)
    return store, sorted(entry.key for entry in listing.entries), sorted(listing.refused, key=lambda r: r.key)


def _looked_into(path: Path) -> tuple[Store, Listing]:
    if path.is_dir():
        return FolderStore(path), list_folder(path)
    if is_tar(path):
        tar = TarStore(path)
        return tar, list_tar(tar)
    packed = ZipStore(path)
    return packed, list_zip(packed)

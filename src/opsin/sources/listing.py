"""What lies in a folder: candidates with size and CRC-32, folders, and everything refused with its reason."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..codecs import foreign, sniff
from ..errors import DataError
from ..vocabulary import Refusal
from .stores import LARGEST

ENDINGS = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif",
                      ".dcm", ".dicom"])  # fmt: skip
# What systems leave in folders; names with a leading dot are hidden as well. @eaDir holds thumbnails: near-duplicates.
HIDDEN = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"})
HEAD = 256  # bytes that tell a picture: what codecs.sniff looks at
PIECE = 1 << 20
TOO_MANY_BYTES = f"over {LARGEST >> 20} MiB"
PHOTOGRAPHS = ("HEIF", "JPEG XL", "JPEG 2000")  # of the kinds that are not read those that nobody wants to miss
NOT_A_PICTURE = "neither its ending nor its first bytes are a picture's"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that is a picture by its ending or its first bytes."""

    key: str
    size: int
    crc: int


@dataclass
class Listing:
    """What lies in a source; keys are relative to it."""

    entries: list[Entry] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)  # every folder, without a trailing "/"
    refused: list[Refusal] = field(default_factory=list)

    def refuse(self, key: str, code: str, reason: str) -> None:
        self.refused.append(Refusal(key, code, reason))


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is the system's or an editor's, not the user's."""
    return name.startswith(".") or name.lower() in HIDDEN


def picture_ending(key: str) -> bool:
    """Whether a file of this name is a picture by its ending."""
    return os.path.splitext(key)[1].lower() in ENDINGS


# ── a folder ──


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder to look into: its real path, its key with a trailing "/", the real folders above it."""

    path: str
    key: str = ""
    above: tuple[str, ...] = ()
    linked: bool = False  # reached through a link


@dataclass(frozen=True, slots=True)
class File:
    """A file to examine, and the key that it gets."""

    path: str
    key: str


def list_folder(root: Path, *, checksums: bool = True) -> Listing:
    """Look through the folder `root`, reading every picture's bytes once for its CRC, where that is asked for (else 0).

    A link is followed when it stays inside the root, closes no loop and is not itself behind a linked folder: links
    between folders could otherwise multiply without end.

    Raises:
        DataError: when `root` cannot be looked into.
    """
    found = Listing()
    top = os.path.realpath(root)
    places, files = [_Place(top)], []
    while places:
        place = places.pop()
        for entry in _scan(place, found):
            key = place.key + entry.name
            if hidden(entry.name):
                found.refuse(key, "hidden", "a hidden file or folder")
            elif _is_folder(entry):
                places.extend(_enter(entry, place, top, found))
            elif _is_usable(entry, key, top, found):
                files.append(File(entry.path, key))
    for result in in_threads(files, checksums=checksums):
        found.entries.append(result) if isinstance(result, Entry) else found.refused.append(result)
    return found


def _scan(place: _Place, found: Listing) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place.path) as entries:
            return list(entries)
    except OSError as error:
        if not place.key:
            raise DataError(f"{place.path} cannot be read: {error.strerror or error}") from error
        found.refuse(place.key, "unreadable", error.strerror or str(error))
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _enter(entry: os.DirEntry[str], place: _Place, top: str, found: Listing) -> Iterator[_Place]:
    key, real = place.key + entry.name, os.path.realpath(entry.path)
    # Compared by path, not asked with is_symlink: Windows has junctions too.
    is_link = os.path.normcase(real) != os.path.normcase(os.path.join(place.path, entry.name))
    loop = real in (*place.above, place.path)
    if is_link and (place.linked or loop or not inside(real, top)):
        found.refuse(key, "link", "a link out of the root, into a loop or behind another link")
        return
    found.folders.add(key)
    yield _Place(real, key + "/", (*place.above, place.path), place.linked or is_link)


def inside(real: str, top: str) -> bool:
    """Whether a real path lies in the real folder `top`, or is it."""
    try:
        return os.path.commonpath((real, top)) == top
    except ValueError:  # another drive
        return False


def _is_usable(entry: os.DirEntry[str], key: str, top: str, found: Listing) -> bool:
    if entry.is_symlink() and not _leads_inside(entry.path, top):
        found.refuse(key, "link", "a link out of the root or to nothing")
        return False
    if not entry.is_file():  # a pipe would make us wait for ever
        found.refuse(key, "not-a-picture", "not a regular file")
        return False
    return True


def _leads_inside(path: str, top: str) -> bool:
    real = os.path.realpath(path)
    return os.path.isfile(real) and inside(real, top)


def in_threads(files: list[File], batch: int = 64, *, checksums: bool = True) -> Iterable[Entry | Refusal]:
    """Every file looked at, a batch a task: a task for each of 60,000 small files costs more than reading them."""
    batches = [files[start : start + batch] for start in range(0, len(files), batch)]
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 2)) as pool:
        for results in pool.map(lambda some: [_examine(file, checksums) for file in some], batches):
            yield from results


def _examine(file: File, checksums: bool = True) -> Entry | Refusal:
    """The Entry of a file, or why it is none. The CRC is over its bytes as they are now."""
    try:
        with open(file.path, "rb", buffering=0) as opened:
            size = os.fstat(opened.fileno()).st_size
            head = opened.read(HEAD)
            refusal = unfit(file.key, size, lambda: head)
            return refusal or Entry(file.key, *(_checksum(opened, head) if checksums else (size, 0)))
    except OSError as error:
        return Refusal(file.key, "unreadable", error.strerror or str(error))


def _checksum(opened: io.FileIO, head: bytes) -> tuple[int, int]:
    size, crc = len(head), zlib.crc32(head)
    while piece := opened.read(PIECE):
        size, crc = size + len(piece), zlib.crc32(piece, crc)
    return size, crc


def unfit(key: str, size: int, head: Callable[[], bytes]) -> Refusal | None:
    """Why a file of this name, size and first bytes is not looked at any further; None where it is."""
    if size == 0:
        return Refusal(key, "empty", "a file of no bytes")
    if not picture_ending(key) and sniff(head()) is None:
        if (kind := foreign(head())) in PHOTOGRAPHS:
            return Refusal(key, "unsupported-format", f"{kind} is not read here: convert it, to JPEG for example")
        return Refusal(key, "not-a-picture", NOT_A_PICTURE)
    if size > LARGEST:
        return Refusal(key, "too-many-bytes", TOO_MANY_BYTES)
    return None

"""What lies in a zip or a tar. Nothing of an archive is ever unpacked into a folder.

Refused are: paths that leave the archive, links, devices, encrypted entries, entries that lie over one another or
unpack to far more than they are, and names that one another's files would overwrite where letters' case or Unicode's
form does not count.
"""

from __future__ import annotations

import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, PictureError
from ..vocabulary import Refusal
from .listing import HEAD, Entry, Listing, hidden, unfit
from .stores import UNIX, ZipStore, entry_name, escapes
from .tars import Member, TarStore, is_tar

MOST_ENTRIES = 5_000_000  # ImageNet has 1.4 million
MOST_RATIO = 300  # unpacked to packed; deflate reaches 1,032, and pictures about 1
LONGEST, DEEPEST = 4096, 32  # letters and folders of a path: far more than data sets have (a DICOM tree about 8)
MOST_LETTERS = 128 << 20  # of the names of all folders, which are kept; 200,000 folders named by DICOM's UIDs are 30
SMALL = 1 << 20  # bytes: what unpacks to less than this may have any ratio


@dataclass(frozen=True)
class _Item:
    """One entry of an archive, whichever its kind."""

    key: str
    folder: bool
    problem: Refusal | None
    examine: Callable[[], Entry | Refusal]


def opened(path: Path) -> tuple[ZipStore | TarStore, Listing]:
    """An archive, by its name a tar and else a zip, and what lies in it.

    Raises:
        DataError: it is broken, or has too many entries.
        MachineError: there is no space to unpack it.
    """
    store = TarStore(path) if is_tar(path) else ZipStore(path)
    try:
        return store, list_tar(store) if isinstance(store, TarStore) else list_zip(store)
    except BaseException:
        store.close()  # Windows would not let its owner delete or mend it
        raise


def list_zip(store: ZipStore) -> Listing:
    """Look through a zip's directory; only files of no known ending are opened, for their first bytes.

    Raises:
        DataError: for an archive of too many entries, or of folders that are too many and too deep.
    """
    infos = store.infos()
    refuse_many(len(infos), store.path)
    covered = _overlapping(infos)
    return _listing((_zip_item(store, info, covered) for info in infos), store.path)


def list_tar(store: TarStore) -> Listing:
    """Look through a tar, reading every picture's bytes once for its CRC.

    Raises:
        DataError: for an archive of too many entries, or of folders that are too many and too deep.
    """
    refuse_many(len(store.members), store.path)
    return _listing((_tar_item(store, member) for member in store.members), store.path)


def refuse_many(n: int, path: object) -> None:
    """Refuse more entries, or rows, than any data set has.

    Raises:
        DataError: it names the path.
    """
    if n > MOST_ENTRIES:
        raise DataError(f"{path} has too many entries", expected=f"at most {MOST_ENTRIES:,}", received=f"{n:,}")


def _listing(items: Iterable[_Item], path: object) -> Listing:
    found = Listing()
    letters = 0
    hidden_folders: set[str] = set()
    taken: dict[str, str] = {}
    for item in items:
        if len(item.key) > LONGEST or (item.key.count("/") > DEEPEST and not escapes(item.key)):
            found.refuse(item.key[:80] + " …", "too-long-path", f"over {LONGEST:,} letters or {DEEPEST} folders")
            continue
        place = _hidden_place(item.key)
        if escapes(item.key):
            found.refuse(item.key, "unsafe-path", "a path that leads out of the archive")
        elif place.endswith("/"):
            hidden_folders.add(place.rstrip("/"))
        elif place:
            found.refuse(item.key, "hidden", "a hidden file or folder")
        else:
            letters += _add_folders(item.key, found.folders)
            if letters > MOST_LETTERS:
                raise DataError(f"{path} has too many folders, or too deep ones",
                                expected=f"names of at most {MOST_LETTERS:,} letters together")  # fmt: skip
            _admit(item, taken, found)
    for key in hidden_folders:
        found.refuse(key, "hidden", "a hidden file or folder")
    return found


def _hidden_place(key: str) -> str:
    """The hidden folder that `key` lies in, with a trailing "/"; `key` itself where that is hidden; or nothing.

    >>> _hidden_place("a/.git/x/y"), _hidden_place("a/.x"), _hidden_place("a/b")
    ('a/.git/', 'a/.x', '')
    """
    parts = key.split("/")
    for depth, part in enumerate(parts, 1):
        if hidden(part):
            return "/".join(parts[:depth]) + ("/" if depth < len(parts) else "")
    return ""


def _add_folders(key: str, folders: set[str]) -> int:
    """Add all folders above a path; how many letters were added."""
    letters = 0
    while (key := key.rpartition("/")[0]) and key not in folders:
        folders.add(key)
        letters += len(key)
    return letters


def _admit(item: _Item, taken: dict[str, str], found: Listing) -> None:
    if item.folder or not item.key:
        return
    if item.problem:
        found.refused.append(item.problem)
        return
    first = taken.setdefault(_plain(item.key), item.key)
    if first != item.key:
        found.refuse(item.key, "name-collision", f"on systems that ignore case it would overwrite {first}")
        return
    result = item.examine()
    found.entries.append(result) if isinstance(result, Entry) else found.refused.append(result)


def _plain(key: str) -> str:
    """What two names have in common that Windows or macOS take for one."""
    return key.casefold() if key.isascii() else unicodedata.normalize("NFC", key).casefold()


# ── zip ──


def _overlapping(infos: list[zipfile.ZipInfo]) -> set[int]:
    """The ids of entries whose bytes another one uses too: one kernel of data can pose as a million files.

    (Fifield, "A better zip bomb", 2019.) The local header is 30 bytes and the name, at the least.
    """
    ordered = sorted(infos, key=lambda info: info.header_offset)
    covered: set[int] = set()
    end = 0
    for before, info in zip([None, *ordered], ordered):
        if before is not None and info.header_offset < end:
            covered |= {id(before), id(info)}
        end = max(end, info.header_offset + 30 + len(info.orig_filename) + info.compress_size)
    return covered


def _zip_item(store: ZipStore, info: zipfile.ZipInfo, covered: set[int]) -> _Item:
    key = entry_name(info)

    def examine() -> Entry | Refusal:
        return unfit(key, info.file_size, lambda: _head(store, info, key)) or Entry(key, info.file_size, info.CRC)

    return _Item(key, key.endswith("/"), _zip_problem(store, info, key, covered), examine)


def _zip_problem(store: ZipStore, info: zipfile.ZipInfo, key: str, covered: set[int]) -> Refusal | None:
    if store.entries[key] is not info:
        return Refusal(key, "duplicate-name", "a later entry has the same name and counts")
    if info.create_system == UNIX and stat.S_ISLNK(info.external_attr >> 16):
        return Refusal(key, "link", "a link, packed as such")
    if info.flag_bits & 0x1:
        return Refusal(key, "encrypted", "encrypted; unpack it with its password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile unpacks bzip2 and LZMA without a limit: a small bomb would fill the memory.
        return Refusal(key, "compression", f"compression method {info.compress_type}; pack it with deflate")
    if id(info) in covered:
        return Refusal(key, "overlap", "another entry uses the same bytes of the archive")
    if info.file_size > max(SMALL, MOST_RATIO * info.compress_size):
        return Refusal(key, "ratio", f"{info.compress_size:,} bytes claim to be {info.file_size:,}")
    return None


def _head(store: ZipStore, info: zipfile.ZipInfo, key: str) -> bytes:
    try:
        return store.unpack(info, key, first=HEAD)
    except PictureError:
        return b""


# ── tar ──


def _tar_item(store: TarStore, member: Member) -> _Item:
    return _Item(member.key, member.kind == "folder", _tar_problem(store, member), lambda: _examined(store, member))


def _tar_problem(store: TarStore, member: Member) -> Refusal | None:
    if member.kind == "link":
        return Refusal(member.key, "link", "a link, packed as such")
    if member.kind != "file":
        return Refusal(member.key, "not-a-picture", "a device, a pipe or another entry that is no file")
    if store.entries[member.key] is not member:
        return Refusal(member.key, "duplicate-name", "a later entry has the same name and counts")
    return None


def _examined(store: TarStore, member: Member) -> Entry | Refusal:
    refusal = unfit(member.key, member.size, lambda: store.unpack(member, first=HEAD))
    return refusal or Entry(member.key, member.size, zlib.crc32(store.unpack(member)))

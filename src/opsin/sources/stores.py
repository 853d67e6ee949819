"""Where the bytes of records are: a folder, a zip that is never unpacked, arrays in memory. All are thread-safe."""

from __future__ import annotations

import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import DataError, PictureError

if TYPE_CHECKING:
    import numpy as np

LARGEST = 256 << 20  # bytes of one picture's file; a header that claims less is not believed
UTF8_FLAG = 0x800
UNIX = 3
# What zipfile raises on archives that are cut, changed or made to harm.
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OverflowError)


class FolderStore:
    """The files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str) -> bytes:
        """The bytes of the file `key`.

        Raises:
            PictureError: `unreadable` when it vanished or may not be read, `too-many-bytes` over 256 MiB.
        """
        try:
            # A buffer would cost more calls of the system, at each of which threads hand Python's lock over.
            with open(os.path.join(self.root, key), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                data = _capped(file, key, size)
                while len(data) < size and (more := file.read(size - len(data))):  # the system may give less at once
                    data += more
                return data
        except OSError as error:
            raise _unreadable(key, error.strerror or str(error)) from error


class ZipStore:
    """The entries of a zip below `prefix`, read in place.

    Names are read as UTF-8 wherever their bytes are: the flag that says so is missing in zips of macOS and of older
    tools. Of entries with one name the last counts, as it does for whoever unpacks the archive.
    """

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path, self.prefix = path, prefix
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        except BROKEN_ZIP as error:
            raise DataError(
                f"{path} is not a whole zip",
                expected="an archive with an intact directory at its end",
                received=str(error),
                do="Copy or download it again; 'zip -FF' can save a part of it",
            ) from error
        self.entries = {entry_name(info): info for info in self._zip.infolist()}

    def infos(self) -> list[zipfile.ZipInfo]:
        """Every entry, in the order of the archive's directory; names may repeat."""
        return self._zip.infolist()

    def read(self, key: str) -> bytes:
        """The unpacked bytes of the entry `key`.

        Raises:
            PictureError: `corrupt` when the bytes are not those that were packed, `unreadable` when there is no such
                entry, `too-many-bytes` over 256 MiB.
        """
        info = self.entries.get(self.prefix + key)
        if info is None:
            raise _unreadable(key, "no such entry in the zip")
        return self.unpack(info, key)

    def unpack(self, info: zipfile.ZipInfo, key: str, first: int = 0) -> bytes:
        """The bytes of one entry, or only its `first` ones."""
        try:
            with self._lock:  # opening moves the shared file; what follows locks for itself
                file = self._zip.open(info)
            with file:
                return file.read(first) if first else _capped(file, key)
        except OSError as error:
            raise _unreadable(key, error.strerror or str(error)) from error
        except BROKEN_ZIP as error:
            raise PictureError("corrupt", f"{key} is damaged inside {self.path.name}: {error}") from error

    def close(self) -> None:
        """Let go of the file; reading afterwards is an error."""
        self._zip.close()


class ArrayStore:
    """Pictures that are arrays in memory, uint8 `(H, W)` or `(H, W, 3)`, by key."""

    def __init__(self, pictures: Mapping[str, np.ndarray]) -> None:
        self.pictures = pictures

    def read(self, key: str) -> np.ndarray:
        """A copy of the picture `key`: the set itself cannot be changed through it.

        Raises:
            PictureError: `unreadable` when there is none.
        """
        if key not in self.pictures:
            raise _unreadable(key, "no such picture in the set")
        return self.pictures[key].copy()


def entry_name(info: zipfile.ZipInfo) -> str:
    """The name of a zip's entry as a folder would show it, "/" between folders.

    `orig_filename` is what zipfile decoded: UTF-8 where the flag says so, else code page 437, which maps every byte
    and can be undone. Bytes that are no UTF-8 survive as surrogates when a Unix made the zip, as they do in a folder.
    """
    name = info.orig_filename
    if not info.flag_bits & UTF8_FLAG and not name.isascii():
        raw = name.encode("cp437")
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = raw.decode("utf-8", "surrogateescape") if info.create_system == UNIX else name
    # Windows tools of old wrote "\"; on Unix it is a letter of the name.
    name = name if info.create_system == UNIX else name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def escapes(name: str) -> bool:
    """Whether a path of an archive is absolute, names a drive or climbs with "..", read as Unix or as Windows.

    >>> escapes("cat/1.jpg"), escapes("../1.jpg"), escapes("C:\\\\1.jpg"), escapes("/etc/1.jpg")
    (False, True, True, True)
    """
    path = name.replace("\\", "/")
    return path.startswith("/") or ".." in path.split("/") or name[1:2] == ":" or "\0" in name


def _capped(file: IO[bytes], key: str, size: int = LARGEST) -> bytes:
    """All of the file. `size` is what it is said to have: asking for more costs a buffer of that much."""
    data = file.read(min(size, LARGEST) + 1)
    if len(data) > LARGEST:
        raise PictureError("too-many-bytes", f"{key} is too large", expected=f"at most {LARGEST:,} bytes")
    return data


def _unreadable(key: str, reason: str) -> PictureError:
    return PictureError("unreadable", f"{key} cannot be read: {reason}")

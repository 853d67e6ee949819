"""Tar and tar.gz, read in place by a parser of our own: it knows files and folders, and names what else there is.

POSIX 1003.1 (ustar and pax) and GNU's long names. Python's `tarfile` also reads sparse files, and headers of any size
into memory.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from ..errors import DataError, PictureError, writing
from .stores import LARGEST

BLOCK = 512
LONGEST_HEADER = 1 << 16  # bytes of one entry's long name or pax records
PIECE = 1 << 20
MOST_RATIO = 50  # a .tar.gz of pictures is about as large as its tar
SMALL = 1 << 30  # bytes: a tar up to this may have been packed at any ratio

Kind = Literal["file", "folder", "link", "other"]
_KINDS: dict[bytes, Kind] = {b"0": "file", b"\0": "file", b"7": "file", b"5": "folder", b"1": "link", b"2": "link"}


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a tar: its path, what it is, where its bytes are."""

    key: str
    kind: Kind
    start: int
    size: int


def is_tar(path: Path) -> bool:
    """Whether the file is a tar, packed or not, by its name."""
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))


class TarStore:
    """The entries of a tar below `prefix`, read in place; a packed one is unpacked into a nameless temporary file.

    Raises:
        DataError: it is cut, broken, or unpacks to far more than a tar of pictures does.
        MachineError: there is no space to unpack it.
    """

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path, self.prefix = path, prefix
        self._lock = threading.Lock()
        try:
            self._file = _opened(path)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a whole tar: {error}", do="Copy or download it again") from error
        try:
            self.members = list(_members(self._file, path))
        except BaseException:
            self._file.close()
            raise
        self.entries = {member.key: member for member in self.members if member.kind == "file"}

    def read(self, key: str) -> bytes:
        """The bytes of the entry `key`.

        Raises:
            PictureError: `unreadable` when there is none, `truncated` when the file got shorter.
        """
        member = self.entries.get(self.prefix + key)
        if member is None:
            raise PictureError("unreadable", f"{key} cannot be read: no such entry in the tar")
        return self.unpack(member)

    def unpack(self, member: Member, first: int = LARGEST) -> bytes:
        """The bytes of one entry, at most the `first` ones."""
        size = min(member.size, first)
        with self._lock:
            self._file.seek(member.start)
            data = self._file.read(size)
        if len(data) < size:
            raise PictureError("truncated", f"{member.key} is cut inside {self.path.name}")
        return data

    def close(self) -> None:
        """Let go of the file; reading afterwards is an error."""
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # as zipfile does: a data set has no end at which it could be told to
            self._file.close()


def _opened(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".tar"):
        return open(path, "rb")
    most = max(SMALL, MOST_RATIO * path.stat().st_size)
    unpacked = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 — it outlives this function
    try:
        with gzip.open(path) as packed:
            for total, piece in _pieces(packed):
                if total > most:
                    raise DataError(f"{path} unpacks to over {most:,} bytes: no tar of pictures does")
                with writing("an unpacked tar"):
                    unpacked.write(piece)
    except BaseException:
        unpacked.close()
        raise
    return unpacked


def _pieces(packed: gzip.GzipFile) -> Iterator[tuple[int, bytes]]:
    total = 0
    while piece := packed.read(PIECE):
        total += len(piece)
        yield total, piece


def _members(file: BinaryIO, path: Path) -> Iterator[Member]:
    """Every entry, in order, up to the first empty block."""
    end, at = file.seek(0, os.SEEK_END), 0
    told: dict[str, str] = {}  # what long names and pax records say of the next entry
    while header := _header(file, at, path):
        letter, name, size = header[156:157], _name(header), _number(header[124:136], path)
        start, key = at + BLOCK, told.get("path", name)
        if letter not in b"Lxg":
            size = _size(told["size"], path) if told.get("size") else size
            # Links, devices and folders have no bytes, whatever size they claim.
            size = 0 if letter in b"123456" else size
        if start + size > end:
            raise DataError(f"{path} is not a whole tar: it ends inside {key}", do="Copy or download it again")
        if letter in b"Lx":
            told |= _long_name(file, start, size, path) if letter == b"L" else _pax(file, start, size, path)
        elif letter != b"g":
            kind = _KINDS.get(letter, "other")
            yield Member(_tidy(key), "folder" if kind == "file" and key.endswith("/") else kind, start, size)
            told = {}
        at = start + -(-size // BLOCK) * BLOCK


def _header(file: BinaryIO, at: int, path: Path) -> bytes:
    """The block at `at`; nothing at the end. The checksum is over the block with its own field blank."""
    file.seek(at)
    header = file.read(BLOCK)
    if not header.strip(b"\0"):
        if at == 0:
            raise DataError(f"{path} is not a whole tar: there is nothing in it")
        return b""
    whole = len(header) == BLOCK
    if not whole or sum(header[:148] + b" " * 8 + header[156:]) != _number(header[148:156], path):
        raise DataError(f"{path} is not a whole tar: the block at {at:,} is none", do="Copy or download it again")
    return header


def _name(header: bytes) -> str:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    whole = prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name
    return whole.decode("utf-8", "surrogateescape")


def _tidy(key: str) -> str:
    while key.startswith("./"):
        key = key[2:]
    return "" if key == "." else key


def _number(field: bytes, path: Path) -> int:
    """Octal digits, or, with the top bit set, a big-endian number (GNU)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if not digits.strip(b"01234567"):
        return int(digits, 8)
    raise DataError(f"{path} is not a whole tar: {field!r} is no size")


def _size(text: str, path: Path) -> int:
    """The size in a pax record: decimal digits."""
    if text.isascii() and text.isdigit() and len(text) <= 20:
        return int(text)
    raise DataError(f"{path} is not a whole tar: {text[:20]!r} is no size")


def _extra(file: BinaryIO, start: int, size: int, path: Path) -> bytes:
    if size > LONGEST_HEADER:
        raise DataError(f"{path}: a header claims {size:,} bytes", expected=f"at most {LONGEST_HEADER:,}")
    file.seek(start)
    return file.read(size)


def _long_name(file: BinaryIO, start: int, size: int, path: Path) -> dict[str, str]:
    return {"path": _extra(file, start, size, path).rstrip(b"\0").decode("utf-8", "surrogateescape")}


def _pax(file: BinaryIO, start: int, size: int, path: Path) -> dict[str, str]:
    """Records of `length key=value\\n`, the length counting all of it."""
    data, found = _extra(file, start, size, path), {}
    while data:
        length, _, _ = data.partition(b" ")
        most = int(length) if length.isdigit() and len(length) < 8 else 0
        key, equals, value = data[len(length) + 1 : most - 1].partition(b"=")
        if not equals or not 0 < most <= len(data):
            raise DataError(f"{path} is not a whole tar: pax records that cannot be read")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[most:]
    return found

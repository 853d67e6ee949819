"""Published files, downloaded once into a cache; a file is believed only when its digest is the published one."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import tempfile
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError, MachineError, writing

SECONDS = 30  # without an answer
PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Published:
    """A file in the internet: its address, its digest as `algorithm:hex`, and the most bytes it may have."""

    url: str
    digest: str
    limit: int

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def cache_dir() -> Path:
    """Where downloads are kept: $OPSIN_CACHE, or the platform's place for caches. Not created by asking."""
    if chosen := os.environ.get("OPSIN_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "opsin" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "opsin"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opsin"


def obtain(file: Published) -> Path:
    """The path of a published file: from the cache, else downloaded to it. Its digest is checked each time.

    Raises:
        DataError: what is in the cache, or what was sent, is not the published file.
        MachineError: there is no network, or no place to write to.
    """
    path = cache_dir() / file.name
    if not path.is_file():
        return _download(file, path)
    algorithm, _, digest = file.digest.partition(":")
    with open(path, "rb") as opened:
        received = hashlib.file_digest(opened, algorithm).hexdigest()
    if received != digest:
        raise DataError(
            f"{path} is not the published file",
            expected=file.digest,
            received=received,
            do="Delete it: it is downloaded again",
        )
    return path


def _download(file: Published, path: Path) -> Path:
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(prefix=file.name + ".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as target:
            received = _stream(file, target)
        if received != file.digest.partition(":")[2]:
            raise DataError(f"{file.url} sent another file", expected=file.digest, received=received, do=_by_hand(file))
        with writing(path):
            os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise
    return path


def _stream(file: Published, target: BinaryIO) -> str:
    """Copy the file from its address to `target`; its digest."""
    hasher, total = hashlib.new(file.digest.partition(":")[0]), 0
    try:
        with urllib.request.urlopen(file.url, timeout=SECONDS) as answer:
            while piece := answer.read(PIECE):
                total += len(piece)
                if total > file.limit:
                    raise DataError(f"{file.url} is too large", expected=f"at most {file.limit:,} bytes")
                hasher.update(piece)
                with writing(target.name):
                    target.write(piece)
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise MachineError(
            f"{file.name} could not be downloaded",
            expected=f"an answer from {file.url}",
            received=str(error) or type(error).__name__,
            do=_by_hand(file),
        ) from error
    return hasher.hexdigest()


def _by_hand(file: Published) -> str:
    return f"Put the file into {cache_dir()} by hand, or use 'digits', which needs no network"

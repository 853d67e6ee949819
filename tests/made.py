"""Made sources: files that begin like pictures, folders and archives of them, and how to read what came of them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from opsin.vocabulary import Dataset

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"
SPLIT = [
    f"{s}/{c}/{i}.jpg" for s, n in (("train", 4), ("val", 2), ("test", 2)) for c in ("cat", "dog") for i in range(n)
]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")


def picture(name: str) -> bytes:
    """Made bytes that start like a JPEG, each name's its own; words where the name says so."""
    if name.endswith((".txt", ".md", ".csv", "LICENSE")):
        return b"words"
    return JPEG + name.encode("utf-8", "surrogateescape")


def folder(root: Path, names: list[str]) -> Path:
    """A folder of made pictures; names that end in "/" are folders."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(picture(name))
    return root


def zipped(path: Path, names: list[str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else picture(name))
    return path


def both(tmp_path: Path, names: list[str]) -> list[Path]:
    """The same names as a folder and as a zip."""
    return [folder(tmp_path / "set", names), zipped(tmp_path / "set.zip", names)]


def codes(data: Dataset) -> dict[str, str]:
    return {refusal.key: refusal.code for refusal in data.refused}


def keys(data: Dataset) -> list[str]:
    return [record.key for record in data.records]

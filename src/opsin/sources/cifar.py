"""CIFAR-10 as it is published (Krizhevsky 2009): python or binary batches, in a folder or a .tar.gz.

The python batches are pickles, and a pickle can run any program. They are read only after their MD5 matched the
published one, and then by an unpickler that knows nothing but numpy's arrays.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..vocabulary import Dataset
from . import arrays
from .downloads import Published, obtain

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = Published(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    limit=200 << 20,
)
ROWS = 10_000  # pictures a batch
PIXELS = 3 * 32 * 32  # planes red, green, blue
TRAIN = tuple(f"data_batch_{n}" for n in range(1, 6))
TEST = "test_batch"
# MD5 of the python batches, from torchvision/datasets/cifar.py. batches.meta is never read: CLASSES says what it holds.
DIGESTS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
LARGEST_BATCH = 40 << 20  # bytes; real ones have 31 MB
MOST_MEMBERS = 64  # of an archive; the published ones have 9

Labelled = tuple[np.ndarray, np.ndarray]  # uint8 (N, 3072) in planes; labels (N,)


def cifar10() -> Dataset:
    """60,000 pictures, 32×32, colour, train and test: from the cache, else downloaded as binary batches (170 MB).

    Raises:
        DataError: the archive is not the published one.
        MachineError: it had to be downloaded and could not be.
    """
    return read_archive(obtain(ARCHIVE), "cifar10")


def is_folder(path: Path) -> bool:
    """Whether CIFAR-10's batches lie in the folder itself, or in the one folder of the published archive."""
    return _batches_in(path) is not None


def _batches_in(path: Path) -> Path | None:
    places = (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin")
    names = (TRAIN[0], TRAIN[0] + ".bin")
    return next((place for place in places if any((place / name).is_file() for name in names)), None)


def read_folder(path: Path) -> Dataset:
    """The Dataset of a folder of batches.

    Raises:
        DataError: a batch is missing, or is not the published one.
    """
    place = _batches_in(path)
    assert place is not None, "asked only after is_folder"
    files = {}
    for name in _names():
        if (place / name).is_file():
            with open(place / name, "rb") as file:
                files[name] = file.read(LARGEST_BATCH + 1)
    return _dataset(path.name, files, path)


def is_among(names: Iterable[str]) -> bool:
    """Whether one of an archive's entries is called like a batch."""
    batches = set(_names())
    return any(name.rpartition("/")[2] in batches for name in names)


def read_archive(path: Path, name: str = "") -> Dataset:
    """The Dataset of a .tar.gz of batches, read member by member; nothing is unpacked to the disk.

    Raises:
        DataError: it is broken, holds something else, or a batch is not the published one.
    """
    try:
        files = _members(path)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole .tar.gz: {error}", do="Copy or download it again") from error
    return _dataset(name or path.name.partition(".")[0], files, path)


def _members(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with tarfile.open(path, "r|gz") as archive:
        for number, member in enumerate(archive):
            if number >= MOST_MEMBERS or member.size > LARGEST_BATCH:
                raise DataError(f"{path} is not CIFAR-10", expected=f"at most {MOST_MEMBERS} small members")
            name = member.name.rpartition("/")[2]
            file = archive.extractfile(member) if member.isreg() and name in _names() else None
            if file is not None:
                files[name] = file.read(LARGEST_BATCH + 1)
    return files


def _names() -> list[str]:
    return [name + ending for name in (*TRAIN, TEST) for ending in ("", ".bin")]


def _dataset(name: str, files: Mapping[str, bytes], source: Path) -> Dataset:
    ending = "" if TRAIN[0] in files else ".bin"
    decode: Callable[[str, bytes], Labelled] = _python_batch if not ending else _binary_batch
    missing = [batch + ending for batch in (*TRAIN, TEST) if batch + ending not in files]
    if missing:
        raise DataError(f"{source} is not a whole CIFAR-10", expected="five data batches and a test batch",
                        received=f"none called {', '.join(missing)}")  # fmt: skip
    train = [decode(batch + ending, files[batch + ending]) for batch in TRAIN]
    test = [decode(TEST + ending, files[TEST + ending])]
    return arrays.dataset(name, {"train": _joined(train), "test": _joined(test)}, CLASSES)


def _joined(batches: list[Labelled]) -> arrays.Part:
    """uint8 (N, 32, 32, 3) and labels (N,) of batches in planes."""
    planes = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.concatenate([labels for _, labels in batches])


def _binary_batch(name: str, data: bytes) -> Labelled:
    """Rows of a label's byte and 3,072 pixels' (cs.toronto.edu/~kriz/cifar.html)."""
    if len(data) != ROWS * (1 + PIXELS):
        raise DataError(f"{name} is not CIFAR-10's", expected=f"{ROWS * (1 + PIXELS):,} bytes", received=len(data))
    rows = np.frombuffer(data, np.uint8).reshape(ROWS, 1 + PIXELS)
    return _checked(name, rows[:, 1:], rows[:, 0])


def _python_batch(name: str, data: bytes) -> Labelled:
    received = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if received != DIGESTS[name]:
        raise DataError(
            f"{name} is not the published batch, and a pickle of unknown origin is never opened",
            expected=f"md5:{DIGESTS[name]}",
            received=received,
            do="Download CIFAR-10 again, or give it as class folders",
        )
    batch = _unpickled(name, data)
    try:
        pixels, labels = np.asarray(batch["data"]), np.asarray(batch["labels"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name} is not CIFAR-10's", expected="a dict of data and labels") from error
    return _checked(name, pixels, labels)


def _checked(name: str, pixels: np.ndarray, labels: np.ndarray) -> Labelled:
    if pixels.shape != (len(labels), PIXELS) or pixels.dtype != np.uint8 or labels.dtype.kind not in "iu":
        raise DataError(f"{name} is not CIFAR-10's", expected=f"uint8 (N, {PIXELS}), a label each",
                        received=f"{pixels.dtype} {pixels.shape}, {labels.dtype} {labels.shape}")  # fmt: skip
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise DataError(f"{name} has a label out of range", expected="0 … 9", received=f"up to {labels.max()}")
    return pixels, labels


def _encode(text: str, encoding: str) -> bytes:
    """What Python 3 puts into a pickle of protocol 2 in place of bytes; no other codec is let in."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r}")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    """Admits what an array is made of; everything else a pickle may name is refused, never imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ADMITTED[module, name]


def _unpickled(name: str, data: bytes) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a made-up pickle can raise anything
        raise DataError(
            f"{name} holds more than arrays: {error}", do="Do not use it; download CIFAR-10 again"
        ) from error

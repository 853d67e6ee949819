"""The sets that are known by name."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from ..vocabulary import Dataset
from . import arrays, cifar
from .downloads import Published, obtain

if TYPE_CHECKING:
    import numpy as np


def digits() -> Dataset:
    """1,797 handwritten digits, 8×8, grey, no split: the test part of UCI's optical recognition of handwritten digits.

    They come inside scikit-learn with values 0…16, which become uint8 by round(v·255/16).
    """
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    pictures = (values * (255 / 16)).round().astype("uint8").reshape(-1, 8, 8)
    return arrays.dataset("digits", {None: (pictures, labels)}, tuple("0123456789"))


FASHION_CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
# Name: the published MD5 of the .gz (github.com/zalandoresearch/fashion-mnist), and the MD5 of what is in it, taken
# from Debian's package, which packed the same bytes anew.
FASHION_DIGESTS = {
    "train-images-idx3-ubyte.gz": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte.gz": ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte.gz": ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte.gz": ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
}
FASHION_COUNTS = {"train": 60_000, "t10k": 10_000}


def fashion_mnist() -> Dataset:
    """70,000 pictures of clothes, 28×28, grey, train and test (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747).

    From Debian's package dataset-fashion-mnist where it is installed, else from the cache, else downloaded.

    Raises:
        DataError: a file is not the published one.
        MachineError: it had to be downloaded and could not be.
    """
    return arrays.dataset("fashion-mnist", {"train": _fashion("train"), "test": _fashion("t10k")}, FASHION_CLASSES)


def _fashion(part: str) -> arrays.Part:
    n = FASHION_COUNTS[part]
    pictures = _idx(f"{part}-images-idx3-ubyte.gz", (n, 28, 28))
    labels = _idx(f"{part}-labels-idx1-ubyte.gz", (n,))
    if labels.max(initial=0) >= len(FASHION_CLASSES):
        raise DataError(f"{part} has a label out of range", expected="0 … 9", received=int(labels.max()))
    return pictures, labels


def _idx(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array from a packed IDX file (yann.lecun.com/exdb/mnist): a head of big-endian sizes, then bytes."""
    import numpy as np

    head = b"".join(size.to_bytes(4, "big") for size in (0x0800 + len(shape), *shape))
    data = _unpacked(name, len(head) + int(np.prod(shape)))
    if data[: len(head)] != head:
        raise DataError(f"{name} is not what it should be", expected=f"unsigned bytes of shape {shape}")
    return np.frombuffer(data, np.uint8, offset=len(head)).reshape(shape)


def _unpacked(name: str, size: int) -> bytes:
    """The content of one of the four files, never more than it should be, and only when its digest is right."""
    packed_digest, digest = FASHION_DIGESTS[name]
    path = DEBIAN_FASHION / name
    if not path.is_file():
        path = obtain(Published(FASHION_URL + name, f"md5:{packed_digest}", limit=size + 4096))
    try:
        with gzip.open(path) as file:
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}", do="Delete it: it is downloaded again") from error
    received = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if received != digest:
        raise DataError(f"{path} is not the published file", expected=f"md5:{digest} inside", received=received)
    return data


NAMED: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar.cifar10,
}

"""A picture of another size, antialiased, in whole numbers: by torch, or by numpy where torch is not worth importing.

torch resizes uint8 after Pillow (aten/native/cpu/UpSampleKernel.cpp, Pillow's Resample.c): along the width, then along
the height, each value is a sum of inputs times weights, which are fractions of a power of two, as fine as 16 bits hold.
Whole numbers have one sum, in whatever order they are added, so both give the same pixels.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import numpy as np

# picture uint8 (H, W, 3), height, width, interpolation → uint8 (height, width, 3), its own memory, contiguous
Resize = Callable[[np.ndarray, int, int, str], np.ndarray]

LITTLE = 32_000_000  # pixels that numpy resizes in about the second that importing torch takes


def thrifty() -> Resize:
    """`by_numpy` as long as importing torch costs more than it saves, then `by_torch`; for one piece of work."""
    done = 0

    def resize(picture: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
        nonlocal done
        done += picture.shape[0] * picture.shape[1]
        how = by_torch if done > LITTLE or "torch" in sys.modules else by_numpy
        return how(picture, height, width, interpolation)

    return resize


def by_torch(picture: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """The reference, 20 times as fast as `by_numpy` or more. Its kernel has one thread and leaves Python's lock."""
    import torch
    from torch.nn import functional

    # The kernel takes a batch for channels last by its strides, which `[None]` last would not have: half again as slow.
    batch = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(
        batch, size=(height, width), mode=interpolation, antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def by_numpy(picture: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """The same pixels."""
    narrow = _along_rows(picture.transpose(1, 0, 2), width, interpolation)
    return _along_rows(narrow.transpose(1, 0, 2), height, interpolation)


def _along_rows(rows: np.ndarray, length: int, interpolation: str) -> np.ndarray:
    """uint8 `(N, M, 3)` → `(length, M, 3)`."""
    if len(rows) == length:
        return np.ascontiguousarray(rows)
    places, weights, bits = _taps(len(rows), length, interpolation)
    rows = np.ascontiguousarray(rows)
    sums = np.full((length, *rows.shape[1:]), 1 << bits >> 1, np.int32)
    for place, weight in zip(places.T, weights.T):
        sums += rows[place] * weight[:, None, None]
    return np.asarray(np.clip(sums >> bits, 0, 255), np.uint8)


@functools.lru_cache(maxsize=64)
def _taps(n: int, length: int, interpolation: str) -> tuple[np.ndarray, np.ndarray, int]:
    """The inputs that each output is made of, their weights, int `(length, T)`, and the power of two that is 1."""
    reach, kernel = KERNELS[interpolation]
    scale = n / length
    wide = max(scale, 1.0)
    centres = scale * (np.arange(length)[:, None] + 0.5)
    places = np.floor(centres - reach * wide + 0.5).astype(int) + np.arange(2 * int(np.ceil(reach * wide)) + 1)
    shares = kernel(np.abs(places - centres + 0.5) / wide) * ((places >= 0) & (places < n))
    shares /= shares.sum(1, keepdims=True)
    bits = min(22, int(np.ceil(np.log2(32767.5 / shares.max()))) - 1)
    weights = np.trunc(shares * 2**bits + np.sign(shares) / 2).astype(np.int32)
    return places.clip(0, n - 1), weights, bits


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(0, 1 - x))


def _keys(x: np.ndarray) -> np.ndarray:
    """The cubic of Keys (1981) with a = -0.5."""
    far = (x < 2) * (((x - 5) * x + 8) * x - 4) * -0.5
    return np.asarray(np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, far))


# name → how far the kernel reaches, and its value at a distance x ≥ 0
KERNELS = {"bilinear": (1.0, _triangle), "bicubic": (2.0, _keys)}

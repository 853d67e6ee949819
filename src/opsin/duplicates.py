"""Pictures that are there twice: the same bytes, the same pixels, or the same picture after an editor had it.

    thumbnails ─ low frequencies ─> candidates (all pairs, exact) ─ aligned, details compared ─> Pairs ─> groups

Near-duplicates are found in two steps. A thumbnail's low frequencies, each divided by what pictures usually have of it,
make a vector of 48 numbers; of all pairs, mirrored ones too, those of high cosine are candidates. A candidate is
aligned (scale and shift by Gauss-Newton: Lucas and Kanade 1981) and accepted when the details correlate as well: two
hands before one wall agree in the low frequencies only.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from . import codecs
from .errors import CallError, PictureError
from .vocabulary import Dataset, Work

SIDE = 48  # of thumbnails
ENOUGH = 44  # pixels of a picture's shorter side: at 1/8 a JPEG's are means already, and quick
LOW = 7  # frequencies a side, in half waves a picture, the mean left out
DESCRIBED = 256  # pictures described at a time: 92 MB of floats for ten thousand take ten times as long
NEAR = 0.70  # cosine from which a pair is a candidate
SURE = 0.90  # correlation of aligned details from which it is one; set on clothing.zip, see bench/duplicates.py
NEIGHBOURS = 5  # the most candidates of one picture
CHUNK = 32  # pairs compared at a time: of more, what lies between two steps leaves the cache
MOST = 1_000_000  # pictures that all pairs are looked at of
BLOCK, WIDE = 1024, 4096  # rows and columns of all pairs that are one task
TILE = 256  # rows, and half the columns, that are compared at a time
THREADS = min(8, os.cpu_count() or 1)
AT_ONCE = 32  # pictures that are one task of the quick pass

Kind = Literal["bytes", "pixels", "near"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two records with one picture; `similarity` 0…1 is the correlation of their details, 1 for exact copies."""

    first: str
    second: str
    kind: Kind
    similarity: float = 1.0
    mirrored: bool = False


# ── the same bytes ──


def same_bytes(data: Dataset) -> list[Pair]:
    """Records whose files are equal: by size and CRC, then by SHA-256. Each with the first of its kind."""
    suspects: dict[tuple[int, int], list[str]] = defaultdict(list)
    for record in data.records:
        suspects[record.size, record.crc].append(record.key)
    found: list[Pair] = []
    for keys in suspects.values():
        if len(keys) > 1:
            found += _equal(data, keys)
    return found


def _equal(data: Dataset, keys: Sequence[str]) -> list[Pair]:
    first: dict[bytes, str] = {}
    found = []
    for key in keys:
        try:
            content = data.store.read(key)
        except PictureError:  # what cannot be read equals nothing
            continue
        raw = content if isinstance(content, bytes) else repr(content.shape).encode() + content.tobytes()
        other = first.setdefault(hashlib.sha256(raw).digest(), key)
        if other != key:
            found.append(Pair(other, key, "bytes"))
    return found


# ── thumbnails ──


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """uint8 `(SIDE, SIDE)`: each pixel the mean of what it covers.

    Args:
        picture: uint8 `(H, W, 3)`, of which the luma is taken (BT.601), or `(H, W)`, which is that already.
    """
    gray = picture @ np.array([0.299, 0.587, 0.114], np.float32) if picture.ndim == 3 else picture.astype(np.float32)
    height, width = gray.shape
    small: np.ndarray = (_covering(height) @ gray @ _covering(width).T).round().astype(np.uint8)
    return small


def thumbnails(data: Dataset, *, decode: Callable[..., np.ndarray] = codecs.decode) -> Work[np.ndarray]:
    """uint8 `(N, SIDE, SIDE)`: those of all records, flat and so like nothing where one cannot be read. Long work.

    A quick pass: of a JPEG only what a thumbnail needs is decoded, in gray where its colours need no conversion.

    Args:
        decode: `codecs.decode`, or `Decoders.decode` of `isolation`, for what nobody vouches for.
    """
    made = np.zeros((len(data), SIDE, SIDE), np.uint8)

    def fill(rows: slice) -> None:
        for row in range(rows.start, rows.stop):
            with suppress(PictureError):
                content = data.store.read(data.records[row].key)
                made[row] = thumbnail(decode(content, reduced=reduction(content, ENOUGH), luma=True))

    with ThreadPoolExecutor(THREADS) as pool:
        # A task a picture would cost a tenth of what the picture does.
        spans = _spans(0, len(data), AT_ONCE)
        for rows, _ in zip(spans, pool.map(fill, spans)):
            yield rows.stop
    return made


def _spans(start: int, stop: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]


def reduction(content: bytes | np.ndarray, least: int) -> int:
    """By how much a picture may be reduced while it is decoded, so that its shorter side is still `least`."""
    sides = codecs.sides(content)
    return next((by for by in (8, 4, 2) if sides and sides[0] >= by * least), 1)


@cache
def _covering(n: int) -> np.ndarray:
    """float32 `(SIDE, n)`: how much of each of n pixels lies in each of SIDE; rows sum to 1."""
    edges = np.arange(SIDE + 1) * n / SIDE
    left, right = edges[:-1, None], edges[1:, None]
    pixels = np.arange(n)
    covered = np.minimum(right, pixels + 1) - np.maximum(left, pixels)
    return (covered.clip(0) * SIDE / n).astype(np.float32)


# ── candidates ──


@cache
def _waves() -> np.ndarray:
    """float32 `(LOW, SIDE)`: cosines of 0…LOW-1 half waves, orthonormal (DCT-II)."""
    place = (np.arange(SIDE) + 0.5) / SIDE
    waves = np.cos(np.pi * np.arange(LOW)[:, None] * place) * np.sqrt(2 / SIDE)
    waves[0] /= np.sqrt(2)
    single: np.ndarray = waves.astype(np.float32)
    return single


def describe(thumbnails: np.ndarray) -> np.ndarray:
    """float32 `(N, LOW²-1)`, unit length: low frequencies, each times itself, since pictures have 1/f of them.

    A picture without any contrast gets zeros, and is like nothing.
    """
    vectors = np.empty((len(thumbnails), LOW * LOW - 1), np.float32)
    frequency = np.hypot(*np.mgrid[:LOW, :LOW]).astype(np.float32)
    for rows in _spans(0, len(thumbnails), DESCRIBED):
        low = _waves() @ thumbnails[rows].astype(np.float32) @ _waves().T
        flat = (low * frequency).reshape(len(low), LOW * LOW)[:, 1:]
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        vectors[rows] = np.where(length > SIDE / 4, flat / np.maximum(length, 1e-6), 0)
    return vectors


@cache
def _odd() -> np.ndarray:
    """bool `(LOW²-1,)`: the frequencies that change their sign in a mirror."""
    return np.tile(np.arange(LOW) % 2 == 1, LOW)[1:]


class _Hits(NamedTuple):
    pairs: np.ndarray  # int64 (P, 2)
    likeness: np.ndarray  # float32 (P,)
    mirrored: np.ndarray  # bool (P,)

    @classmethod
    def joined(cls, some: Iterable[_Hits]) -> _Hits:
        none = cls(np.zeros((0, 2), np.int64), np.zeros(0, np.float32), np.zeros(0, bool))
        return cls(*map(np.concatenate, zip(none, *some)))


def _candidates(vectors: np.ndarray) -> Work[tuple[np.ndarray, np.ndarray]]:
    """int64 `(P, 2)` rows of like pairs, each once, and bool `(P,)` whether as mirrors; of all pairs. Long work.

    Where E and O are the products of the even and the odd frequencies, a pair's cosine is E + O and its mirror's E - O.
    """
    halves = [np.ascontiguousarray(vectors[:, which]) for which in (~_odd(), _odd())]
    floor = np.full(len(vectors), NEAR, np.float32)  # of each picture: what none of its best partners is below
    kept, found = _Hits.joined([]), list[_Hits]()
    # Threads of numpy's own below these would only wait for one another.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(THREADS) as pool:
        for rows in _spans(0, len(vectors), BLOCK):
            parts = _spans(rows.start, len(vectors), WIDE)
            found += pool.map(lambda columns, rows=rows: _part(halves, rows, columns, floor), parts)
            if sum(len(hits.pairs) for hits in found) > len(kept.pairs):  # sorting all for every few would take longest
                kept, found = _best(_Hits.joined([kept, *found]), floor), []
            yield rows.stop
    kept = _best(_Hits.joined([kept, *found]), floor)
    order = np.lexsort((kept.pairs[:, 1], kept.pairs[:, 0]))
    return kept.pairs[order], kept.mirrored[order]


def _part(halves: Sequence[np.ndarray], rows: slice, columns: slice, floor: np.ndarray) -> _Hits:
    """The best hits of some rows with some columns. Its tiles stay in a core's own cache: three times as fast."""
    room = np.empty((3, TILE * 2 * TILE), np.float32)
    right = _spans(columns.start, columns.stop, 2 * TILE)
    tiles = [(down, across) for down in _spans(rows.start, rows.stop, TILE) for across in right]
    return _best(_Hits.joined(_tile(halves, down, across, floor, room) for down, across in tiles), floor)


def _tile(halves: Sequence[np.ndarray], rows: slice, columns: slice, floor: np.ndarray, room: np.ndarray) -> _Hits:
    height, width = rows.stop - rows.start, columns.stop - columns.start
    likeness, sides, size = room[:, : height * width].reshape(3, height, width)
    for half, product in zip(halves, (likeness, sides)):
        np.matmul(half[rows], half[columns].T, out=product)
    likeness += np.abs(sides, out=size)
    at = np.flatnonzero(likeness >= min(floor[rows].min(), floor[columns].min()))  # far quicker than in two dimensions
    down, right = np.divmod(at, width)
    pairs = np.stack([down + rows.start, right + columns.start], axis=1)
    hits = _Hits(pairs, likeness.ravel()[at], sides.ravel()[at] < 0)
    once = hits.pairs[:, 0] < hits.pairs[:, 1]  # each pair once, and nothing with itself
    wanted = once & (hits.likeness >= floor[hits.pairs].min(axis=1))
    return _Hits(*(column[wanted] for column in hits))


def _best(hits: _Hits, floor: np.ndarray) -> _Hits:
    """Those that are among the NEIGHBOURS likest of either of their two: to leave out others changes nothing later.

    `floor` rises to what is known now. Two threads may overtake each other in that: it is then lower than it could be.
    """
    both = hits.pairs.T.ravel()
    likeness = np.tile(hits.likeness, 2)
    order = np.lexsort((-likeness, both))
    ordered = both[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    last = rank == NEIGHBOURS - 1
    floor[ordered[last]] = np.maximum(floor[ordered[last]], likeness[order[last]])
    best = np.unique(order[rank < NEIGHBOURS] % max(len(hits.pairs), 1))
    return _Hits(*(column[best] for column in hits))


def near(keys: Sequence[str], thumbnails: np.ndarray) -> Work[list[Pair]]:
    """Pairs of kind `near`, the surest first. Long work: yields how many pictures were looked at.

    Args:
        keys: N names.
        thumbnails: uint8 `(N, SIDE, SIDE)`. Equal ones are a pair with the first of their kind.

    Raises:
        CallError: for more than MOST pictures.
    """
    if len(keys) > MOST:
        raise CallError("near-duplicates", expected=f"at most {MOST:,} pictures", received=f"{len(keys):,}")
    alike = _equal_rows(thumbnails)
    found = [Pair(keys[a], keys[b], "near") for a, b in alike]
    left = np.setdiff1d(np.arange(len(keys)), np.array([b for _, b in alike], int))
    pairs, mirrored = yield from _candidates(describe(thumbnails)[left])
    pairs = left[pairs]

    def compared(start: int) -> np.ndarray:
        (one, other), flip = pairs[start : start + CHUNK].T, mirrored[start : start + CHUNK, None, None]
        return similarity(thumbnails[one], np.where(flip, thumbnails[other][:, :, ::-1], thumbnails[other]))

    with ThreadPoolExecutor(THREADS) as pool:
        starts = range(0, len(pairs), CHUNK)
        for start, sure in zip(starts, pool.map(compared, starts)):
            found += [
                Pair(keys[one], keys[other], "near", round(float(at), 4), bool(flip))
                for (one, other), at, flip in zip(pairs[start:], sure, mirrored[start:])
                if at > SURE
            ]
            yield len(keys)
    return sorted(found, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def _equal_rows(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Rows with the same thumbnail, each with the first; those without contrast equal nothing."""
    first: dict[bytes, int] = {}
    found = []
    for row, image in enumerate(thumbnails):
        other = first.setdefault(hashlib.blake2b(image, digest_size=16).digest(), row)
        if other != row and image.min() < image.max():
            found.append((other, row))
    return found


def groups(pairs: Iterable[Pair]) -> dict[str, str]:
    """Key → group, for every key in a pair: whoever is joined by pairs is one group, named after its first key."""
    return joined((pair.first, pair.second) for pair in pairs)


Name = TypeVar("Name", str, tuple[str, str])


def joined(pairs: Iterable[tuple[Name, Name]]) -> dict[Name, Name]:
    """Of every name in a pair the first of all names that it is joined to, by however many pairs (union-find)."""
    parent: dict[Name, Name] = {}

    def root(name: Name) -> Name:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return {name: root(name) for name in parent}


# ── aligned, details compared ──

# Everything here is a matrix from the left and one from the right of each picture: smoothing, shifting, scaling.
HALF = SIDE // 2  # of the pictures that are aligned; details are compared at SIDE
STEPS = 4  # 8 give the same pairs
FARTHEST = 0.15  # of half a picture: where more was cut off, it is another picture


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 `(P,)`, -1…1: how well the details of two thumbnails agree once one is laid over the other.

    Args:
        first, second: uint8 `(P, SIDE, SIDE)`, mirrored already where a mirrored pair is asked about.
    """
    one, other = first.astype(np.float32), second.astype(np.float32)
    moves = _alignment(_both(_halved(), one), _both(_halved(), other))
    rows, columns, inside = _laying(moves, SIDE)
    turned = columns.transpose(0, 2, 1)
    seen = inside * _exposed(one) * (rows @ _exposed(other) @ turned)
    seen = np.where(seen.mean(axis=(1, 2), keepdims=True) > LEAST, seen, inside)
    laid = rows @ (other - _both(_around(), other)) @ turned
    details = one - _both(_around(), one)
    agreed = _standard(_both(_smoothing(SIDE), details), seen) * _standard(_both(_smoothing(SIDE), laid), seen)
    total: np.ndarray = agreed.sum(axis=(1, 2))
    return total


LEAST = 0.2  # of a picture that must be exposed well for the rest not to count


def _exposed(images: np.ndarray) -> np.ndarray:
    """1 where there can be details, 0 where brightening or darkening has taken them."""
    return ((images > 4) & (images < 250)).astype(np.float32)


def _both(matrix: np.ndarray, images: np.ndarray) -> np.ndarray:
    result: np.ndarray = matrix @ images @ matrix.T
    return result


def _banded(n: int, weights: Sequence[float]) -> np.ndarray:
    """float32 `(n, n)`: each row the weights around its place; what would lie outside goes to the border."""
    matrix = np.zeros((n, n), np.float32)
    for offset, weight in enumerate(weights, -(len(weights) // 2)):
        np.add.at(matrix, (np.arange(n), (np.arange(n) + offset).clip(0, n - 1)), weight)
    return matrix


@cache
def _smoothing(n: int) -> np.ndarray:
    return _banded(n, (0.25, 0.5, 0.25))


@cache
def _around() -> np.ndarray:
    return _banded(SIDE, (1 / 9,) * 9)


@cache
def _halved() -> np.ndarray:
    pairs = np.repeat(np.eye(HALF, dtype=np.float32), 2, axis=1) / 2
    smoothed: np.ndarray = _smoothing(HALF) @ pairs
    return smoothed


@cache
def _line(n: int) -> np.ndarray:
    """float32 `(n,)`: the middles of n pixels, in -1…1."""
    return ((np.arange(n) + 0.5) * 2 / n - 1).astype(np.float32)


def _laying(moves: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices `(P, n, n)` from the left and right that move pictures, and 1 where what is seen lay inside, else 0.

    `moves` `(P, 4)`: y' = y + m2·y + m3 and x' = x + m0·x + m1, in -1…1; between pixels it is linear.
    """
    rows, inside_y = _sampling(moves[:, 2:], n)
    columns, inside_x = _sampling(moves[:, :2], n)
    return rows, columns, inside_y[:, :, None] * inside_x[:, None, :]


def _sampling(moves: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    place = _line(n) + moves[:, :1] * _line(n) + moves[:, 1:]
    pixel = ((place + 1) * n / 2 - 0.5).clip(0, n - 1)
    weights = (1 - np.abs(pixel[:, :, None] - np.arange(n, dtype=np.float32))).clip(0)
    return weights, (np.abs(place) < 1).astype(np.float32)


def _centred(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    mean = (images * inside).sum(axis=(-2, -1), keepdims=True) / inside.sum(axis=(-2, -1), keepdims=True)
    result: np.ndarray = (images - mean) * inside
    return result


def _standard(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Mean 0 and length 1 over what is inside, 0 elsewhere."""
    return _shortened(_centred(images, inside))


def _shortened(centred: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.square(centred).sum(axis=(-2, -1), keepdims=True))
    result: np.ndarray = centred / np.maximum(length, 1e-3)
    return result


def _alignment(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The moves `(P, 4)` that lay `other` over `one`, both `(P, HALF, HALF)`: Gauss-Newton on their difference."""
    slope = _banded(HALF, (-0.5, 0, 0.5)) * (HALF / 2)
    layers = np.stack([other, other @ slope.T, slope @ other], axis=1)
    line = _line(HALF)
    moves = np.zeros((len(one), 4), np.float32)
    for _ in range(STEPS):
        rows, columns, inside = _laying(moves, HALF)
        laid = rows[:, None] @ layers @ columns.transpose(0, 2, 1)[:, None]
        now, across, down = _centred(laid[:, 0], inside), laid[:, 1], laid[:, 2]
        length = np.maximum(np.sqrt(np.square(now).sum(axis=(1, 2))), 1e-3)[:, None, None]
        slopes = np.stack([across * line, across, down * line[:, None], down], axis=1) / length[:, None]
        flat = _centred(slopes, inside[:, None]).reshape(len(one), 4, -1)
        residual = (_standard(one, inside) - now / length).reshape(len(one), -1, 1)
        normal = flat @ flat.transpose(0, 2, 1) + 1e-3 * np.eye(4, dtype=np.float32)
        step = np.linalg.solve(normal, flat @ residual)[:, :, 0]
        moves = (moves + step.clip(-0.1, 0.1)).clip(-FARTHEST, FARTHEST)
    return moves

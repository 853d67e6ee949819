"""Duplicates: equal bytes, near-duplicates planted among pictures that are alike, mirrors, groups."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from opsin import codecs, duplicates
from opsin.duplicates import Pair
from opsin.errors import CallError
from opsin.sources import ArrayStore, arrays
from opsin.vocabulary import Dataset, Record, finished

N = 60


def scene(seed: int) -> Image.Image:
    """Blobs before a wall that all scenes share, with texture: alike in the large, not in detail."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :150].astype(float)
    picture = 90 + 0.4 * y + 0.2 * x
    for _ in range(6):
        cy, cx, size = rng.uniform(20, 100), rng.uniform(20, 130), rng.uniform(4, 20)
        picture = np.where((y - cy) ** 2 + (x - cx) ** 2 < size**2, rng.uniform(20, 230), picture)
    fine = rng.normal(0, 12, (40, 50)).repeat(3, 0).repeat(3, 1)
    return Image.fromarray(np.stack([picture + fine] * 3, -1).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


LEAKS = {
    "copy": jpeg,
    "encoded anew": lambda image: jpeg(image, 60),
    "resized": lambda image: jpeg(image.resize((105, 84), Image.Resampling.BICUBIC)),
    "mirrored": lambda image: jpeg(ImageOps.mirror(image)),
    "cropped": lambda image: jpeg(image.crop((5, 2, 148, 116))),
    "cropped all around": lambda image: jpeg(image.crop((7, 6, 143, 114))),
    "brightened": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.2)),
    "darkened": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.6)),
    "gray": lambda image: jpeg(ImageOps.grayscale(image)),
}


def thumbnail(data: bytes) -> np.ndarray:
    return duplicates.thumbnail(codecs.decode(data))


@pytest.fixture(scope="module")
def scenes() -> np.ndarray:
    return np.stack([thumbnail(jpeg(scene(seed))) for seed in range(N)])


@pytest.mark.parametrize("kind", LEAKS)
def test_planted_leaks_are_found_and_nothing_else(scenes, kind: str) -> None:
    planted = np.stack([thumbnail(LEAKS[kind](scene(seed))) for seed in range(10)])
    keys = [*map(str, range(N)), *(f"leak {seed}" for seed in range(10))]
    pairs = finished(duplicates.near(keys, np.concatenate([scenes, planted])))
    assert {(p.first, p.second) for p in pairs} == {(str(seed), f"leak {seed}") for seed in range(10)}
    assert {p.mirrored for p in pairs} == {kind == "mirrored"}
    assert all(duplicates.SURE < p.similarity <= 1 for p in pairs)
    assert pairs == sorted(pairs, key=lambda p: -p.similarity)


def test_clean_pictures_are_accused_of_nothing(scenes) -> None:
    assert finished(duplicates.near([*map(str, range(N))], scenes)) == []


def test_blocks_and_chunks_change_nothing(scenes, monkeypatch) -> None:
    leaks = np.stack([thumbnail(LEAKS["cropped"](scene(seed))) for seed in range(10)])
    images, keys = np.concatenate([scenes, leaks]), [*map(str, range(N + 10))]
    expected = finished(duplicates.near(keys, images))
    monkeypatch.setattr(duplicates, "BLOCK", 7)
    monkeypatch.setattr(duplicates, "CHUNK", 3)
    assert [(p.first, p.second) for p in finished(duplicates.near(keys, images))] == [
        (p.first, p.second) for p in expected
    ]
    assert len(expected) == 10


@pytest.mark.parametrize("centres", [1, 40], ids=["all alike", "groups"])
@pytest.mark.parametrize("sizes", [(1024, 4096, 256), (100, 130, 7)], ids=["one task", "many"])
def test_candidates_are_each_pictures_likest_of_all_pairs(centres: int, sizes: tuple[int, ...], monkeypatch) -> None:
    for name, size in zip(("BLOCK", "WIDE", "TILE"), sizes):
        monkeypatch.setattr(duplicates, name, size)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(centres, 48))[rng.integers(0, centres, 500)] + 0.4 * rng.normal(size=(500, 48))
    vectors *= np.where(rng.random((500, 1)) < 0.5, 1, _mirror())
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors[100:110] = vectors[0]  # more of one than are kept
    cosines = np.stack([vectors @ vectors.T, vectors @ (vectors * _mirror()).T])
    likeness = cosines.max(axis=0) * (1 - np.eye(500))
    expected = np.sort(np.where(likeness > duplicates.NEAR, likeness, 0))[:, -duplicates.NEIGHBOURS :]

    (one, other), mirrored = (found.T for found in finished(duplicates._candidates(vectors)))
    taken = np.zeros((500, 500))
    taken[one, other] = taken[other, one] = likeness[one, other]
    np.testing.assert_allclose(np.sort(taken)[:, -duplicates.NEIGHBOURS :], expected, atol=1e-5)
    assert (one < other).all()
    assert (likeness[one, other] > np.minimum(expected[one, 0], expected[other, 0]) - 1e-5).all()
    np.testing.assert_array_equal(mirrored, cosines[1, one, other] > cosines[0, one, other])


def _mirror() -> np.ndarray:
    return np.where(duplicates._odd(), -1, 1)


def test_pictures_without_contrast_are_like_nothing() -> None:
    flat = np.full((5, duplicates.SIDE, duplicates.SIDE), 200, np.uint8)
    flat += np.arange(5, dtype=np.uint8)[:, None, None]
    assert finished(duplicates.near(list("abcde"), np.concatenate([flat[:2], flat[:2], flat[4:]]))) == []
    assert np.isfinite(duplicates.similarity(flat, flat)).all()


def test_no_pictures_at_all() -> None:
    assert finished(duplicates.near([], np.zeros((0, duplicates.SIDE, duplicates.SIDE), np.uint8))) == []


def test_too_many_pictures_are_the_callers_fault(monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "MOST", 1)
    with pytest.raises(CallError, match="at most 1 pictures"):
        finished(duplicates.near(["a", "b"], np.zeros((2, duplicates.SIDE, duplicates.SIDE), np.uint8)))


@pytest.mark.parametrize("shape", [(96, 144), (48, 48), (32, 32), (7, 50), (1, 1)])
def test_thumbnails_are_means_of_what_they_cover(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    small = duplicates.thumbnail(picture)
    assert (small.shape, small.dtype) == ((48, 48), np.uint8)
    gray = picture @ np.array([0.299, 0.587, 0.114])
    assert abs(small.mean() - gray.mean()) < 1
    big = np.kron(gray, np.ones((48, 48))).reshape(48, shape[0], 48, shape[1]).mean(axis=(1, 3))
    np.testing.assert_allclose(small, big, atol=0.51)


def test_the_quick_pass_sees_what_decoding_in_colour_sees() -> None:
    def tinted(seed: int) -> Image.Image:
        return Image.fromarray(np.asarray(scene(seed).resize((600, 480))) // np.array([1, 2, 3], np.uint8))

    files = {f"{seed}": jpeg(tinted(seed)) for seed in range(40)}
    expected = [duplicates.thumbnail(codecs.decode(content, reduced=8)).astype(int) for content in files.values()]
    files["broken"] = files["0"][:1000]
    data = Dataset("made", tuple(Record(key, 0) for key in files), ("x",), Files(files), "")
    *found, broken = finished(duplicates.thumbnails(data))
    assert np.abs(np.stack(found) - expected).max() <= 2
    assert not broken.any()


def test_descriptors_are_unit_and_turn_their_odd_part_in_a_mirror(scenes) -> None:
    plain, turned = duplicates.describe(scenes), duplicates.describe(scenes[:, :, ::-1])
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(turned, np.where(duplicates._odd(), -plain, plain), atol=1e-4)
    np.testing.assert_allclose(duplicates.describe(scenes // 2 + 10), plain, atol=0.05)


# ── equal bytes, groups ──


class Files:
    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, key: str) -> bytes:
        return self.files[key]


def test_equal_bytes_are_found_even_when_crcs_lie() -> None:
    files = {"a": b"one", "b": b"two", "c": b"one", "d": b"six"}
    records = tuple(Record(key, 0, size=3, crc=1) for key in files)
    data = Dataset("made", records, ("x",), Files(files), "")
    assert duplicates.same_bytes(data) == [Pair("a", "c", "bytes")]


def test_only_suspicious_files_are_read() -> None:
    data = Dataset("made", tuple(Record(str(n), 0, size=n, crc=n) for n in range(9)), ("x",), ArrayStore({}), "")
    assert duplicates.same_bytes(data) == []


def test_equal_arrays_of_other_shapes_are_not_equal() -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    data = arrays.dataset("made", {None: (images, np.array([0, 1]))}, ("a", "b"))
    assert [(p.first, p.second) for p in duplicates.same_bytes(data)] == [("a/00000", "b/00001")]
    store = ArrayStore({"a": np.zeros((2, 8), np.uint8), "b": np.zeros((4, 4), np.uint8)})
    other = Dataset("made", (Record("a", 0, size=16), Record("b", 0, size=16)), ("x",), store, "")
    assert duplicates.same_bytes(other) == []


def test_groups_join_what_pairs_join() -> None:
    pairs = [Pair("b", "c", "near"), Pair("x", "y", "bytes"), Pair("d", "c", "near"), Pair("a", "d", "near")]
    assert duplicates.groups(pairs) == {"a": "a", "b": "a", "c": "a", "d": "a", "x": "x", "y": "x"}
    assert duplicates.groups([]) == {}

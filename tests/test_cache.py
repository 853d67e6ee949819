"""Decode once: rows stay those of their records, refusals are listed, threads and place change nothing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from opsin import cache, codecs, preprocessing
from opsin.cache import Pixels
from opsin.errors import DataError, MachineError, PictureError
from opsin.preprocessing import Preprocessing
from opsin.vocabulary import Dataset, Record, Refusal, Work, finished

ROADS = [Preprocessing(16), Preprocessing(24, "letterbox")]


class Memory:
    """A store in a dictionary; what is not in it cannot be read."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files

    def read(self, key: str) -> bytes:
        if key not in self.files:
            raise PictureError("unreadable", f"{key} vanished")
        return self.files[key]


def png(number: int) -> bytes:
    """A picture of its own for every number, wide or high."""
    shape = (20 + number % 7, 30 - number % 11, 3)
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def dataset(n: int, broken: Mapping[int, bytes | None] | None = None) -> Dataset:
    """`n` pictures of three classes; those of `broken` have these bytes, or none."""
    files: dict[str, bytes | None] = {f"{i:03d}.png": png(i) for i in range(n)} | {
        f"{i:03d}.png": data for i, data in (broken or {}).items()
    }
    records = tuple(Record(f"{i:03d}.png", i % 3, "val" if i % 5 == 4 else "train") for i in range(n))
    store = Memory({key: data for key, data in files.items() if data is not None})
    return Dataset("set", records, ("a", "b", "c"), store, "f", (Refusal("notes.txt", "not-a-picture", "text"),))


def expected(data: Dataset, road: Preprocessing) -> np.ndarray:
    """Every picture through the road, one by one."""
    pictures = [codecs.decode(data.store.read(record.key)) for record in data.records]
    return np.stack([preprocessing.prepare(road, picture).numpy() for picture in pictures])


BROKEN = {0: None, 7: b"no picture", 8: png(8)[:200], 69: b""}


def test_the_cache_is_byte_equal_to_the_uncached_road() -> None:
    data = dataset(70)
    kept, caches = finished(cache.build(data, ROADS))
    assert kept == data
    assert [pixels.array.shape for pixels in caches] == [(70, 3, 16, 16), (70, 3, 24, 24)]
    for pixels, road in zip(caches, ROADS):
        assert pixels.array.dtype == np.uint8
        assert np.array_equal(pixels.array, expected(data, road))
        assert pixels.array.transpose(0, 2, 3, 1).flags.c_contiguous
        assert pixels.data is kept
        assert not pixels.notice


def test_refused_pictures_are_removed_listed_and_not_replaced() -> None:
    data = dataset(70, BROKEN)
    kept, caches = finished(cache.build(data, ROADS))
    left = [i for i in range(70) if i not in BROKEN]
    assert [record.key for record in kept.records] == [f"{i:03d}.png" for i in left]
    assert [record.target for record in kept.records] == [i % 3 for i in left]
    assert kept.refused[0] == data.refused[0]
    assert [refusal.key for refusal in kept.refused[1:]] == [f"{i:03d}.png" for i in BROKEN]
    assert kept.refused[1].code == "unreadable"
    assert all(refusal.code and refusal.reason for refusal in kept.refused)
    for pixels, road in zip(caches, ROADS):
        assert np.array_equal(pixels.array, expected(kept, road))
        assert pixels.targets().tolist() == [i % 3 for i in left]


@pytest.mark.parametrize("broken", [{}, BROKEN])
def test_threads_do_not_change_the_result(broken: dict[int, bytes | None]) -> None:
    data = dataset(150, broken)
    one, many = (finished(cache.build(data, ROADS, threads=threads)) for threads in (1, 7))
    assert one[0] == many[0]
    assert all(np.array_equal(a.array, b.array) for a, b in zip(one[1], many[1]))


@pytest.mark.parametrize("broken", [{}, BROKEN])
def test_a_cache_in_a_file_equals_one_in_memory(
    broken: dict[int, bytes | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = dataset(70, broken)
    in_memory = finished(cache.build(data, ROADS))
    monkeypatch.setattr(cache, "MEMORY_BYTES", 70 * 3 * 16 * 16)  # the first road just fits, the second does not
    kept, (small, large) = finished(cache.build(data, ROADS, folder=tmp_path))
    assert not isinstance(small.array, np.memmap)
    assert isinstance(large.array, np.memmap)
    assert kept == in_memory[0]
    assert np.array_equal(small.array, in_memory[1][0].array)
    assert np.array_equal(large.array, in_memory[1][1].array)
    assert torch.equal(large.take(np.array([5, 2])), in_memory[1][1].take(np.array([5, 2])))
    if os.name == "posix":
        assert not list(tmp_path.iterdir())  # nothing to clean up, even after a kill -9


def test_a_large_cache_goes_to_a_disk_and_not_where_temporary_files_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_folder: Path
) -> None:
    """There, on many systems, it would be memory after all."""
    asked: list[Path] = []
    made = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: asked.append(dir) or made(dir=dir))
    monkeypatch.setattr(cache, "MEMORY_BYTES", 0)
    data = dataset(5)
    _, (pixels,) = finished(cache.build(data, ROADS[:1]))
    assert np.array_equal(pixels.array, expected(data, ROADS[0]))
    (tmp_path / "file").touch()  # there is no such folder to be had
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "file"))
    finished(cache.build(data, ROADS[:1]))
    assert asked == [cache_folder / "pixels", Path(tempfile.gettempdir())]


def test_progress_is_told_and_ends_with_all() -> None:
    assert list(cache.build(dataset(130), ROADS[:1])) == [1, 65, 129, 130]


def test_no_picture_left_is_an_error_that_says_why() -> None:
    data = dataset(5, dict.fromkeys(range(5), b"no picture"))
    with pytest.raises(DataError, match=r"set: no picture could be read: received 000\.png: .*001\.png: "):
        finished(cache.build(data, ROADS))


def test_only_pictures_are_refused_and_a_bug_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(preprocessing, "_fitted", broken)
    with pytest.raises(ZeroDivisionError):
        finished(cache.build(dataset(5), ROADS))


def jpeg(number: int) -> bytes:
    """Of 400 × 600 pixels: one road of ROADS takes it at 1/8, the other whole is never needed."""
    buffer = BytesIO()
    rough = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(rough).resize((600, 400)).save(buffer, "jpeg")
    return buffer.getvalue()


def test_reduced_jpegs_are_the_same_on_every_road() -> None:
    """Of the road of 150 pixels they are decoded at 1/1: a cache of both is one cache each."""
    data = dataset(4, {number: jpeg(number) for number in range(3)})
    roads = [Preprocessing(32), Preprocessing(150), Preprocessing(48, "crop"), Preprocessing(40, "letterbox")]
    _, together = finished(cache.build(data, roads))
    for road, pixels in zip(roads, together):
        (alone,) = finished(cache.build(data, [road]))[1]
        assert np.array_equal(pixels.array, alone.array)
        loaded = [preprocessing.load(road, data.store.read(record.key)).numpy() for record in data.records]
        assert np.array_equal(pixels.array, np.stack(loaded))


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


NO_ROOM = {
    "the disk says so": ("os.posix_fallocate", full),
    "the disk is smaller": (
        "shutil.disk_usage",
        lambda _: SimpleNamespace(free=cache.SPARE_BYTES + 5 * 3 * 16 * 16 - 1),
    ),
}


@pytest.mark.parametrize("name", NO_ROOM)
@pytest.mark.parametrize("broken", [{}, {1: b"no picture"}])
def test_without_room_pictures_are_decoded_each_time(
    name: str, broken: dict[int, bytes | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file with holes would be made gladly, and writing to its map would end the process with SIGBUS."""
    data = dataset(5, broken)
    wanted, (kept,) = finished(cache.build(data, ROADS[:1]))
    monkeypatch.setattr(cache, "MEMORY_BYTES", 0)
    monkeypatch.setattr(*NO_ROOM[name], raising=False)  # type: ignore[arg-type]
    found, (pixels,) = finished(cache.build(data, ROADS[:1], folder=tmp_path))
    assert found == wanted
    assert not list(tmp_path.iterdir())
    assert f"no room for a cache of 0.0 GiB ({len(found)} pictures at 16 px)" in pixels.notice
    assert isinstance(pixels.array, cache.Undecoded)
    assert pixels.array.shape == kept.array.shape
    every = np.arange(len(found))
    for rows in (every, every[::-1], every[:0], np.array([2, 0, 2])):
        assert torch.equal(pixels.take(rows), kept.take(rows))
    assert np.array_equal(pixels.array[1:3], kept.array[1:3])
    assert np.array_equal(pixels.picture(1), kept.picture(1))
    assert torch.equal(pixels.targets(), kept.targets())
    val, kept_val = (one.part(lambda record: record.key != "000.png") for one in (pixels, kept))
    assert val.data == kept_val.data
    assert np.array_equal(val.array[:], kept_val.array[:])
    assert np.array_equal(val.picture(2), kept_val.picture(2))


def test_a_picture_that_vanishes_later_is_an_error_and_no_other_picture() -> None:
    data = dataset(5, {2: None})
    with pytest.raises(PictureError, match="vanished"):
        cache.Undecoded(data, ROADS[0])[:]


# Kept for the next run ------------------------------------------------------------------------------------------------


def never(*_: Any) -> Any:
    raise AssertionError("decoded")


def known(data: Dataset) -> Dataset:
    """`data` whose records say what their files hold, as those of `sources.read` do."""
    files: dict[str, bytes] = data.store.files  # type: ignore[attr-defined]
    records = [replace(r, size=len(files[r.key]), crc=zlib.crc32(files[r.key])) for r in data.records]
    return replace(data, records=tuple(records))


def written(work: Work[tuple[Dataset, list[Pixels]]]) -> tuple[Dataset, list[Pixels]]:
    """What the work gives, once what it keeps is kept."""
    found = finished(work)
    cache._keeper(os.getpid()).submit(int).result()
    return found


@pytest.mark.parametrize("broken", [{}, {0: b"no picture", 7: png(8)[:200], 69: b"x"}])
def test_a_cache_that_was_kept_is_the_same(
    broken: dict[int, bytes | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = known(dataset(70, broken))
    first = finished(cache.build(data, ROADS, keep=tmp_path / "new"))
    monkeypatch.setattr(preprocessing, "load_each", never)
    again = finished(cache.build(data, ROADS, keep=tmp_path / "new"))  # as soon as the first is written
    assert len(list((tmp_path / "new").iterdir())) == 2
    assert again[0] == first[0]
    for old, new in zip(first[1], again[1]):
        assert np.array_equal(old.array, new.array)
        assert new.array.transpose(0, 2, 3, 1).flags.c_contiguous
        assert new.array.flags.writeable
    assert list(cache.build(data, ROADS[1:], keep=tmp_path / "new")) == [70]
    with pytest.raises(AssertionError, match="decoded"):
        finished(cache.build(data, [*ROADS, Preprocessing(17)], keep=tmp_path / "new"))


def other_content(data: Dataset) -> Dataset:
    return known(dataset(20, {3: png(99)}))


def other_order(data: Dataset) -> Dataset:
    return replace(data, records=data.records[::-1])


@pytest.mark.parametrize("change", [other_content, other_order])
def test_a_cache_of_other_data_is_not_used_and_dropped(change: Callable[[Dataset], Dataset], tmp_path: Path) -> None:
    data = known(dataset(20))
    written(cache.build(data, ROADS, keep=tmp_path))
    before = set(tmp_path.iterdir())
    changed = change(data)
    kept, caches = written(cache.build(changed, ROADS, keep=tmp_path))
    for pixels, road in zip(caches, ROADS):
        assert np.array_equal(pixels.array, expected(kept, road))
    after = set(tmp_path.iterdir())
    assert len(after) == 2
    assert not after & before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_has_a_keeper_of_its_own(tmp_path: Path) -> None:
    data = known(dataset(5))
    written(cache.build(data, ROADS, keep=tmp_path))  # whose thread a child does not have
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        cache._keeper(os.getpid()).submit(int).result()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_another_version_does_not_use_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = known(dataset(5))
    written(cache.build(data, ROADS, keep=tmp_path))
    monkeypatch.setattr(cache, "_makers", lambda: ("2",))
    monkeypatch.setattr(preprocessing, "load_each", never)
    with pytest.raises(AssertionError, match="decoded"):
        written(cache.build(data, ROADS, keep=tmp_path))


@pytest.mark.parametrize("name", ["numpy", "opencv-python-headless", "pydicom"])
def test_what_decodes_or_changes_pixels_is_part_of_a_caches_name(name: str) -> None:
    assert f"{name} {version(name)}" in cache._makers()


def test_kept_caches_that_refused_different_pictures_are_made_again(tmp_path: Path) -> None:
    data = known(dataset(6))
    holed = replace(data, store=Memory({k: v for k, v in data.store.files.items() if k != "002.png"}))  # type: ignore
    _, (kept,) = finished(cache.build(data, ROADS[1:], keep=tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "PASSING", ())
        finished(cache.build(holed, ROADS[:1], keep=tmp_path))
    found, caches = finished(cache.build(data, ROADS, keep=tmp_path))
    assert len(found) == len(kept) == 6
    for pixels, road in zip(caches, ROADS):
        assert np.array_equal(pixels.array, expected(data, road))


@pytest.mark.parametrize("code", ["unreadable", "out-of-memory"])
def test_what_may_be_over_tomorrow_is_not_kept(code: str, tmp_path: Path) -> None:
    class Passing(Memory):
        def read(self, key: str) -> bytes:
            if key == "002.png":
                raise PictureError(code, "today")
            return super().read(key)

    data = known(dataset(6))
    today = replace(data, store=Passing(data.store.files))  # type: ignore[attr-defined]
    assert len(finished(cache.build(today, ROADS, keep=tmp_path))[0]) == 5
    assert len(finished(cache.build(data, ROADS, keep=tmp_path))[0]) == 6


@pytest.mark.parametrize("at", [0, 100, 300, -300, -20, -1])
@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_a_damaged_cache_is_made_again(at: int, damage: str, tmp_path: Path) -> None:
    data = known(dataset(20, {3: b"no picture"}))
    written(cache.build(data, ROADS[:1], keep=tmp_path))
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content[:at] if damage == "cut" else content)
    kept, (pixels,) = written(cache.build(data, ROADS[:1], keep=tmp_path))
    assert np.array_equal(pixels.array, expected(kept, ROADS[0]))
    assert [r.key for r in kept.refused[1:]] == ["003.png"]
    assert list(tmp_path.iterdir()) == [file]


def test_the_caches_that_are_kept_are_bounded_and_the_oldest_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = 5 * 3 * 16 * 16
    monkeypatch.setattr(cache, "KEPT_BYTES", 3 * size + 1000)
    names = ["a", "b", "c", "d"]
    sets = [replace(known(dataset(5)), name=name) for name in names]
    for when, data in enumerate(sets[:3]):
        written(cache.build(data, ROADS[:1], keep=tmp_path))
        newest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        os.utime(newest, (when, when))
    written(cache.build(sets[0], ROADS[:1], keep=tmp_path))  # used now
    written(cache.build(sets[3], ROADS[:1], keep=tmp_path))
    assert sorted(file.name[0] for file in tmp_path.iterdir()) == ["a", "c", "d"]


def test_what_a_killed_process_left_half_written_is_swept_up(tmp_path: Path) -> None:
    old, new = (tmp_path / f".set-1.pixels.{pid}" for pid in (1, 2))
    for part in (old, new):
        part.write_bytes(b"half")
    long_ago = time.time() - 2 * cache.ABANDONED
    os.utime(old, (long_ago, long_ago))
    written(cache.build(known(dataset(5)), ROADS[:1], keep=tmp_path))
    assert not old.exists()
    assert new.exists()


def test_what_cannot_or_need_not_be_kept_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written(cache.build(dataset(5), ROADS, keep=tmp_path))  # records that do not know their content
    data = known(dataset(5))
    (tmp_path / "file").touch()
    written(cache.build(data, ROADS, keep=tmp_path / "file"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        written(cache.build(data, ROADS, keep=tmp_path))
    monkeypatch.setattr(cache, "MEMORY_BYTES", 5 * 3 * 16 * 16)
    written(cache.build(data, ROADS, keep=tmp_path))
    assert len([file for file in tmp_path.iterdir() if file.name != "file"]) == 1


def test_a_folder_that_is_not_there_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "MEMORY_BYTES", 0)
    with pytest.raises(MachineError, match="could not write the picture cache"):
        finished(cache.build(dataset(5), ROADS, folder=tmp_path / "absent"))


@pytest.fixture
def pixels() -> cache.Pixels:
    return finished(cache.build(dataset(20), ROADS[:1]))[1][0]


def test_a_part_has_the_rows_of_its_records(pixels: cache.Pixels) -> None:
    val = pixels.part(lambda record: record.split == "val")
    assert [record.key for record in val.data.records] == ["004.png", "009.png", "014.png", "019.png"]
    assert np.array_equal(val.array[:], pixels.array[4::5])
    assert val.array.shape == (4, 3, 16, 16)
    assert np.array_equal(val.take(np.array([3, 0])).numpy(), pixels.array[[19, 4]])
    assert np.array_equal(val.picture(1), pixels.picture(9))
    assert np.shares_memory(val.picture(1), pixels.array)
    later = val.part(lambda record: record.key in ("004.png", "014.png"))
    assert np.array_equal(later.array[:], pixels.array[[4, 14]])


def test_a_part_that_is_one_run_of_rows_is_not_copied(pixels: cache.Pixels) -> None:
    run = pixels.part(lambda record: "005" <= record.key[:3] < "012")
    assert np.array_equal(run.array, pixels.array[5:12])
    assert np.shares_memory(run.array, pixels.array)
    assert len(run) == 7


def test_an_empty_part_is_empty(pixels: cache.Pixels) -> None:
    none = pixels.part(lambda record: False)
    assert len(none) == 0
    assert none.array.shape == (0, 3, 16, 16)
    assert none.targets().shape == (0,)


def test_taken_rows_are_a_copy(pixels: cache.Pixels) -> None:
    before = pixels.array.copy()
    for rows in (np.array([3, 3, 0]), np.arange(20)):
        taken = pixels.take(rows)
        assert taken.dtype == torch.uint8
        assert np.array_equal(taken.numpy(), before[rows])
        taken.zero_()
    assert np.array_equal(pixels.array, before)

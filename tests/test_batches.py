"""Order and batches: a function of (seed, epoch, number), whatever was drawn before."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
import torch

from opsin import augmentation, batches, cache
from opsin.batches import Batch, Batches
from opsin.cache import Pixels
from opsin.preprocessing import Preprocessing
from opsin.recipe import AugmentChoice
from opsin.sources import ArrayStore
from opsin.vocabulary import Dataset, Record, finished

OFF = AugmentChoice()
MOVING = AugmentChoice("yes", "no", 10.0, 0.1, 0.1, 0.5, 0.2, 0.2, 0.2)
MIXED = AugmentChoice(mixup=1.0, cutmix=1.0)
EVERYTHING = dataclasses.replace(MOVING, policy="randaugment", noise=0.1, blur=1.0, erase=0.5, perspective=0.1, mixup=1)
SIDE = 8


class Nothing:
    def read(self, key: str) -> bytes:
        raise AssertionError("the pixels are here already")


def made(n: int = 50, batch: int = 16, seed: int = 0, augment: AugmentChoice = OFF, balanced: bool = False) -> Batches:
    records = tuple(Record(f"{i:04d}", i % 7, "train") for i in range(n))
    data = Dataset("set", records, tuple("abcdefg"), Nothing(), "f")
    array = np.random.default_rng(0).integers(0, 256, (n, 3, SIDE, SIDE), np.uint8)
    return Batches(Pixels(data, array), batch, SIDE, augment, seed, balanced=balanced)


def order(source: Batches, epoch: int, start: int = 0) -> list[int]:
    return np.concatenate([batch.rows for batch in source.epoch(epoch, start)]).tolist()


def equal(a: Batch, b: Batch) -> bool:
    tensors = ("images", "targets", "others", "shares")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors) and np.array_equal(a.rows, b.rows)


def test_an_epoch_is_a_permutation() -> None:
    assert sorted(order(made(), 0)) == list(range(50))
    assert order(made(), 0) != list(range(50))


def test_orders_differ_by_epoch_and_by_seed_and_come_again() -> None:
    orders = [order(made(seed=seed), epoch) for seed, epoch in itertools.product((0, 1, 2**32 - 1), (0, 1, 2, 100))]
    assert len({tuple(one) for one in orders}) == 12
    assert order(made(), 3) == order(made(), 3)


def test_the_order_is_uniform() -> None:
    """Each record comes first about as often as any other: chi-squared over 1,000 epochs, 10 records."""
    firsts = [next(iter(made(10, 10).epoch(epoch))).rows[0] for epoch in range(1000)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 27.9  # 99.9 % of 9 degrees of freedom


def test_rows_images_and_targets_belong_together() -> None:
    source = made()
    for batch in source.epoch(0):
        assert np.array_equal(batch.images.numpy(), source.pixels.array[batch.rows])
        assert batch.targets.tolist() == [row % 7 for row in batch.rows]
        assert (batch.images.dtype, batch.targets.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize(
    ("n", "batch", "sizes"),
    [(50, 16, [13, 13, 12, 12]), (48, 16, [16] * 3), (17, 16, [9, 8]), (5, 16, [5]), (3, 1, [1, 1, 1]), (50, 50, [50])],
)
def test_batches_are_of_even_size(n: int, batch: int, sizes: list[int]) -> None:
    source = made(n, batch)
    assert [len(one.images) for one in source.epoch(0)] == sizes
    assert len(source) == len(sizes)


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize(("augment", "balanced"), [(MOVING, False), (EVERYTHING, True)])
def test_from_any_position_the_rest_is_the_same(start: int, epoch: int, augment: AugmentChoice, balanced: bool) -> None:
    source = made(80, 16, augment=augment, balanced=balanced)
    whole = list(source.epoch(epoch))
    rest = list(source.epoch(epoch, start))
    assert len(rest) == max(0, len(whole) - start)
    assert all(equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_a_pictures_draw_does_not_depend_on_the_size_of_batches() -> None:
    pictures: list[dict[int, bytes]] = []
    for size in (7, 50):
        found = made(50, size, augment=MOVING).epoch(2)
        pictures.append({row: image.numpy().tobytes() for one in found for row, image in zip(one.rows, one.images)})
    assert pictures[0] == pictures[1]


def test_pictures_are_augmented_by_their_own_draw_and_the_cache_is_left_alone() -> None:
    source = made(augment=MOVING)
    before = source.pixels.array.copy()
    draws = augmentation.sample(MOVING, 0, 4, 50, SIDE)
    batch = next(source.epoch(4))
    for row, image in zip(batch.rows, batch.images):
        picture = torch.from_numpy(before[row : row + 1])
        alone = augmentation.apply(picture, draws.of(np.array([row])), size=SIDE, border="reflection")
        assert torch.equal(alone[0], image)
    assert np.array_equal(source.pixels.array, before)


def test_a_batch_of_the_whole_set_is_made_in_slices_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full-batch gradient descent: one batch an epoch."""
    whole = list(made(50, 50, augment=MOVING).epoch(0))
    assert [len(batch.images) for batch in whole] == [50]
    monkeypatch.setattr(batches, "SLICE", 3)
    assert equal(next(made(50, 50, augment=MOVING).epoch(0)), whole[0])


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_do_not_change_a_batch(threads: int) -> None:
    source = made(50, 40, augment=EVERYTHING)
    other = dataclasses.replace(source, threads=threads)
    assert all(equal(a, b) for a, b in zip(source.epoch(1), other.epoch(1), strict=True))


def test_pictures_that_are_not_kept_make_the_same_batches() -> None:
    """A run whose cache had no room is the same run."""
    road = Preprocessing(12)
    pictures = {f"{i:02d}": np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), np.uint8) for i in range(20)}
    records = tuple(Record(key, i % 7, "train") for i, key in enumerate(pictures))
    data = Dataset("set", records, tuple("abcdefg"), ArrayStore(pictures), "f")
    _, (kept,) = finished(cache.build(data, [road]))
    streamed = Pixels(data, cache.Undecoded(data, road))
    both = [Batches(pixels, 8, SIDE, MOVING, 0).epoch(2) for pixels in (kept, streamed)]
    assert all(equal(a, b) for a, b in zip(*both, strict=True))


# Balanced sampling, and mixing ---------------------------------------------------------------------------------------


def uneven(counts: list[int], balanced: bool = True, augment: AugmentChoice = OFF) -> Batches:
    targets = np.repeat(np.arange(len(counts)), counts)
    records = tuple(Record(f"{i:04d}", int(target), "train") for i, target in enumerate(targets))
    data = Dataset("set", records, tuple(map(str, range(len(counts)))), Nothing(), "f")
    array = np.random.default_rng(0).integers(0, 256, (len(targets), 3, SIDE, SIDE), np.uint8)
    return Batches(Pixels(data, array), 16, SIDE, augment, 0, balanced=balanced)


@pytest.mark.parametrize("counts", [[90, 10], [50, 3, 1], [10, 0, 40], [7, 7, 7], [5]])
def test_balanced_classes_come_as_often_and_an_epoch_stays_as_long(counts: list[int]) -> None:
    source = uneven(counts)
    n, present = sum(counts), [count for count in counts if count]
    for epoch in range(3):
        rows = np.array(order(source, epoch))
        targets = source.pixels.targets().numpy()[rows]
        shares = np.bincount(targets, minlength=len(counts))
        assert len(rows) == n
        assert set(shares[np.array(counts) > 0]) <= {n // len(present), -(-n // len(present))}
        for target in set(targets):
            often = np.bincount(rows[targets == target], minlength=n)[source.pixels.targets().numpy() == target]
            assert often.max() - often.min() <= 1
    assert sorted(order(source, 0)) != sorted(order(source, 1)) or len(set(present)) == 1


def test_balanced_sampling_reaches_every_picture_of_a_large_class_in_time() -> None:
    source = uneven([90, 10])
    seen = set(itertools.chain.from_iterable(order(source, epoch) for epoch in range(12)))
    assert seen == set(range(100))


def test_a_picture_that_comes_twice_is_changed_in_two_ways() -> None:
    found: dict[int, list[bytes]] = {}
    for batch in uneven([90, 10], augment=MOVING).epoch(0):
        for row, image in zip(batch.rows, batch.images):
            found.setdefault(int(row), []).append(image.numpy().tobytes())
    assert [len(found[row]) for row in range(90, 100)] == [5] * 10
    assert all(len(set(found[row])) == 5 for row in range(90, 100))


def test_without_mixing_every_picture_is_its_own() -> None:
    for batch in made().epoch(0):
        assert torch.equal(batch.others, batch.targets)
        assert batch.shares.tolist() == [1] * len(batch.rows)


def test_mixed_pictures_and_labels_belong_together() -> None:
    """The second picture is the next of the batch; how much of each it holds is what the share says."""
    source = made(50, 25, augment=MIXED)
    kinds = [0, 0]
    for batch in source.epoch(1):
        own = source.pixels.array[batch.rows].astype(float)
        other = np.roll(own, -1, 0)
        assert torch.equal(batch.others, batch.targets.roll(-1))
        for share, image, a, b in zip(batch.shares.tolist(), batch.images.numpy(), own, other):
            blended = np.abs(image - (share * a + (1 - share) * b)).max() <= 0.51
            pasted = (image != a).any(0)
            cut = (image == np.where(pasted, b, a)).all() and pasted.mean() == pytest.approx(1 - share, abs=0.02)
            assert blended or cut
            kinds[int(cut)] += 1
    assert min(kinds) > 10


def test_a_batch_of_one_is_mixed_with_itself() -> None:
    source = made(3, 1, augment=MIXED)
    for batch in source.epoch(0):
        assert np.abs(batch.images.numpy().astype(int) - source.pixels.array[batch.rows]).max() <= 1
        assert torch.equal(batch.others, batch.targets)


def workers() -> int:
    return sum(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())


@pytest.mark.parametrize("taken", [0, 1, 2, 4])
def test_an_epoch_that_is_left_in_the_middle_leaves_no_thread(taken: int) -> None:
    before = workers()
    epoch = made().epoch(0)
    for _ in range(taken):
        next(epoch)
    assert before < workers() <= before + batches.THREADS or not taken
    epoch.close()  # type: ignore[attr-defined]
    assert workers() == before
    assert list(epoch) == []


class Watched:
    """Pixels that note which rows were asked for, in which thread, or raise."""

    def __init__(self, pixels: Pixels, error: type[Exception] | None = None) -> None:
        self.pixels, self.error = pixels, error
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def targets(self) -> torch.Tensor:
        return self.pixels.targets()

    def picture(self, row: int) -> np.ndarray:
        assert threading.current_thread() is not threading.main_thread()
        self.asked.append(row)
        if self.error:
            raise self.error
        return self.pixels.picture(row)


def watched(n: int, batch: int, error: type[Exception] | None = None) -> tuple[Batches, Watched]:
    source = made(n, batch)
    pixels = Watched(source.pixels, error)
    return dataclasses.replace(source, pixels=pixels), pixels  # type: ignore[arg-type]


def test_the_next_batches_are_made_while_one_is_used() -> None:
    source, pixels = watched(80, 16)
    epoch = source.epoch(0)
    first = next(epoch)
    ahead = 16 * (1 + batches.AHEAD)
    deadline = time.monotonic() + 5
    while len(pixels.asked) < ahead and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.01)
    assert len(pixels.asked) == ahead < 80  # no more than that
    assert set(first.rows) <= set(pixels.asked)
    epoch.close()  # type: ignore[attr-defined]


def test_an_error_in_the_thread_is_raised_where_the_batch_is_asked_for() -> None:
    before = workers()
    source, _ = watched(50, 16, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        next(source.epoch(0))
    assert workers() == before


# ── pictures that grow ──


@pytest.mark.parametrize(
    ("first", "size", "epochs"), [(16, 32, 8), (128, 224, 6), (8, 32, 1), (16, 32, 2), (96, 128, 3)]
)
def test_sides_grow_to_the_size_that_the_second_half_has(first: int, size: int, epochs: int) -> None:
    sides = batches.growing(first, size, epochs)
    assert len(sides) == epochs // 2
    assert list(sides) == sorted(sides)
    assert all(side % 8 == 0 and first <= side <= size for side in sides)
    assert not sides or sides[0] == first
    assert len(sides) < 2 or sides[-1] == size


@pytest.mark.parametrize(("first", "size", "epochs"), [(3, 64, 4), (12, 100, 8), (8, 45, 4), (50, 45, 6), (2, 5, 8)])
def test_sides_that_are_no_multiples_of_eight_grow_too(first: int, size: int, epochs: int) -> None:
    sides = batches.growing(first, size, epochs)
    assert sides[-1] == size
    assert all(min(8, size) <= side <= size and (side % 8 == 0 or side == size) for side in sides)


def test_smaller_pictures_are_the_large_ones_made_smaller() -> None:
    """Each pixel the mean of those that it covers, of the picture after its augmentation."""
    whole = made(augment=EVERYTHING)
    growing = dataclasses.replace(whole, sides=(SIDE // 2, SIDE))
    unmixed = made(augment=dataclasses.replace(EVERYTHING, mixup=0.0))
    small = dataclasses.replace(unmixed, sides=(SIDE // 2,))
    for one, other in zip(unmixed.epoch(0), small.epoch(0), strict=True):
        means = one.images.float().unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
        assert other.images.shape == means.shape
        assert (means - other.images.float()).abs().max() <= 0.5
        assert one.rows.tolist() == other.rows.tolist()
    assert [next(growing.epoch(epoch)).images.shape[2] for epoch in range(3)] == [4, 8, 8]
    for one, other in zip(whole.epoch(5), growing.epoch(5), strict=True):
        assert equal(one, other)


def test_pictures_are_cut_into_one_another_at_the_side_that_they_have() -> None:
    """A share of CutMix is a count of pixels; of 4 × 4 here, and not of 8 × 8."""
    source = dataclasses.replace(made(augment=AugmentChoice(cutmix=1.0)), sides=(SIDE // 2,))
    for batch in source.epoch(0):
        pixels = batch.shares * 16
        assert torch.allclose(pixels, pixels.round(), atol=1e-4)
        assert batch.images.shape[2:] == (4, 4)

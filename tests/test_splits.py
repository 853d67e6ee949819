"""Splits: their sizes, that groups stay whole, that nothing but keys and the seed decides, and split.csv."""

from __future__ import annotations

import csv
import dataclasses
import os
import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin import splits, spreadsheets
from opsin.errors import CallError, DataError, MachineError
from opsin.sources import ArrayStore
from opsin.vocabulary import Dataset, Record


def dataset(records: list[Record], k: int) -> Dataset:
    return Dataset("made", tuple(records), tuple(f"c{i}" for i in range(k)), ArrayStore({}), "")


def plain(*counts: int, split=None) -> Dataset:
    """So many records of class 0, of class 1, …"""
    rows = [Record(f"{split}/c{c}/{i}.jpg", c, split) for c, n in enumerate(counts) for i in range(n)]
    return dataset(rows, len(counts))


def joined(*parts: Dataset) -> Dataset:
    return dataset([r for part in parts for r in part.records], max(len(part.classes) for part in parts))


def sizes(data: Dataset) -> tuple[int, int, int]:
    return len(data.train), len(data.val), len(data.test)


def places(data: Dataset) -> dict[str, str | None]:
    return {record.key: record.split for record in data.records}


def test_without_a_split_each_class_gets_its_shares() -> None:
    done = splits.split(plain(200, 100, 20))
    assert sizes(done) == (224, 48, 48)
    assert list(done.test.counts().values()) == [30, 15, 3]
    assert "split 70/15/15, stratified" in done.notes


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (7, (5, 1, 1)), (20, (14, 3, 3))],
)
def test_small_classes(n: int, expected: tuple[int, int, int]) -> None:
    done = splits.split(plain(n, 40))
    assert sizes(done.where(lambda record: record.target == 0)) == expected


def test_a_class_of_one_picture_is_trained_on_and_named() -> None:
    done = splits.split(plain(1, 40))
    assert any("not scored" in note and "'c0'" in note and "'c1'" not in note for note in done.notes)


@given(st.integers(1, 400), st.floats(0, 0.45), st.floats(0, 0.45))
def test_sizes_add_up_and_train_is_never_empty(n: int, val: float, test: float) -> None:
    shares = splits._shares(val, test)
    got = splits._sizes(n, shares)
    assert sum(got.values()) == n
    assert min(got.values()) >= 0
    assert got["train"] >= 1
    assert set(got) == set(shares)
    if n >= 3:
        assert all(got.values())
        assert all(abs(got[name] - n * share) <= 2 for name, share in shares.items())


def test_only_keys_and_seed_decide() -> None:
    data = plain(60, 60)
    mixed = list(data.records)
    random.Random(3).shuffle(mixed)
    one, other = splits.split(data, seed=7), splits.split(dataset(mixed, 2), seed=7)
    assert places(one) == places(other)
    assert splits.fingerprint(one) == splits.fingerprint(other)
    assert splits.fingerprint(one) != splits.fingerprint(splits.split(data, seed=8))
    # A golden value: a seed means the same split on every machine, tomorrow too.
    assert splits.fingerprint(one)[:12] == "1e3aac5dd9f3"


def test_validation_is_carved_out_of_train_and_test_is_left_alone() -> None:
    given_test = plain(10, 10, split="test")
    done = splits.split(joined(plain(100, 50, split="train"), given_test))
    assert sizes(done) == (135, 15, 20)
    assert done.val.counts() == {"c0": 10, "c1": 5}
    assert {r.key for r in done.test.records} == {r.key for r in given_test.records}
    assert any("no validation given" in note for note in done.notes)


def test_carved_validation_has_five_thousand_records_at_most() -> None:
    done = splits.split(joined(plain(40_000, 40_000, split="train"), plain(1, 1, split="test")))
    assert sizes(done) == (75_000, 5_000, 2)


def test_test_is_carved_out_of_train_and_said() -> None:
    done = splits.split(joined(plain(100, 100, split="train"), plain(5, 5, split="val")))
    assert sizes(done) == (170, 10, 30)
    assert any("no test given" in note for note in done.notes)


def test_train_alone_gives_all_three() -> None:
    assert sizes(splits.split(plain(100, 100, split="train"))) == (140, 30, 30)


def test_given_splits_are_left_as_they_are() -> None:
    data = joined(*(plain(5, 5, split=name) for name in ("train", "val", "test")))
    assert splits.split(data, seed=5) == data


def test_half_given_and_missing_training_are_refused() -> None:
    with pytest.raises(DataError, match="20 of 30 records have no split"):
        splits.split(joined(plain(10, 10), plain(5, 5, split="train")))
    with pytest.raises(DataError, match="nothing to train on"):
        splits.split(plain(5, 5, split="test"))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.1), (float("nan"), 0.1)])
def test_impossible_shares_are_the_callers_fault(shares: tuple[float, float]) -> None:
    with pytest.raises(CallError, match="shares"):
        splits.split(plain(9, 9), val=shares[0], test=shares[1])


def test_no_validation_when_none_is_wanted() -> None:
    assert sizes(splits.split(plain(50, 50), val=0, test=0.2)) == (80, 0, 20)


# ── groups ──


def patients(seed: int, n: int, k: int = 3) -> Dataset:
    draw = random.Random(seed)
    rows = [
        Record(f"p{g}/{i}.png", draw.randrange(k), None, f"p{g}") for g in range(n) for i in range(draw.randint(1, 12))
    ]
    return dataset(rows, k)


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_classes_keep_their_shares(seed: int) -> None:
    data = patients(seed, 80)
    done = splits.split(data, seed=seed)
    homes: dict[str | None, set[str | None]] = {}
    for record in done.records:
        homes.setdefault(record.group, set()).add(record.split)
    assert all(len(home) == 1 for home in homes.values())
    for name, count in data.counts().items():
        assert done.test.counts()[name] / count == pytest.approx(0.15, abs=0.06)
        assert done.val.counts()[name] / count == pytest.approx(0.15, abs=0.06)


def test_groups_are_dealt_the_same_in_any_order() -> None:
    data = patients(1, 40)
    backwards = dataset(list(data.records)[::-1], 3)
    assert places(splits.split(data, seed=2)) == places(splits.split(backwards, seed=2))
    assert places(splits.split(data, seed=2)) != places(splits.split(data, seed=3))


def test_training_gets_every_class_even_if_one_group_holds_it() -> None:
    rows = [Record(f"{g}/{i}", 0, None, f"g{g}") for g in range(20) for i in range(5)]
    rows += [Record(f"rare/{i}", 1, None, "rare") for i in range(2)]
    done = splits.split(dataset(rows, 2))
    assert done.train.counts()["c1"] == 2
    assert any("'c1'" in note and "not scored" in note for note in done.notes)


@pytest.mark.parametrize("groups", [["a", "a", "b", "b"], ["a", "b", "c", "c"]])
def test_too_few_groups_are_an_error(groups: list[str]) -> None:
    # The second: three groups, but both a and b are the only ones of their class, so two must train.
    rows = [Record(f"{i}", min(i, 1), None, group) for i, group in enumerate(groups)]
    rows[-1] = dataclasses.replace(rows[-1], target=1)
    if len(set(groups)) == 3:
        rows = [dataclasses.replace(r, target=i) for i, r in enumerate(rows)]
    with pytest.raises(DataError, match="too few groups"):
        splits.split(dataset(rows, 4))


def test_three_groups_of_all_classes_are_enough() -> None:
    rows = [Record(f"{g}{c}", c, None, g) for g in "abc" for c in range(2)]
    assert sizes(splits.split(dataset(rows, 2))) == (2, 2, 2)


def test_a_group_in_two_given_splits_is_told() -> None:
    rows = [Record(f"{name}/{i}", i % 2, name, f"{name}{i}") for name in ("train", "val", "test") for i in range(4)]
    rows[0] = dataclasses.replace(rows[0], group="test0")
    done = splits.split(dataset(rows, 2))
    assert any(note.startswith("1 groups stand in more than one split") and "'test0'" in note for note in done.notes)


# ── split.csv ──

AWKWARD = ["=1+1.png", "'=x", "'x", "+a", "-a", "@a", "a,b", 'a"b', "a\nb", "a\rb", "é", "caf\udce9.jpg", " a ", "\ta"]


def test_awkward_names_survive_split_csv(tmp_path) -> None:
    rows = [Record(key, i % 2, "train", key[::-1] if i % 3 else None) for i, key in enumerate(AWKWARD)]
    data = dataset(rows, 2)
    splits.write(data, tmp_path / "split.csv")
    blank = dataset([dataclasses.replace(r, split=None, group=None) for r in rows], 2)
    assert splits.read(blank, tmp_path / "split.csv").records == data.records
    cells = list(csv.reader(open_text(tmp_path / "split.csv")))
    assert cells[0] == ["record", "split", "group", "class"]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in cells for cell in row)


def open_text(path):
    import io

    return io.StringIO(path.read_bytes().decode("utf-8", "surrogateescape"), newline="")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), unique=True))
def test_any_text_survives_the_guard(texts: list[str]) -> None:
    assert [spreadsheets.bare(spreadsheets.guarded(text)) for text in texts] == texts
    assert not any(spreadsheets.guarded(text).startswith(("=", "+", "-", "@")) for text in texts)


def test_a_split_is_read_back_and_a_spreadsheets_mark_does_not_hurt(tmp_path) -> None:
    path = tmp_path / "split.csv"
    data = plain(30, 30)
    done = splits.split(data)
    splits.write(done, path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert places(splits.read(data, path)) == places(done)
    assert [p.name for p in tmp_path.iterdir()] == ["split.csv"]


def test_other_records_are_counted_and_named(tmp_path) -> None:
    data = plain(10, 10)
    splits.write(splits.split(data), tmp_path / "s.csv")
    more = joined(data, dataset([Record("new.jpg", 0)], 2))
    with pytest.raises(DataError, match=r"1 of the data missing, such as 'new\.jpg'"):
        splits.read(more, tmp_path / "s.csv")
    with pytest.raises(DataError, match="10 not in the data"):
        splits.read(data.where(lambda r: r.target == 0), tmp_path / "s.csv")


def test_other_classes_or_groups_are_refused(tmp_path) -> None:
    data = plain(10, 10)
    splits.write(splits.split(data), tmp_path / "s.csv")
    renamed = dataclasses.replace(data, classes=("c0", "dog"))
    with pytest.raises(DataError, match="other classes or groups"):
        splits.read(renamed, tmp_path / "s.csv")
    regrouped = dataset([dataclasses.replace(r, group=r.key) for r in data.records], 2)
    with pytest.raises(DataError, match="other classes or groups"):
        splits.read(regrouped, tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "expected columns"),
        ("", "received nothing"),
        ("record,split,group,class\nx,dev,,c0\n", "'dev' for 'x'"),
        ("record,split,group,class\nx,,,c0\n", "'' for 'x'"),
        ("record,split,group,class\nx\n", "'' for 'x'"),
        ("record,split,group,class\nx,train,,c0\nx,test,,c0\n", "'x' twice"),
        ("record,split,group,class\n" + "y" * 200_000 + ",train,,c0\n", "is no CSV"),
    ],
)
def test_a_file_that_is_no_split_says_why(tmp_path, text: str, says: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        splits.read(dataset([Record("x", 0)], 2), tmp_path / "s.csv")


def test_a_missing_file_and_a_missing_place(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        splits.read(plain(1, 1), tmp_path / "none.csv")
    with pytest.raises(MachineError, match="could not write"):
        splits.write(plain(1, 1), tmp_path / "nowhere" / "s.csv")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "s.csv"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MachineError, match="Free some space"):
        splits.write(plain(2, 2), path)
    assert path.read_text() == "old"
    assert Counter(p.name for p in tmp_path.iterdir()) == {"s.csv": 1}


# ── what looks alike ──


def test_what_looks_alike_gets_one_split() -> None:
    data = plain(60, 60)
    keys = [record.key for record in data.records]
    together = {key: f"g{number // 3}" for number, key in enumerate(keys[:90])}
    found = splits.split(data, together=together)
    stands: dict[str, set[str]] = {}
    for record in found.records:
        stands.setdefault(together.get(record.key, record.key), set()).add(record.split)
    assert all(len(places) == 1 for places in stands.values())
    assert {record.split for record in found.records} == {"train", "val", "test"}
    assert 14 <= len(found.test) <= 22
    assert any("90 pictures that look alike kept together" in note for note in found.notes)
    apart = splits.split(data)
    assert any(
        len({r.split for r in apart.records if together.get(r.key) == name}) > 1 for name in set(together.values())
    )


def test_groups_that_share_a_picture_are_one() -> None:
    data = plain(40, 40)
    records = tuple(dataclasses.replace(r, group=f"p{i // 2}") for i, r in enumerate(data.records))
    grouped = dataclasses.replace(data, records=records)
    together = {records[1].key: "a", records[2].key: "a", records[7].key: "b", records[8].key: "b"}
    found = splits.split(grouped, together=together)
    of = {record.key: record.split for record in found.records}
    for low in (0, 6):
        assert len({of[records[i].key] for i in range(low, low + 4)}) == 1


def test_nothing_alike_changes_nothing() -> None:
    data = plain(20, 20)
    assert splits.split(data, together={}).records == splits.split(data).records


# ── groups of thousands of classes ──


def dense(groups: list[list[int | None]], want: np.ndarray, k: int, folds: bool) -> list[int]:
    """How groups are dealt, written with a row of all classes for each group, which is too large to be kept."""
    have, chosen = np.zeros_like(want), []
    for index, members in enumerate(groups):
        group = np.bincount([k if t is None else t for t in members], minlength=k + 1)
        costs = (group * (2 * (have - want) + group) / np.maximum(want, 1e-9)).sum(axis=1)
        sizes = have.sum(axis=1)
        if len(groups) - index <= (sizes == 0).sum():
            costs[sizes > 0] = np.inf
        at = int(np.lexsort((sizes, costs))[0]) if folds else int(costs.argmin())
        at = 0 if not folds and (have[0][group > 0] == 0).any() else at
        have[at] += group
        chosen.append(at)
    return chosen


def drawn(rng: np.random.Generator, k: int, most: int) -> list[list[int | None]]:
    several = [rng.integers(0, k, rng.integers(1, most)) for _ in range(int(rng.integers(3, 120)))]
    return [[None if rng.random() < 0.05 else int(t) for t in group] for group in several]


@pytest.mark.parametrize("most", [2, 4, 40])
def test_groups_are_dealt_as_with_a_row_of_all_classes_each(most: int) -> None:
    rng = np.random.default_rng(most)
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    for k in (1, 2, 3, 10, 30, 200) * 5:
        groups = drawn(rng, k, most)
        records = np.bincount([k if t is None else t for group in groups for t in group], minlength=k + 1)
        wanted = dense(groups, np.outer([*shares.values()], records).astype(float), k, False)
        assert splits._greedy(groups, shares, k) == [[*shares][at] for at in wanted]
        even = np.tile(np.maximum(records / 3, 1e-9), (3, 1))
        assert splits._evenly(groups, 3, k) == dense(groups, even, k, True)


def test_many_groups_of_many_classes_need_little_memory() -> None:
    """A row of a thousand classes for each of two thousand groups would be 16 MB."""
    groups: list[list[int | None]] = [[number % 1000] for number in range(2000)]
    tracemalloc.start()
    try:
        splits._greedy(groups, {"train": 0.8, "test": 0.2}, 1000)
        splits._evenly(groups, 5, 1000)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()

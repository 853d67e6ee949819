"""Which records train, which validate, which test: stratified, grouped, and the same for the same keys and seed.

    split ─> write ─> split.csv ─> read

A record's place depends on its key, the seed and its class-mates, never on the order in which records come.
Groups are dealt by a greedy of our own instead of scikit-learn's StratifiedGroupKFold: folds can only give shares of
1/k and depend on the order of rows, and they may leave training without a class.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import numpy as np

from .duplicates import joined
from .errors import CallError, DataError, replacing, some
from .spreadsheets import bare, guarded
from .vocabulary import SPLITS, Dataset, Record, Split

CARVED_VAL = 0.10  # of training pictures, where a source has train and test only: enough to choose by
TENTHS = 10  # parts of a quantity's range, alike in records, that are stratified
MOST_VAL = 5_000  # records; more would tell no more than it costs in training pictures
COLUMNS = ("record", "split", "group", "class")

Shares = dict[Split, float]  # what each split gets; train first; sum 1
Places = dict[str, Split]  # key → split


# ── splitting ──


def split(
    data: Dataset,
    *,
    seed: int = 0,
    val: float = 0.15,
    test: float = 0.15,
    together: Mapping[str, str] = MappingProxyType({}),
) -> Dataset:
    """The same records, each with a split; what was decided stands in `notes`. The fingerprint stays the source's.

    Without any split: `val` and `test` of every class, at least one picture of each class of three or more in both.
    With train and test: validation is carved out of train, 10 % of it (never more than `val`),
    and about 5,000 records at most.
    With train only, or train and validation: `test` is carved out of train. With all three: nothing is changed.
    A class of one picture trains, of two trains and tests. Groups are never divided.

    Args:
        data: records, all with a split or all without. What is stratified: classes; every label, the rarest first
            (Sechidis, Tsoumakas & Vlahavas 2011); tenths of the first quantity.
        seed: of the order in which records are dealt.
        val, test: shares of the records, 0 for none.
        together: key → name, of records that show one picture (`duplicates.groups`): like a group they get one split.

    Raises:
        CallError: shares below 0, or that leave nothing to train on.
        DataError: too few groups, no training records, or records without a split beside others with one.
    """
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise CallError("shares of val and test", expected="≥ 0, together below 1", received=f"{val} and {test}")
    given = {record.split for record in data.records}
    _refuse_half_given(data, given)
    pool, shares, note = _plan(data, given, val, test)
    if len(shares) > 1:
        bound = _bound(pool, together)
        placed = _deal(pool, shares, seed, data.classes, bound)
        note += f"; {len(together):,} pictures that look alike kept together" * bool(together.keys() & bound.keys())
        records = tuple(_moved(record, placed.get(record.key, record.split)) for record in data.records)
        data = dataclasses.replace(data, records=records)
    notes = [note, *_untrained(data), *_divided(data)]
    return dataclasses.replace(data, notes=(*data.notes, *filter(None, notes)))


def dealt(data: Dataset) -> Dataset:
    """The records that `split` would deal; none where every split is given."""
    given = {record.split for record in data.records}
    return data.where(lambda record: record.split in (None, "train") and not given >= {"train", "val", "test"})


def _refuse_half_given(data: Dataset, given: set[Split | None]) -> None:
    if given == {None}:
        return
    if None in given:
        without = sum(record.split is None for record in data.records)
        raise DataError(f"{without:,} of {len(data):,} records have no split", expected="all or none",
                        do="Give them one, or take the splits away")  # fmt: skip
    if "train" not in given:
        raise DataError("nothing to train on", expected="a train folder", received=", ".join(sorted(map(str, given))))


def _plan(data: Dataset, given: set[Split | None], val: float, test: float) -> tuple[Sequence[Record], Shares, str]:
    """What is dealt, to which splits, and what to say of it."""
    if given == {None}:
        text = f"{100 * (1 - val - test):.0f}/{100 * val:.0f}/{100 * test:.0f}"
        return data.records, _shares(val, test), f"split {text}, stratified" + _by_group(data)
    pool = data.train.records
    if "test" in given and "val" not in given:
        share = min(val, CARVED_VAL, MOST_VAL / len(pool))
        return pool, _shares(share, 0), f"no validation given: {100 * share:.3g} % of train became it" * bool(share)
    if "val" in given and "test" not in given:
        return pool, _shares(0, test), f"no test given: {100 * test:.3g} % of train became it" * bool(test)
    if given == {"train"}:
        return pool, _shares(val, test), "only train given: validation and test are carved out of it"
    return pool, {"train": 1.0}, ""


def _shares(val: float, test: float) -> Shares:
    shares: Shares = {"train": 1 - val - test, "val": val, "test": test}
    return {name: share for name, share in shares.items() if share > 0}


def _by_group(data: Dataset) -> str:
    return " by group" if any(record.group for record in data.records) else ""


def _moved(record: Record, to: Split | None) -> Record:
    return record if record.split == to else dataclasses.replace(record, split=to)


def _bound(pool: Sequence[Record], together: Mapping[str, str]) -> dict[str, str]:
    """Key → group, of records that have one or look alike; where two groups share a picture they are one."""
    own: dict[str, list[tuple[str, str]]] = {}
    for record in pool:
        names = [("group", record.group)] if record.group else []
        names += [("alike", together[record.key])] if record.key in together else []
        if names:
            own[record.key] = names
    first = joined((names[0], names[-1]) for names in own.values())
    return {key: "\t".join(first[names[0]]) for key, names in own.items()}


def _deal(
    pool: Sequence[Record], shares: Shares, seed: int, classes: Sequence[str], bound: Mapping[str, str]
) -> Places:
    of = _strata(pool)
    if bound or any(len(strata) != 1 for strata in of.values()):
        return _deal_groups(pool, shares, seed, max(len(classes), TENTHS), bound, of)
    by_class: dict[int | None, list[str]] = defaultdict(list)
    for record in pool:
        by_class[of[record.key][0]].append(record.key)
    placed: Places = {}
    for keys in by_class.values():
        keys.sort(key=_order(seed))
        placed.update(zip(keys, _repeated(_sizes(len(keys), shares)), strict=True))
    return placed


def _strata(pool: Sequence[Record]) -> dict[str, tuple[int | None, ...]]:
    """Of each key what its record is counted for: its class; the labels that it has; its tenth of the first quantity.

    Labels are 0 and 1 and quantities, rarely, nothing else: where they are, they are counted as labels.
    """
    if not any(record.targets for record in pool):
        return {record.key: (record.target,) for record in pool}
    if all(value in (0, 1, None) for record in pool for value in record.targets):
        return {r.key: tuple(c for c, value in enumerate(r.targets) if value) or (None,) for r in pool}
    known = sorted((r.targets[0], r.key) for r in pool if r.targets[0] is not None)
    tenths = {key: (TENTHS * place // len(known),) for place, (_, key) in enumerate(known)}
    return {r.key: tenths.get(r.key, (None,)) for r in pool}


def _order(seed: int) -> Callable[[str], bytes]:
    """A random but fixed place for every key: independent of the order of records, of Python and of numpy."""

    def place(key: str) -> bytes:
        return hashlib.sha256(f"{seed}\t{key}".encode("utf-8", "surrogatepass")).digest()

    return place


def _repeated(sizes: Mapping[Split, int]) -> Iterator[Split]:
    for name, size in sizes.items():
        yield from [name] * size


def _sizes(n: int, shares: Shares) -> dict[Split, int]:
    """How many of `n` records of one class each split gets: by largest remainder, after one each where n allows it.

    >>> _sizes(20, {"train": 0.7, "val": 0.15, "test": 0.15}), _sizes(2, {"train": 0.7, "val": 0.15, "test": 0.15})
    ({'train': 14, 'val': 3, 'test': 3}, {'train': 1, 'val': 0, 'test': 1})
    """
    sizes = {name: int(n * share + 1e-9) for name, share in shares.items()}
    remainders = sorted(shares, key=lambda name: (sizes[name] - n * shares[name], SPLITS.index(name)))
    for name in remainders[: n - sum(sizes.values())]:
        sizes[name] += 1
    # Train is served first, then test: of two pictures one is trained on and one scored. Val needs a third.
    least = {"train": 1, "test": 2, "val": 3}
    for name in sorted(shares, key=least.__getitem__):
        if n >= least[name] and not sizes[name]:
            sizes[max(sizes, key=sizes.__getitem__)] -= 1
            sizes[name] = 1
        elif n < least[name]:
            sizes["train"], sizes[name] = sizes["train"] + sizes[name], 0
    return sizes


# ── groups ──


def _deal_groups(
    pool: Sequence[Record],
    shares: Shares,
    seed: int,
    classes: int,
    bound: Mapping[str, str],
    of: Mapping[str, tuple[int | None, ...]],
) -> Places:
    """Deal whole groups, each to the split whose class counts it brings nearest to its share.

    The largest are first, of several labels then those with the rarest. Nearness is chi-square: Σ (have − want)² / want
    over classes. A group with a class that training lacks trains, and the last groups go to splits that have none. A
    record without a group is a group of its own.
    """
    members = _by_size(pool, bound, seed)
    several = any(len(strata) > 1 for strata in of.values())
    counts = Counter(stratum for strata in of.values() for stratum in strata)
    counted = {name: [stratum for r in members[name] for stratum in of[r.key]] for name in members}
    rarest = {name: min(map(counts.__getitem__, strata)) if several else 0 for name, strata in counted.items()}
    names = sorted(members, key=lambda name: (-len(members[name]), rarest[name]))
    chosen = _greedy([counted[name] for name in names], shares, classes)
    if set(chosen) != set(shares):
        raise DataError(
            "too few groups to split",
            expected=f"at least {len(shares)}, and more where one group alone holds a class",
            received=f"{len(members):,} groups",
            do="Widen the group pattern, give splits yourself, or ask for fewer splits",
        )
    return {record.key: to for name, to in zip(names, chosen, strict=True) for record in members[name]}


def _by_size(pool: Sequence[Record], bound: Mapping[str, str], seed: int) -> dict[str, list[Record]]:
    """The records of each group, the largest group first; a record that is bound to no other is one of its own."""
    members: dict[str, list[Record]] = defaultdict(list)
    for record in pool:
        members[bound.get(record.key) or f"key\t{record.key}"].append(record)
    place = _order(seed)
    return {name: members[name] for name in sorted(members, key=lambda name: (-len(members[name]), place(name)))}


def _greedy(groups: list[list[int | None]], shares: Shares, k: int) -> list[Split]:
    """The split of each group, given as its records' targets."""
    splits = list(shares)
    dealt = _Dealt(np.outer(list(shares.values()), _totals(groups, k)).astype(float))
    chosen: list[Split] = []
    for index, group in enumerate(groups):
        at = _nearest(dealt, *_counted(group, k), left=len(groups) - index)
        chosen.append(splits[at])
    return chosen


def _totals(groups: list[list[int | None]], k: int) -> np.ndarray:
    """int `(K + 1,)`: how many records there are of each class; the last counts those of no class."""
    return np.bincount([k if t is None else t for group in groups for t in group], minlength=k + 1)


def _counted(group: list[int | None], k: int) -> tuple[np.ndarray, np.ndarray]:
    """int `(c,)` each: the classes of a group, K for none, and how many records of each: of thousands it has few."""
    return np.unique([k if t is None else t for t in group], return_counts=True)


class _Dealt:
    """What each split, or fold, has of every class so far, beside what it should get in the end: float `(S, K + 1)`."""

    def __init__(self, want: np.ndarray) -> None:
        self.want, self.have, self._terms = want, np.zeros_like(want), np.zeros_like(want)
        self.sizes = np.zeros(len(want))

    def costs(self, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """float `(S,)`: how much farther from what it wants each is with these."""
        have, want = self.have[:, classes], self.want[:, classes]
        # Summed with the zeros of all other classes: in another order costs that are equal would differ by a bit.
        self._terms[:, classes] = counts * (2 * (have - want) + counts) / np.maximum(want, 1e-9)
        costs: np.ndarray = self._terms.sum(axis=1)
        self._terms[:, classes] = 0
        return costs

    def give(self, at: int, classes: np.ndarray, counts: np.ndarray) -> None:
        self.have[at, classes] += counts
        self.sizes[at] += counts.sum()


def _nearest(dealt: _Dealt, classes: np.ndarray, counts: np.ndarray, *, left: int) -> int:
    """The split (0 is train) that takes the group best, and gets it."""
    costs, empty = dealt.costs(classes, counts), dealt.sizes == 0
    if left <= empty.sum():
        costs[~empty] = np.inf
    at = 0 if (dealt.have[0, classes] == 0).any() else int(costs.argmin())
    dealt.give(at, classes, counts)
    return at


# ── folds ──


def folds(
    data: Dataset, count: int, *, seed: int = 0, together: Mapping[str, str] = MappingProxyType({})
) -> dict[str, int]:
    """Key → fold, 0…`count` - 1: alike in size and in every class, and no group in two of them.

    Groups are dealt as for `split`, the largest first, each to the fold whose class counts it brings nearest to an even
    share. A record without a group, and unlike any other, is a group of its own.

    Args:
        data, seed, together: as for `split`; splits are not looked at.

    Raises:
        CallError: for less than two folds.
        DataError: when there are fewer groups than folds.
    """
    if count < 2:
        raise CallError("folds", expected="2 or more", received=count)
    members = _by_size(data.records, _bound(data.records, together), seed)
    if count > len(members):
        raise DataError(f"too few pictures for {count} folds", expected="a picture, or a group, for each",
                        received=f"{len(members):,}", do="Ask for fewer folds")  # fmt: skip
    of = _strata(data.records)
    k = len(data.classes) if data.task == "single-label" else max(len(data.classes), TENTHS)
    strata = [[stratum for r in each for stratum in of[r.key]] for each in members.values()]
    chosen = _evenly(strata, count, k)
    return {record.key: at for at, records in zip(chosen, members.values(), strict=True) for record in records}


def _evenly(groups: list[list[int | None]], count: int, k: int) -> list[int]:
    """The fold of each group, given as its records' targets; of folds that it suits alike, the smallest."""
    dealt = _Dealt(np.tile(np.maximum(_totals(groups, k) / count, 1e-9), (count, 1)))
    chosen = []
    for index, group in enumerate(groups):
        counted = _counted(group, k)
        costs = dealt.costs(*counted)
        if len(groups) - index <= (dealt.sizes == 0).sum():
            costs[dealt.sizes > 0] = np.inf
        chosen.append(int(np.lexsort((dealt.sizes, costs))[0]))
        dealt.give(chosen[-1], *counted)
    return chosen


# ── what there is to say ──


def _untrained(data: Dataset) -> list[str]:
    """Classes that no test record stands for, and those that training lacks."""
    if data.task != "single-label" or not any(record.split == "test" for record in data.records):
        return []
    tested = {record.target for record in data.test.records}
    trained = {record.target for record in data.train.records}
    notes = []
    if only := [name for i, name in enumerate(data.classes) if i in trained - tested]:
        notes.append(f"trained on, not scored, for want of pictures: {some(only)}")
    if lost := [name for i, name in enumerate(data.classes) if i in tested - trained]:
        notes.append(f"tested, but never trained on: {some(lost)}")
    return notes


def _divided(data: Dataset) -> list[str]:
    stands: dict[str, set[Split | None]] = defaultdict(set)
    for record in data.records:
        if record.group:
            stands[record.group].add(record.split)
    divided = sorted(group for group, splits in stands.items() if len(splits) > 1)
    if not divided:
        return []
    return [f"{len(divided):,} groups stand in more than one split, scores may be too good: {some(divided)}"]


def fingerprint(data: Dataset) -> str:
    """Which record is in which split, as 64 hexadecimal letters: SHA-256 over the sorted pairs of key and split."""
    digest = hashlib.sha256()
    for key, name in sorted((record.key, record.split or "") for record in data.records):
        # No file's name holds a NUL, and no split's: the pairs cannot run into one another.
        digest.update(f"{key}\0{name}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# ── split.csv ──


def write(data: Dataset, path: str | Path) -> None:
    """Write split.csv: record, split, group and class of every record, in UTF-8, whole or not at all.

    Values that begin like a spreadsheet's formula get a "'" before them, which `read` takes away. Names whose bytes
    are no UTF-8 are written as those bytes.

    Raises:
        MachineError: there is no place for it.
    """
    with replacing(Path(path)) as part, open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        _write_rows(data, file)
        file.flush()
        os.fsync(file.fileno())


def _write_rows(data: Dataset, file: TextIO) -> None:
    rows = csv.writer(file)  # ends lines as RFC 4180 does, and so quotes both letters of an end inside a name
    rows.writerow(COLUMNS)
    for record in sorted(data.records, key=lambda record: record.key):
        name = "" if record.target is None else data.classes[record.target]
        rows.writerow(guarded(text or "") for text in (record.key, record.split, record.group, name))


def read(data: Dataset, path: str | Path) -> Dataset:
    """The data with the splits and groups that `write` put into `path`.

    Raises:
        DataError: the file cannot be read, is not of this form, holds other records than the data, or gives one
            another class or group than the data does.
    """
    rows = _rows(Path(path))
    keys = {record.key for record in data.records}
    _refuse_others(path, missing=sorted(keys - rows.keys()), extra=sorted(rows.keys() - keys))
    records = tuple(_as_written(data, record, rows[record.key]) for record in data.records)
    changed = [old.key for old, new in zip(data.records, records, strict=True) if new is None]
    if changed:
        raise DataError(f"{path} was written for other classes or groups", expected="those of the data",
                        received=f"{len(changed):,} others, such as {some(changed, 3)}",
                        do="Split anew, without this file")  # fmt: skip
    return dataclasses.replace(data, records=tuple(filter(None, records)))


def _as_written(data: Dataset, record: Record, row: tuple[Split, str, str]) -> Record | None:
    name = "" if record.target is None else data.classes[record.target]
    split, group, cls = row
    if cls != name or (record.group is not None and record.group != group):
        return None
    return dataclasses.replace(record, split=split, group=group or None)


def _refuse_others(path: object, missing: list[str], extra: list[str]) -> None:
    if not (missing or extra):
        return
    facts = [
        f"{len(keys):,} {word}, such as {some(keys, 3)}"
        for word, keys in (("of the data missing", missing), ("not in the data", extra))
        if keys
    ]
    raise DataError(f"{path} is the split of other records", expected="exactly those of the data",
                    received="; ".join(facts), do="Split anew, without this file")  # fmt: skip


def _rows(path: Path) -> dict[str, tuple[Split, str, str]]:
    """Record → split, group, class."""
    try:
        # utf-8-sig: spreadsheets put a mark before the first column's name.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return _parsed(csv.DictReader(file), path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except csv.Error as error:
        raise DataError(f"{path} is no CSV: {error}", expected=",".join(COLUMNS)) from error


def _parsed(table: csv.DictReader[str], path: Path) -> dict[str, tuple[Split, str, str]]:
    if not set(COLUMNS) <= set(table.fieldnames or ()):
        raise DataError(f"{path} is no split", expected=f"columns {', '.join(COLUMNS)}",
                        received=", ".join(table.fieldnames or ["nothing"]))  # fmt: skip
    known = {name: name for name in SPLITS}
    rows: dict[str, tuple[Split, str, str]] = {}
    for row in table:
        key, name, group, cls = (bare(row[column] or "") for column in COLUMNS)
        if name not in known or key in rows:
            received = f"{key!r} twice" if key in rows else f"{name!r} for {key!r}"
            raise DataError(f"{path} is no split", expected=f"one of {', '.join(SPLITS)} a record", received=received)
        rows[key] = (known[name], group, cls)
    return rows

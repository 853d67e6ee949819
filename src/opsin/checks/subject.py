"""What every check is given, and what they share in telling."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .. import duplicates
from ..duplicates import Pair
from ..vocabulary import Dataset, Record
from .looks import Looks


@dataclass(frozen=True)
class Subject:
    """Data, what was seen of it, which records are one picture, and what a classifier that never saw them says.

    Attributes:
        pairs: exact and near-duplicates.
        probabilities: float `(N, K)`, out of fold, row by row those of `looks.data.records`; None where not computed.
    """

    data: Dataset
    looks: Looks | None = None
    pairs: Sequence[Pair] = ()
    probabilities: np.ndarray | None = field(default=None, repr=False)

    @cached_property
    def group_of_row(self) -> Mapping[int, str]:
        """Row of `looks.data` → a name, of records that show one picture or are of one patient, video or sender."""
        return {} if self.looks is None else bound_rows(self.looks.data, self.pairs)

    @cached_property
    def class_of(self) -> Mapping[str, str]:
        """Key → class name, "" where unknown; of the other tasks what is known, in words."""
        return {record.key: labelled(self.data, record) for record in self.data.records}

    @cached_property
    def targets_of(self) -> Mapping[str, tuple[float | None, ...]]:
        """Key → targets of the other tasks."""
        return {record.key: record.targets for record in self.data.records}

    @cached_property
    def split_of(self) -> Mapping[str, str]:
        """Key → split, "" where it has none."""
        return {record.key: record.split or "" for record in self.data.records}


def labelled(data: Dataset, record: Record) -> str:
    """What the data says of a record: its class, the labels that it has, its quantities; "" where nothing is known."""
    if data.task == "single-label":
        return "" if record.target is None else data.classes[record.target]
    known = [(name, value) for name, value in zip(data.classes, record.targets) if value is not None]
    if data.task == "regression":
        return ", ".join(f"{name} {value:g}" for name, value in known)
    return ", ".join(name for name, value in known if value) or "no label" * bool(known)


def share(n: int, of: int) -> str:
    """A part in words: `12 of 300 (4.0 %)`."""
    return f"{n:,} of {of:,} ({100 * n / max(of, 1):.1f} %)"


def plural(n: int, word: str) -> str:
    """A number and its noun: `1 picture`, `1,200 pictures`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def together(pairs: Iterable[Pair]) -> tuple[tuple[str, ...], ...]:
    """The groups of records that pairs join, each sorted by key."""
    members: dict[str, list[str]] = defaultdict(list)
    for key, name in sorted(duplicates.groups(pairs).items()):
        members[name].append(key)
    return tuple(map(tuple, members.values()))


GROUP = "\0"  # before a group's name, where names of groups stand beside keys: no key holds it, and it sorts first


def bound(records: Iterable[Record], pairs: Iterable[Pair]) -> dict[str, str]:
    """Key → name, of records that show one picture or are of one patient, video or sender, directly or by others.

    They are named after the first of their groups, with GROUP before it, else after their first key.
    """
    of_groups = [Pair(record.key, GROUP + record.group, "near") for record in records if record.group]
    return duplicates.groups([*pairs, *of_groups])


def bound_rows(data: Dataset, pairs: Iterable[Pair]) -> dict[int, str]:
    """As `bound`, by the rows of the data."""
    of_key = bound(data.records, pairs)
    return {row: of_key[record.key] for row, record in enumerate(data.records) if record.key in of_key}

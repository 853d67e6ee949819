"""Several targets a row: labels that are there or not, or quantities. Blank is unknown, and stays unknown.

Labels stand in columns of 0 and 1, one a label, or in one column as a list: `cat|dog`, `cat; dog`, a list of Parquet;
where no bar or semicolon stands in the whole column, `cat, dog`, and where no comma either, `cat dog`. Or they are the
folders in which a picture lies. A list that is there knows all labels: those that it lacks are 0; a bar alone, or an
empty list, says that none is there. Quantities are columns of numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CallError, DataError, PictureError, unknown
from ..vocabulary import TASKS, Dataset, Record, Refusal, Split, Task
from . import layout
from .listing import Entry

LISTS = ("labels", "tags", "targets", "classes", "categories")
BLANK = {"", "nan", "na", "n/a", "null", "none", "?"}
PARTS = {"bars or semicolons": r"[|;]", "commas": r"[|;,]", "spaces": r"[|;,\s]"}  # each with those before it
FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}

Table = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Targets:
    """The targets of a table's rows: `texts` has one for each, which `values` reads; "" where nothing is known."""

    task: Task
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    texts: tuple[str, ...]
    parted: str = ""  # of lists: what stands between labels

    def values(self, text: str) -> tuple[float | None, ...]:
        """`(K,)`: one a class; None where unknown."""
        return tuple(float(value) if value else None for value in text.split(","))


def find(table: Table, target: str, task: str, others: set[str], usual: str, path: Path) -> Targets | None:
    """What a table's rows have several of, or numbers; None where each has one class.

    Args:
        target: the columns that the user names, with commas between; "" for none.
        task: what the user says of them; "" for nothing: then only what can be nothing else is taken for it.
        others: columns that are something else.
        usual: the column that its name makes the target; "" for none.

    Raises:
        CallError: an unknown task, a column that is not there, several columns that are neither 0 and 1 nor numbers.
        DataError: a value that is none, or no columns that fit the task.
    """
    if task and task not in TASKS:
        raise unknown("task", task, TASKS)
    left = {name: table[name] for name in table if name not in others}
    columns = named(table, target, path) or _likely(left, task, usual)
    decided = task or (_told(table, columns) if columns else "single-label")
    if decided == "single-label":
        return None
    if not columns:
        raise DataError(f"{path} has no column that fits {task}", expected="labels: 0 and 1, or lists; or numbers",
                        received=", ".join(table), do="Name them with target=")  # fmt: skip
    if decided == "regression":
        return _columns(table, columns, "regression", _number, path)
    if len(columns) == 1 and not all(_is_flag(value) for value in table[columns[0]]):
        return _listed(table, columns[0], path)
    return _columns(table, columns, "multi-label", _flag, path)


def named(table: Table, target: str, path: Path) -> tuple[str, ...]:
    """The columns that a user's text names.

    Raises:
        CallError: for one that is not there.
    """
    names = (target,) if target in table else tuple(filter(None, map(str.strip, target.split(","))))
    for name in names:
        if name not in table:
            raise CallError(f"{path} has no column {name!r}", expected=f"one of {', '.join(table)}")
    return names


def records(
    entries: Sequence[Entry], rows: Mapping[str, tuple[str, Split | None]], of: Targets, path: Path
) -> tuple[Record, ...]:
    """The records of files, with their targets; `rows` has the text and the split of each key.

    Raises:
        DataError: when there are none.
    """
    if not entries:
        raise DataError(f"{path} names no picture that is there", expected="paths below the table's folder",
                        do="Look at the paths, and at what is refused")  # fmt: skip
    found = (Record(e.key, None, rows[e.key][1], None, e.size, e.crc, of.values(rows[e.key][0])) for e in entries)
    return tuple(sorted(found, key=lambda record: record.key))


def of_folders(data: Dataset) -> Dataset:
    """Class folders as labels: a picture that lies in several, as equal files, is one record with all their labels.

    Within a split, that is: in two splits it is a leak, and stays one. The other files are refused as `same-picture`.
    """
    alike: dict[tuple[Split | None, int, int], list[Record]] = defaultdict(list)
    for record in data.records:
        alike[record.split, record.size, record.crc].append(record)
    records: list[Record] = []
    refused = list(data.refused)
    for some in alike.values():
        for first, *others in _equal(data, some):
            has = {record.target for record in (first, *others)}
            targets = tuple(float(c in has) for c in range(len(data.classes)))
            records.append(dataclasses.replace(first, target=None, targets=targets))
            reason = f"the same bytes as {first.key!r}, which has its label too"
            refused += [Refusal(record.key, "same-picture", reason) for record in others]
    records.sort(key=lambda record: record.key)
    several = sum(sum(value or 0 for value in record.targets) > 1 for record in records)
    note = f"{several:,} of {len(records):,} pictures lie in several folders, and have the labels of all of them"
    found = layout.fingerprint(records, data.classes)
    return dataclasses.replace(data, records=tuple(records), refused=tuple(refused), fingerprint=found,
                               notes=(*data.notes, note), task="multi-label")  # fmt: skip


def _equal(data: Dataset, some: Sequence[Record]) -> list[list[Record]]:
    """Records of one size and CRC, those of equal bytes together; what cannot be read is left to whoever decodes it."""
    if len(some) == 1:
        return [[*some]]
    found: dict[bytes, list[Record]] = defaultdict(list)
    for record in some:
        try:
            content = hashlib.sha256(bytes(data.store.read(record.key))).digest()
        except PictureError:
            content = record.key.encode("utf-8", "surrogatepass")
        found[content].append(record)
    return [*found.values()]


def _likely(left: Table, task: str, usual: str) -> tuple[str, ...]:
    """The columns that a user probably means, of those that are nothing else."""
    lists = [name for name in left if name.lower() in LISTS or _is_list(left[name])]
    if task == "regression":
        numbers = [name for name in left if any(left[name]) and all(map(_is_number, left[name]))]
        return (usual,) if usual in numbers else tuple(numbers) if len(numbers) == 1 else ()
    if task == "multi-label":
        flags = [name for name in left if any(left[name]) and all(map(_is_flag, left[name]))]
        return tuple(lists[:1]) or tuple(flags) or tuple(filter(None, [usual]))
    return (usual,) if usual else tuple(name for name in lists if _is_list(left[name]))[:1]


def _told(table: Table, columns: Sequence[str]) -> Task:
    """What columns can only be.

    Raises:
        CallError: when several can be nothing.
    """
    values = [value for name in columns for value in table[name]]
    if len(columns) > 1 and all(map(_is_flag, values)):
        return "multi-label"
    if len(columns) > 1 and not all(map(_is_number, values)):
        raise CallError("several target columns", expected="0 and 1, or numbers; blank where unknown",
                        received=next(value for value in values if not _is_number(value)),
                        do="Say which columns with target=")  # fmt: skip
    if len(columns) > 1:
        return "regression"
    if _is_list(values):
        return "multi-label"
    decimal = [value for value in values if _is_number(value) and value.lower() not in BLANK and float(value) % 1]
    measured = decimal and all(map(_is_number, values)) and len(set(values)) > len(values) / 2
    return "regression" if measured else "single-label"


def _is_list(values: Sequence[str]) -> bool:
    """Whether they are lists of Parquet, which are read as texts that end in a bar."""
    return any(values) and all(value.endswith("|") for value in values if value)


def _is_flag(value: str) -> bool:
    return value.strip().lower() in BLANK | FLAGS.keys()


def _is_number(value: str) -> bool:
    if value.strip().lower() in BLANK:
        return True
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _flag(value: str) -> float | None:
    return FLAGS.get(value.strip().lower())


def _number(value: str) -> float | None:
    return None if value.strip().lower() in BLANK else float(value)


def _columns(
    table: Table, columns: tuple[str, ...], task: Task, read: Callable[[str], float | None], path: Path
) -> Targets:
    good, expected = (_is_flag, "0 or 1") if task == "multi-label" else (_is_number, "a finite number")
    for name in columns:
        for row, value in enumerate(table[name], 2):
            if not good(value):
                raise DataError(
                    f"{path}, column {name!r}",
                    expected=f"{expected}, or blank where unknown",
                    received=f"{value!r} in row {row}",
                    do="Mend it, or choose others with target=",
                )
    rows = zip(*([read(value) for value in table[name]] for name in columns))
    return Targets(task, columns, columns, tuple(map(_text, rows)))


def _listed(table: Table, column: str, path: Path) -> Targets:
    several = [value.strip() for value in table[column] if value.strip(" |;")]
    parted = next((name for name, marks in PARTS.items() if any(re.search(marks, value) for value in several)), "")
    lists = [_labels(value, PARTS[parted or "spaces"]) for value in table[column]]
    classes = layout.in_order({label for found in lists for label in found or ()})
    if not classes:
        raise DataError(f"{path}, column {column!r}", expected="labels with | or ; between them", received="none")
    rows = [(None,) * len(classes) if found is None else [float(name in found) for name in classes] for found in lists]
    return Targets("multi-label", (column,), classes, tuple(map(_text, rows)), parted)


def _labels(value: str, marks: str) -> set[str] | None:
    """The labels of a list; None for a blank one."""
    return {name for part in re.split(marks, value) if (name := part.strip())} if value.strip() else None


def _text(values: Sequence[float | None]) -> str:
    known = any(value is not None for value in values)
    return ",".join("" if value is None else repr(value) for value in values) if known else ""

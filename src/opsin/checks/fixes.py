"""What was decided about records, and a new table of the data that follows it. Nothing of the user's is changed.

check.html ─ fixes.csv ─> read_fixes ─> apply ─> a table that `sources.read` takes
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO, get_args

from ..duplicates import Pair
from ..errors import DataError, writing
from ..spreadsheets import bare, guarded
from ..vocabulary import Dataset, Record, refuse_other_tasks
from .subject import GROUP, bound

Action = Literal["keep", "exclude", "relabel", "same-group"]
ACTIONS: dict[str, Action] = {action: action for action in get_args(Action)}
COLUMNS = ("record", "action", "value", "reason")
WRITTEN = ("record", "class", "split", "group", "fix", "reason")


@dataclass(frozen=True, slots=True)
class Fix:
    """What to do with one record.

    `value` is the new class for `relabel`. For `same-group` it is another record's key, or a group's name: the record,
    all of its own group and all of that one are one group then, so that no patient is divided.
    """

    action: Action
    value: str = ""
    reason: str = ""


def read_fixes(path: str | Path) -> dict[str, Fix]:
    """Key → Fix of a CSV with the columns record, action, value, reason.

    Raises:
        DataError: it cannot be read, is not of this form, or says two things of one record.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except csv.Error as error:
        raise DataError(f"{path} is no CSV: {error}", expected=",".join(COLUMNS)) from error
    fixes: dict[str, Fix] = {}
    for row in rows:
        if not set(COLUMNS[:2]) <= row.keys():
            raise DataError(f"{path} holds no fixes", expected=f"columns {', '.join(COLUMNS)}", received=", ".join(row))
        key, action, value, reason = (bare(row.get(column) or "") for column in COLUMNS)
        if action not in ACTIONS:
            raise DataError(f"{path} holds no fixes", expected=f"one of {', '.join(ACTIONS)}",
                            received=f"{action!r} for {key!r}")  # fmt: skip
        fix = Fix(ACTIONS[action], value, reason)
        if fixes.setdefault(key, fix) != fix:
            raise DataError(f"{path} says two things of {key!r}", do="Leave one of them")
    return fixes


def apply(data: Dataset, fixes: Mapping[str, Fix], path: str | Path) -> int:
    """Write a table of the data with the fixes followed, and their reasons; how many records were changed or left out.

    The keys in it are those of the data: put it into the folder that they are relative to. The table lists excluded
    records too, without a class, so that nothing is lost: `sources.read` refuses such rows by name.

    Raises:
        DataError: a fix is for a record or of a class that the data does not have, or of no group.
        MachineError: it cannot be written, or there is a file already.
    """
    refuse_other_tasks(data.task, "check --apply")
    _refuse_unknown(data, fixes)
    # With a mark, so that whoever reads it knows it for UTF-8, whatever the bytes of some file's name.
    with writing(path), open(path, "x", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        _write(data, fixes, file)
    return sum(fix.action != "keep" for fix in fixes.values())


def _refuse_unknown(data: Dataset, fixes: Mapping[str, Fix]) -> None:
    keys = {record.key for record in data.records} | {refusal.key for refusal in data.refused}
    if strange := sorted(fixes.keys() - keys):
        raise DataError("fixes for records that the data does not have", received=f"{strange[0]!r} and others"
                        if len(strange) > 1 else repr(strange[0]), do="Check the same data again")  # fmt: skip
    for key, fix in fixes.items():
        if fix.action == "relabel" and fix.value not in data.classes:
            raise DataError(
                f"a new class for {key!r}", expected=f"one of {', '.join(data.classes)}", received=fix.value
            )
        if fix.action == "same-group" and not fix.value:
            raise DataError(f"the group of {key!r}", expected="another record, or a name", received="nothing")


def _write(data: Dataset, fixes: Mapping[str, Fix], file: TextIO) -> None:
    rows = csv.writer(file)
    rows.writerow(WRITTEN)
    groups = _groups(data, fixes)
    for record in data.records:
        fix = fixes.get(record.key, Fix("keep"))
        changed = _fixed(data, record, fix)
        name = "" if changed.target is None else data.classes[changed.target]
        values = (
            record.key,
            name,
            changed.split,
            groups.get(record.key),
            "" if fix.action == "keep" else fix.action,
            fix.reason,
        )
        rows.writerow(guarded(value or "") for value in values)


def _fixed(data: Dataset, record: Record, fix: Fix) -> Record:
    if fix.action == "exclude":
        return dataclasses.replace(record, target=None)
    if fix.action == "relabel":
        return dataclasses.replace(record, target=data.classes.index(fix.value))
    return record


def _groups(data: Dataset, fixes: Mapping[str, Fix]) -> dict[str, str]:
    """Key → group, once all that shall be one group is."""
    keys = {record.key for record in data.records}
    asked = {key: fix.value for key, fix in fixes.items() if fix.action == "same-group"}
    pairs = [Pair(key, value if value in keys else GROUP + value, "near") for key, value in asked.items()]
    return {key: name.removeprefix(GROUP) for key, name in bound(data.records, pairs).items()}

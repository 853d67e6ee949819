"""A table of paths and classes → Dataset: CSV in any common encoding, or Parquet (extra `parquet`).

One column names pictures below the table's own folder, one their classes; columns called split and group are followed.
A text whose first line begins with a picture has no line of names: each line is a path, a mark, and a class or labels.
Several labels a row, and numbers, are read by `targets`.
Nothing outside that folder is ever read: absolute paths, `..` and links that lead out are refused, row by row.
"""

from __future__ import annotations

import codecs as encodings
import csv
import dataclasses
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CallError, DataError, MissingExtra, some
from ..spreadsheets import bare
from ..vocabulary import Dataset, Refusal, Split
from . import layout, targets
from .archives import refuse_many
from .listing import Entry, File, in_threads, inside, picture_ending
from .stores import FolderStore, escapes

ENDINGS = (".csv", ".tsv", ".txt", ".parquet")
PICTURES = ("picture", "record", "image", "file", "filename", "file_name", "filepath", "file_path", "path",
            "image_path", "img", "img_path")  # fmt: skip
TARGETS = ("class", "label", "target", "category", "class_name", "classname", "species", "diagnosis")
LIST_MARKS = "\t,; "  # what may stand between path and labels where there is no line of names
SPLITS = ("split", "set", "subset", "partition")
LARGEST = 1 << 30  # bytes of a table
LOOKED_AT = 50  # values of a column that tell whether it names pictures

Table = Mapping[str, Sequence[str]]  # column → its values, all of one length; "" where there is none


@dataclass(frozen=True)
class Columns:
    """What the user says of a table's columns; "" where nothing."""

    picture: str = ""
    target: str = ""  # or several, with commas between
    group: str = ""  # a column or a regular expression
    task: str = ""


def is_manifest(path: Path) -> bool:
    """Whether the file can be a table of paths, by its name."""
    return path.suffix.lower() in ENDINGS


def read(path: Path, columns: Columns) -> Dataset:
    """The Dataset of a table. Keys are the paths in it, with "/", relative to its folder.

    Raises:
        CallError: a column that is named is not there, or no regular expression.
        DataError: no table, no column of pictures or of classes, fewer than two classes, a record without a group
            where groups are asked for.
        MissingExtra: pyarrow, for Parquet.
    """
    table = _table(path)
    root = path.resolve().parent
    chosen, notes = _chosen(table, columns, root, path)
    rows, refused = _rows(table, chosen, root)
    entries, unread = _examined(rows, root)
    refused += unread
    refused.sort(key=lambda refusal: (refusal.key, refusal.code))
    if not entries:
        raise _nothing(path, refused)
    if chosen.many:
        said = {key: (row.cls, row.split) for key, row in rows.items()}
        found = layout.Arranged(targets.records(entries, said, chosen.many, path), chosen.many.classes, tuple(refused))
    else:
        placed = [layout.Placed(entry, rows[entry.key].cls, rows[entry.key].split) for entry in entries]
        found = layout.settle(placed, refused)
        notes += _lost(table[chosen.target], found.classes)
    groups = {key: row.group for key, row in rows.items() if row.group}
    if columns.group and columns.group not in table:
        pattern = layout.pattern_of(columns.group)
        assert pattern is not None
        groups = layout.grouped(found.records, pattern)
    elif columns.group:
        layout.refuse_alone(f"the group column {columns.group!r} is blank for", found.records, groups)
    records = tuple(dataclasses.replace(record, group=groups.get(record.key)) for record in found.records)
    notes += [f"{len(set(groups.values())):,} groups"] if groups else []
    digest = layout.fingerprint(records, found.classes)
    return Dataset(path.stem, records, found.classes, FolderStore(root), digest, found.refused,
                   (*notes, *found.notes), chosen.many.task if chosen.many else "single-label")  # fmt: skip


def _nothing(path: Path, refused: Sequence[Refusal]) -> DataError:
    codes = Counter(refusal.code for refusal in refused).most_common()
    return DataError(f"{path}: no row gives a picture", expected=f"paths below {path.parent}, relative to it",
                     received=", ".join(f"{n:,} {code}" for code, n in codes) or "no row",
                     do="Put the table into the folder that its paths begin in")  # fmt: skip


def _lost(said: Sequence[str], classes: Sequence[str]) -> list[str]:
    """A warning of classes that the table has, and of which no row is left."""
    lost = sorted({unicodedata.normalize("NFC", name.strip()) for name in said} - {"", *classes})
    return [f"warning: all rows of {some(lost)} are refused, so nothing is learned of them"] if lost else []


def paths(path: Path) -> tuple[Path, list[str], list[Refusal]]:
    """The pictures that a table names, classes or not: its folder, their keys below it, and rows that are not used.

    Raises:
        DataError: no table, or no column of pictures.
        MissingExtra: pyarrow, for Parquet.
    """
    table = _table(path)
    root = path.resolve().parent
    written = table[_picture_column(table, root, path)]
    keys = dict.fromkeys(_key(each, root) for each in written)
    refused = [problem for key in keys if (problem := _problem(key, _Row("any", None, ""), root))]
    wrong = {refusal.key for refusal in refused}
    return root, [key for key in keys if key not in wrong], refused


# ── the table ──


def _table(path: Path) -> Table:
    return _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)


def _csv(path: Path) -> Table:
    text = _text(path)
    first = text.partition("\n")[0].rstrip("\r")
    mark = _list_mark(first)
    # The separator stands in the line of names; a sniffer that also looks at values takes letters for it.
    separator = mark or max(",;\t|", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV: {error}") from error
    rows = [row for row in rows if any(row)]
    if mark:
        rows = [["file", "label"], *([row[0], mark.join(row[1:])] for row in rows)]
    if not rows or len(set(rows[0])) < len(rows[0]):
        raise DataError(f"{path} is no table", expected="a first line of different names", received=first[:80] or "''")
    wrong = [number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])]
    if wrong:
        raise DataError(f"{path} is no table", expected=f"{len(rows[0])} values a line",
                        received=f"{len(rows[wrong[0] - 1])} in line {wrong[0]}")  # fmt: skip
    return {name.strip(): [bare(row[at]) for row in rows[1:]] for at, name in enumerate(rows[0])}


def _list_mark(line: str) -> str:
    """What stands after the path with which a line begins; "" for a line that begins with none, as one of names."""
    for mark in LIST_MARKS:
        cells = next(csv.reader([line], delimiter=mark), [])
        if cells and picture_ending(cells[0].strip()):
            return mark
    return ""


def _text(path: Path) -> str:
    """The file's text: by its byte-order mark, else UTF-8, else Windows' western code page.

    Of UTF-8, bytes that are none are kept as they are, as in the names of files.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > LARGEST or b"\0\0" in data[:64]:
        raise DataError(f"{path} is no table", expected=f"text of at most {LARGEST >> 20} MiB")
    if data.startswith((encodings.BOM_UTF16_LE, encodings.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    text = data.decode("utf-8-sig", "surrogateescape")
    if data.startswith(encodings.BOM_UTF8) or _is_utf8(text):
        return text
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _is_utf8(text: str) -> bool:
    """Whether a text that was read as UTF-8 is that, a few names of other bytes among it or not.

    In Windows' code pages a letter beyond ASCII is one byte, and only by chance (É before a quotation mark) two are a
    letter of UTF-8: most bytes are none. Where there are three letters or more for each such byte, a Unix wrote it.
    """
    odd = len(re.findall("[\udc80-\udcff]", text))
    return odd == 0 or len(re.findall("[^\0-\x7f]", text)) - odd >= 3 * odd


def _parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow, which reads Parquet,", "parquet") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            refuse_many(file.metadata.num_rows, path)  # a row can cost less than a hundredth of a byte, and a text 50
            table = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {error}"[:300]) from error
    kinds = {field.name: field.type for field in table.schema}
    lists = {name for name, kind in kinds.items() if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)}
    plain = {name: table.column(name) for name, kind in kinds.items()
             if name in lists or not (pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind))}  # fmt: skip
    return {name: [_written(value) for value in column.to_pylist()] for name, column in plain.items()}


def _written(value: object) -> str:
    """A value of Parquet as text: of a list each label with a bar behind it; what is not there is blank."""
    if isinstance(value, list):
        return "|".join(map(str, value)) + "|"
    return "" if value is None or value != value else str(value)


# ── its columns ──


@dataclass(frozen=True)
class _Chosen:
    picture: str
    target: str
    split: str
    group: str
    many: targets.Targets | None = None


def _chosen(table: Table, asked: Columns, root: Path, path: Path) -> tuple[_Chosen, list[str]]:
    if asked.picture and asked.picture not in table:
        raise CallError(f"{path} has no column {asked.picture!r}", expected=f"one of {', '.join(table)}")
    split = _split_column(table, asked, path)
    group = asked.group if asked.group in table else "" if asked.group else _called(table, ("group",))
    picture = asked.picture or _picture_column(table, root, path)
    elsewhere = {picture, split, group}
    usual = _called({name: table[name] for name in table if name not in elsewhere}, TARGETS)
    many = targets.find(table, asked.target, asked.task, elsewhere, usual, path)
    columns = many.columns if many else (asked.target or _target_column(table, elsewhere, path),)
    what = {"multi-label": "labels", "regression": "numbers"}[many.task] if many else "classes"
    said = f"pictures from column {picture!r}, {what} from {', '.join(map(repr, columns))}"
    others = [name for name in table if name not in {*elsewhere, *columns}]
    said += f", parted by {many.parted}" if many and many.parted else ""
    said += f"; not used: {', '.join(map(repr, others))}" if others else ""
    return _Chosen(picture, columns[0], split, group, many), [said]


def _split_column(table: Table, asked: Columns, path: Path) -> str:
    """The column that says which split a row belongs to; "" for none.

    Raises:
        DataError: it names splits, or is called split, and holds something else too. Without it the rows would be
            dealt anew, and the user's test would be trained on.
    """
    others = {asked.picture, asked.group, asked.target, *map(str.strip, asked.target.split(","))}
    left = {name: table[name] for name in table if name not in others}
    for called in SPLITS:
        if not (name := _called(left, [called])):
            continue
        values = {value.strip().lower() for value in table[name]} - {""}
        strange = sorted(values - layout.SPLIT_NAMES.keys())
        if not strange:
            return name
        if called == SPLITS[0] or len(strange) < len(values):
            raise DataError(f"{path}, column {name!r}", expected=f"one of {', '.join(layout.SPLIT_NAMES)}, or blank",
                            received=some(strange), do="Mend them, or give the column another name")  # fmt: skip
    return ""


def _called(table: Table, names: Sequence[str]) -> str:
    lowered = {name.lower(): name for name in reversed([*table])}
    return next((lowered[name] for name in names if name in lowered), "")


def _picture_column(table: Table, root: Path, path: Path) -> str:
    """By its name, when it does name pictures; else the one column that does."""
    named = _called(table, PICTURES)
    naming = [name for name in table if _names_files(table[name], root)]
    if named and (named in naming or not naming):
        return named
    if len(naming) == 1:
        return naming[0]
    raise DataError(f"{path} has no column of pictures", expected="one with paths below the table's folder",
                    received=", ".join(table), do="Name it with picture=")  # fmt: skip


def _names_files(values: Sequence[str], root: Path) -> bool:
    # os.path, since those of Path raise for a caption that is longer than a name may be.
    looked_at = [value for value in values if value][:: max(1, len(values) // LOOKED_AT)]
    there = sum(os.path.isfile(root / value) for value in looked_at if not escapes(value))
    return there > len(looked_at) / 2


def _target_column(table: Table, others: set[str], path: Path) -> str:
    """By its name; else the one column that is left and repeats its values."""
    if named := _called({name: table[name] for name in table if name not in others}, TARGETS):
        return named
    left = [name for name in table if name not in others and 2 <= len(set(table[name])) <= len(table[name]) / 2]
    if len(left) == 1:
        return left[0]
    raise DataError(f"{path} has no column of classes", expected=f"one called {', '.join(TARGETS[:4])} …",
                    received=", ".join(table), do="Name it with target=")  # fmt: skip


# ── its rows ──


@dataclass(frozen=True)
class _Row:
    cls: str
    split: Split | None
    group: str


def _rows(table: Table, chosen: _Chosen, root: Path) -> tuple[dict[str, _Row], list[Refusal]]:
    """What is said of each picture, once, and the rows that say nothing that can be used."""
    nothing = [""] * len(table[chosen.picture])
    said_of = chosen.many.texts if chosen.many else table[chosen.target]
    columns = (said_of, *(table.get(name, nothing) for name in (chosen.split, chosen.group)))
    rows: dict[str, _Row] = {}
    refused: list[Refusal] = []
    said: Counter[str] = Counter()
    contradicted: dict[str, str] = {}
    for written, target, split, group in zip(table[chosen.picture], *columns):
        key = _key(written, root)
        cls = unicodedata.normalize("NFC", target.strip())
        row = _Row(cls, layout.SPLIT_NAMES.get(split.strip().lower()), group.strip())
        said[key] += 1
        if problem := _problem(key, row, root):
            refused.append(problem)
        elif rows.setdefault(key, row) != row:
            contradicted[key] = f"{rows[key].cls!r} and {row.cls!r}"
        elif said[key] > 1:
            refused.append(Refusal(key, "duplicate-row", "stands in the table twice, and counts once"))
    for key, classes in contradicted.items():
        del rows[key]
        refused.append(Refusal(key, "contradicting-rows", f"rows of the table say different things of it: {classes}"))
    return rows, refused


def _key(written: str, root: Path) -> str:
    """The path with "/", as in a folder; "\\" is one too unless it is a letter of a name that is there."""
    key = written.strip()
    key = key.replace("\\", "/") if os.sep == "\\" or not os.path.exists(root / key) else key
    return "/".join(part for part in key.split("/") if part != ".") if "./" in key else key


def _problem(key: str, row: _Row, root: Path) -> Refusal | None:
    if not key:
        return Refusal("", "no-picture", "a row without a path")
    if escapes(key):
        return Refusal(key, "unsafe-path", "a path out of the table's folder")
    if not row.cls:
        return Refusal(key, "no-class", "a row without a class")
    real = os.path.realpath(root / key)
    if not os.path.lexists(root / key):
        return Refusal(key, "missing", "there is no such file")
    if not inside(real, str(root)):
        return Refusal(key, "link", "a link out of the table's folder")
    if not os.path.isfile(real):
        return Refusal(key, "not-a-picture", "not a regular file")
    return None


def _examined(rows: Mapping[str, _Row], root: Path) -> tuple[list[Entry], list[Refusal]]:
    results = list(in_threads([File(str(root / key), key) for key in rows]))
    entries = [result for result in results if isinstance(result, Entry)]
    return entries, [result for result in results if isinstance(result, Refusal)]

"""Paths → classes, splits and groups: which folder is a class, which is a split, which only wraps the others."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import CallError, DataError, some
from ..vocabulary import Record, Refusal, Split
from .listing import Entry, Listing

SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
WORDS = frozenset({"training", "testing", "dev"})  # which may name anything, unless another split's folder is there
MOST_DIGITS = 640  # of a class that is a number: longer texts Python may refuse to take for one
LAYOUTS = (
    "Give a folder or zip with a folder for each class (cat/1.jpg, dog/2.jpg), "
    "or with those below train/, val/ and test/"
)


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry with the names that its path gives it."""

    entry: Entry
    cls: str
    split: Split | None


@dataclass
class Arranged:
    """A source understood: what `read` makes a Dataset of. Keys of records are relative to `prefix`."""

    records: tuple[Record, ...]
    classes: tuple[str, ...]
    refused: tuple[Refusal, ...]
    prefix: str = ""
    notes: list[str] = field(default_factory=list)


def arrange(listing: Listing) -> Arranged:
    """Find the wrapping folder, the splits and the classes in what lies in a source.

    Refused keys stay relative to the source, records' keys become relative to the folder that was descended to, so a
    zip of a folder and that folder give the same records.

    Raises:
        DataError: no pictures, fewer than two classes, splits beside other folders, a class that training lacks.
    """
    prefix = _wrapping(listing)
    entries = [e for e in listing.entries if e.key.startswith(prefix)]
    folders = {f.removeprefix(prefix) for f in listing.folders if f.startswith(prefix)}
    splits = _split_folders({_top(e.key, prefix) for e in entries if "/" in e.key[len(prefix) :]})
    placed, loose = _place(entries, prefix, splits)
    refused = sorted((*listing.refused, *loose), key=lambda refusal: (refusal.key, refusal.code))
    _refuse_nothing(placed, refused)
    classes = _classes(placed)
    records = _records(placed, classes, prefix)
    notes = _notes(prefix, placed, folders, splits)
    return Arranged(records, classes, tuple(refused), prefix, notes)


def settle(placed: list[Placed], refused: list[Refusal]) -> Arranged:
    """Classes and records of entries whose places are known already.

    Raises:
        DataError: as `arrange` does.
    """
    _refuse_nothing(placed, refused)
    classes = _classes(placed)
    return Arranged(_records(placed, classes, ""), classes, tuple(refused), "", _missing_classes(placed))


def _top(key: str, prefix: str) -> str:
    return key[len(prefix) :].partition("/")[0]


def _wrapping(listing: Listing) -> str:
    """The folders to descend through, as a prefix: each the only one, and no pictures lie beside or directly in it."""
    prefix = ""
    direct = {key.rpartition("/")[0] for key in (entry.key for entry in listing.entries)}
    while prefix.rstrip("/") not in direct:
        inside = [f for f in listing.folders if f.startswith(prefix) and "/" not in f[len(prefix) :]]
        name = inside[0][len(prefix) :].lower() if inside else ""
        if len(inside) != 1 or inside[0] in direct or name in SPLIT_NAMES.keys() - WORDS:
            break
        prefix = inside[0] + "/"
    return prefix


def _split_folders(tops: set[str]) -> dict[str, Split]:
    """The top folders that are splits: all that hold pictures, or none.

    Raises:
        DataError: when some are splits and some are not.
    """
    splits = {name: SPLIT_NAMES[name.lower()] for name in tops if name.lower() in SPLIT_NAMES}
    others = sorted(tops - set(splits))
    if len(splits) == 1 and {name.lower() for name in splits} <= WORDS:
        return {}
    if splits and others:
        raise DataError(
            "splits stand beside other folders",
            expected="only train, val and test at the top, or only classes",
            received=f"{some(sorted(splits))} beside {some(others)}",
            do="Move the others away, or rename a class that is called like a split",
        )
    return splits


def _place(entries: list[Entry], prefix: str, splits: dict[str, Split]) -> tuple[list[Placed], list[Refusal]]:
    placed, loose = [], []
    depth = 2 if splits else 1
    for entry in entries:
        parts = entry.key[len(prefix) :].split("/")
        if len(parts) <= depth:
            loose.append(Refusal(entry.key, "no-class", "a picture outside any class folder"))
            continue
        # macOS may write é as two letters: one class must not become two.
        name = unicodedata.normalize("NFC", parts[depth - 1])
        placed.append(Placed(entry, name, splits.get(parts[0])))
    return placed, loose


def _refuse_nothing(placed: list[Placed], refused: list[Refusal]) -> None:
    if placed:
        return
    codes = Counter(refusal.code for refusal in refused)
    received = ", ".join(f"{n:,} {code}" for code, n in codes.most_common()) or "nothing at all"
    raise DataError("no pictures in class folders", expected="at least two classes", received=received, do=LAYOUTS)


def _classes(placed: list[Placed]) -> tuple[str, ...]:
    """Training's class names, or all of them where nothing is marked as training.

    Raises:
        DataError: for fewer than two, and for a class that only validation or test has.
    """
    training = {p.cls for p in placed if p.split == "train"}
    names = training or {p.cls for p in placed}
    for part in ("val", "test"):
        strange = sorted({p.cls for p in placed if p.split == part} - names) if training else []
        if strange:
            raise DataError(
                f"{part} has a class that training has never seen",
                expected=f"only {some(in_order(names))}",
                received=some(strange),
                do=f"Add training pictures of {strange[0]!r}, or take it out of {part}",
            )
    if len(names) < 2:
        raise DataError("a classifier needs two classes", received=f"one, {next(iter(names))!r}", do=LAYOUTS)
    return in_order(names)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their indices: as numbers when all are, else as texts.

    >>> in_order({"10", "9", "01"}), in_order({"10", "9", "b"})
    (('01', '9', '10'), ('10', '9', 'b'))
    """
    listed = sorted(names)
    whole = all(name.isascii() and name.lstrip("-").isdigit() and name.rfind("-") < 1 for name in listed)
    whole = whole and all(len(name) <= MOST_DIGITS for name in listed)
    return tuple(sorted(listed, key=int) if whole else listed)


def _records(placed: list[Placed], classes: tuple[str, ...], prefix: str) -> tuple[Record, ...]:
    index = {name: i for i, name in enumerate(classes)}
    records = (
        Record(p.entry.key[len(prefix) :], index[p.cls], p.split, None, p.entry.size, p.entry.crc) for p in placed
    )
    return tuple(sorted(records, key=lambda record: record.key))


def _notes(prefix: str, placed: list[Placed], folders: set[str], splits: dict[str, Split]) -> list[str]:
    notes = [f"everything lies in {prefix}: read from there"] if prefix else []
    if splits and "train" not in splits.values():
        notes.append("no train folder: classes are those of the other folders")
    if empty := _without_records(placed, prefix, folders, 2 if splits else 1):
        notes.append(f"folders that give no record, dropped: {some(empty)}")
    notes += _missing_classes(placed)
    seconds = {p.entry.key[len(prefix) :].split("/")[1].lower() for p in placed} if not splits else set()
    if seconds and seconds <= set(SPLIT_NAMES):
        notes.append("train and test below class folders are not read as splits: put them above the classes")
    return notes


def _missing_classes(placed: list[Placed]) -> list[str]:
    notes = []
    for part in ("val", "test"):
        had = {p.cls for p in placed if p.split == part}
        if had and (missing := sorted({p.cls for p in placed} - had)):
            notes.append(f"{part} has no picture of {some(missing)}")
    return notes


def _without_records(placed: list[Placed], prefix: str, folders: set[str], depth: int) -> list[str]:
    """The split and class folders that gave no record; of those inside one another only the outer."""
    used = {""}
    for p in placed:
        parts = p.entry.key[len(prefix) :].split("/")[:-1]
        used.update("/".join(parts[:n]) for n in range(1, len(parts) + 1))
    level = {f for f in folders if f.count("/") < depth}
    return sorted(f for f in level - used if f.rpartition("/")[0] in used)


# ── groups and the fingerprint ──


def pattern_of(group: str) -> re.Pattern[str] | None:
    """The compiled pattern of `--group`; None for none.

    Raises:
        CallError: when it is not a regular expression.
    """
    try:
        return re.compile(group) if group else None
    except re.error as error:
        raise CallError("group", expected="a regular expression", received=f"{group!r}: {error}") from error


def grouped(records: tuple[Record, ...], pattern: re.Pattern[str]) -> dict[str, str]:
    """Key → group: the pattern's first group, or all that it matches.

    Raises:
        DataError: when it matches nothing in some key.
    """
    found = {record.key: _group(pattern, record.key) for record in records}
    refuse_alone(f"the group pattern {pattern.pattern!r} does not match", records, found)
    return found


def refuse_alone(what: str, records: Sequence[Record], groups: Mapping[str, str]) -> None:
    """Refuse that some records have no group: where each stood alone, pictures of one patient could be in two splits.

    Raises:
        DataError: it begins with `what`.
    """
    missed = [record.key for record in records if not groups.get(record.key)]
    if missed:
        raise DataError(
            f"{what} {len(missed):,} of {len(records):,} records",
            expected="a group for every record",
            received=some(missed, 3),
            do="Give each one, if only its own: records left out could stand in two splits",
        )


def _group(pattern: re.Pattern[str], key: str) -> str:
    match = pattern.search(key)
    return (match[1] if pattern.groups else match[0]) or "" if match else ""


def fingerprint(records: Iterable[Record], classes: Sequence[str]) -> str:
    """What the data is, as 64 hexadecimal letters: equal for a folder and a zip of it, whatever its path or date.

    SHA-256 over the sorted lines `key, size, crc, class, split, group`, tab-separated, in UTF-8 with surrogates passed;
    of the other tasks' records also `name=value` for every target that is known;
    backslash, tab and newline inside a value are escaped, so two different data sets never give the same lines.
    """
    digest = hashlib.sha256()
    for line in sorted("\t".join(_fields(record, classes)) for record in records):
        digest.update((line + "\n").encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n"})


def _fields(record: Record, classes: Sequence[str]) -> tuple[str, ...]:
    name = "" if record.target is None else classes[record.target]
    key, name, group = (text.translate(_ESCAPES) for text in (record.key, name, record.group or ""))
    known = ((cls.translate(_ESCAPES), value) for cls, value in zip(classes, record.targets) if value is not None)
    targets = (f"{cls}={value!r}" for cls, value in known)
    return key, str(record.size), str(record.crc), name, record.split or "", group, *targets

"""A Classifier tested on data that is read for it, divided as it was for training where it was trained on it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from .. import augmentation, cache, calibration, codecs, duplicates, errors, evaluation, sources, splits
from ..answers import Answering, refuse_names
from ..cache import Pixels
from ..calibration import Threshold
from ..classifier import Classifier
from ..duplicates import Pair
from ..reports import Answers
from ..sources import Source
from ..vocabulary import SPLITS, Dataset, Event, Record, Scores, Split, Work, finished

T = TypeVar("T")

Part = Split | Literal["all"]

DIGEST = 6  # bytes of a picture's digest, which is of its size and CRC-32: of pictures of one size those are 4
CHAINED = 0.1  # of all pictures: what more of them are joined by is a likeness of scenes, not copies


def data_for(clf: Answering, source: str | Path, *, group: str = "", target: str = "") -> Dataset:
    """What `source` holds, read for the classifier's task; the columns of a table as they were named for training.

    Raises:
        CallError, DataError, MachineError: as `sources.read` says.
    """
    task = "" if clf.task == "single-label" else clf.task
    named = target or clf.facts.get("target", "") * sources.is_table(source)
    return sources.read(source, group=group, target=named, task=task)


def evaluate(clf: Answering, data: Dataset | Source, part: Part | None = None) -> Scores:
    """The Scores of `clf` on `data`: on its test part, or on all of it where it has no split; `part` says otherwise.

    Data that the classifier was trained on is divided as it was then. Of other data the pictures that it was trained on
    or chosen by are left out, and with them their groups, unless `part` is `all`.

    Raises:
        DataError: for classes that the classifier does not know, when nothing is left to test, and for the pictures
            that it was trained on where they are grouped or divided otherwise than then.
        CallError: when `part` has no records.
    """
    refuse_names(clf)
    data = data_for(clf, data) if isinstance(data, str | Path) else sources.given(data)
    return finished(evaluating(clf, data, part))[1]


def evaluating(
    clf: Answering, data: Dataset, part: Part | None = None
) -> Generator[Event, None, tuple[Answers, Scores, Dataset]]:
    """`evaluate` as events; gives the answers row by row, their Scores, and the records that were answered."""
    name, chosen = yield from part_of(clf, data, part)
    chosen, caches = yield from told(cache.build(chosen, [clf.preprocessing]), "decoding", len(chosen))
    answers = yield from _answered(clf, name, caches[0])
    return answers, _scored(clf, answers, chosen), chosen


def _answered(clf: Answering, part: str, pixels: Pixels) -> Generator[Event, None, Answers]:
    data = pixels.data
    expected = evaluation.targets(clf, data)  # what does not fit is refused before the work
    found = yield from told(evaluation.logits(clf, pixels), "scoring", len(data))
    groups = evaluation.groups(data)
    keys = tuple(record.key for record in data.records)
    return Answers(part, found, expected, keys, tuple(groups) if groups else None, clf.classes)


def _scored(clf: Answering, answers: Answers, data: Dataset) -> Scores:
    largest = clf.facts.get("largest class") or largest_class(data)
    return evaluation.score(clf, answers.logits, answers.targets, largest, groups=answers.groups)


def settling(
    clf: Classifier, data: Dataset, wanted: str
) -> Generator[Event, None, tuple[Classifier, tuple[Threshold, ...], tuple[Answers, Scores, Dataset]]]:
    """`clf` with thresholds for what is wanted, as events: set on the validation part of `data`, priced on its test.

    Gives the new classifier, its thresholds, and what `evaluating` it on the test would give.

    Raises:
        CallError: for a want that names no class, and when `data` has no validation part.
        DataError: as `evaluate` and `calibration.with_thresholds` say.
    """
    wants = calibration.wants(wanted, clf.classes, clf.task)
    settled: tuple[Threshold, ...] = ()
    for part in SPLITS[1:]:
        answers, _, tested = yield from evaluating(clf, data, part)
        rows = answers.logits, answers.targets
        if part == "val":
            judged = tested
            clf, settled = calibration.with_thresholds(clf, *rows, wants, groups=answers.groups)
        else:
            settled = calibration.priced(clf, settled, part, *rows, groups=answers.groups)
    facts = {**clf.facts, "wants": calibration.to_dict(settled)}
    facts |= {"seen": seen(judged, clf)} if "seen" in facts else {}
    clf = dataclasses.replace(clf, facts=facts)
    return clf, settled, (answers, _scored(clf, answers, tested), tested)


def with_mirrored(
    clf: Answering, data: Dataset, part: Part | None = None
) -> Generator[Event, None, tuple[tuple[Answers, Scores, Dataset], tuple[Answers, Scores]]]:
    """`evaluating`, and beside it test-time augmentation: the mean of the logits of each picture and its mirror image.

    Raises:
        CallError: as `refuse_mirrors` and `evaluate` say.
        DataError: as `evaluate` says.
    """
    refuse_mirrors(clf)
    name, chosen = yield from part_of(clf, data, part)
    chosen, caches = yield from told(cache.build(chosen, [clf.preprocessing]), "decoding", len(chosen))
    answers = yield from _answered(clf, name, caches[0])
    other = yield from told(evaluation.logits(clf, caches[0], mirrored=True), "mirror images", len(chosen))
    mean = dataclasses.replace(answers, logits=(answers.logits + other) / 2)
    return (answers, _scored(clf, answers, chosen), chosen), (mean, _scored(clf, mean, chosen))


def refuse_mirrors(clf: Answering) -> None:
    """Refuse mirror images where a mirrored picture may be of another class, or of another quantity.

    Raises:
        CallError: unless training mirrored as well.
    """
    if clf.facts.get("recipe", {}).get("augment", {}).get("hflip") == "yes":
        return
    moved = "quantities, which may change in a mirror" if clf.task == "regression" else ""
    if reason := moved or augmentation.relabelling(clf.classes, "hflip"):
        expected = "classes that stay what they are, or a model that was trained on mirrored pictures"
        raise errors.CallError("--tta mirrors pictures", expected=expected, received=reason, do="Leave it out")


def largest_class(data: Dataset) -> str:
    """The class of most records; "" for the other tasks."""
    return max(data.counts().items(), key=lambda pair: pair[1])[0] if data.task == "single-label" else ""


def told(work: Work[T], what: str, of: int) -> Generator[Event, None, T]:
    """Long work as events; gives its result."""
    while True:
        try:
            done = next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        yield Event("progress", 0, 0, {"what": what, "done": done, "of": of})


def pictures(data: Dataset) -> str:
    """The fingerprint of the pictures and their classes alone, however they are grouped and divided."""
    bare = (dataclasses.replace(record, split=None, group=None) for record in data.records)
    return sources.fingerprint(bare, data.classes)


def alike(data: Dataset, *, near: bool = True, decode: Callable[..., np.ndarray] = codecs.decode) -> Work[list[Pair]]:
    """Records that show one picture: equal files, and near-duplicates of those that get a split. Long work.

    Args:
        near: look at the pictures too. Above `duplicates.MOST` of them it is left out.
        decode: as for `duplicates.thumbnails`.
    """
    pairs = duplicates.same_bytes(data)
    copies = {pair.second for pair in pairs}
    dealt = splits.dealt(data).where(lambda record: record.key not in copies)
    if not near or not 0 < len(dealt) <= duplicates.MOST:
        return pairs
    thumbnails = yield from duplicates.thumbnails(dealt, decode=decode)
    return pairs + (yield from duplicates.near([record.key for record in dealt.records], thumbnails))


def divided(data: Dataset, seed: int, *, split: str | Path = "", pairs: Sequence[Pair] | None = None) -> Dataset:
    """Every record with its split; where splits are drawn, those that show one picture get the same one.

    Args:
        split: the split.csv of another run, to use that run's.
        pairs: what `alike` found.
    """
    if split:
        return splits.read(data, Path(split))
    bound, notes = together(data, finished(alike(data)) if pairs is None else pairs)
    divided = splits.split(data, seed=seed, together=bound)
    return dataclasses.replace(divided, notes=(*divided.notes, *notes))


def together(data: Dataset, pairs: Sequence[Pair]) -> tuple[dict[str, str], list[str]]:
    """Key → name, of records that `alike` found to show one picture, and what there is to say of it."""
    if len(splits.dealt(data)) > duplicates.MOST:
        return duplicates.groups(pairs), [f"near-duplicates are not looked for above {duplicates.MOST:,} pictures"]
    found = duplicates.groups(pairs)
    largest = max(Counter(found.values()).values(), default=0)
    if largest <= max(2, CHAINED * len(data)):
        return found, []
    note = f"{largest:,} pictures are all like one another: only exact copies are kept in one split"
    return duplicates.groups(pair for pair in pairs if pair.kind == "bytes"), [note]


def part_of(
    clf: Answering, data: Dataset, part: str | None, *, called: str = "the model"
) -> Generator[Event, None, tuple[str, Dataset]]:
    """The part of `data` to test on, by its name: divided as for training where `clf` was trained on it.

    Of other data, without what it was trained on; of its validation part, without what its weights were fitted to.
    """
    same = pictures(data) == clf.facts.get("pictures")
    if part != "all" and same:
        data = _divided_as_then(clf, data)
    name = part or ("test" if any(record.split == "test" for record in data.records) else "all")
    chosen = data if name == "all" else data.where(lambda record: record.split == name)
    if not len(chosen):
        raise errors.CallError("part", expected="one that has records", received=name)
    if part in ("all", "train") or (same and part == "val"):
        return name, chosen
    gone = trained_on(clf, data, SPLITS[:1] if part == "val" else SPLITS[:2])
    left = chosen.where(lambda record: record.key not in gone)
    if same:  # scored as it was then, which only a model that this one started from can spoil
        if met := len(chosen) - len(left):
            text = f"warning: {called}, or the one it started from, has seen {met:,} of these in training"
            yield Event("notice", 0, 0, {"text": text})
        return name, chosen
    if not len(left):
        raise errors.DataError(
            "no picture is left to test on",
            received=f"{len(chosen):,} that {called} was trained on or chosen by, or others of their groups",
            do="Give other pictures; --part all scores training pictures too",
        )
    text = ""
    if len(left) < len(chosen):
        fewer = len(chosen) - len(left)
        text = f"{fewer:,} of {len(chosen):,} pictures are left out: {called} was trained on them, or their groups"
    elif clf.facts.get("pictures") and "seen" not in clf.facts:
        text = f"{called} does not tell which pictures it was trained on: if some are among these, scores are too good"
    if text:
        left = dataclasses.replace(left, notes=(*left.notes, text))
        yield Event("notice", 0, 0, {"text": text})
    return name, left


def seen(data: Dataset, start: Answering | None = None) -> dict[str, str]:
    """Of train and val, what tells their pictures again: short digests, sorted, one after the other, in Base64.

    What `start`, whose weights were the first, has seen, is among them.
    """
    found: dict[str, str] = {}
    for split in SPLITS[:2]:
        digests = set(map(_digest, data.part(split).records)) | (_known(start, [split]) if start else set())
        found[split] = base64.b64encode(b"".join(sorted(digests - {b""}))).decode()
    return found


def trained_on(clf: Answering, data: Dataset, by: Iterable[Split] = SPLITS[:2]) -> set[str]:
    """The keys of records whose very bytes `clf` has seen in training, or those of another one of their group."""
    known = _known(clf, by)
    met = [record for record in data.records if _digest(record) in known]
    keys, groups = {record.key for record in met}, {record.group for record in met} - {None}
    return keys | {record.key for record in data.records if record.group in groups}


def _known(clf: Answering, by: Iterable[Split]) -> set[bytes]:
    told = b"".join(base64.b64decode(clf.facts.get("seen", {}).get(split, "")) for split in by)
    return {told[at : at + DIGEST] for at in range(0, len(told), DIGEST)}


def _digest(record: Record) -> bytes:
    """Of what is in the file; b"" for a record that does not know it."""
    return hashlib.sha256(f"{record.size} {record.crc}".encode()).digest()[:DIGEST] if record.size else b""


def _divided_as_then(clf: Answering, data: Dataset) -> Dataset:
    seed = clf.facts.get("divided by", clf.facts["recipe"]["seed"])
    for near in (False, True) if data.fingerprint == clf.facts["fingerprint"] else ():  # the quick way first
        again = divided(data, seed, pairs=finished(alike(data, near=near)))
        if splits.fingerprint(again) == clf.facts["split"]:
            return again
    raise errors.DataError(
        "the model was trained on part of these pictures, and they are divided otherwise here",
        expected="the same division, other pictures, or the test part alone",
        do="Give the --group of training, or the pictures of the test part; --part all scores training pictures too",
    )

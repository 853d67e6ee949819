"""The words of opsin as data. Read this file first.

    source ─> Dataset of Records ─> … ─> Classifier ─> Prediction, Scores

Letters in shapes: `B` batch, `C` channels, `H` `W` height and width, `K` classes, `N` records, `D` features.
A *picture* is numpy uint8 `(H, W, 3)`, upright, sRGB: what `codecs` gives. From `preprocessing` on, images are torch
tensors `(…, C, H, W)`, uint8 in 0…255 or float32 in 0…1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

# Long work: it yields how many pictures are done and returns its result.
Work = Generator[int, None, T]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Task = Literal["single-label", "multi-label", "regression"]


class Store(Protocol):
    """Where the bytes of records are. Safe to call from several threads."""

    def read(self, key: str) -> bytes | np.ndarray:
        """The encoded bytes of `key`, or, for sets that come as arrays, its picture, uint8 `(H, W)` or `(H, W, 3)`."""


@dataclass(frozen=True, slots=True)
class Record:
    """One example: where its bytes are, its target, its group, its split. No pixels."""

    key: str  # path inside the source, with "/" on every system; unique in a Dataset
    target: int | None = None  # index into Dataset.classes; None where unknown
    split: Split | None = None
    group: str | None = None  # patient, video, sender: what must not stand in two splits
    size: int = 0  # bytes
    crc: int = 0  # CRC-32 of the bytes: tells that they changed, not who changed them


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was found in a source, or given, and not used; `code` is stable, `reason` is for people."""

    key: str
    code: str
    reason: str


Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with the data. An error makes scores wrong, a warning may, a note is good to know."""

    kind: str  # a name of checks.CHECKS
    severity: Severity
    text: str  # what was found, with its numbers
    effect: str  # what it does to the score
    do: str  # what to do about it
    records: tuple[str, ...] = ()  # keys of the records it is about
    together: tuple[tuple[str, ...], ...] = ()  # of these, those that belong side by side
    details: Mapping[str, str] = field(default_factory=dict)  # key → what there is to say of this one


@dataclass(frozen=True)
class Dataset:
    """Records, class names, a task, where the bytes are, and a fingerprint of all that."""

    name: str
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    store: Store = field(repr=False)
    fingerprint: str  # see sources.fingerprint
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()  # what reading found out and a user should know
    task: Task = "single-label"

    def __len__(self) -> int:
        return len(self.records)

    def where(self, keep: Callable[[Record], bool]) -> Dataset:
        """The same data set with only the records that `keep` says yes to."""
        return dataclasses.replace(self, records=tuple(r for r in self.records if keep(r)))

    def part(self, split: Split) -> Dataset:
        """The records of one split."""
        return self.where(lambda record: record.split == split)

    @property
    def train(self) -> Dataset:
        return self.part("train")

    @property
    def val(self) -> Dataset:
        return self.part("val")

    @property
    def test(self) -> Dataset:
        return self.part("test")

    def counts(self) -> dict[str, int]:
        """How many records each class has, in the order of `classes`."""
        counted = dict.fromkeys(self.classes, 0)
        for record in self.records:
            if record.target is not None:
                counted[self.classes[record.target]] += 1
        return counted


@dataclass(frozen=True, slots=True)
class Event:
    """What a run tells while it goes. `values` are plain numbers and strings; an event is one line of events.jsonl.

    kinds: `progress` (of what, how many are done), `start` (the sizes), `step` (loss, rate), `epoch` (training loss,
    validation scores), `checkpoint`, `notice` (what a user should know), `stop` (why training ended), `scores`.
    """

    kind: Literal["progress", "start", "step", "epoch", "checkpoint", "notice", "stop", "scores"]
    epoch: int  # epochs finished
    step: int  # optimiser steps done
    values: Mapping[str, Any]


UNSURE = -1  # in the place of a class's index: no class is named


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says of one picture: a class or "unsure", with all probabilities, or an error's reason."""

    key: str
    classes: tuple[str, ...] = field(repr=False)
    probabilities: tuple[float, ...] | None = None  # (K,), sum 1; None where there is an error
    error: Refusal | None = None
    answer: int | None = None  # index of the class that is named, UNSURE for none; None: the most probable one

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k most probable classes with their probabilities, best first."""
        ranked = sorted(zip(self.classes, self.probabilities or ()), key=lambda pair: -pair[1])
        return ranked[:k]

    @property
    def label(self) -> str | None:
        """The class that is named; None where the classifier is unsure, or there is an error."""
        if not self.probabilities or self.unsure:
            return None
        return self.top(1)[0][0] if self.answer is None else self.classes[self.answer]

    @property
    def unsure(self) -> bool:
        """Whether no class is named, because none is probable enough."""
        return self.answer == UNSURE

    @property
    def probability(self) -> float | None:
        """Of the class that is named, or of the most probable one where none is; None where there is an error."""
        if not self.probabilities:
            return None
        return max(self.probabilities) if self.answer in (None, UNSURE) else self.probabilities[self.answer]

    def __str__(self) -> str:
        if self.error:
            return f"Prediction({self.key}: error {self.error.code}: {self.error.reason})"
        named = "unsure: " if self.unsure else "" if self.label == self.top(1)[0][0] else f"{self.label}: "
        return f"Prediction({named}" + ", ".join(f"{name} {p:.2f}" for name, p in self.top(3)) + ")"


@dataclass(frozen=True, slots=True)
class Score:
    """A measured value with its 95 % interval and the number of records behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Scores:
    """What a test found. Computed from logits that are kept, so everything here can be computed again."""

    n: int
    overall: Mapping[str, Score]  # accuracy, top-5, macro precision, macro recall, macro F1, weighted F1, …
    per_class: Mapping[str, Mapping[str, Score]]  # class → precision, recall, F1; only classes that were tested
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted], in the order of `classes`
    classes: tuple[str, ...]
    largest_class: str  # what always answering it would score is overall["largest class"]
    untested: tuple[str, ...] = ()  # classes without a record in the test
    unsure: tuple[int, ...] = ()  # how many records of each class were given no name; () where all are always named


def finished(work: Generator[Any, None, T]) -> T:
    """The result of long work, for who does not want to watch it."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

"""The words of opsin as data. Read this file first.

    source ─> Dataset of Records ─> … ─> Classifier ─> Prediction, Scores

Letters in shapes: `B` batch, `C` channels, `H` `W` height and width, `K` classes, `N` records, `D` features.
A *picture* is numpy uint8 `(H, W, 3)`, upright, sRGB: what `codecs` gives. From `preprocessing` on, images are torch
tensors `(…, C, H, W)`, uint8 in 0…255 or float32 in 0…1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from .errors import CallError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

# Long work: it yields how many pictures are done and returns its result.
Work = Generator[int, None, T]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Task = Literal["single-label", "multi-label", "regression"]
TASKS: tuple[Task, ...] = ("single-label", "multi-label", "regression")
Scale = tuple[tuple[float, float], ...]  # of each quantity of a regression: mean and deviation of its training values


class Store(Protocol):
    """Where the bytes of records are. Safe to call from several threads."""

    def read(self, key: str) -> bytes | np.ndarray:
        """The encoded bytes of `key`, or, for sets that come as arrays, its picture, uint8 `(H, W)` or `(H, W, 3)`."""


@dataclass(frozen=True, slots=True)
class Record:
    """One example: where its bytes are, its target, its group, its split. No pixels."""

    key: str  # path inside the source, with "/" on every system; unique in a Dataset
    target: int | None = None  # index into Dataset.classes; None where unknown, and for the other tasks
    split: Split | None = None
    group: str | None = None  # patient, video, sender: what must not stand in two splits
    size: int = 0  # bytes
    crc: int = 0  # CRC-32 of the bytes: tells that they changed, not who changed them
    targets: tuple[float | None, ...] = ()  # of the other tasks, one a class: 0 or 1, or a quantity; None where unknown


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
    classes: tuple[str, ...]  # or labels, several of which a record may have, or the names of quantities
    store: Store = field(repr=False)
    fingerprint: str  # see sources.fingerprint
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()  # what reading found out and a user should know
    task: Task = "single-label"

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        refused = f", {len(self.refused):,} refused" if self.refused else ""
        return f"Dataset({self.name}: {len(self):,} records, {self.task}, {len(self.classes):,} classes{refused})"

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
        """How many records have each class or label, or a value of each quantity, in the order of `classes`."""
        counted = dict.fromkeys(self.classes, 0)
        for record in self.records:
            if record.target is not None:
                counted[self.classes[record.target]] += 1
            for name, value in zip(self.classes, record.targets):
                counted[name] += value is not None if self.task == "regression" else bool(value)
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
    """What a classifier says of one picture: a class or "unsure", with all probabilities, or an error's reason.

    Of several labels each has a probability of its own; those that reach their threshold are `labels`. A regression
    has no probabilities but `values`.
    """

    key: str
    classes: tuple[str, ...] = field(repr=False)
    probabilities: tuple[float, ...] | None = None  # (K,), sum 1 unless multi-label; None where there is an error
    error: Refusal | None = None
    answer: int | None = None  # index of the class that is named, UNSURE for none; None: the most probable one
    values: tuple[float, ...] | None = None  # (K,), one a quantity, in its own unit
    thresholds: tuple[float, ...] = field(default=(), repr=False)  # (K,), of multi-label
    task: Task = "single-label"

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k most probable classes with their probabilities, best first."""
        ranked = sorted(zip(self.classes, self.probabilities or ()), key=lambda pair: -pair[1])
        return ranked[:k]

    @property
    def label(self) -> str | None:
        """The class that is named; None where the classifier is unsure, for an error, and for the other tasks."""
        if not self.probabilities or self.unsure or self.task != "single-label":
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

    @property
    def labels(self) -> list[tuple[str, float]]:
        """Of a multi-label answer, the labels that reach their threshold with their probabilities, best first."""
        reached = zip(self.classes, self.probabilities or (), self.thresholds)
        return sorted(((name, p) for name, p, least in reached if p >= least), key=lambda pair: -pair[1])

    def __repr__(self) -> str:
        if self.error:
            return f"Prediction({self.key}: error {self.error.code}: {self.error.reason})"
        if self.values is not None:
            return "Prediction(" + ", ".join(f"{name} {v:.4g}" for name, v in zip(self.classes, self.values)) + ")"
        if self.task == "multi-label":
            return f"Prediction({', '.join(f'{name} {p:.2f}' for name, p in self.labels) or 'no label'})"
        named = "unsure: " if self.unsure else "" if self.label == self.top(1)[0][0] else f"{self.label}: "
        return f"Prediction({named}" + ", ".join(f"{name} {p:.2f}" for name, p in self.top(3)) + ")"


@dataclass(frozen=True, slots=True)
class Score:
    """A measured value with its 95 % interval and the number of records behind it.

    The interval is infinite where nothing is known of it: of a quantity that was measured on one record or one group.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.high - self.low)

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} " + (f"[{self.low:.3f}, {self.high:.3f}]" if self.bounded else "[no interval]")


@dataclass(frozen=True)
class Scores:
    """What a test found. Computed from logits that are kept, so everything here can be computed again."""

    n: int
    overall: Mapping[str, Score]  # accuracy, top-5, macro precision, macro recall, macro F1, weighted F1, …
    per_class: Mapping[str, Mapping[str, Score]]  # class → precision, recall, F1; only classes that were tested
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted], in the order of `classes`; () for the other tasks
    classes: tuple[str, ...]
    largest_class: str  # what always answering it would score is overall["largest class"]; "" for the other tasks
    untested: tuple[str, ...] = ()  # classes without a record in the test
    unsure: tuple[int, ...] = ()  # how many records of each class were given no name; () where all are always named
    task: Task = "single-label"


def refuse_other_tasks(task: Task, what: str) -> None:
    """Refuse what is made for one label a picture alone.

    Raises:
        CallError: it names the task.
    """
    if task != "single-label":
        raise CallError(f"{what} does not know {task} yet", expected="single-label", received=task)


def finished(work: Generator[Any, None, T]) -> T:
    """The result of long work, for who does not want to watch it."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

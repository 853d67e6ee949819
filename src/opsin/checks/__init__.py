"""Dataset → Findings: what is wrong with the data, what it does to the score, and what to do.

    look (one pass) ─> duplicates ─> out-of-fold probabilities ─> CHECKS, one function a kind ─> Report

`quick` is the part that needs no picture to be decoded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import duplicates, sources
from ..duplicates import Pair
from ..errors import DataError, PictureError, unknown, writing
from ..isolation import Decoder
from ..sources import Source
from ..vocabulary import SEVERITIES, Dataset, Finding, Work, finished
from . import labels, page, pictures, shortcuts, splits
from .fixes import Fix, apply, read_fixes
from .looks import Looks, Probe, look
from .subject import Subject, bound_rows

__all__ = [
    "CHECKS",
    "Fix",
    "Looks",
    "Probe",
    "Report",
    "apply",
    "check",
    "checking",
    "leaks",
    "look",
    "quick",
    "read_fixes",
    "refuse_leaks",
]

CHECKS: dict[str, Callable[[Subject], list[Finding]]] = {
    "unreadable": pictures.unreadable,
    "copies": splits.copies,
    "near": splits.near,
    "contradictions": labels.contradictions,
    "groups": splits.groups,
    "classes": splits.classes,
    "labels": labels.suspects,
    "odd": pictures.odd,
    "shortcuts": shortcuts.shortcuts,
    "drift": splits.drift,
}
OF_CLASSES = ("labels", "shortcuts")  # that need one class a picture
MOST_VECTORS = 20_000  # pictures whose labels are looked at: each needs a pass through a network


@dataclass(frozen=True)
class Report:
    """What was found, errors first, and what a page needs to show it."""

    data: Dataset
    findings: tuple[Finding, ...]
    pairs: tuple[Pair, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def to_json(self) -> str:
        """The report as JSON, without the pictures."""
        facts: dict[str, Any] = {
            "data": self.data.name,
            "fingerprint": self.data.fingerprint,
            "task": self.data.task,
            "pictures": len(self.data),
            "findings": [asdict(finding) for finding in self.findings],
        }
        return json.dumps(facts, ensure_ascii=True, indent=1)

    def save(self, path: str | Path) -> None:
        """Write the report: one HTML page with the pictures, or JSON where the name ends so.

        Raises:
            MachineError: it cannot be written.
        """
        as_json = str(path).lower().endswith(".json")
        text = self.to_json() if as_json else page.html(self.data, self.findings)
        with writing(path):
            Path(path).write_text(text + "\n", encoding="utf-8", newline="\n")


def check(data: Dataset | Source, *, only: Sequence[str] = (), probe: Probe | None = None, threads: int = 2) -> Report:
    """What is wrong with the data: `checking` for who does not want to watch it."""
    return finished(checking(sources.given(data), only=only, probe=probe, threads=threads))


def checking(data: Dataset, *, only: Sequence[str] = (), probe: Probe | None = None, threads: int = 2) -> Work[Report]:
    """Look at every picture once and run the checks. Long work: yields how many pictures were looked at.

    Args:
        data: with or without splits.
        only: names of CHECKS; all by default.
        probe: what makes vectors of pictures, for suspect labels; without one they are not looked for, nor in data of
            other tasks, for which the report says so.
        threads: child processes that decode.

    Raises:
        CallError: for a name that CHECKS does not hold.
    """
    for name in only:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    probe = probe if data.task == "single-label" else None
    looks = yield from look(data, probe=probe, threads=threads)
    pairs = yield from _pairs(looks)
    subject = Subject(data, looks, pairs, _probabilities(looks, pairs))
    names = only or tuple(CHECKS)
    left_out = data.task != "single-label" and bool({*names} & {*OF_CLASSES})
    found = _found(subject, names) + (labels.not_looked_for(),) * left_out
    return Report(data, found, tuple(pairs))


def quick(data: Dataset, pairs: Sequence[Pair] | None = None) -> Report:
    """The checks that decode nothing: refusals, equal files, groups and classes. Only suspicious files are read.

    Args:
        pairs: of equal files, where they are known.
    """
    pairs = duplicates.same_bytes(data) if pairs is None else pairs
    names = ("unreadable", "copies", "contradictions", "groups", "classes")
    return Report(data, _found(Subject(data, None, pairs), names), tuple(pairs))


def leaks(report: Report) -> set[str]:
    """The test records whose exact copies stand in train or val: what `train` refuses."""
    exact = [pair for pair in report.pairs if pair.kind != "near"]
    return splits.leaks(Subject(report.data), exact)


def refuse_leaks(report: Report) -> None:
    """Refuse to test on what was trained on, as far as exact copies go.

    Raises:
        DataError: with their number, and what to do.
    """
    leaked = sorted(leaks(report))
    if leaked:
        tested = len(report.data.test)
        raise DataError(
            f"{len(leaked):,} of {tested:,} test pictures are exact copies of pictures in train or val",
            expected="none: they test memory instead of sight",
            received=f"{', '.join(map(repr, leaked[:3]))}{' …' if len(leaked) > 3 else ''}",
            do="Look at them with opsin check, and exclude them or split anew",
        )


def _found(subject: Subject, names: Sequence[str]) -> tuple[Finding, ...]:
    left_out = () if subject.data.task == "single-label" else OF_CLASSES
    found = [finding for name in names if name not in left_out for finding in CHECKS[name](subject)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _pairs(looks: Looks) -> Work[list[Pair]]:
    exact = duplicates.same_bytes(looks.data)
    copies = {pair.second for pair in exact}
    rows = [row for row, record in enumerate(looks.data.records) if record.key not in copies][: duplicates.MOST]
    keys = [looks.data.records[row].key for row in rows]
    near = yield from duplicates.near(keys, looks.thumbnails[rows])
    with Decoder() as decoder:
        return exact + [_exact_if_equal(looks.data, pair, decoder) for pair in near]


def _exact_if_equal(data: Dataset, pair: Pair, decoder: Decoder) -> Pair:
    """The pair, as of kind `pixels` where its pictures are equal; only those with one thumbnail are decoded again."""
    if pair.similarity < 1 or pair.mirrored:
        return pair
    try:
        one, other = (decoder.decode(data.store.read(key)) for key in (pair.first, pair.second))
    except PictureError:
        return pair
    return Pair(pair.first, pair.second, "pixels") if np.array_equal(one, other) else pair


def _probabilities(looks: Looks, pairs: Sequence[Pair]) -> np.ndarray | None:
    targets = [record.target for record in looks.data.records]
    if looks.vectors is None or None in targets or len(set(targets)) < 2:
        return None
    return labels.out_of_fold(looks.vectors, np.array(targets), len(looks.data.classes), bound_rows(looks.data, pairs))

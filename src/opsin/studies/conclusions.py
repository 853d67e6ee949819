"""What a study allows to conclude, in plain words, and what it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..reports.page import percent

if TYPE_CHECKING:
    from . import Row, Study


MARGIN = 0.03  # of accuracy: what a loss is asked to stay below


def sentences(found: Study) -> list[str]:
    """The conclusions of a study, one after the other."""
    said = [
        f"{found.n:,} pictures ({found.part}); as they are, accuracy is {found.original.accuracy} "
        f"and confidence {found.original.confidence:.3f}."
    ]
    if found.corruptions:
        said += _of_corruptions(found)
    elif not found.moving:
        said += [f"With {row.name}: {_verdict(row)}" for row in found.rows]
    else:
        said += _of_range(found)
    if found.refused:
        said.append(f"{len(found.refused):,} pictures are not counted: {found.refused[0].reason}")
    return [*said, _caution(found)]


def _verdict(row: Row) -> str:
    """Whether accuracy is shown to be another with this change, and what it may have lost or won."""
    assert row.difference
    within = f"[{100 * row.difference.low:+.1f}, {100 * row.difference.high:+.1f}]"
    measured = (
        f"{100 * row.difference.value:+.1f} points {within}, and {percent(row.agreement)} of answers stay as they were"
    )
    word = {
        1: "accuracy is shown to be higher",
        -1: "accuracy is shown to be lower",
        0: "no difference of accuracy is shown",
    }
    return f"{word[row.shown]}: {measured}."


def _of_range(found: Study) -> list[str]:
    name = found.moving
    said = []
    for shown, words in (
        (0, "is not shown to differ from the original's"),
        (-1, "is shown to be lower"),
        (1, "is shown to be higher"),
    ):
        at = [row.shown == shown for row in found.rows]
        if any(at):
            said.append(f"Accuracy {words} at {name} {_runs(found.rows, at)}.")
    return [*said, *_smallest(found)]


def _runs(rows: Sequence[Row], at: Sequence[bool]) -> str:
    """The values of the rows that are meant, neighbours drawn together where they are numbers: `5, 25 to 95`."""
    parts: list[list[str]] = []
    for row, meant, before in zip(rows, at, (False, *at)):
        if meant and (not before or isinstance(row.value, bool | str)):
            parts.append([])
        if meant:
            parts[-1].append(text(row.value))
    return ", ".join(part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts)


def text(value: Any) -> str:
    """A parameter's value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def chance(p: float | None) -> str:
    """A p as people write it; nothing where there is none."""
    return "" if p is None else f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def smallest(found: Study, holds: Callable[[Row], bool]) -> Row | None:
    """The row of the fewest bytes such that it, and every row of more, `holds`; None where there is none."""
    best = None
    for row in sorted((row for row in found.rows if row.bytes is not None), key=lambda row: -(row.bytes or 0)):
        if not holds(row):
            break
        best = row
    return best


def not_lower(row: Row) -> bool:
    """Whether no loss is shown."""
    return row.shown >= 0


def near(row: Row) -> bool:
    """Whether a loss of more than MARGIN is ruled out, with 97.5 % confidence.

    Rows are asked one after the other, from the most bytes down, and asking ends with the first that fails: so many
    questions need no correction (fixed sequence; Maurer, Hothorn & Lehmacher 1995).
    """
    return row.difference is not None and row.difference.low > -MARGIN


def _smallest(found: Study) -> list[str]:
    said = []
    row = smallest(found, not_lower)
    if row is not None and row.difference:
        lost = 100 * max(0.0, -row.difference.low)
        said.append(
            f"No loss is shown down to {_sized(found, row)}; a loss of up to {lost:.1f} points there is not ruled out, "
            f"and {percent(row.agreement)} of answers stay as they were."
        )
    row = smallest(found, near)
    if row is not None:
        said.append(f"A loss of more than {100 * MARGIN:g} points is ruled out down to {_sized(found, row)}.")
    elif said:
        said.append(f"At no setting a loss of more than {100 * MARGIN:g} points is ruled out: test on more pictures.")
    return said


def _sized(found: Study, row: Row) -> str:
    size, whole = row.bytes or 0, found.original.bytes
    share = f", {percent(size / whole, 0)} of the original's" if whole else ""
    return f"{found.moving} {text(row.value)} ({size / 1000:,.1f} kB a picture{share})"


def kinds(found: Study) -> dict[str, list[Row]]:
    """The rows of each corruption, by severity."""
    made: dict[str, list[Row]] = {}
    for row in found.rows:
        made.setdefault(row.name, []).append(row)
    return made


def mean(rows: Sequence[Row]) -> float:
    """Mean accuracy of some rows."""
    return float(np.mean([row.accuracy.value for row in rows]))


def _of_corruptions(found: Study) -> list[str]:
    clean, each = found.original.accuracy.value, kinds(found)
    whole = mean(found.rows)
    order = sorted(each, key=lambda name: mean(each[name]))
    worst = min(found.rows, key=lambda row: row.accuracy.value)
    relative = f", {percent(whole / clean, 0)} of that" if clean else ""
    harmed = [f"{name} ({lost[0]})" for name in each if (lost := [row.value for row in each[name] if row.shown < 0])]
    said = [
        f"Over {len(each)} corruptions at {len(found.rows) // len(each)} severities, accuracy is {whole:.3f} on "
        f"average{relative}.",
        f"The worst kinds are {', '.join(f'{name} ({mean(each[name]):.3f})' for name in order[:3])}; "
        f"the worst of all is {worst.name} at severity {worst.value}: {worst.accuracy}.",
    ]
    if harmed:
        said.append(f"Of single rows a loss is shown for {', '.join(harmed)}: the first severity in brackets.")
    return [*said, "Snow, frost and fog are drawn by opsin: these figures are not those of published tables (mCE)."]


def _caution(found: Study) -> str:
    several, equal = len(found.rows) > 1, "Not shown is not the same as equal."
    if found.grouped:
        chance_ = f" Of {len(found.rows)} rows one in twenty looks different by chance alone." if several else ""
        return f"Shown means: the 95 % interval, of whole groups, leaves no difference out.{chance_} {equal}"
    corrected = f", corrected for {len(found.rows)} rows (Holm)" if several else ""
    single = " Intervals are of each row alone." if several else ""
    return f"Shown means: p < 0.05 in McNemar's test of the same pictures{corrected}.{single} {equal}"

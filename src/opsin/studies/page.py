"""A study as one HTML page: no script, no request, nothing that is not in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from .. import errors
from ..reports import page as reporting
from . import Row, Study, conclusions, to_dict

LEFT, RIGHT, TOP, BOTTOM = 56, 520, 16, 236  # of the chart's frame, in its own units


def write(found: Study, folder: Path) -> Path:
    """Write study.html and study.json into `folder`; the page's path.

    Raises:
        MachineError: when they cannot be written.
    """
    with errors.writing(folder / "study.html"):
        folder.mkdir(parents=True, exist_ok=True)
        plain = json.dumps(to_dict(found), indent=1, ensure_ascii=False) + "\n"
        (folder / "study.json").write_bytes(plain.encode(errors="surrogateescape"))
        (folder / "study.html").write_text(render(found), encoding="utf-8")
    return folder / "study.html"


def render(found: Study) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": reporting.percent, "value": conclusions.text, "chance": conclusions.chance}
    page = environment.from_string(text).render(
        found=found,
        title=f"Study of {found.moving or 'a change'}" if not found.corruptions else "Study of corruptions",
        sentences=conclusions.sentences(found),
        kinds=conclusions.kinds(found) if found.corruptions else {},
        mean=conclusions.mean,
        chart=chart(found),
        style=reporting.style(),
    )
    return page.encode(errors="surrogateescape").decode(errors="replace")  # names whose bytes are no UTF-8


def chart(found: Study) -> dict[str, Any] | None:
    """The plot: accuracy with its intervals, agreement and bytes over what moves; None where nothing does.

    Values stand at equal distances, in their order: a range may be divided by differences or by ratios.
    """
    columns = _columns(found)
    if len(columns) < 2:
        return None
    across = [LEFT + 20 + (RIGHT - LEFT - 40) * place / (len(columns) - 1) for place in range(len(columns))]
    lines = _lines(found, columns)
    low = _floor(
        [value for values in lines.values() for value in values] + [row.accuracy.low for row in columns.values()]
    )

    def down(share: float) -> float:
        return TOP + (BOTTOM - TOP) * (1 - (min(share, 1) - low) / (1 - low))

    return {
        "ticks": [(name, f"{x:.1f}") for name, x in zip(columns, across)],
        "grid": [(f"{100 * share:.0f} %", f"{down(share):.1f}") for share in (low, (1 + low) / 2, 1)],
        "clean": f"{down(found.original.accuracy.value):.1f}",
        "points": [
            (
                f"{x:.1f}",
                *(f"{down(end):.1f}" for end in (row.accuracy.low, row.accuracy.value, row.accuracy.high)),
                row,
            )
            for x, row in zip(across, columns.values())
        ]
        if not found.corruptions
        else [],
        "lines": [
            (name, " ".join(f"{x:.1f},{down(value):.1f}" for x, value in zip(across, values)), f"{y:.1f}")
            for (name, values), y in zip(lines.items(), _apart([down(values[-1]) for values in lines.values()]))
        ],
    }


def _columns(found: Study) -> dict[str, Row]:
    if found.corruptions:
        return {f"severity {row.value}": row for row in next(iter(conclusions.kinds(found).values()))}
    return {conclusions.text(row.value): row for row in found.rows} if found.moving else {}


def _lines(found: Study, columns: Mapping[str, Row]) -> dict[str, list[float]]:
    if found.corruptions:
        each = [[row for row in found.rows if row.value == column.value] for column in columns.values()]
        return {
            "mean of all": [conclusions.mean(rows) for rows in each],
            "worst kind": [min(row.accuracy.value for row in rows) for rows in each],
        }
    lines = {
        "accuracy": [row.accuracy.value for row in found.rows],
        "same answer": [row.agreement for row in found.rows],
    }
    of = found.original.bytes
    sizes = [row.bytes for row in found.rows]
    if of and all(size is not None for size in sizes):
        lines["bytes"] = [(size or 0) / of for size in sizes]
    return lines


def _floor(values: Sequence[float]) -> float:
    """Where the axis begins: a tenth below the least, so that small differences show."""
    return max(0.0, math.floor(10 * min(values)) / 10)


def _apart(heights: Sequence[float], gap: float = 15) -> list[float]:
    """Where labels stand beside the ends of lines: as near as they can, a line of text apart."""
    placed = [0.0] * len(heights)
    last = -math.inf
    for place in sorted(range(len(heights)), key=heights.__getitem__):
        last = max(heights[place] + 4, last + gap)
        placed[place] = last
    return placed

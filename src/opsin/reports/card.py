"""The same content as Markdown: the parts of a model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from . import page, tasks

MOST = 50  # classes of a table


def markdown(contents: Mapping[str, Any]) -> str:
    """What a test found, as sections of Markdown: in short, scores, classes, confusions, calibration."""
    return "\n".join(_lines(contents)) + "\n"


def _cell(text: object) -> str:
    """Text that no table, link or tag of Markdown begins in."""
    escaped = str(text).replace("\\", "\\\\").replace("\n", " ").replace("\r", " ")
    for letter in "|[]<>*_`":
        escaped = escaped.replace(letter, "\\" + letter)
    return escaped


def _lines(c: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## In short", "", *(f"- {_cell(sentence)}" for sentence in c["summary"]), "")
    yield from (
        f"## Scores on {c['part']} ({c['scores']['n']:,} pictures)",
        "",
        "| | value and 95 % interval |",
        "|---|---|",
    )
    written = page.number if c["task"] == "regression" else page.score
    yield from (f"| {_cell(name)} | {written(found)} |" for name, found in c["scores"]["overall"].items())
    classes = page.by_f1(c["scores"])
    if c["task"] != "single-label":
        columns = tasks.rows(c["scores"]["per_class"])
        yield from ("", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|")
        for name, each in classes[:MOST]:
            cells = (written(each[column]) if column in each else "–" for column in columns)
            yield f"| {_cell(name)} | {' | '.join(cells)} |"
        return
    yield from (
        "",
        "## Classes, the worst first",
        "",
        "| class | tested | precision | recall | F1 |",
        "|---|---|---|---|---|",
    )
    for name, each in classes[:MOST]:
        rates = " | ".join(page.score(each[rate]) for rate in ("precision", "recall", "F1"))
        yield f"| {_cell(name)} | {each['recall']['n']:,} | {rates} |"
    if len(classes) > MOST:
        yield from ("", f"{len(classes) - MOST:,} more are in report.json.")
    if c["confusions"]:
        yield from ("", "## Taken for one another", "", "| is | was named | how often |", "|---|---|---|")
    for pair in c["confusions"]:
        yield f"| {_cell(pair['true'])} | {_cell(pair['said'])} | {pair['count']:,} of {pair['of']:,} |"
    after = c["calibration"]["after"]
    yield from ("", "## Calibration", "")
    yield (
        f"Temperature {c['calibration']['temperature']:.3f}; calibration error {page.percent(after['ece'])}, "
        f"negative log-likelihood {after['nll']:.4f}, Brier score {after['brier']:.4f}."
    )

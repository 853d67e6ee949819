"""Scores, predictions and runs as people read them in a terminal; plain lines where there is no terminal."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ... import runs
from ...checks import Report
from ...comparison import Comparison
from ...errors import Interrupted
from ...recipe import Recipe
from ...studies import Study, conclusions
from ...vocabulary import SPLITS, Dataset, Event, Score, Scores
from .progress import Watch

CONFUSION = 15  # the most classes whose confusion matrix a terminal shows


def scores(out: Console, name: str, found: Scores) -> None:
    """The line that matters, the overall table, every class, the confusion matrix."""
    if found.task != "single-label":
        _other_scores(out, name, found)
        return
    overall = dict(found.overall)
    base = overall.pop("largest class")
    if "coverage" in overall:  # "unsure" counts as wrong below
        coverage, right = overall["coverage"].value, overall["accuracy on answered"]
        out.print(f"{name:<6} names {coverage:.0%} of all pictures, accuracy on these {right}", style="bold")
    out.print(
        f"{name:<6} accuracy {overall['accuracy']}   macro F1 {overall['macro F1']}   "
        f"always {found.largest_class!r} would have {base.value:.3f}",
        style="bold",
    )
    _overall(out, overall)
    _classes(out, found)
    _confusion(out, found)
    if found.untested:
        out.print(f"not tested, no picture of theirs is in {name}: {', '.join(found.untested)}")


def series(out: Console, found: runs.Series) -> None:
    """What folds or seeds measured: each run, then all of them together or their spread."""
    table = _table("run", *found.shown, "n")
    for name, text in found.texts.items():
        each = found.scores.get(name)
        shown = [*(str(each.overall[key]) for key in found.shown), f"{each.n:,}"] if each else []
        table.add_row(f"{name}   {text}" + (not each) * ": not tested, its pictures are refused", *shown)
    out.print()
    out.print(table)
    if found.pooled:
        scores(out, "pooled", found.pooled)
        worst = found.scores[found.worst].overall
        line = "   ".join(f"{name} {worst[name]}" for name in found.shown)
        out.print(f"worst  {found.texts[found.worst]}: {line}")
    else:
        line = "   ".join(f"{name} {found.spread[name]}" for name in found.shown)
        out.print(f"mean of {len(found.scores)} seeds, least to greatest   {line}", style="bold")
    out.print(f"\nscores {found.folder / 'scores.json'} · each run has a report.html in its folder")


def side_by_side(out: Console, alone: Scores, both: Scores, paired: Comparison) -> None:
    """The overall scores with and without mirror images, and whether their difference is more than chance."""
    table = _table("score", "each picture alone", "with its mirror image")
    for name, score in alone.overall.items():
        if name not in ("largest class", "no skill mAP", "always the mean"):
            table.add_row(name, str(score), str(both.overall[name]))
    out.print(table)
    for name, difference in paired.overall.items():
        out.print(f"{name:<9} {difference.words('alone', 'with its mirror image')}")


def _overall(out: Console, overall: Mapping[str, Score]) -> None:
    table = _table("score", "value", "95 % interval", "n")
    for key, score in overall.items():
        interval = f"{score.low:.4f} to {score.high:.4f}" if score.bounded else "none"
        table.add_row(key, f"{score.value:.4f}", interval, f"{score.n:,}")
    out.print(table)


def _other_scores(out: Console, name: str, found: Scores) -> None:
    """Of several labels or of quantities: the line that matters, overall, and a line each."""
    shown = [f"{key} {score}" for key, score in found.overall.items()][:2]
    baseline = {"no skill mAP": "scores that say nothing would have mAP", "always the mean": "always the mean has MAE"}
    base = [f"{told} {found.overall[key].value:.3f}" for key, told in baseline.items() if key in found.overall]
    out.print(f"{name:<6} " + "   ".join(shown + base), style="bold")
    _overall(out, found.overall)
    columns = list(dict.fromkeys(key for each in found.per_class.values() for key in each))
    table = _table("label" if found.task == "multi-label" else "quantity", *columns)
    for cls, each in found.per_class.items():
        table.add_row(cls, *(str(each.get(key, "–")) for key in columns))
    out.print(table)
    if found.untested:
        out.print(f"not tested in {name}: {', '.join(found.untested)}")


def _classes(out: Console, found: Scores) -> None:
    table = _table("class", "tested", "precision", "recall", "F1")
    for name, each in found.per_class.items():
        table.add_row(name, f"{each['recall'].n:,}", *(str(each[key]) for key in ("precision", "recall", "F1")))
    out.print(table)


def _confusion(out: Console, found: Scores) -> None:
    if len(found.classes) > CONFUSION:
        out.print(f"the confusion matrix of {len(found.classes)} classes is in scores.json")
        return
    unsure = ["unsure"] if any(found.unsure) else []
    rows = [(*row, more) for row, more in zip(found.confusion, found.unsure)] if unsure else found.confusion
    table = _table("true \\ said", *(name[:9] for name in found.classes), *unsure)
    for name, row in zip(found.classes, rows):
        if sum(row):
            table.add_row(name, *(f"{count:,}" if count else "·" for count in row))
    out.print(table)


def study(out: Console, found: Study) -> None:
    """What a study may conclude, and its table: a row a setting, or a row a corruption and a column a severity."""
    table = _corruptions(found) if found.corruptions else _settings(found)
    out.print(table)
    for sentence in conclusions.sentences(found):
        out.print(sentence)


def _settings(found: Study) -> Table:
    table = _table(
        found.moving or "pictures", "accuracy", "difference in points", "p", "confidence", "agree", "kB", "of it"
    )
    for row in (found.original, *found.rows):
        name = "as they are" if row is found.original else conclusions.text(row.value) if found.moving else row.name
        between, p, kilobytes, share = "", "", "", ""
        if row.difference:
            low, high = (f"{100 * bound:+.1f}" for bound in (row.difference.low, row.difference.high))
            between = f"{100 * row.difference.value:+.1f} [{low}, {high}]{'*' if row.shown else ' '}"
            p = conclusions.chance(row.p)
        if row.bytes is not None:
            kilobytes = f"{row.bytes / 1000:,.1f}"
            share = f"{100 * row.bytes / found.original.bytes:.0f} %" if found.original.bytes else ""
        table.add_row(
            name, str(row.accuracy), between, p, f"{row.confidence:.3f}", f"{row.agreement:.3f}", kilobytes, share
        )
    return table


def _corruptions(found: Study) -> Table:
    kinds = conclusions.kinds(found)
    severities = [str(row.value) for row in next(iter(kinds.values()))]
    table = _table("accuracy at severity", *severities, "mean", "of clean")
    clean = found.original.accuracy.value
    for name, rows in {**kinds, "mean": found.rows}.items():
        mean = conclusions.mean(rows)
        each = (
            [f"{row.accuracy.value:.3f}{'*' if row.shown else ' '}" for row in rows]
            if name in kinds
            else [
                f"{conclusions.mean([kind[place] for kind in kinds.values()]):.3f} " for place in range(len(severities))
            ]
        )
        table.add_row(name, *each, f"{mean:.3f}", f"{100 * mean / clean:.0f} %" if clean else "")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def introduce(out: Console, data: Dataset, recipe: Recipe, folder: Path) -> None:
    """What is about to happen: the pictures, their split, the recipe."""
    counts = data.counts()
    shown = " · ".join(f"{name} {count:,}" for name, count in list(counts.items())[:CONFUSION])
    more = f" · … {len(counts)} classes" if len(counts) > CONFUSION else ""
    refused = f" · not used {len(data.refused):,} (listed in data.json)" if data.refused else ""
    out.print(f"{len(data):,} pictures: {shown}{more}{refused}")
    parts = " / ".join(f"{name} {len(data.part(name)):,}" for name in SPLITS)
    out.print(f"split {parts} · seed {recipe.seed}")
    size = f"{recipe.pixels.size} px" if recipe.pixels.size else "size from network and data"
    out.print(f"recipe {recipe.name} · {recipe.model.network}, {size}, {recipe.pixels.fit} · run {folder}")


def run(
    out: Console,
    folder: Path,
    data: Dataset,
    recipe: Recipe,
    how: runs.Execution = runs.MEASURED,
    *,
    again: Path | None = None,
    tell: Callable[[Event], None] = lambda event: None,
) -> runs.Run:
    """Show and record the run in `folder` until it is finished; `tell` hears every event too.

    Args:
        again: what goes on after an interruption: the series that the run belongs to.

    Raises:
        Interrupted: when the user stops it.
        MachineError: also when the state cannot be saved on stopping.
    """
    work = runs.work(folder, data, recipe, how=how)
    # Closed here and not by the garbage collector, which would swallow the error of a state that cannot be saved.
    with interruptible() as stop, Watch(out) as watch, closing(work):
        for event in work:
            watch.show(event)
            tell(event)
            if stop.asked and event.kind != "scores":  # the last event: there is nothing left to stop
                resume = shlex.quote(str(again or folder))
                raise Interrupted("stopped, nothing lost", do=f"Go on with: opsin train --resume {resume}")
    return runs.finish(folder)


SEVERE = {"error": "bold red", "warning": "yellow", "note": "default"}


def findings(out: Console, report: Report) -> None:
    """One line a finding, what it does to the score and what to do."""
    out.print(f"{len(report.data):,} pictures · {len(report.findings)} findings", style="bold")
    for finding in report.findings:
        out.print(f"\n{finding.severity:<8} {finding.kind}: {finding.text}", style=SEVERE[finding.severity])
        out.print(f"         {finding.effect}\n         → {finding.do}")
        for key in finding.records[:3]:
            out.print(f"         · {key}  {finding.details.get(key, '')}", style="dim")
        if len(finding.records) > 3:
            out.print(f"         · … {len(finding.records):,} in all", style="dim")


class Stop:
    """Whether the user asked to stop."""

    asked = False


@contextmanager
def interruptible() -> Iterator[Stop]:
    """The first Ctrl-C asks to stop at the next event, so that no step is torn; the second one stops at once."""
    stop = Stop()

    def ask(*_: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread: whoever started us takes care of it
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)

"""`opsin train`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import CallError, writing
from . import options

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from ... import runs
    from ...duplicates import Pair
    from ...recipe import Recipe
    from ...vocabulary import Dataset, Task


@dataclass(frozen=True)
class Asked:
    """What the command line says. The options below declare each; what is not said is empty."""

    data: str | None
    recipe: str
    choices: tuple[str, ...]
    group: str
    picture: str
    target: str
    task: str
    wants: tuple[str, ...]
    start: str
    split: Path | None
    folds: str
    seeds: int
    sheet: Path | None
    chart: Path | None
    out: str
    leaks: bool
    alike: bool
    resume: str
    track: str
    device: str
    precision: str
    threads: int
    engine: str
    compile: str
    pictures: bool
    as_json: bool

    def settles(self) -> bool:
        """Whether anything is said of what a run has settled when it begins: the fields up to `leaks`."""
        names = [field.name for field in fields(self)]
        return any(getattr(self, name) for name in names[: names.index("leaks") + 1])


@click.command()
@click.argument("data", required=False)
@click.option("--recipe", default="", help="A preset (opsin list recipes) or a TOML file; finetune by default.")
@click.option("--set", "choices", multiple=True, metavar="NAME=VALUE", help="Change one choice of the recipe.")
@click.option(
    "--group", default="", metavar="PATTERN", help="Regular expression: what in a file's path no two splits share."
)
@click.option("--picture", default="", metavar="COLUMN", help="Of a table: its paths, where their name does not tell.")
@click.option("--target", default="", metavar="COLUMNS", help="Of a table: the column, or a,b,c, of what to learn.")
@options.task
@click.option(
    "--want", "wants", multiple=True, metavar="WANT", help='Set thresholds: "bad recall>=0.98", "accuracy>=0.99".'
)
@click.option("--from", "start", default="", metavar="MODEL", help="Start from the weights of a model of ours.")
@click.option("--split", type=click.Path(path_type=Path), help="Use the split.csv of another run.")
@click.option(
    "--folds",
    default="",
    metavar="N|group",
    help="Measure the recipe: N runs, each tested on another part; group: one fold for each group.",
)
@click.option("--seeds", default=0, type=click.IntRange(min=0), help="So many runs by different seeds, and the spread.")
@click.option(
    "--alike/--no-alike", default=True, help="Keep near-duplicates in one split: a quick look at each picture."
)
@click.option("--leaks", is_flag=True, help="Go on although test pictures are copies of training pictures.")
@click.option("--out", default="", help="The run's folder; runs/<name>-<number> by default.")
@click.option("--resume", default="", help="Go on with a run, or with a series of them.")
@click.option(
    "--track", default="", metavar="TOOL[:WHERE]", help="Tell the run to tensorboard[:DIR] or mlflow[:ADDRESS] as well."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps.")
@click.option("--precision", default="auto", show_default=True, help="fp32, bf16; auto measures.")
@click.option("--threads", default=0, type=click.IntRange(min=0), help="Of the CPU; torch decides by default.")
@click.option("--engine", default="auto", show_default=True, help="Of frozen networks: torch, onnxruntime, openvino.")
@click.option(
    "--compile",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="torch.compile; auto tries it where the work is long.",
)
@click.option("--pictures/--no-pictures", default=True, help="Whether the report may show pictures of mistakes.")
@click.option(
    "--show-augmentation",
    "sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Write what the network would be shown, with labels, and train nothing.",
)
@click.option(
    "--find-rate",
    "chart",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.svg",
    help="Try learning rates, write their losses as a picture, say which to take, and train nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON, and nothing else.")
@click.pass_context
def command(ctx: click.Context, /, **said: Any) -> None:
    """From a folder of pictures to a tested, saved classifier.

    DATA is a folder of class folders (with or without train/ val/ test/), a zip of one, a table (CSV, TSV, Parquet)
    with a column of paths, a list of paths and classes (TXT), or a named set (opsin list datasets). Without a split
    70/15/15 are drawn, stratified.
    """
    from . import progress

    asked = Asked(**said)
    quiet = progress.console(stderr=asked.as_json)
    if asked.resume:
        if asked.settles():
            raise CallError("--resume", expected="no other choices: the run has made them", received="some")
        ctx.exit(_resumed(quiet, asked))
    if not asked.data:
        raise CallError("what to train on", expected="DATA, or --resume RUN", received="neither")
    ctx.exit(_begun(quiet, asked, asked.data))


def _how(asked: Asked) -> runs.Execution:
    from ... import runs

    return runs.Execution(asked.device, asked.precision, asked.threads, asked.engine, asked.compile)  # type: ignore[arg-type]


def _resumed(out: Console, asked: Asked) -> bool:
    from ... import runs

    folder = runs.find(asked.resume)
    if runs.series.is_series(folder):
        return _measured(out, asked, folder, None)
    return _trained(out, asked, folder, *runs.reopen(folder))


def _begun(out: Console, asked: Asked, source: str) -> bool:
    """A new run, a series of them, or a preview of one; whether something that was wanted was not reached."""
    from ... import runs, sources, tracking
    from . import progress

    _refuse_together(asked)
    _chosen(asked, None)  # as far as no task is known
    tracking.check(asked.track)
    first = runs.load(asked.start) if asked.start else None
    columns: dict[str, Any] = {
        "group": asked.group,
        "picture": asked.picture,
        "target": asked.target,
        "task": asked.task,
    }
    # Not resolved: data is called as the path that was given, be it a link.
    origin = runs.Origin(str(Path(source).absolute() if Path(source).exists() else source), **columns)
    data = sources.read(source, **columns)
    chosen = runs.fitting(data, _chosen(asked, data.task), first)
    looking = runs.alike(runs.series.divisible(data, asked.folds), near=asked.alike and not asked.split)
    pairs = progress.counted(out, looking, "looking for pictures that are alike", len(data))
    if asked.sheet or asked.chart:
        return _previewed(out, asked, data, chosen, pairs)
    common: dict[str, Any] = {"origin": origin, "out": asked.out, "leaks": asked.leaks, "pairs": pairs}
    if asked.folds or asked.seeds:
        folder = runs.series.begin(data, chosen, folds=asked.folds, seeds=asked.seeds, **common)
        return _measured(out, asked, folder, data)
    folder = runs.create(data, chosen, split=asked.split or "", start=first, **common)
    return _trained(out, asked, folder, *runs.reopen(folder, data))


def _refuse_together(asked: Asked) -> None:
    series, preview = asked.folds or asked.seeds, asked.sheet or asked.chart
    if asked.folds and asked.seeds:
        raise CallError("a series of runs", expected="--folds, or --seeds", received="both")
    if asked.start and (series or preview):
        raise CallError("--from", expected="a single run", received="--folds, --seeds or a preview")
    if series and (asked.split or asked.track):
        raise CallError("--folds, --seeds", expected="no --split and no --track", received="one of them")


def _chosen(asked: Asked, task: Task | None) -> Recipe:
    """The recipe with what is changed of it, checked as far as that goes without data."""
    from ... import recipe as recipes
    from ... import runs

    chosen = recipes.read(asked.recipe or "finetune", task=task or "single-label").set_texts(asked.choices)
    chosen = chosen.set(want="; ".join(asked.wants)) if asked.wants else chosen
    runs.check(chosen, _how(asked), task=task)
    return chosen


def _trained(out: Console, asked: Asked, folder: Path, data: Dataset, chosen: Recipe) -> bool:
    """The run in `folder`, to its end and its report; whether something that was wanted was not reached."""
    from ... import runs, tracking
    from . import render

    render.introduce(out, data, chosen, folder)
    with tracking.tracker(asked.track, folder, say=out.print) as tell:
        run = render.run(out, folder, data, chosen, _how(asked), tell=tell)
    page = runs.report(folder, data, pictures=asked.pictures)
    if asked.as_json:
        click.echo(json.dumps({"run": str(folder), "scores": run.classifier.facts["scores"]}))
    else:
        name = "test" if "test" in run.scores else "val"
        if name in run.scores:
            out.print()
            render.scores(out, name, run.scores[name])
        out.print(f"\nreport {page}")
        out.print(f"next   opsin predict {folder} PICTURES · opsin evaluate {folder} DATA · model: {folder}/model")
    return bool(chosen.learn.want) and not run.classifier.facts["wants"]


def _measured(out: Console, asked: Asked, folder: Path, data: Dataset | None) -> bool:
    """Make what is left of a series' runs, and tell what they measured."""
    from ... import metrics, runs
    from . import render

    data = runs.unchanged(folder, data)
    for member, at, divided, chosen in runs.series.left(folder, data):
        out.print(f"\n{member.text}", style="bold")
        render.introduce(out, divided, chosen, at)
        render.run(out, at, divided, chosen, _how(asked), again=folder)
        runs.report(at, divided, pictures=asked.pictures)
    found = runs.series.finish(folder, data)
    if asked.as_json:
        each = {name: metrics.to_dict(scores) for name, scores in found.scores.items()}
        told = {"scores": runs.series.to_dict(found), "runs": each, "texts": found.texts, "worst": found.worst}
        click.echo(json.dumps({"run": str(folder), **told}))
    else:
        render.series(out, found)
    return False


def _previewed(out: Console, asked: Asked, data: Dataset, chosen: Recipe, pairs: list[Pair]) -> bool:
    from ... import runs
    from . import progress

    division: dict[str, Any] = {"split": asked.split or "", "pairs": pairs}
    if asked.sheet:
        _show(asked.sheet, runs.augmented(data, chosen, **division), asked.as_json)
    if asked.chart:
        trials = progress.watched(out, runs.find_rate(data, chosen, **division, how=_how(asked)))
        _told(asked.chart, trials, asked.as_json)
    return False


def _show(file: Path, picture: np.ndarray, as_json: bool) -> None:
    """Write the contact sheet."""
    from ... import codecs

    with writing(file):
        file.write_bytes(codecs.encode_png(picture))
    click.echo(json.dumps({"file": str(file)}) if as_json else f"written {file}: the first batch as it is trained on")


def _told(file: Path, trials: list[tuple[float, float]], as_json: bool) -> None:
    """Write the chart of a range test, and say what it suggests."""
    from ... import training

    with writing(file):
        file.write_text(training.rate_chart(trials), encoding="utf-8")
    best = training.suggested_rate(trials)
    if as_json:
        click.echo(json.dumps({"file": str(file), "lr": best, "trials": trials}))
    else:
        advice = f"try --set lr={best:.2g}" if best else "no rate made the loss less: look at the data and its labels"
        click.echo(f"written {file}: {advice}")

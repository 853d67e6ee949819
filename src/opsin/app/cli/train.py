"""`opsin train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import CallError, writing

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from ... import runs
    from ...vocabulary import Dataset


@click.command()
@click.argument("data", required=False)
@click.option("--recipe", default="", help="A preset (opsin list recipes) or a TOML file; finetune by default.")
@click.option("--set", "choices", multiple=True, metavar="NAME=VALUE", help="Change one choice of the recipe.")
@click.option(
    "--group", default="", metavar="PATTERN", help="Regular expression: what in a file's path no two splits share."
)
@click.option("--picture", default="", metavar="COLUMN", help="Of a table: its paths, where their name does not tell.")
@click.option("--target", default="", metavar="COLUMN", help="Of a table: its classes, where their name does not tell.")
@click.option(
    "--want", "wants", multiple=True, metavar="WANT", help='Set thresholds: "bad recall>=0.98", "accuracy>=0.99".'
)
@click.option("--from", "start", default="", metavar="MODEL", help="Start from the weights of a model of ours.")
@click.option(
    "--track", default="", metavar="TOOL[:WHERE]", help="Tell the run to tensorboard[:DIR] or mlflow[:ADDRESS] as well."
)
@click.option("--split", type=click.Path(path_type=Path), help="Use the split.csv of another run.")
@click.option(
    "--alike/--no-alike", default=True, help="Keep near-duplicates in one split: a quick look at each picture."
)
@click.option("--leaks", is_flag=True, help="Go on although test pictures are copies of training pictures.")
@click.option("--out", default="", help="The run's folder; runs/<name>-<number> by default.")
@click.option("--resume", default="", help="Go on with a run, or with a series of them.")
@click.option(
    "--folds",
    default="",
    metavar="N|group",
    help="Measure the recipe: N runs, each tested on another part; group: one fold for each group.",
)
@click.option("--seeds", default=0, type=click.IntRange(min=0), help="So many runs by different seeds, and the spread.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps.")
@click.option("--precision", default="auto", show_default=True, help="fp32, bf16; auto measures.")
@click.option("--threads", default=0, type=click.IntRange(min=0), help="Of the CPU; torch decides by default.")
@click.option("--engine", default="auto", show_default=True, help="Of frozen networks: torch, onnxruntime, openvino.")
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
def command(
    ctx: click.Context,
    data: str | None,
    recipe: str,
    choices: tuple[str, ...],
    group: str,
    picture: str,
    target: str,
    wants: tuple[str, ...],
    start: str,
    track: str,
    split: Path | None,
    alike: bool,
    leaks: bool,
    out: str,
    resume: str,
    folds: str,
    seeds: int,
    device: str,
    precision: str,
    threads: int,
    engine: str,
    pictures: bool,
    sheet: Path | None,
    chart: Path | None,
    as_json: bool,
) -> None:
    """From a folder of pictures to a tested, saved classifier.

    DATA is a folder of class folders (with or without train/ val/ test/), a zip of one, or a named set (opsin list
    datasets). Without a split 70/15/15 are drawn, stratified.
    """
    from ... import recipe as recipes
    from ... import runs, sources, tracking
    from . import render

    quiet = render.console(stderr=as_json)
    how = runs.Execution(device, precision, threads, engine)
    if resume:
        if any((data, recipe, choices, wants, split, out, group, picture, target, start, folds, seeds, sheet, chart)):
            raise CallError("--resume", expected="no other choices: the run has made them", received="some")
        folder = runs.find(resume)
        if runs.series.is_series(folder):
            _measure(quiet, folder, None, how, pictures, as_json)
            return
        read, chosen = runs.reopen(folder)
    else:
        if not data:
            raise CallError("what to train on", expected="DATA, or --resume RUN", received="neither")
        chosen = recipes.read(recipe or "finetune").set_texts(choices)
        chosen = chosen.set(want="; ".join(wants)) if wants else chosen
        runs.check(chosen, how)
        tracking.check(track)
        if start and (folds or seeds or sheet or chart):
            raise CallError("--from", expected="a single run", received="--folds, --seeds or a preview")
        first = runs.load(start) if start else None
        place = str(Path(data).resolve() if Path(data).exists() else data)
        origin = runs.Origin(place, group, picture, target)
        found = sources.read(data, group=group, picture=picture, target=target)
        if sheet:
            _show(sheet, runs.augmented(found, chosen, split=split or ""), as_json)
        if chart:
            _told(chart, render.watched(quiet, runs.find_rate(found, chosen, split=split or "", how=how)), as_json)
        if sheet or chart:
            return
        near = alike and not split
        if folds or seeds:
            if split:
                raise CallError("--folds, --seeds", expected="no --split: they divide the data", received=split)
            folder = runs.series.begin(found, chosen, folds=folds, seeds=seeds, origin=origin, out=out, leaks=leaks)
            _measure(quiet, folder, found, how, pictures, as_json)
            return
        pairs = render.counted(quiet, runs.alike(found, near=near), "looking for pictures that are alike", len(found))
        folder = runs.create(
            found, chosen, origin=origin, out=out, split=split or "", leaks=leaks, pairs=pairs, start=first
        )
        read, chosen = runs.reopen(folder, found)
    render.introduce(quiet, read, chosen, folder)
    with tracking.tracker(track, folder) as tell:
        run = render.run(quiet, folder, read, chosen, how, tell=tell)
    page = runs.report(folder, read, pictures=pictures)
    unmet = int(bool(chosen.learn.want) and not run.classifier.facts["wants"])
    if as_json:
        click.echo(json.dumps({"run": str(folder), "scores": run.classifier.facts["scores"]}))
        ctx.exit(unmet)
    name = "test" if "test" in run.scores else "val"
    if name in run.scores:
        quiet.print()
        render.scores(quiet, name, run.scores[name])
    quiet.print(f"\nreport {page}")
    quiet.print(f"next   opsin predict {folder} PICTURES · opsin evaluate {folder} DATA · model: {folder}/model")
    ctx.exit(unmet)


def _measure(
    out: Console, folder: Path, data: Dataset | None, how: runs.Execution, pictures: bool, as_json: bool
) -> None:
    """Make what is left of a series' runs, and tell what they measured."""
    from ... import metrics, runs
    from . import render

    data = runs.unchanged(folder, data)
    for member in runs.series.members(folder, data):
        if begun := runs.series.opened(folder, member):
            at, divided, chosen = begun
            out.print(f"\n{member.text}", style="bold")
            render.introduce(out, divided, chosen, at)
            render.run(out, at, divided, chosen, how, again=folder)
            runs.report(at, divided, pictures=pictures)
    found = runs.series.finish(folder, data)
    if as_json:
        each = {name: metrics.to_dict(scores) for name, scores in found.scores.items()}
        told = {"scores": runs.series.to_dict(found), "runs": each, "texts": found.texts, "worst": found.worst}
        click.echo(json.dumps({"run": str(folder), **told}))
    else:
        render.series(out, found)


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

"""`opsin train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import CallError, writing

if TYPE_CHECKING:
    import numpy as np


@click.command()
@click.argument("data", required=False)
@click.option("--recipe", default="", help="A preset (opsin list recipes) or a TOML file; finetune by default.")
@click.option("--set", "choices", multiple=True, metavar="NAME=VALUE", help="Change one choice of the recipe.")
@click.option(
    "--group", default="", metavar="PATTERN", help="Regular expression: what in a file's path no two splits share."
)
@click.option("--target", default="", metavar="COLUMNS", help="Of a table: the column, or a,b,c, of what to learn.")
@click.option(
    "--task",
    default="",
    metavar="TASK",
    help="single-label, multi-label, regression, where a table's columns do not tell.",
)
@click.option("--split", type=click.Path(path_type=Path), help="Use the split.csv of another run.")
@click.option("--leaks", is_flag=True, help="Go on although test pictures are copies of training pictures.")
@click.option("--out", default="", help="The run's folder; runs/<name>-<number> by default.")
@click.option("--resume", default="", help="Go on with a run.")
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
def command(
    data: str | None,
    recipe: str,
    choices: tuple[str, ...],
    group: str,
    target: str,
    task: str,
    split: Path | None,
    leaks: bool,
    out: str,
    resume: str,
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
    from ... import runs, sources
    from . import render

    quiet = render.console(stderr=as_json)
    how = runs.Execution(device, precision, threads, engine)
    if resume:
        if data or recipe or choices or split or out or group or sheet or chart:
            raise CallError("--resume", expected="no other choices: the run has made them", received="some")
        folder = runs.find(resume)
        read, chosen = runs.reopen(folder)
    else:
        if not data:
            raise CallError("what to train on", expected="DATA, or --resume RUN", received="neither")
        chosen = recipes.read(recipe or "finetune").set_texts(choices)
        runs.check(chosen, how)  # as far as no task is known
        found = sources.read(data, group=group, target=target, task=task)
        if found.task != "single-label":
            chosen = recipes.read(recipe or "finetune", task=found.task).set_texts(choices)
            runs.check(chosen, how, task=found.task)
        if sheet:
            _show(sheet, runs.augmented(found, chosen, split=split or ""), as_json)
        if chart:
            _told(chart, render.watched(quiet, runs.find_rate(found, chosen, split=split or "", how=how)), as_json)
        if sheet or chart:
            return
        folder = runs.create(
            found,
            chosen,
            source=str(Path(data).resolve() if Path(data).exists() else data),
            group=group,
            target=target,
            out=out,
            split=split or "",
            leaks=leaks,
        )
        read, chosen = runs.reopen(folder, found)
    render.introduce(quiet, read, chosen, folder)
    run = render.run(quiet, folder, read, chosen, how)
    page = runs.report(folder, read, pictures=pictures)
    if as_json:
        click.echo(json.dumps({"run": str(folder), "scores": run.classifier.facts["scores"]}))
        return
    name = "test" if "test" in run.scores else "val"
    if name in run.scores:
        quiet.print()
        render.scores(quiet, name, run.scores[name])
    quiet.print(f"\nreport {page}")
    quiet.print(f"next   opsin predict {folder} PICTURES · opsin evaluate {folder} DATA · model: {folder}/model")


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

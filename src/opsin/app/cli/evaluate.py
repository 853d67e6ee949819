"""`opsin evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.argument("data")
@click.option(
    "--part",
    type=click.Choice(["test", "val", "train", "all"]),
    default=None,
    help="Which part of DATA; test by default, all where it has no split.",
)
@click.option("--group", default="", metavar="PATTERN", help="As it was given to opsin train for this model.")
@click.option("--target", default="", metavar="COLUMNS", help="Of a table, as it was given to opsin train.")
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Write report.html and .json there.")
@click.option("--pictures/--no-pictures", default=True, help="Whether the report may show pictures of mistakes.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON, and nothing else.")
def command(
    model: str, data: str, part: str | None, group: str, target: str, report: Path | None, pictures: bool, as_json: bool
) -> None:
    """Test MODEL (a model's folder, a run's name, last) on DATA, with intervals.

    Data that the model was trained on is divided as it was for training, and only its test part is used.
    """
    from ... import metrics, reports, runs, sources
    from . import render

    quiet = render.console(stderr=as_json)
    clf = runs.load(model)
    task = "" if clf.task == "single-label" else clf.task
    read = sources.read(data, group=group, target=target or clf.facts.get("target", ""), task=task)
    found = render.watched(quiet, runs.evaluating(clf, read, part))  # type: ignore[arg-type]
    answers, scores, tested = found
    if report:
        page = reports.write(reports.of_classifier(clf, answers, tested), report, store=tested.store, pictures=pictures)
        quiet.print(f"report {page}")
    if as_json:
        click.echo(json.dumps({"part": answers.part, "scores": metrics.to_dict(scores)}))
    else:
        render.scores(quiet, answers.part, scores)

"""`opsin evaluate`."""

from __future__ import annotations

import json

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
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON, and nothing else.")
def command(model: str, data: str, part: str | None, group: str, as_json: bool) -> None:
    """Test MODEL (a model's folder, a run's name, last) on DATA, with intervals.

    Data that the model was trained on is divided as it was for training, and only its test part is used.
    """
    from ... import metrics, runs, sources
    from . import render

    quiet = render.console(stderr=as_json)
    clf = runs.load(model)
    name, scores = render.watched(quiet, runs.evaluating(clf, sources.read(data, group=group), part))  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps({"part": name, "scores": metrics.to_dict(scores)}))
    else:
        render.scores(quiet, name, scores)

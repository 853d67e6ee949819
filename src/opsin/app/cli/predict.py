"""`opsin predict`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--top", default=3, type=click.IntRange(min=1), show_default=True, help="How many classes a line shows.")
@click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all probabilities as CSV."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one object a picture, all probabilities.")
def command(model: str, paths: tuple[Path, ...], top: int, csv_file: Path | None, as_json: bool) -> None:
    """Name what is on pictures. MODEL is a model's folder, a run's name, last, or imagenet.

    PATHS are files, folders or zips. Every file gets a line: its classes with probabilities, or its error.
    """
    from ... import errors, reports, runs

    clf = runs.load(model)
    answered = 0
    with reports.predictions_csv(csv_file, clf.classes) as write:
        for path in paths:
            for prediction in _answers(clf, path, whole=len(paths) > 1):
                answered += prediction.error is None
                write(prediction)
                _show(prediction, top, as_json)
    if not answered:
        raise errors.DataError("no picture could be answered", do="Each one's reason stands in its own line")


def _answers(clf: Any, path: Path, *, whole: bool) -> Iterator[Any]:
    """The predictions of one path; under `whole` names, since two folders may hold the same ones."""
    from ... import classifier, errors, sources
    from ...vocabulary import Prediction, Refusal

    inside = sources.holds_many(path)
    try:
        for prediction in classifier.predict_all(clf, path):
            key = str(path / prediction.key if inside else path) if whole else prediction.key
            yield dataclasses.replace(prediction, key=key)
    except errors.DataError as error:  # a folder or zip that cannot be read must not cost the others their answers
        yield Prediction(str(path), clf.classes, error=Refusal(str(path), "unreadable", str(error)))


def _show(prediction: Any, top: int, as_json: bool) -> None:
    from ... import reports

    if as_json:
        click.echo(reports.to_json(prediction))
    elif prediction.error:
        click.echo(f"{prediction.key}   error {prediction.error.code}: {prediction.error.reason}")
    else:
        named = "   ".join(f"{name} {probability:.3f}" for name, probability in prediction.top(top))
        click.echo(f"{prediction.key}   {named}")

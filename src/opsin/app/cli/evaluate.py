"""`opsin evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ...errors import CallError
from . import options


@click.command()
@click.argument("model")
@click.argument("data")
@options.part
@options.group
@click.option(
    "--want", "wants", multiple=True, metavar="WANT", help='Set thresholds: "bad recall>=0.98", "accuracy>=0.99".'
)
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), help="Where the model with them goes.")
@click.option("--tta", is_flag=True, help="Also with mirror images, the mean of two answers a picture, side by side.")
@options.target
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Write report.html and .json there.")
@click.option("--pictures/--no-pictures", default=True, help="Whether the report may show pictures of mistakes.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON, and nothing else.")
def command(
    model: str,
    data: str,
    part: str | None,
    group: str,
    target: str,
    wants: tuple[str, ...],
    save: Path | None,
    tta: bool,
    report: Path | None,
    pictures: bool,
    as_json: bool,
) -> None:
    """Test MODEL (a model's folder, a run's name, last, or an exported file) on DATA, with intervals.

    Of a file that opsin export wrote, its own answers are tested: what eight bits cost on your data shows.

    Data that the model was trained on is divided as it was for training, and only its test part is used. Of other data
    the pictures that it was trained on or chosen by (the same bytes, and their groups) are left out, unless all are
    asked for by --part.

    --want sets thresholds on the validation part of DATA instead of those the model has, and says what they cost there
    and on the test. MODEL stays as it is; the one with thresholds is saved by --save.
    """
    from ... import artefact, comparison, exported, metrics, reports, runs
    from . import progress, render

    quiet = progress.console(stderr=as_json)
    clf = options.opened(model)
    if wants and isinstance(clf, exported.Exported):
        raise CallError("--want makes a new model", expected="a run or a model's folder", received=clf.file)
    if bool(wants) != bool(save):
        raise CallError("--want and --save", expected="both: a new model is saved", received="one")
    read = runs.data_for(clf, data, group=group, target=target)
    if wants and save:
        clf, settled, found = progress.watched(quiet, runs.settling(clf, read, "; ".join(wants)))
        artefact.save(clf, save)
        for one in settled:
            quiet.print(str(one))
        quiet.print(f"saved {save}\n")
    if tta:
        found, (mean, both) = progress.watched(quiet, runs.with_mirrored(clf, read, part))  # type: ignore[arg-type]
    elif not wants or part not in (None, "test"):
        found = progress.watched(quiet, runs.evaluating(clf, read, part))  # type: ignore[arg-type]
    answers, scores, tested = found
    if report:
        page = reports.write(reports.of_classifier(clf, answers, tested), report, store=tested.store, pictures=pictures)
        quiet.print(f"report {page}")
    told = {"part": answers.part, "scores": metrics.to_dict(scores), "wants": clf.facts.get("wants", [])}
    if not as_json:
        render.scores(quiet, answers.part, scores)
    if tta:
        sides = (answers.logits, mean.logits)
        paired = comparison.of_logits((clf, clf), sides, answers.targets, groups=answers.groups)
        told["tta"] = {"scores": metrics.to_dict(both), "paired": comparison.to_dict(paired)}
        if not as_json:
            render.side_by_side(quiet, scores, both, paired)
    if as_json:
        click.echo(json.dumps(told))

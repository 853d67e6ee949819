"""`opsin study`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from . import options


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--op", "steps", multiple=True, metavar="NAME:k=a..b", help="What is done to every picture. May repeat.")
@click.option("--corruptions", is_flag=True, help="Instead: fifteen common corruptions at five severities.")
@click.option("--steps", "count", default=10, show_default=True, type=click.IntRange(min=2), help="Values of a range.")
@options.part
@options.group
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Write study.html and .json there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON, and nothing else.")
def command(
    model: str,
    data: str,
    steps: tuple[str, ...],
    corruptions: bool,
    count: int,
    part: str | None,
    group: str,
    report: Path | None,
    as_json: bool,
) -> None:
    """How far can pictures be compressed, blurred, darkened before MODEL's answers on DATA change?

    One parameter moves: over a range (quality=5..95), a list (quality=5,20,80), or all it allows (quality). Without any
    that moves, answers with the operation stand beside those without it.

    \b
        opsin study last photos/ --op jpeg:quality=5..95
        opsin study last photos/ --op clahe:clip=3
        opsin study last photos/ --corruptions
    """
    from ... import runs, sources, studies
    from ...studies import page
    from . import progress, render

    quiet = progress.console(stderr=as_json)
    clf = runs.load(model)
    read = sources.read(data, group=group)
    work = studies.studying(clf, read, *steps, corruptions=corruptions, steps=count, part=part)  # type: ignore[arg-type]
    found = progress.watched(quiet, work)
    if report:
        quiet.print(f"report {page.write(found, report)}")
    if as_json:
        click.echo(json.dumps(studies.to_dict(found)))
    else:
        render.study(quiet, found)

"""`opsin compare`."""

from __future__ import annotations

import json

import click

from . import options


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.argument("data")
@options.part
@options.group
@options.target
@click.option("--gate", default="", metavar="CONDITIONS", help='"macro-f1 not worse, every class within 2 points".')
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON, and nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    first: str,
    second: str,
    data: str,
    part: str | None,
    group: str,
    target: str,
    gate: str,
    as_json: bool,
) -> None:
    """Is B better than A on DATA, by how much, and is that more than chance?

    A and B are models' folders, runs' names, last, or exported files. Both answer the same pictures, which neither was
    trained on.

    --gate asks whether B may replace A, for a team's CI: exit code 0 if so, 1 if not. Conditions, with commas between
    them: accuracy, macro-f1, every class or class NAME (their F1), then within N points (a loss of more is ruled out
    with 97.5 % confidence), better (a gain is shown) or not worse (no loss is shown, which on few pictures says
    little). Of several labels also mAP, macro-auroc and micro-f1; of quantities MAE and RMSE, which within N points
    lets be N % higher.
    """
    from ... import comparison, runs
    from . import progress

    quiet = progress.console(stderr=as_json)
    if gate:
        comparison.conditions(gate)  # before the work, not after it
    models = options.opened(first), options.opened(second)
    read = runs.data_for(models[0], data, group=group, target=target)
    found = progress.watched(quiet, comparison.comparing(*models, read, part))  # type: ignore[arg-type]
    verdicts = comparison.gate(found, gate) if gate else ()
    if as_json:
        click.echo(json.dumps(comparison.to_dict(found, verdicts)))
    else:
        quiet.print(comparison.words(found, verdicts))
    if not all(verdict.passed for verdict in verdicts):
        ctx.exit(1)

"""`opsin list`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from ...errors import CallError


@click.command()
@click.argument("what", type=click.Choice(["models", "recipes", "ops", "datasets", "runs"]))
@click.argument("pattern", default="")
@click.option("--by", default="", metavar="WHAT", help="Sort runs by name, begun, accuracy, macro-f1 … [default: name]")
@click.option("--data", default="", help="Runs on data whose name contains this.")
@click.option("--recipe", default="", help="Runs of recipes whose name contains this.")
@click.option("--where", multiple=True, metavar="'SCORE>X'", help="Runs with such a test score: 'accuracy>0.9'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str, pattern: str, by: str, data: str, recipe: str, where: tuple[str, ...], as_json: bool) -> None:
    """What there is; PATTERN keeps the names that contain it. `list ops NAME` explains one operation."""
    if what == "runs":
        _runs(pattern, as_json, {"by": by or "name", "data": data, "recipe": recipe, "where": where})
        return
    if by or data or recipe or where:
        raise CallError("--by, --data, --recipe, --where", expected="opsin list runs", received=f"list {what}")
    if what == "ops" and _explained(pattern, as_json):
        return
    found = {name: text for name, text in _TABLES[what]().items() if pattern in name}
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        _lines(found, f"none of these {what} has {pattern!r} in its name: opsin list {what}")


def _lines(found: Mapping[str, str], none: str) -> None:
    if not found:
        click.echo(none, err=True)
    width = max(map(len, found), default=0)
    for name, text in found.items():
        click.echo(f"{name:<{width}}  {text}".rstrip())


def _models() -> dict[str, str]:
    from ... import models

    return {name: ("opsin" if name in models.MODELS else "timm") for name in models.names()}


def _recipes() -> dict[str, str]:
    from ... import recipe

    return {name: (make.__doc__ or "").split("\n")[0] for name, make in recipe.PRESETS.items()}


def _ops() -> dict[str, str]:
    from ... import ops

    return {name: f"{op.kind:<6}  {op.family:<12}  {op.summary}" for name, op in ops.OPS.items()}


def _explained(name: str, as_json: bool) -> bool:
    """Whether there is an operation of just this name, which is then explained."""
    from ... import ops

    if name not in ops.OPS:
        return False
    op = ops.OPS[name]
    if as_json:
        click.echo(json.dumps(op.to_dict(), ensure_ascii=False))
        return True
    click.echo(f"{name}   {op.family}, image to {op.kind}\n\n{op.explanation}")
    for parameter in op.parameters:
        allowed = ", ".join(parameter.choices) or parameter.bounds
        click.echo(f"\n  {parameter.name}={parameter.default}   {allowed}\n      {parameter.doc}".rstrip())
    return True


def _datasets() -> dict[str, str]:
    from ...sources.named import NAMED

    return {name: (make.__doc__ or "").split("\n")[0] for name, make in NAMED.items()}


def _runs(pattern: str, as_json: bool, asked: dict[str, Any]) -> None:
    from ... import runs

    found = runs.chosen((row for row in runs.rows() if pattern in row["name"]), **asked)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        _lines({row["name"]: runs.told(row) for row in found}, "no such runs here, in runs/")


_TABLES = {"models": _models, "recipes": _recipes, "ops": _ops, "datasets": _datasets}

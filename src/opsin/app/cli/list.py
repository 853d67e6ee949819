"""`opsin list`."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("what", type=click.Choice(["models", "recipes", "ops", "datasets", "runs"]))
@click.argument("pattern", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str, pattern: str, as_json: bool) -> None:
    """What there is; PATTERN keeps the names that contain it. `list ops NAME` explains one operation."""
    if what == "ops" and _explained(pattern, as_json):
        return
    found = {name: text for name, text in _TABLES[what]().items() if pattern in name}
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
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


def _runs() -> dict[str, str]:
    from ... import runs

    return runs.listed()


_TABLES = {"models": _models, "recipes": _recipes, "ops": _ops, "datasets": _datasets, "runs": _runs}

"""Options that several commands have."""

from __future__ import annotations

from typing import Any

import click

part = click.option(
    "--part",
    type=click.Choice(["test", "val", "train", "all"]),
    default=None,
    help="Which part of DATA; test by default, all where it has no split.",
)
task = click.option(
    "--task",
    default="",
    metavar="TASK",
    help="single-label, multi-label, regression, where a table's columns do not tell; multi-label of folders, too.",
)
target = click.option("--target", default="", metavar="COLUMNS", help="Of a table, as it was given to opsin train.")
group = click.option("--group", default="", metavar="PATTERN", help="As it was given to opsin train.")


def opened(model: str) -> Any:
    """What MODEL names: an exported file, for which torch is not imported, or a Classifier."""
    from ... import exported

    if file := exported.find(model):
        return exported.load(file)
    from ... import runs

    return runs.load(model)

"""`opsin check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...errors import CallError
from . import options


@click.command()
@click.argument("data")
@click.option("--group", default="", metavar="PATTERN", help="As for opsin train; for a table also a column's name.")
@click.option("--picture", default="", metavar="COLUMN", help="Of a table: its paths, where their name does not tell.")
@click.option("--target", default="", metavar="COLUMNS", help="As for opsin train.")
@options.task
@click.option("--split", "divide", is_flag=True, help="Divide DATA as opsin train would, and look across its splits.")
@click.option("--labels/--no-labels", default=None, help="Look for wrong labels; by default up to 20,000 pictures.")
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="The report; check.html by default.")
@click.option("--apply", "fixes", type=click.Path(path_type=Path, exists=True), help="Follow a fixes.csv; no checks.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The new table of --apply; DATA/fixed.csv by default.",
)
@click.option("--threads", default=2, type=click.IntRange(min=1), show_default=True, help="Processes that decode.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, and nothing else.")
def command(
    data: str,
    group: str,
    picture: str,
    target: str,
    task: str,
    divide: bool,
    labels: bool | None,
    page: Path | None,
    fixes: Path | None,
    out: Path | None,
    threads: int,
    as_json: bool,
) -> None:
    """Find what is wrong with DATA: every picture is decoded once, in processes that a bad one cannot leave.

    The report is a page with the pictures, where you choose what to keep, exclude, relabel or group; it saves
    fixes.csv, which --apply turns into a new table of the data. None of your files is changed.

    Of several labels or quantities all is looked for but wrong labels and shortcuts, and the report has no choices.
    """
    from ... import checks, isolation, runs, sources
    from . import progress, render

    quiet = progress.console(stderr=as_json)
    found = sources.read(data, group=group, picture=picture, target=target, task=task)
    several = found.task != "single-label"
    if several and labels:
        raise CallError("--labels", expected="data of one class a picture", received=found.task)
    if fixes:
        _apply(quiet, found, fixes, out)
        return
    if divide:
        with isolation.Decoders() as decoders:
            alike = runs.alike(found, decode=decoders.decode)
            pairs = progress.counted(quiet, alike, "dividing", len(found))
        found = runs.divided(found, seed=0, pairs=pairs)
    wanted = not several and (len(found) <= checks.MOST_VECTORS if labels is None else labels)
    probe = None
    if wanted:
        from ...checks import probes

        probe = probes.pretrained()
    report = progress.counted(quiet, checks.checking(found, probe=probe, threads=threads), "looking", len(found))
    if as_json:
        click.echo(report.to_json())
        if not page:
            return
    else:
        render.findings(quiet, report)
    page = page or Path("check.html")
    report.save(page)
    choices = "" if several else "; what you choose there is saved as fixes.csv, and followed by --apply fixes.csv"
    quiet.print(f"\nlook at {page}{choices}")


def _apply(quiet: Any, data: Any, fixes: Path, out: Path | None) -> None:
    from ... import checks
    from ...sources import FolderStore

    root = data.store.root if isinstance(data.store, FolderStore) else None
    if out is None:
        if not root:
            raise CallError("--apply", expected="--out TABLE, since an archive cannot take it", received="none")
        out = root / "fixed.csv"
    if root and out.resolve().parent != root.resolve():
        raise CallError("--out", expected=f"a table in {root}, since its paths are relative to it", received=str(out))
    changed = checks.apply(data, checks.read_fixes(fixes), out)
    quiet.print(f"{changed:,} records changed or left out in {out}")
    quiet.print(
        f"next: opsin train {out}" if root else "its paths are those in the archive: unpack it beside the table"
    )

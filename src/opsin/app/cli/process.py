"""`opsin process`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--op", "steps", multiple=True, metavar="NAME:k=v,…", help="A step; see `opsin list ops`. May repeat.")
@click.option(
    "--pipeline", "file", type=click.Path(path_type=Path, dir_okay=False), help="Steps from a TOML file, done first."
)
@click.option(
    "--save-pipeline", "save", type=click.Path(path_type=Path, dir_okay=False), help="Write the steps as TOML."
)
@click.option("--force", is_flag=True, help="Overwrite files that are there and differ.")
@click.option("--keep-metadata", is_flag=True, help="Keep Exif (camera, date, place); by default nothing of it is.")
@click.option("--threads", default=0, type=click.IntRange(min=0), help="Pictures at a time; 0: one a core.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON, and nothing else.")
def command(
    source: Path,
    out: Path,
    steps: tuple[str, ...],
    file: Path | None,
    save: Path | None,
    force: bool,
    keep_metadata: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Put the pictures of IN (a file, folder or zip) through operations, into the folder OUT.

    Paths are kept. A file is a PNG where the last step is not jpeg, webp, avif or png. Called again, it goes on where
    it was interrupted and redoes what has changed; OUT/process.jsonl tells what was done to each file.

    \b
        opsin process photos small --op clahe:clip=2 --op resize:side=512 --op jpeg:quality=85
    """
    from ... import errors, ops, processing
    from . import progress

    loaded = ops.load(file).to_list() if file else []
    chosen = ops.pipeline(*loaded, *steps)
    if save:
        with errors.writing(save):
            save.write_text(chosen.to_toml(), encoding="utf-8")
    work = processing.process(source, out, chosen, force=force, metadata=keep_metadata, threads=threads)
    done = progress.watched(progress.console(stderr=as_json), work)
    _show(done, as_json)
    if not (done.refused or done.written or done.kept):
        raise errors.DataError("there is no picture", received=str(source))
    if not done.written + done.kept:
        raise errors.DataError("no picture could be processed", do="Each one's reason stands in its own line")


def _show(done: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(done.to_dict()))
        return
    for refusal in done.refused:
        click.echo(f"{refusal.key}   error {refusal.code}: {refusal.reason}".encode(errors="replace").decode())
    counts = f"{done.written:,} written, {done.kept:,} already there, {len(done.refused):,} refused"
    click.echo(f"{counts} · {done.out / 'process.jsonl'}")

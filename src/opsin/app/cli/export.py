"""`opsin export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("model")
@click.option("--to", default="onnx", show_default=True, help="The form: onnx, openvino or torch.")
@click.option("--data", default="", help="Pictures to measure parity on; by default those of the run beside the model.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The folder; `export` beside the model.")
@click.option("--with-resize", "resize", is_flag=True, help="Resize inside the file: pictures of any size in.")
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON, and nothing else.")
def command(model: str, to: str, data: str, out: Path | None, resize: bool, as_json: bool) -> None:
    """Write MODEL (a model's folder, a run's name, last, imagenet) as one file that runs anywhere.

    Before anything is written, the file is opened as others open it and answers beside the model on real pictures. If
    it answers otherwise, nothing is written and the error says where the difference begins.

    \b
        opsin export last
        opsin export imagenet --data photos/ --to openvino --out lite0
    """
    from ... import errors, exporting, runs
    from . import render

    quiet = render.console(stderr=as_json)
    if to not in exporting.FORMS:
        raise errors.unknown("form", to, exporting.FORMS)
    clf, run = runs.load(model), _run_of(model)
    pictures = _given(data) if data else _of_run(clf, run)
    folder = out or (run / "export" if run else Path(f"{Path(model).name}-export"))
    file = folder / f"model{exporting.FORMS[to].endings[0]}"
    parity = exporting.export(clf, file, pictures, to=to, resize=resize)
    if as_json:
        measured = {"n": parity.n, "agreement": parity.agreement, "difference": parity.difference}
        click.echo(json.dumps({"file": str(file), "to": to, "bytes": _bytes(file, to), "parity": measured}))
    else:
        quiet.print(f"parity   {parity}, on {pictures.name}")
        quiet.print(f"wrote    {file} ({_bytes(file, to) / 2**20:,.1f} MiB) · how to run it: {folder / 'README.md'}")


def _bytes(file: Path, to: str) -> int:
    from ... import exporting

    return sum(file.with_suffix(ending).stat().st_size for ending in exporting.FORMS[to].endings)


def _run_of(model: str) -> Path | None:
    """The folder of the run that the model is of; None where it stands alone."""
    from ... import artefact, runs

    if model == "imagenet":
        return None
    folder = Path(model).resolve().parent if (Path(model) / artefact.DESCRIPTION).is_file() else runs.find(model)
    return folder if (folder / "data.json").is_file() else None


def _of_run(clf: Any, run: Path | None) -> Any:
    """The validation pictures of the run beside the model, or its test pictures."""
    from ... import errors, runs

    if run is None:
        raise errors.CallError(
            "no pictures to measure parity on",
            expected="a run beside the model, or --data",
            received="a model that stands alone",
            do="Give some of the kind that it will see: --data FOLDER",
        )
    data, _ = runs.reopen(run)
    if clf.facts.get("fingerprint") != data.fingerprint:
        raise errors.DataError(
            f"{run} is not the run of this model",
            expected=f"fingerprint {str(clf.facts.get('fingerprint'))[:12]}…",
            received=f"{data.fingerprint[:12]}…",
            do="Give the pictures yourself: --data FOLDER",
        )
    return next((part for part in (data.val, data.test) if len(part)), data)


def _given(source: str) -> Any:
    """The validation pictures of a data set, or all pictures where there are none; classes are not needed."""
    from ... import errors, sources
    from ...vocabulary import Dataset, Record

    try:
        data = sources.read(source)
        return data.val if len(data.val) else data
    except errors.DataError:
        if not Path(source).exists():
            raise
        store, keys, refused = sources.pictures(source)
        return Dataset(Path(source).name, tuple(Record(key) for key in keys), (), store, "", tuple(refused))

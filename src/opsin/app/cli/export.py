"""`opsin export`."""

from __future__ import annotations

import dataclasses
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
@click.option("--int8", is_flag=True, help="Also in eight bits, kept where it loses little and is faster here.")
@click.option("--max-drop", default=0.01, show_default=True, help="The accuracy that --int8 may lose.")
@click.option(
    "--max-ms",
    type=click.FloatRange(min=0, min_open=True),
    help="Take fp32, else --int8, that answers a picture in so long here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON, and nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    to: str,
    data: str,
    out: Path | None,
    resize: bool,
    int8: bool,
    max_drop: float,
    max_ms: float | None,
    as_json: bool,
) -> None:
    """Write MODEL (a model's folder, a run's name, last, imagenet) as one file that runs anywhere.

    Before anything is written, the file is opened as others open it and answers beside the model on real pictures. If
    it answers otherwise, nothing is written and the error says where the difference begins. Exit code 1: nothing
    answers within --max-ms.

    \b
        opsin export last
        opsin export imagenet --data photos/ --to openvino --out lite0
    """
    from ... import errors, exporting, runs
    from ...vocabulary import refuse_other_tasks
    from . import progress

    quiet = progress.console(stderr=as_json)
    if to not in exporting.FORMS:
        raise errors.unknown("form", to, exporting.FORMS)
    if int8 and (to != "onnx" or resize):
        raise errors.CallError("--int8", expected="--to onnx, without --with-resize", received=f"--to {to}")
    clf, run = runs.load(model), _run_of(model)
    if int8:
        refuse_other_tasks(clf.task, "--int8")
    pictures = _given(data) if data else _of_run(clf, run)
    part = next((part for part in (pictures.val, pictures.test) if len(part)), pictures)
    folder = out or (run / "export" if run else Path(f"{Path(model).name}-export"))
    file = folder / f"model{exporting.FORMS[to].endings[0]}"
    parity = exporting.export(clf, file, part, to=to, resize=resize)
    quiet.print(f"parity   {parity}, on {part.name}")
    quiet.print(f"wrote    {file} ({_bytes(file, to) / 2**20:,.1f} MiB) · how to run it: {folder / 'README.md'}")
    told = {"file": str(file), "to": to, "bytes": _bytes(file, to), "parity": dataclasses.asdict(parity)}
    files = {file: exporting.latency(file, to=to)} if max_ms else {}
    if int8 or (max_ms and files[file] > max_ms and to == "onnx" and not resize and clf.task == "single-label"):
        found = exporting.quantise(clf, file, pictures.train, part, drop=max_drop)
        quiet.print(f"int8     {found}")
        quiet.print(f"not kept {found.why}" if found.why else f"wrote    {found.file}")
        told["int8"] = {**dataclasses.asdict(found), "file": str(found.file)}
        if max_ms and not found.why:
            files[found.file] = exporting.latency(found.file)
    if max_ms:
        quiet.print("latency  " + " · ".join(f"{each.name} {taken:.2f} ms" for each, taken in files.items()))
        best = next((each for each, taken in files.items() if taken <= max_ms), None)
        quiet.print(f"best     {best}" if best else f"none     answers a picture within {max_ms:g} ms here")
        told["latency"] = {str(each): taken for each, taken in files.items()}
        told["best"] = str(best) if best else None
    if as_json:
        click.echo(json.dumps(told))
    if max_ms and not best:
        ctx.exit(1)


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
    """The data of the run beside the model, divided as it was."""
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
    return data


def _given(source: str) -> Any:
    """The data set at `source`, or loose pictures: classes are not needed."""
    from ... import errors, sources
    from ...vocabulary import Dataset, Record

    try:
        return sources.read(source)
    except errors.DataError:
        if not Path(source).exists():
            raise
        store, keys, refused = sources.pictures(source)
        return Dataset(Path(source).name, tuple(Record(key) for key in keys), (), store, "", tuple(refused))

"""`opsin predict`."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

EVERY = 30.0  # seconds between two lines on how far it is, where there is no terminal


@click.command()
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True, path_type=Path))
@click.option("--top", default=3, type=click.IntRange(min=1), show_default=True, help="How many classes a line shows.")
@click.option(
    "--out",
    "--csv",
    "out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all probabilities: .csv, .jsonl or .parquet. Called again after an interruption, it goes on.",
)
@click.option("--fast", is_flag=True, help="Also lower precision, where 99.5 % of labels are the reference's.")
@click.option("--tta", is_flag=True, help="Of each picture and its mirror image, the mean: twice the work.")
@click.option("--trusted", is_flag=True, help="Decode here, not in child processes that a bad picture cannot leave.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one object a picture, all probabilities.")
def command(
    model: str,
    paths: tuple[Path, ...],
    top: int,
    out: Path | None,
    fast: bool,
    tta: bool,
    trusted: bool,
    as_json: bool,
) -> None:
    """Name what is on pictures. MODEL is a model's folder, a run's name, last, imagenet, or an exported file.

    A file that opsin export wrote (.onnx, .xml, or the folder of one) answers as its model does, without torch.

    Of several labels a line has those that reach their threshold; of a regression the values.

    PATHS are files, folders, zips, tars, tables with a column of paths (CSV, TSV, Parquet), and - for paths on standard
    input, one a line. Every file gets a line: its classes with probabilities, or its error. With --out they are written
    there, and shown only as far as --json asks. --tta is refused where a mirror image may be of another class.

    \b
        opsin predict last new/ --out new.csv
        find photos -name '*.jpg' | opsin predict imagenet - --json
        opsin predict runs/parts-1/export/model.onnx new/
    """
    from ... import answers, codecs, errors, isolation, sources, tables
    from . import options, progress

    clf = options.opened(model)
    _check(clf, fast, tta)
    found = sources.gather(_expanded(paths), whole=len(paths) > 1 or Path("-") in paths)
    told = progress.console(stderr=True)
    of = _work(_digest(clf), paths, fast, tta) if out else ""
    table_of = tables.predictions(out, clf.classes, of=of, form=answers.blank(clf))
    with _kept(out), table_of as table, isolation.Decoders() as children:
        decode = codecs.decode if trusted else children.decode
        left = [name for name in found.places if name not in table.done]
        if table.done:
            told.print(f"{len(table.done):,} pictures are there from before, {len(left):,} are left")
        run, notes = _settled(clf, found, left, fast, decode)
        for note in notes:
            told.print(note)
        lines = as_json or not out  # on standard output, which a bar would draw over
        work = answers.predict_store(clf, found, left, run=answers.both_sides(run) if tta else run, decode=decode)
        for prediction in _told(told, work, len(left), bar=not lines):
            table.write(prediction)
            if lines:
                _show(prediction, top, as_json)
    if out:
        told.print(f"{table.answered:,} answered, {len(table.done) - table.answered:,} errors · {out}")
    if not found.places:
        raise errors.DataError("there is no picture", received=" ".join(map(str, paths)))
    if not table.answered:
        raise errors.DataError("no picture could be answered", do="Each one's reason stands in its own line")


def _check(clf: Any, fast: bool, tta: bool) -> None:
    from ... import errors, exported

    if fast and isinstance(clf, exported.Exported):
        raise errors.CallError(
            "--fast chooses how a network is executed",
            expected="a run or a model's folder",
            received=clf.file,
            do="Leave it out; opsin export --int8 writes a faster file",
        )
    if tta:
        from ... import runs

        runs.refuse_mirrors(clf)


def _digest(clf: Any) -> str:
    from ... import exported

    if isinstance(clf, exported.Exported):
        return exported.digest(clf)
    from ... import classifier

    return classifier.digest(clf)


def _settled(clf: Any, found: Any, left: list[str], fast: bool, decode: Any) -> tuple[Any, tuple[str, ...]]:
    """What answers, and what there is to say of how it was chosen: of an exported file, itself."""
    from ... import exported, sources

    if isinstance(clf, exported.Exported):
        return clf.run, ()
    from ... import classifier

    choice = classifier.settle(clf, found, left, fast=fast, memory=sources.cache_dir() / "plans.json", decode=decode)
    return choice.engine, choice.notes


@contextmanager
def _kept(out: Path | None) -> Iterator[None]:
    """Say of an interruption that it costs nothing, where that is so."""
    from ... import errors

    try:
        yield
    except KeyboardInterrupt:
        if out is None:
            raise
        raise errors.Interrupted("stopped, nothing lost", do="Go on with the same command") from None


def _work(digest: str, paths: tuple[Path, ...], fast: bool, tta: bool) -> str:
    """A word for this work: what another call with it has written may be gone on with."""
    facts = (
        digest,
        fast,
        tta,
        str(Path().resolve()),
        *(str(path if str(path) == "-" else path.resolve()) for path in paths),
    )
    return hashlib.sha256("\0".join(map(str, facts)).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _expanded(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths, with those on standard input in the place of "-"."""
    for path in paths:
        if str(path) == "-":
            yield from (Path(line) for each in sys.stdin if (line := each.rstrip("\r\n")))
        else:
            yield path


def _told(out: Any, work: Iterable[Any], of: int, *, bar: bool) -> Iterator[Any]:
    """The predictions, while a bar, or a line now and then, tells how far they are and how long it will take."""
    from ...vocabulary import Event
    from . import progress

    began = said = time.monotonic()
    with progress.Watch(out) if bar else nullcontext() as watch:
        for done, prediction in enumerate(work, 1):
            yield prediction
            now = time.monotonic()
            if watch and out.is_terminal:
                watch.show(Event("progress", 0, 0, {"what": "predicting", "done": done, "of": of}))
            elif now - said > EVERY:
                said, rate = now, done / (now - began)
                out.print(f"{done:,} of {of:,} · {rate:,.0f} a second · {(of - done) / rate:,.0f} s left")


def _show(prediction: Any, top: int, as_json: bool) -> None:
    from ... import tables

    if as_json:
        click.echo(tables.to_json(prediction))
    elif prediction.error:
        click.echo(f"{prediction.key}   error {prediction.error.code}: {prediction.error.reason}")
    elif prediction.task == "regression":
        values = "   ".join(f"{name} {value:.4g}" for name, value in zip(prediction.classes, prediction.values))
        click.echo(f"{prediction.key}   {values}")
    elif prediction.task == "multi-label":
        named = "   ".join(f"{name} {probability:.3f}" for name, probability in prediction.labels)
        name, best = prediction.top(1)[0]
        click.echo(f"{prediction.key}   {named or f'no label, most likely {name} {best:.3f}'}")
    else:
        named = "   ".join(f"{name} {probability:.3f}" for name, probability in prediction.top(top))
        first = prediction.top(1)[0][0]
        said = "unsure: " if prediction.unsure else "" if prediction.label == first else f"{prediction.label}: "
        click.echo(f"{prediction.key}   {said}{named}")

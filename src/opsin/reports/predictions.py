"""Predictions as CSV, JSON Lines and Parquet: written as they come, gone on with after an interruption.

    Prediction ─ write ─> FILE.<of>.part, a line each ─ all there ─> FILE, of its form

The part is the same for every form: a line that was torn is seen, and done again. Its name tells the model, so that
answers of two models never meet in one file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from .. import errors
from ..spreadsheets import guarded
from ..vocabulary import Prediction, Refusal

COLUMNS = ("path", "label", "probability", "unsure", "error", "reason")
ROWS = 4096  # of Parquet that are written at a time


def to_json(prediction: Prediction) -> str:
    """One line of JSON: `path`, then `label` (null where `unsure`) and `probabilities` by class, or `error` with its
    `code` and `reason`."""
    answer: dict[str, object] = {"path": prediction.key}
    if prediction.error:
        answer["error"] = {"code": prediction.error.code, "reason": prediction.error.reason}
    else:
        answer |= {"label": prediction.label, "unsure": prediction.unsure}
        answer["probabilities"] = dict(zip(prediction.classes, prediction.probabilities or ()))
    return _printable(json.dumps(answer, ensure_ascii=False))


def _printable(text: str) -> str:
    """Names whose bytes are no UTF-8 lose those bytes here."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


class Table:
    """The predictions of one call while they are written.

    Attributes:
        done: the keys whose predictions are there, from an earlier call that was interrupted too.
        answered: how many of them are no errors.
    """

    def __init__(self, part: BinaryIO | None) -> None:
        self.done: set[str] = set()
        self.answered = 0
        self._part = part

    def write(self, prediction: Prediction) -> None:
        """Add one prediction; one that is there already is left as it is.

        Raises:
            MachineError: when it cannot be written.
        """
        if prediction.key in self.done:
            return
        if self._part:
            with errors.writing(self._part.name):
                self._part.write(_line(prediction))
                self._part.flush()  # to the system: what is told survives the end of this process
            self.done.add(prediction.key)
        self.answered += prediction.error is None


@contextmanager
def predictions(file: Path | None, classes: Sequence[str], *, of: str = "") -> Iterator[Table]:
    """A Table that becomes `file` when the block ends well; else what was written is kept for the next call.

    Every prediction is a row: path, label, probability, unsure, error, reason, then every class's probability. Without
    a `file` nothing is kept.

    Args:
        file: ends in .csv, .jsonl or .parquet.
        of: a word for whose predictions they are: those of another model are not gone on with.

    Raises:
        CallError: for another ending.
        MissingExtra: pyarrow, for Parquet.
        MachineError: when it cannot be written.
    """
    if file is None:
        yield Table(None)
        return
    make = _form(file)
    part = file.with_name(f"{file.name}.{of or 'new'}.part")
    with errors.writing(file):
        opened = part.open("a+b")
    try:
        table = Table(opened)
        with errors.writing(file):
            _recover(opened, table, len(classes))
        yield table
        with errors.writing(file):
            _finish(file, part, opened, classes, make)
    finally:
        with suppress(OSError):
            opened.close()


def _finish(file: Path, part: Path, opened: BinaryIO, classes: Sequence[str], make: Form) -> None:
    opened.close()
    whole = file.with_name(f".{part.name}")
    try:
        with part.open("rb") as lines:
            make(whole, (_read(line, tuple(classes)) for line in lines), classes)
        whole.replace(file)
    finally:
        whole.unlink(missing_ok=True)
    part.unlink()


# ── the part: a line of JSON for each, [path, probabilities or null, code, reason, answer] ──


def _line(prediction: Prediction) -> bytes:
    error = prediction.error
    told = [error.code, error.reason] if error else ["", ""]
    return json.dumps([prediction.key, prediction.probabilities, *told, prediction.answer]).encode() + b"\n"


def _read(line: bytes, classes: tuple[str, ...]) -> Prediction:
    key, found, code, reason, answer = json.loads(line)
    error = Refusal(key, code, reason) if found is None else None
    return Prediction(key, classes, tuple(found) if found is not None else None, error, answer)


def _recover(part: BinaryIO, table: Table, classes: int) -> None:
    """Take what an earlier call wrote, up to the first line that is not whole; the rest is cut off."""
    part.seek(0)
    end = 0
    for line in part:
        try:
            key, found, _, _, _ = json.loads(line)
            whole = line.endswith(b"\n") and (found is None or len(found) == classes) and key not in table.done
        except (ValueError, TypeError):
            whole = False
        if not whole:
            break
        end += len(line)
        table.done.add(key)
        table.answered += found is not None
    part.truncate(end)


# ── the forms ──

Form = Callable[[Path, Iterable[Prediction], Sequence[str]], None]


def _form(file: Path) -> Form:
    """How `file` is made of predictions, by its ending."""
    ending = file.suffix.lower()
    if ending not in FORMS:
        raise errors.CallError(f"{file}", expected=f"a name that ends in {', '.join(FORMS)}", received=ending or "none")
    if ending == ".parquet":
        _pyarrow()
    return FORMS[ending]


def _csv(file: Path, found: Iterable[Prediction], classes: Sequence[str]) -> None:
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        rows = csv.writer(opened)
        rows.writerow([*COLUMNS, *map(guarded, classes)])
        rows.writerows(map(_row, found))


def _row(prediction: Prediction) -> list[str]:
    label, error = prediction.label, prediction.error
    best = "" if prediction.probability is None else f"{prediction.probability:.6f}"
    unsure = "" if error else "yes" if prediction.unsure else "no"
    told = [error.code, error.reason] if error else ["", ""]
    others = [f"{p:.6f}" for p in prediction.probabilities or ()]
    return [guarded(prediction.key), guarded(label or ""), best, unsure, *map(guarded, told), *others]


def _jsonl(file: Path, found: Iterable[Prediction], classes: Sequence[str]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        opened.writelines(to_json(prediction) + "\n" for prediction in found)


def _parquet(file: Path, found: Iterable[Prediction], classes: Sequence[str]) -> None:
    pyarrow = _pyarrow()
    names = [_printable(name) + (" (class)" if name in COLUMNS else "") for name in classes]
    other = {"probability": pyarrow.float64(), "unsure": pyarrow.bool_()}
    kinds = [(name, other.get(name, pyarrow.string())) for name in COLUMNS]
    schema = pyarrow.schema([*kinds, *((name, pyarrow.float64()) for name in names)])
    found = iter(found)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while rows := [_values(prediction) for prediction in islice(found, ROWS)]:
            columns = [pyarrow.array(column, kind.type) for column, kind in zip(zip(*rows), schema)]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _values(prediction: Prediction) -> list[Any]:
    texts = [prediction.key, prediction.label]
    told = [prediction.error.code, prediction.error.reason] if prediction.error else [None, None]
    unsure = None if prediction.error else prediction.unsure
    path, label, code, reason = (None if text is None else _printable(text) for text in (*texts, *told))
    return [
        path,
        label,
        prediction.probability,
        unsure,
        code,
        reason,
        *(prediction.probabilities or [None] * len(prediction.classes)),
    ]


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise errors.MissingExtra("pyarrow, which writes Parquet,", "parquet") from error
    return pyarrow


FORMS: dict[str, Form] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}

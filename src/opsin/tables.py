"""Predictions as CSV, JSON Lines and Parquet: written as they come, gone on with after an interruption.

    Prediction ─ write ─> FILE.<of>.part, a line each ─ all there ─> FILE, of its form

The part is the same for every form: a line that was torn is seen, and done again. Its name tells the model, so that
answers of two models never meet in one file.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from . import errors
from .answers import filled
from .spreadsheets import guarded
from .vocabulary import Prediction, Refusal, Task

COLUMNS = ("path", "label", "probability", "unsure", "error", "reason")
OF_TASK: dict[Task, tuple[str, ...]] = {
    "single-label": COLUMNS,
    "multi-label": ("path", "labels", "error", "reason"),
    "regression": ("path", "error", "reason"),
}
ROWS = 4096  # of Parquet that are written at a time


def to_json(prediction: Prediction) -> str:
    """One line of JSON: `path`, then `label` (null where `unsure`) and `probabilities` by class, or `error` with its
    `code` and `reason`.

    Of several labels `labels`, those that reach their threshold; of a regression `values` by quantity.
    """
    answer: dict[str, object] = {"path": prediction.key}
    if prediction.error:
        answer["error"] = {"code": prediction.error.code, "reason": prediction.error.reason}
    elif prediction.task == "regression":
        answer["values"] = dict(zip(prediction.classes, prediction.values or ()))
    else:
        several = {"labels": [name for name, _ in prediction.labels]}
        one = {"label": prediction.label, "unsure": prediction.unsure}
        answer |= one if prediction.task == "single-label" else several
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
def predictions(
    file: Path | None, classes: Sequence[str], *, of: str = "", form: Prediction | None = None
) -> Iterator[Table]:
    """A Table that becomes `file` when the block ends well; else what was written is kept for the next call.

    Every prediction is a row: path, label, probability, unsure, error, reason, then every class's probability; of
    several labels path, labels with a bar between them, error, reason; of a regression path, error, reason, then every
    value. Without a `file` nothing is kept.

    Args:
        file: ends in .csv, .jsonl or .parquet.
        of: a word for whose predictions they are: those of another model are not gone on with.
        form: a Prediction of nothing, as `answers.blank` gives it; by default one of a class a picture.

    Raises:
        CallError: for another ending.
        MissingExtra: pyarrow, for Parquet.
        MachineError: when it cannot be written.
    """
    if file is None:
        yield Table(None)
        return
    make, form = _form(file), form or Prediction("", tuple(classes))
    part = file.with_name(f"{file.name}.{of or 'new'}.part")
    with errors.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = part.open("a+b")
    try:
        table = Table(opened)
        with errors.writing(file):
            _recover(opened, table, len(classes))
        yield table
        opened.close()
        with errors.replacing(file) as whole, part.open("rb") as lines:
            make(whole, (_read(line, form) for line in lines), form)
        part.unlink()
    finally:
        with suppress(OSError):
            opened.close()


# ── the part: a line of JSON for each, [path, probabilities or values or null, code, reason, answer] ──


def _line(prediction: Prediction) -> bytes:
    error = prediction.error
    told = [error.code, error.reason] if error else ["", ""]
    return json.dumps([prediction.key, _numbers(prediction), *told, prediction.answer]).encode() + b"\n"


def _numbers(prediction: Prediction) -> tuple[float, ...] | None:
    return prediction.values if prediction.task == "regression" else prediction.probabilities


def _read(line: bytes, form: Prediction) -> Prediction:
    key, found, code, reason, answer = json.loads(line)
    if found is None:
        return dataclasses.replace(form, key=key, error=Refusal(key, code, reason))
    return filled(form, key, tuple(found), answer)


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

Form = Callable[[Path, Iterable[Prediction], Prediction], None]


def _form(file: Path) -> Form:
    """How `file` is made of predictions, by its ending."""
    ending = file.suffix.lower()
    if ending not in FORMS:
        raise errors.CallError(f"{file}", expected=f"a name that ends in {', '.join(FORMS)}", received=ending or "none")
    if ending == ".parquet":
        _pyarrow()
    return FORMS[ending]


def _csv(file: Path, found: Iterable[Prediction], form: Prediction) -> None:
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        rows = csv.writer(opened)
        rows.writerow([*OF_TASK[form.task], *map(guarded, form.classes)])
        rows.writerows(map(_row, found))


def _row(prediction: Prediction) -> list[str]:
    digits = ".6g" if prediction.task == "regression" else ".6f"
    said = {True: "yes", False: "no", None: ""}
    told = [
        said[value]
        if value is None or isinstance(value, bool)
        else f"{value:{digits}}"
        if isinstance(value, float)
        else guarded(value)
        for value in _told(prediction)
    ]
    return [*told, *(f"{v:{digits}}" for v in _numbers(prediction) or ())]


def _told(prediction: Prediction) -> list[str | float | bool | None]:
    """What stands in the columns of OF_TASK."""
    error, found = prediction.error, prediction.probabilities
    told: dict[str, str | float | bool | None] = {
        "path": prediction.key,
        "label": prediction.label,
        "labels": None if found is None else "|".join(name for name, _ in prediction.labels),
        "probability": prediction.probability,
        "unsure": None if error else prediction.unsure,
        "error": error.code if error else None,
        "reason": error.reason if error else None,
    }
    return [told[name] for name in OF_TASK[prediction.task]]


def _jsonl(file: Path, found: Iterable[Prediction], form: Prediction) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        opened.writelines(to_json(prediction) + "\n" for prediction in found)


def _parquet(file: Path, found: Iterable[Prediction], form: Prediction) -> None:
    pyarrow = _pyarrow()
    first = OF_TASK[form.task]
    names = [_printable(name) + (" (class)" if name in first else "") for name in form.classes]
    other = {"probability": pyarrow.float64(), "unsure": pyarrow.bool_()}
    kinds = [(name, other.get(name, pyarrow.string())) for name in first]
    schema = pyarrow.schema([*kinds, *((name, pyarrow.float64()) for name in names)])
    found = iter(found)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while rows := [_values(prediction) for prediction in islice(found, ROWS)]:
            columns = [pyarrow.array(column, kind.type) for column, kind in zip(zip(*rows), schema)]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _values(prediction: Prediction) -> list[Any]:
    told = [_printable(value) if isinstance(value, str) else value for value in _told(prediction)]
    return [*told, *(_numbers(prediction) or [None] * len(prediction.classes))]


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise errors.MissingExtra("pyarrow, which writes Parquet,", "parquet") from error
    return pyarrow


FORMS: dict[str, Form] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}

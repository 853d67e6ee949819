"""What was found, in forms that leave the program: predictions as CSV and JSON Lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import errors
from ..spreadsheets import guarded
from ..vocabulary import Prediction


def to_json(prediction: Prediction) -> str:
    """One line of JSON: `path`, then `label` and `probabilities` by class, or `error` with its `code` and `reason`."""
    answer: dict[str, object] = {"path": prediction.key}
    if prediction.error:
        answer["error"] = {"code": prediction.error.code, "reason": prediction.error.reason}
    else:
        answer["label"] = prediction.label
        answer["probabilities"] = dict(zip(prediction.classes, prediction.probabilities or ()))
    # Names whose bytes are no UTF-8 lose those bytes here: a line of JSON must be printable.
    return json.dumps(answer, ensure_ascii=False).encode(errors="surrogateescape").decode(errors="replace")


@contextmanager
def predictions_csv(file: Path | None, classes: Sequence[str]) -> Iterator[Callable[[Prediction], None]]:
    """A writer of predictions, one row each: path, label, probability, error, reason, then every class's probability.

    Without a `file` the writer does nothing. The file appears when all is written.

    Raises:
        MachineError: when it cannot be written.
    """
    if file is None:
        yield lambda prediction: None
        return
    part = file.with_name(file.name + ".part")
    with errors.writing(file):
        opened = part.open("w", newline="", encoding="utf-8", errors="surrogateescape")
    try:
        rows = csv.writer(opened)

        def write(row: list[str]) -> None:
            with errors.writing(file):
                rows.writerow(row)

        write(["path", "label", "probability", "error", "reason", *(guarded(name) for name in classes)])
        yield lambda prediction: write(_row(prediction))
        with errors.writing(file):
            opened.close()
            part.replace(file)
    finally:
        with suppress(OSError):
            opened.close()
        part.unlink(missing_ok=True)


def _row(prediction: Prediction) -> list[str]:
    label, error = prediction.label, prediction.error
    best = f"{max(prediction.probabilities):.6f}" if prediction.probabilities else ""
    told = [error.code, error.reason] if error else ["", ""]
    others = [f"{p:.6f}" for p in prediction.probabilities or ()]
    return [guarded(prediction.key), guarded(label or ""), best, *map(guarded, told), *others]

"""Predictions as CSV and JSON Lines: a row for every input, and nothing a spreadsheet would run."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path

import pytest

from opsin import tables
from opsin.errors import MachineError
from opsin.vocabulary import Prediction, Refusal

CLASSES = ("cat", "=dog")
GOOD = Prediction("a.jpg", CLASSES, (0.25, 0.75))
BAD = Prediction("b.jpg", CLASSES, error=Refusal("b.jpg", "truncated", 'b.jpg ends, too early\nand "quoted"'))


def written(file: Path, predictions: list[Prediction], *, there: bool = False) -> list[dict[str, str]]:
    with tables.predictions(file, CLASSES) as table:
        for prediction in predictions:
            table.write(prediction)
        assert file.exists() == there  # it appears when all is written
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
        return list(csv.DictReader(opened))


def test_every_input_has_its_row(tmp_path) -> None:
    good, bad = written(tmp_path / "out.csv", [GOOD, BAD])
    assert list(good.values()) == ["a.jpg", "'=dog", "0.750000", "no", "", "", "0.250000", "0.750000"]
    assert list(good) == ["path", "label", "probability", "unsure", "error", "reason", "cat", "'=dog"]
    assert (bad["path"], bad["label"], bad["unsure"], bad["error"]) == ("b.jpg", "", "", "truncated")
    assert bad["reason"] == BAD.error.reason
    assert os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(tmp_path, start: str) -> None:
    key = f"{start}cmd|' /C calc'!A0.jpg"
    other = key + ".png"
    refused = Prediction(other, CLASSES, error=Refusal(other, "unreadable", key))
    good, bad = written(tmp_path / "out.csv", [Prediction(key, CLASSES, (0.5, 0.5)), refused])
    assert bad["path"] == "'" + other
    for cell in (good["path"], bad["reason"]):
        assert cell == "'" + key


def test_no_number_begins_like_a_formula(tmp_path) -> None:
    (row,) = written(tmp_path / "out.csv", [Prediction("a", CLASSES, (1e-30, 1.0))])
    assert (row["cat"], row["probability"]) == ("0.000000", "1.000000")


def test_without_a_file_nothing_is_written(tmp_path) -> None:
    with tables.predictions(None, CLASSES) as table:
        table.write(GOOD)
        table.write(BAD)
    assert table.answered == 1
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_the_machines_fault(tmp_path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(MachineError, match="could not write") as caught,
        tables.predictions(tmp_path / "file" / "out.csv", CLASSES),
    ):
        pass
    assert caught.value.exit_code == 5


def test_an_earlier_file_stays_when_the_work_breaks(tmp_path) -> None:
    file = tmp_path / "out.csv"
    written(file, [GOOD])
    before = file.read_bytes()

    def breaking() -> None:
        with tables.predictions(file, CLASSES) as table:
            table.write(BAD)
            raise KeyError("broken")

    with pytest.raises(KeyError):
        breaking()
    assert file.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.csv.new.part"]  # what the next call goes on with


def test_a_disk_that_fills_leaves_the_earlier_file(tmp_path) -> None:
    resource = pytest.importorskip("resource")
    file = tmp_path / "out.csv"
    written(file, [GOOD])
    before, old = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    found = [dataclasses.replace(GOOD, key=f"{i}.jpg") for i in range(5_000)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        with pytest.raises(MachineError, match="Free some space"):
            written(file, found)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert file.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.csv.new.part"]
    assert len(written(file, found, there=True)) == 5_000  # once there is space again


def test_an_error_of_the_work_is_not_taken_for_one_of_the_disk(tmp_path) -> None:
    def breaking() -> None:
        with tables.predictions(tmp_path / "out.csv", CLASSES):
            raise FileNotFoundError("model.safetensors")

    with pytest.raises(FileNotFoundError, match="model"):
        breaking()


def test_json_is_one_line_each(tmp_path) -> None:
    assert json.loads(tables.to_json(GOOD)) == {
        "path": "a.jpg",
        "label": "=dog",
        "unsure": False,
        "probabilities": {"cat": 0.25, "=dog": 0.75},
    }
    bad = tables.to_json(BAD)
    assert json.loads(bad) == {"path": "b.jpg", "error": {"code": "truncated", "reason": BAD.error.reason}}
    assert "\n" not in bad


def test_names_that_are_no_utf8_are_written() -> None:
    odd = os.fsdecode(b"a\xff")
    line = tables.to_json(Prediction(odd, (odd, "b"), (0.5, 0.5))) + tables.to_json(
        Prediction(odd, (odd, "b"), error=Refusal(odd, "unreadable", f"{odd} cannot be read"))
    )
    assert line.encode()  # a terminal and a file take it

"""Studies: what a text asks for, rows beside the same work done by hand, conclusions, the page, the command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import opsin
from opsin import artefact, codecs, comparison, corruptions, models, ops, params, processing, studies
from opsin.app import cli
from opsin.classifier import Classifier
from opsin.comparison import Difference
from opsin.errors import CallError, DataError
from opsin.preprocessing import Preprocessing
from opsin.studies import Row, Study, changes, conclusions, page
from opsin.vocabulary import Dataset, Score, finished
from tiny import write_pngs

CLASSES = ("dark", "light")


class Shade(nn.Module):
    """Says light where the mean is above a half, the surer the further."""

    def forward(self, images: Tensor) -> Tensor:
        over = 20 * (images.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-over, over], 1)


SHADE = Classifier(Shade(), None, Preprocessing(8, mean=(0, 0, 0), std=(1, 1, 1)), CLASSES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pngs(tmp_path / "pictures", {"dark": 12, "light": 12}, side=12)


@pytest.fixture
def data(folder: Path) -> Dataset:
    return opsin.read(folder)


def values(text: str, steps: int = 5) -> list[object]:
    return [row.value for row in changes.of_ops([text], steps).rows]


# What a text asks for -------------------------------------------------------------------------------------------------


def test_ranges_lists_and_all_that_is_allowed() -> None:
    assert values("jpeg:quality=5..95", 4) == [5, 35, 65, 95]
    assert values("jpeg:quality=20,5,50,subsampling=4:4:4") == [20, 5, 50]
    assert values("median:radius=1..4", 10) == [1, 2, 3, 4]
    assert values("jpeg:subsampling=4:4:4,4:2:0") == ["4:4:4", "4:2:0"]
    assert values("jpeg:quality") == [1, 3.16, 10, 31.6, 100]  # by equal ratios
    assert values("jpeg:progressive") == [False, True]
    assert values("jpeg:ssim", 4) == [0, 0.25, 0.5, 0.75]  # 1 itself is not allowed
    assert values("clahe:clip=3") == [None]
    assert values("resize:mode") == ["nearest", "bilinear", "bicubic"]


def test_rows_are_pipelines_with_all_else_fixed() -> None:
    asked = changes.of_ops(["resize:side=9", "jpeg:quality=10,90,subsampling=4:4:4"], 5)
    assert asked.moving == "jpeg quality"
    assert [row.name for row in asked.rows] == [f"resize:side=9 jpeg:quality={q},subsampling=4:4:4" for q in (10, 90)]
    picture = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    by_hand = ops.jpeg(ops.resize(picture, side=9), quality=90, subsampling="4:4:4")
    assert asked.rows[1].make("a", picture) == by_hand


@pytest.mark.parametrize("op", [op for op in ops.OPS.values() if op.kind in ("image", "bytes") and not op.reference])
def test_every_parameter_of_every_operation_can_move(op: ops.Op) -> None:
    for parameter in op.parameters:
        if parameter.type is str and not parameter.choices:
            with pytest.raises(CallError, match="has no range"):
                changes.of_ops([f"{op.name}:{parameter.name}"], 3)
            continue
        found = changes.of_ops([f"{op.name}:{parameter.name}"], 3)
        assert 1 < len(found.rows) <= max(3, len(parameter.choices))
        assert found.moving == f"{op.name} {parameter.name}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jpge:quality=5..9", "unknown operation 'jpge'.*Did you mean 'jpeg'"),
        ("jpeg:qualty=5..9", "unknown parameter of jpeg 'qualty'"),
        ("jpeg:quality=5..900", "quality: expected less than or equal to 100"),
        ("jpeg:quality=9..5", "a range of quality: expected low..high"),
        ("jpeg:quality=a..b", "quality: expected a value of type float"),
        ("jpeg:quality=nan", "quality"),
        (
            "jpeg:quality=5,10,progressive",
            "moves one parameter: expected one range or list, received quality, progressive",
        ),
        ("otsu", "otsu makes a map of a picture: expected an operation that makes a picture"),
        ("sharpness", "sharpness makes a number"),
        ("psnr", "psnr needs a second picture"),
        ("match_histogram", "match_histogram needs a second picture"),
        (":", "unknown operation"),
    ],
)
def test_what_cannot_be_studied_is_said(text: str, message: str) -> None:
    with pytest.raises(CallError, match=message):
        changes.of_ops([text], 5)


def test_a_declaration_says_its_interval() -> None:
    quality = params.find(ops.OPS["jpeg"].choice, "quality")
    assert (quality.interval.ge, quality.interval.le) == (1, 100)
    assert params.find(opsin.Recipe, "epochs").interval.le is None


# Rows -----------------------------------------------------------------------------------------------------------------


def test_the_original_is_what_evaluate_finds(data: Dataset) -> None:
    found = studies.study(SHADE, data, "brightness:factor=0.5,1")
    assert found.original.accuracy == opsin.evaluate(SHADE, data).overall["accuracy"]
    assert found.original.agreement == found.rows[1].agreement == 1
    assert found.rows[1].accuracy == found.original.accuracy
    assert found.original.bytes == np.mean([record.size for record in data.records])


@pytest.mark.parametrize("op", ["brightness:factor=0.4", "clahe:clip=3", "jpeg:quality=5", "gaussian:sigma=2"])
def test_a_row_is_what_evaluate_finds_on_processed_files(op: str, folder: Path, data: Dataset, tmp_path: Path) -> None:
    finished(processing.process(folder, tmp_path / "out", ops.pipeline(op)))
    (tmp_path / "out" / processing.LOG).unlink()
    processed = opsin.read(tmp_path / "out")
    (row,) = studies.study(SHADE, data, op).rows
    assert row.accuracy == opsin.evaluate(SHADE, processed).overall["accuracy"]
    answers = [answer for _, answer in sorted((p.key, p.probabilities) for p in opsin.predict(SHADE, tmp_path / "out"))]
    assert row.confidence == pytest.approx(np.max(answers, axis=1).mean(), abs=1e-6)
    if op.startswith("jpeg"):
        assert row.bytes == np.mean([record.size for record in processed.records])
    else:
        assert row.bytes is None


class Odd(nn.Module):
    """Says light where the sum of all levels is odd: whoever changes one pixel by one level is found out."""

    def forward(self, images: Tensor) -> Tensor:
        odd = (images * 255).round().sum(dim=(1, 2, 3)) % 2
        return torch.stack([1 - odd, odd], 1)


def test_what_the_decoder_does_is_no_effect_of_an_operation(tmp_path: Path) -> None:
    """Large JPEGs are answered for reduced as they are, and whole where an operation was done to them."""
    rng = np.random.default_rng(0)
    for number in range(16):
        place = tmp_path / "set" / CLASSES[number % 2] / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(ops.jpeg(rng.integers(0, 256, (160, 200, 3), np.uint8), quality=90))
    data, odd = opsin.read(tmp_path / "set"), replace(SHADE, network=Odd())
    found = studies.study(odd, data, "brightness:factor=1")
    (same,) = found.rows
    assert (same.agreement, same.difference.value, same.p) == (1, 0, 1)
    assert same.accuracy != found.original.accuracy  # the decoder's doing
    (lossless,) = studies.study(odd, data, "png").rows
    assert (lossless.agreement, lossless.accuracy) == (1, same.accuracy)
    stored = codecs.decode(data.store.read(data.records[0].key))
    kept = changes.of_corruptions(8).unchanged.make("a", stored)
    assert (kept == ops.resize(stored, width=10, height=8)).all()


def test_differences_are_paired_and_corrected(data: Dataset) -> None:
    """Half as bright, every light picture is called dark: 12 that were right before are wrong, none the other way."""
    found = studies.study(SHADE, data, "brightness:factor=0.5,0.9,1")
    dark, _, same = found.rows
    assert (dark.difference.value, dark.shown) == (-0.5, -1)
    assert (dark.difference.low, dark.difference.high) == pytest.approx(comparison.paired_shares(12, 0, 24))
    assert dark.p == pytest.approx(3 * comparison.mcnemar(12, 0))
    assert (same.difference.value, same.p, same.shown) == (0, 1, 0)
    assert dark.agreement == 0.5


def test_holm_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        ps = rng.random(7) ** 3
        order = np.argsort(ps)
        expected = np.minimum(1, np.maximum.accumulate(ps[order] * np.arange(7, 0, -1)))
        assert np.array(studies.holm(ps.tolist()))[order] == pytest.approx(expected)
    assert studies.holm([]) == []


def test_groups_count_as_one_and_have_no_p(data: Dataset) -> None:
    grouped = replace(data, records=tuple(replace(r, group=f"g{i // 4}") for i, r in enumerate(data.records)))
    found = studies.study(SHADE, grouped, "brightness:factor=0.5,1")
    assert found.grouped
    assert all(row.p is None for row in found.rows)
    assert found.rows[0].shown == -1
    alone = studies.study(SHADE, data, "brightness:factor=0.5,1")
    assert found.rows[0].accuracy.low < alone.rows[0].accuracy.low
    assert "of whole groups" in conclusions.sentences(found)[-1]


def test_a_picture_that_one_row_cannot_change_is_in_no_row(folder: Path) -> None:
    (folder / "dark" / "tiny.png").write_bytes(codecs.encode_png(np.zeros((3, 3, 3), np.uint8)))
    (folder / "light" / "torn.png").write_bytes((folder / "light" / "00.png").read_bytes()[:60])
    found = studies.study(SHADE, opsin.read(folder), "crop:width=2,height=2", "resize:side=8")
    assert found.n == 25
    found = studies.study(SHADE, opsin.read(folder), "crop:height=2,width=2,8")
    assert found.n == 24
    assert {refusal.key.rpartition("/")[2]: refusal.code for refusal in found.refused} == {
        "tiny.png": "not-possible",
        "torn.png": "truncated",
    }
    assert "2 pictures are not counted" in " ".join(conclusions.sentences(found))
    with pytest.raises(DataError, match="no picture could be studied"):
        studies.study(SHADE, opsin.read(folder), "crop:height=200,width=200")


def test_what_is_asked_for_must_be_one_thing(data: Dataset) -> None:
    for asked in ((), ("clahe",)):
        with pytest.raises(CallError, match="expected operations or corruptions"):
            studies.study(SHADE, data, *asked, corruptions=bool(asked))
    with pytest.raises(CallError, match="part: expected one that has records"):
        studies.study(SHADE, data, "clahe", part="val")
    with pytest.raises(CallError, match="one class a picture, received regression"):
        studies.study(replace(SHADE, task="regression"), data, "clahe")


def test_corruptions_are_those_of_the_table(data: Dataset) -> None:
    found = studies.study(SHADE, data, corruptions=True)
    assert [(row.name, row.value) for row in found.rows] == [
        (name, severity) for name in corruptions.CORRUPTIONS for severity in corruptions.SEVERITIES
    ]
    assert found.rows == studies.study(SHADE, data, corruptions=True).rows
    key, picture = data.records[0].key, codecs.decode(data.store.read(data.records[0].key))
    small = ops.resize(picture, width=8, height=8)
    by_hand = corruptions.corrupt(small, "fog", 2, corruptions.generator(0, key, "fog"))
    change = next(row for row in changes.of_corruptions(8).rows if (row.name, row.value) == ("fog", 2))
    assert (change.make(key, picture) == by_hand).all()


# Conclusions ----------------------------------------------------------------------------------------------------------


def row(value: object, shown: int = 0, size: float | None = None) -> Row:
    gap = Difference(0.9, 0.9 + 0.1 * shown, 0.1 * shown - 0.02, 0.1 * shown + 0.02, 400)
    score = Score(0.9 + 0.1 * shown, 0.8, 0.95, 400)
    return Row(f"jpeg:quality={value}", value, score, 0.9, 0.95, size, gap, 0.001 if shown else 0.7)


ORIGINAL = replace(row(None, size=100_000), name="", difference=None, p=None)
CURVE = tuple(row(float(q), -1 if q in (5, 10, 40) else 0, 1000.0 * q) for q in (5, 10, 20, 40, 60, 80))
FOUND = Study("jpeg quality", "test", False, False, ORIGINAL, CURVE, ())


def test_the_least_bytes_are_those_above_which_no_loss_is_shown() -> None:
    assert conclusions.smallest(FOUND, conclusions.not_lower).value == 60
    assert conclusions.smallest(replace(FOUND, rows=CURVE[2:3] + CURVE[4:]), conclusions.not_lower).value == 20
    assert conclusions.smallest(replace(FOUND, rows=CURVE[:2]), conclusions.not_lower) is None
    text = " ".join(conclusions.sentences(FOUND))
    assert "not shown to differ from the original's at jpeg quality 20, 60 to 80." in text
    assert "shown to be lower at jpeg quality 5 to 10, 40." in text
    assert "No loss is shown down to jpeg quality 60 (60.0 kB a picture, 60 % of the original's)" in text
    assert "up to 2.0 points there is not ruled out" in text
    assert "corrected for 6 rows (Holm)" in text


def test_a_loss_beyond_the_margin_is_ruled_out_or_not() -> None:
    text = " ".join(conclusions.sentences(FOUND))
    assert "A loss of more than 3 points is ruled out down to jpeg quality 60 (" in text
    wide = tuple(replace(each, difference=replace(each.difference, low=-0.04)) for each in CURVE)
    text = " ".join(conclusions.sentences(replace(FOUND, rows=(*wide[:5], CURVE[5]))))
    assert "A loss of more than 3 points is ruled out down to jpeg quality 80 (" in text
    text = " ".join(conclusions.sentences(replace(FOUND, rows=wide)))
    assert "At no setting a loss of more than 3 points is ruled out" in text


def test_choices_are_listed_one_by_one() -> None:
    modes = replace(FOUND, moving="resize mode", rows=tuple(row(name) for name in ("nearest", "bilinear", "bicubic")))
    assert "at resize mode nearest, bilinear, bicubic." in " ".join(conclusions.sentences(modes))


def test_with_and_without_is_said_as_such() -> None:
    once = replace(FOUND, moving="", rows=(replace(row(None, 1), name="clahe"),))
    assert "With clahe: accuracy is shown to be higher: +10.0 points [+8.0, +12.0]" in " ".join(
        conclusions.sentences(once)
    )
    none = replace(once, rows=(replace(row(None), name="clahe"),))
    assert "With clahe: no difference of accuracy is shown" in " ".join(conclusions.sentences(none))


# The page and the command ---------------------------------------------------------------------------------------------


def test_the_page_stands_alone_and_escapes() -> None:
    odd = replace(FOUND, rows=tuple(replace(each, name="<b>&") for each in CURVE))
    text = page.render(odd)
    assert "<b>&" not in text
    assert not re.search(r"<script|https?://|src=|@import|url\(", text)
    assert text.count("<circle") == len(CURVE)
    assert "prefers-color-scheme: dark" in text


def test_points_stand_where_their_values_are() -> None:
    drawn = page.chart(FOUND)
    heights = [float(value) for _, _, value, _, _ in drawn["points"]]
    assert heights[0] > heights[2] == float(drawn["clean"])  # lower accuracy is lower on the page
    assert [name for name, _ in drawn["ticks"]] == ["5", "10", "20", "40", "60", "80"]
    assert [name for name, _, _ in drawn["lines"]] == ["accuracy", "same answer", "bytes"]
    assert page.chart(replace(FOUND, moving="", rows=CURVE[:1])) is None


@pytest.fixture
def model(folder: Path, tmp_path: Path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    spec = models.spec_for("textbook", 2, 8)
    artefact.save(Classifier(models.build(spec), spec, Preprocessing(8), CLASSES), tmp_path / "model")
    return ["study", "model", "pictures"]


def test_the_command_tells_writes_and_has_a_twin(model: list[str], capsys) -> None:
    line = [*model, "--op", "jpeg:quality=5..95", "--steps", "3"]
    assert cli.run([*line, "--report", "out"]) == 0
    told = capsys.readouterr().out
    assert "jpeg quality" in told
    assert "as they are" in told
    assert "Not shown is not the same as equal" in told
    assert cli.run([*line, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads(Path("out/study.json").read_text(encoding="utf-8"))
    assert [each["value"] for each in plain["rows"]] == [5, 50, 95]
    assert plain["rows"][0]["bytes"] < plain["rows"][2]["bytes"]
    assert Path("out/study.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_command_shows_corruptions_as_a_table(model: list[str], capsys) -> None:
    assert cli.run([*model, "--corruptions", "--report", "out"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"gaussian noise( +[01]\.\d{3}\*?){6} +\d+ %", told)
    assert "drawn by opsin" in told
    assert Path("out/study.html").read_text(encoding="utf-8").count("<td") == 15 * 6


@pytest.mark.parametrize(
    ("words", "code"),
    [([], 2), (["--op", "otsu"], 2), (["--op", "clahe", "--corruptions"], 2), (["--op", "clahe", "--part", "val"], 2)],
)
def test_the_command_refuses(model: list[str], words: list[str], code: int, capsys) -> None:
    assert cli.run([*model, *words, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == code

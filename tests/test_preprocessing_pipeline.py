"""A pipeline inside a model: one on every road, in the artefact, in the cache's name; refused where it cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import opsin
from opsin import artefact, cache, codecs, exporting, models, ops, preprocessing, processing, runs
from opsin import recipe as recipes
from opsin.app import cli
from opsin.classifier import Classifier
from opsin.errors import CallError, ModelError, PictureError
from opsin.preprocessing import Preprocessing
from opsin.recipe import preset
from opsin.vocabulary import finished
from tiny import HOW, write_pngs

TEXT = "clahe:clip=3 | gamma:gamma=0.6 | resize:side=20"
PIPELINE = ops.from_text(TEXT)
ROAD = Preprocessing(8, pipeline=PIPELINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pngs(tmp_path / "pictures", {"dark": 12, "light": 12}, side=24)


def made(road: Preprocessing) -> Classifier:
    spec = models.spec_for("textbook", 2, 8)
    return Classifier(models.build(spec), spec, road, ("dark", "light"))


def processed(folder: Path, out: Path) -> Path:
    """The pictures as `opsin process` writes them: lossless PNG."""
    finished(processing.process(folder, out, PIPELINE))
    (out / processing.LOG).unlink()
    return out


def answers(clf: Classifier, folder: Path) -> dict[str, tuple[float, ...]]:
    return {found.key: found.probabilities for found in opsin.predict(clf, folder)}


def test_a_model_with_it_answers_as_one_without_on_processed_pictures(folder: Path, tmp_path: Path) -> None:
    inside = made(ROAD)
    plain = replace(inside, preprocessing=Preprocessing(8))
    other = processed(folder, tmp_path / "out")
    assert answers(inside, folder) == answers(plain, other)
    assert answers(inside, folder) != answers(plain, folder)


def test_a_trained_run_is_the_run_on_processed_pictures(folder: Path, tmp_path: Path) -> None:
    """Training, validation, test, scores: with the pipeline inside, to the byte what it is on processed files."""
    recipe = preset("textbook").set(size=8, epochs=1, batch=16, hflip="no", vflip="no")
    with_it = opsin.train(opsin.read(folder), recipe.set(pipeline=TEXT), out=tmp_path / "a", how=HOW)
    without = opsin.train(opsin.read(processed(folder, tmp_path / "out")), recipe, out=tmp_path / "b", how=HOW)
    assert with_it.scores["test"].overall == without.scores["test"].overall
    assert (tmp_path / "a/model" / artefact.WEIGHTS).read_bytes() == (
        tmp_path / "b/model" / artefact.WEIGHTS
    ).read_bytes()
    assert opsin.evaluate(opsin.load(tmp_path / "a"), opsin.read(folder)).overall == with_it.scores["test"].overall


def test_it_travels_in_the_artefact(tmp_path: Path) -> None:
    artefact.save(made(ROAD), tmp_path / "model")
    told = json.loads((tmp_path / "model" / artefact.DESCRIPTION).read_text(encoding="utf-8"))["preprocessing"]
    assert told["pipeline"][0] == {"op": "clahe", "clip": 3.0, "tiles": 8}
    assert artefact.load(tmp_path / "model").preprocessing == ROAD
    assert "clahe:clip=3" in (tmp_path / "model" / artefact.CARD).read_text(encoding="utf-8")
    assert "pipeline" not in Preprocessing(8).to_dict()


@pytest.mark.parametrize("steps", [[{"op": "jpeg"}], [{"op": "clahee"}], [{"op": "clahe", "clip": 900}], [], 3, [3]])
def test_an_artefact_with_another_thing_is_refused(steps: object) -> None:
    with pytest.raises(ModelError, match="preprocessing: expected what opsin wrote"):
        preprocessing.from_dict({**ROAD.to_dict(), "pipeline": steps})


@pytest.mark.parametrize("text", ["jpeg:quality=80", "jpeg | clahe", "gaussian | otsu", "webp"])
def test_only_images_of_images_have_a_place(text: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="of a picture, so it cannot be part of a model's preprocessing"):
        Preprocessing(8, pipeline=ops.from_text(text))
    with pytest.raises(CallError, match="cannot be part"):
        opsin.train(opsin.read(folder), preset("textbook").set(pipeline=text), out=tmp_path / "run", how=HOW)
    assert not (tmp_path / "run").exists()


def test_a_cache_is_found_again_for_the_same_pipeline_only(folder: Path, tmp_path: Path) -> None:
    data, keep = opsin.read(folder), tmp_path / "kept"
    for road in (Preprocessing(8), ROAD, replace(ROAD, pipeline=ops.from_text("gamma")), ROAD):
        _, (pixels,) = finished(cache.build(data, [road], keep=keep))
        expected = preprocessing.load(road, data.store.read(data.records[0].key)).numpy()
        assert (pixels.array[0] == expected).all()
    names = {file.name for road in (Preprocessing(8), ROAD) if (file := cache._file(keep, data, road))}
    assert len(names) == 2


def test_the_pipeline_gets_the_whole_picture() -> None:
    """A large JPEG is decoded reduced for the plain road, and whole where a pipeline counts its pixels."""
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(file, "JPEG")
    road = Preprocessing(8, pipeline=ops.from_text("median:radius=2"))
    whole = codecs.decode(file.getvalue())
    plain, found = preprocessing.load_each([Preprocessing(8), road], file.getvalue())
    assert (found == preprocessing.prepare(Preprocessing(8), ops.median(whole, radius=2))).all()
    assert (plain == preprocessing.load(Preprocessing(8), file.getvalue())).all()
    larger = preprocessing.enlarged(road, 2)
    twice = preprocessing.load_each([road, larger], file.getvalue())
    assert (twice[0] == found).all()
    assert (twice[1] == preprocessing.load(larger, file.getvalue())).all()


@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
def test_the_geometry_is_that_of_what_the_pipeline_makes(fit: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    road = Preprocessing(16, fit, pipeline=ops.from_text("rotate:angle=90,expand=yes"))
    turned = ops.rotate(picture, angle=90, expand=True)
    assert (preprocessing.load(road, picture) == preprocessing.prepare(Preprocessing(16, fit), turned)).all()


def test_a_picture_that_it_cannot_do_is_refused_alone(folder: Path) -> None:
    road = Preprocessing(8, pipeline=ops.from_text("crop:left=10,width=10,height=10"))
    (folder / "dark" / "tiny.png").write_bytes(codecs.encode_png(np.zeros((5, 5, 3), np.uint8)))
    with pytest.raises(PictureError, match="crop") as caught:
        preprocessing.load(road, np.zeros((5, 5, 3), np.uint8))
    assert caught.value.code == "not-possible"
    found = {each.key: each.error for each in opsin.predict(made(road), folder)}
    assert [error.code for error in found.values() if error] == ["not-possible"]


def test_a_recipe_takes_a_file_and_keeps_all_of_it(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "pictures",
        "out",
        "--op",
        "unsharp_mask:sigma=1.23456789",
        "--op",
        "perspective",
        "--save-pipeline",
        "p.toml",
    ]
    assert cli.run(["process", *words]) == 0
    recipe = preset("textbook").set_texts(["pipeline=p.toml"])
    assert ops.from_text(recipe.pixels.pipeline) == ops.load(Path("p.toml"))
    (tmp_path / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert recipes.read(tmp_path / "recipe.toml") == recipe


def test_a_run_keeps_every_setting_of_it(folder: Path, tmp_path: Path) -> None:
    recipe = preset("textbook").set(size=8, epochs=1, batch=16, pipeline="clahe")
    run = opsin.train(opsin.read(folder), recipe, out=tmp_path / "run", how=HOW)
    assert run.classifier.preprocessing.pipeline == ops.pipeline("clahe")
    assert 'pipeline = "clahe:clip=2,tiles=8"' in (tmp_path / "run" / "recipe.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[stop]]", "pipeline .*: expected what opsin process"),
        ("[[step]]\nclip = 1\n", "expected what opsin process"),
        ("=", "expected"),
    ],
)
def test_another_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text, encoding="utf-8")
    with pytest.raises(CallError, match=message):
        preset("textbook").set_texts([f"pipeline={tmp_path / 'p.toml'}"])
    with pytest.raises(CallError, match="No such file"):
        preset("textbook").set_texts([f"pipeline={tmp_path / 'absent.toml'}"])


def test_unknown_operations_are_refused_before_there_is_a_run() -> None:
    with pytest.raises(CallError, match=r"unknown operation 'clahee'.*Did you mean 'clahe'"):
        runs.check(preset("textbook").set(pipeline="clahee"))


def test_an_export_says_what_comes_first_and_does_not_pretend_to_resize(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    clf, data = made(ROAD), opsin.read(folder)
    with pytest.raises(
        CallError, match="no form in a graph: expected a model without a pipeline, received clahe:clip=3"
    ):
        exporting.export(clf, tmp_path / "a" / "model.onnx", data, resize=True)
    exporting.export(clf, tmp_path / "a" / "model.onnx", data)
    page = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert "opsin process IN OUT --op clahe:clip=3,tiles=8 --op gamma:gamma=0.6 --op resize:side=20," in page
    told = json.loads((tmp_path / "a" / "model.json").read_text(encoding="utf-8"))
    assert told["preprocessing"]["pipeline"] == PIPELINE.to_list()

"""Answers: the same one by one and in batches, each in its own place, for every kind of input."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import opsin
from opsin import answers, cache, codecs, evaluation, metrics
from opsin.classifier import Classifier, predict_all, predict_store
from opsin.errors import CallError
from opsin.preprocessing import Preprocessing
from opsin.sources import ArrayStore
from opsin.vocabulary import finished
from tiny import HOW, ROAD, Net, digits, recipe, seeded


@pytest.fixture(scope="module")
def clf(tmp_path_factory) -> Classifier:
    """Trained, so that its answers differ from picture to picture."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    return opsin.train(digits(), recipe(epochs=5), out=folder, network=seeded(Net), how=HOW).classifier


def pictures(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    sides = rng.integers(4, 40, (n, 2))
    return {f"{i}": rng.integers(0, 256, (*side, 3), dtype=np.uint8) for i, side in enumerate(sides)}


def write(folder: Path, images: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


# ── one by one, in batches, in evaluate ──


@pytest.mark.parametrize("batch", [1, 7, 32, 100])
def test_batches_of_any_size_and_order_answer_as_one_at_a_time(clf, monkeypatch, batch: int) -> None:
    images = pictures(70)
    alone = {key: opsin.predict(clf, image).probabilities for key, image in images.items()}
    assert np.ptp([p[0] for p in alone.values()]) > 0.1  # else a neighbour's answer could not show
    monkeypatch.setattr(answers, "BATCH", batch)
    order = np.random.default_rng(batch).permutation(list(images)).tolist()
    found = list(predict_store(clf, ArrayStore(images), order, threads=3))
    assert [p.key for p in found] == order
    for prediction in found:
        np.testing.assert_allclose(prediction.probabilities, alone[prediction.key], atol=1e-5)


def test_predict_answers_what_evaluate_scores(clf) -> None:
    data = digits()
    whole, pixels = finished(cache.build(data, [clf.preprocessing]))
    scored = metrics.softmax(finished(evaluation.logits(clf, pixels[0])) / clf.temperature)
    found = [opsin.predict(clf, codecs.encode_png(cache.picture(data, r))) for r in whole.records]
    np.testing.assert_allclose([p.probabilities for p in found], scored, atol=1e-5)


def test_the_temperature_divides_the_logits(clf) -> None:
    image = pictures(1)["0"]
    found = clf.run(clf.prepare(image)[None])[0]
    for temperature in (0.5, 1.0, 3.0):
        answer = opsin.predict(dataclasses.replace(clf, temperature=temperature), image).probabilities
        scaled = np.exp((found / temperature).astype(np.float64))
        np.testing.assert_allclose(answer, scaled / scaled.sum(), atol=1e-6)
        assert sum(answer) == pytest.approx(1, abs=1e-12)


def test_the_network_is_nobodys_to_train() -> None:
    network = seeded(Net)
    made = Classifier(network, None, ROAD, ("a", "b", "c"))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    list(predict_store(made, ArrayStore(pictures(5)), "01234"))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.temperature = 2.0


# ── what cannot be read ──


@pytest.mark.parametrize("bad", [[0], [3, 4], [31, 32, 33], [69], list(range(32)), list(range(70))])
def test_an_error_stands_in_its_own_place_and_moves_no_answer(clf, bad: list[int]) -> None:
    images = pictures(70)
    expected = {p.key: p.probabilities for p in predict_store(clf, ArrayStore(images), list(images))}
    holes = {key: image for key, image in images.items() if int(key) not in bad}
    found = list(predict_store(clf, ArrayStore(holes), list(images)))
    assert [p.key for p in found] == list(images)
    for number, prediction in enumerate(found):
        if number in bad:
            assert prediction.probabilities is None
            assert prediction.label is None
            assert prediction.error.code == "unreadable"
            assert prediction.error.key == prediction.key
            assert "error unreadable" in str(prediction)
        else:
            assert prediction.error is None
            np.testing.assert_allclose(prediction.probabilities, expected[prediction.key], atol=1e-6)


# ── inputs ──


def test_a_path_bytes_and_an_array_answer_alike(clf, tmp_path) -> None:
    image = pictures(1)["0"]
    file = write(tmp_path / "in", {"a": image}) / "a.png"
    answers = [opsin.predict(clf, source) for source in (file, str(file), file.read_bytes(), image)]
    assert [p.key for p in answers] == ["a.png", "a.png", "picture", "picture"]
    assert len({p.probabilities for p in answers}) == 1
    assert answers[0].label == max(zip(answers[0].probabilities, clf.classes))[1]


def test_a_folder_and_a_zip_of_it_answer_for_every_file(clf, tmp_path) -> None:
    images = pictures(6)
    folder = write(tmp_path / "in", images)
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:50])
    (folder / "notes.txt").write_text("no picture")
    (folder / "sub").mkdir()
    (folder / "0.png").rename(folder / "sub" / "0.png")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder).as_posix())
    for source in (folder, tmp_path / "in.zip"):
        found = {p.key: p for p in opsin.predict(clf, source)}
        assert set(found) == {"1.png", "2.png", "3.png", "4.png", "5.png", "sub/0.png", "notes.txt"}
        errors = {key: p.error.code for key, p in found.items() if p.error}
        assert set(errors) == {"3.png", "notes.txt"}
        assert errors["3.png"] == "truncated"
        for key in ("1.png", "sub/0.png"):
            expected = opsin.predict(clf, images[Path(key).stem]).probabilities
            np.testing.assert_allclose(found[key].probabilities, expected, atol=1e-5)


def test_a_list_is_answered_in_its_order_whatever_it_holds(clf, tmp_path) -> None:
    (name, image), (other, _) = pictures(2).items()
    folder = write(tmp_path / "in", pictures(2))
    file = folder / f"{name}.png"
    given = [
        file,
        image,
        str(tmp_path / "none.png"),
        file.read_bytes(),
        Image.fromarray(image),
        folder / f"{other}.png",
    ]
    found = opsin.predict(clf, given)
    assert [p.key for p in found] == [str(file), "picture 2", given[2], "picture 4", "picture 5", str(given[5])]
    assert [p.error and p.error.code for p in found] == [None, None, "unreadable", None, None, None]
    for place in (0, 1, 3, 4):
        np.testing.assert_allclose(found[place].probabilities, opsin.predict(clf, image).probabilities, atol=1e-5)
    assert opsin.predict(clf, []) == []
    (told,) = {p.error.code for p in opsin.predict(clf, [image, "picture 1"]) if p.error}  # a path of that name
    assert told == "unreadable"
    assert opsin.predict(clf, Image.fromarray(image)).probabilities == opsin.predict(clf, image).probabilities


def test_what_is_no_picture_and_no_classifier_are_wrong_calls(clf) -> None:
    with pytest.raises(CallError, match="received Tensor"):
        opsin.predict(clf, torch.zeros(3, 8, 8))
    for call in (lambda: opsin.predict("parts-1", b""), lambda: opsin.evaluate("parts-1", digits())):
        with pytest.raises(CallError, match=r"Give opsin.load\('parts-1'\)"):
            call()


def test_one_file_is_one_prediction_though_it_be_no_picture(clf, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    answer = opsin.predict(clf, tmp_path / "a.txt")
    assert answer.error.code == "not-a-picture"
    assert opsin.predict(clf, b"hello").error.code == "not-a-picture"
    assert opsin.predict(clf, b"").error


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 7), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros(5, np.uint8)],
)
def test_an_array_that_is_no_picture_is_an_error_of_its_own(clf, array) -> None:
    answer = opsin.predict(clf, array)
    assert answer.error
    assert answer.probabilities is None


def test_nothing_there_is_a_wrong_call(clf, tmp_path) -> None:
    for call in (lambda: opsin.predict(clf, tmp_path / "none"), lambda: list(predict_all(clf, tmp_path / "none.zip"))):
        with pytest.raises(CallError, match="does not exist") as caught:
            call()
        assert caught.value.exit_code == 2
    (tmp_path / "empty").mkdir()
    assert opsin.predict(clf, tmp_path / "empty") == []


def test_the_preprocessing_is_the_models_own(clf) -> None:
    image = np.zeros((8, 32, 3), np.uint8)
    image[:, 12:20] = 255
    letterboxed = dataclasses.replace(clf, preprocessing=Preprocessing(8, "letterbox"))
    one, other = (np.array(opsin.predict(each, image).probabilities) for each in (clf, letterboxed))
    assert np.abs(one - other).max() > 1e-3


# ── as a reader sees them ──


def test_what_is_shown_of_data_answers_and_scores_is_one_line(clf) -> None:
    data = digits()
    assert repr(data) == f"Dataset(digits: {len(data):,} records, single-label, {len(data.classes)} classes)"
    assert repr([opsin.predict(clf, b"hello")]).startswith("[Prediction(picture: error not-a-picture")
    score = opsin.evaluate(clf, data, "all").overall["accuracy"]
    assert f"{score:.1f} {score}" == f"{score.value:.1f} {score!s}"
    assert float(score) == score.value

"""Classifier × Dataset → Scores: logits in order, classes by name, and a file that holds enough to score again."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch

from opsin import classifier, evaluation, metrics
from opsin.classifier import Classifier
from opsin.errors import DataError, MachineError
from opsin.sources import arrays
from opsin.vocabulary import finished
from tiny import ROAD, Net, job, recipe, seeded


@pytest.fixture
def clf() -> Classifier:
    return Classifier(seeded(Net), None, ROAD, ("a", "b", "c"))


def test_logits_come_row_by_row_with_their_progress(clf) -> None:
    pixels = job(recipe(), n=70).batches.pixels
    work = evaluation.logits(clf, pixels)
    assert [next(work), next(work), next(work)] == [32, 64, 70]
    found = finished(evaluation.logits(clf, pixels))
    assert (found.shape, found.dtype) == ((70, 3), np.float32)
    alone = np.concatenate([classifier.logits(clf, torch.from_numpy(row[None])) for row in pixels.array])
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_targets_are_found_by_name(clf) -> None:
    data = job(recipe(), n=6).batches.pixels.data
    turned = dataclasses.replace(data, classes=("c", "a", "b"))
    assert evaluation.targets(clf, data).tolist() == [0, 0, 1, 1, 2, 2]
    assert evaluation.targets(clf, turned).tolist() == [2, 2, 0, 0, 1, 1]


def test_unknown_classes_and_missing_targets_are_wrong_data(clf) -> None:
    data = job(recipe(), n=6).batches.pixels.data
    with pytest.raises(DataError, match=r"does not know.*zebra"):
        evaluation.targets(clf, dataclasses.replace(data, classes=("a", "zebra", "c")))
    nameless = (*data.records[:5], dataclasses.replace(data.records[5], target=None))
    with pytest.raises(DataError, match="without a class"):
        evaluation.targets(clf, dataclasses.replace(data, records=nameless))


def test_kept_logits_score_again(clf, tmp_path) -> None:
    pixels = job(recipe(), n=40).batches.pixels
    found = finished(evaluation.logits(clf, pixels))
    scores = evaluation.score(clf, found, evaluation.targets(clf, pixels.data), "b")
    assert scores.largest_class == "b"
    file = tmp_path / "new" / "test.npz"
    evaluation.save_logits(file, pixels.data, found, clf.classes)
    with np.load(file, allow_pickle=False) as kept:
        names = tuple(kept["classes"].tolist())
        assert metrics.score(kept["logits"], kept["targets"], names, largest=1) == scores
        assert kept["keys"].tolist() == [record.key for record in pixels.data.records]
        assert kept["groups"].tolist() == [""] * 40


def test_scores_are_at_the_temperature_and_by_groups(clf) -> None:
    rng = np.random.default_rng(0)
    found, expected = rng.normal(size=(60, 3)).astype(np.float32), np.arange(60) % 3
    warm = dataclasses.replace(clf, temperature=3.0)
    groups = [str(i // 10) for i in range(60)]
    scores = evaluation.score(warm, found, expected, "a", groups=groups)
    assert scores == metrics.score(found / 3.0, expected, clf.classes, largest=0, groups=groups)
    assert scores.overall["accuracy"] != evaluation.score(warm, found, expected, "a").overall["accuracy"]


def test_groups_of_records(clf) -> None:
    data = job(recipe(), n=4).batches.pixels.data
    assert evaluation.groups(data) is None
    first = dataclasses.replace(data.records[0], group="p1")
    assert evaluation.groups(dataclasses.replace(data, records=(first, *data.records[1:]))) == ["p1", None, None, None]


def test_columns_describe_pictures() -> None:
    images = np.zeros((3, 8, 12), np.uint8)
    images[1], images[2] = 100, 255
    data = arrays.dataset("x", {None: (images, np.array([0, 1, 0]))}, ("a", "b"))
    found = finished(evaluation.columns(data))
    assert list(found) == ["shorter side in pixels", "brightness (0 black, 255 white)"]
    assert [column.tolist() for column in found.values()] == [[8, 8, 8], [0, 255, 100]]  # by class
    some = finished(evaluation.columns(data, most=2))
    assert np.isnan(some["shorter side in pixels"]).tolist() == [False, True, False]


def test_logits_that_cannot_be_written_are_the_machines_fault(clf, tmp_path) -> None:
    data = job(recipe(), n=3).batches.pixels.data
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="could not write"):
        evaluation.save_logits(tmp_path / "file" / "test.npz", data, np.zeros((3, 3), np.float32), clf.classes)
    assert os.listdir(tmp_path) == ["file"]

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


def test_logits_that_cannot_be_written_are_the_machines_fault(clf, tmp_path) -> None:
    data = job(recipe(), n=3).batches.pixels.data
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="could not write"):
        evaluation.save_logits(tmp_path / "file" / "test.npz", data, np.zeros((3, 3), np.float32), clf.classes)
    assert os.listdir(tmp_path) == ["file"]

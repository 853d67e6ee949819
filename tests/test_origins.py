"""Training that starts from a model of ours: what is kept of it, what is refused, and what is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import opsin
from opsin import classifier, models, ops, runs, splits
from opsin import recipe as recipes
from opsin.app import cli
from opsin.errors import CallError
from opsin.runs import origins, scoring
from tiny import HOW, digests, digits, net, recipe, write_pngs


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    """A model of three digits. Not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return opsin.train(digits(), recipe(epochs=3), out=tmp_path_factory.mktemp("first") / "run", how=HOW)


def test_the_same_classes_start_as_the_model_ends(first) -> None:
    spec, network = origins.network(first.classifier, first.classifier.classes)
    assert spec == first.classifier.spec
    kept = first.classifier.network.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())


def test_without_epochs_a_head_is_fitted_on_the_models_features(first, tmp_path) -> None:
    data = digits(20, ("zero", "one", "two", "three", "four"))
    run = opsin.train(data, recipe(epochs=0, size=0), out=tmp_path / "run", how=HOW, start=first.classifier)
    assert run.classifier.preprocessing == first.classifier.preprocessing
    assert run.scores["test"].overall["accuracy"].value > 0.7
    before, head = first.classifier.network.state_dict(), models.head(run.classifier.network)
    own = {id(value) for value in head.parameters()}
    rest = {name for name, value in run.classifier.network.named_parameters() if id(value) not in own}
    after = run.classifier.network.state_dict()
    assert rest
    assert all(torch.equal(after[name], before[name]) for name in rest)


def test_known_rows_of_the_head_are_kept_and_new_ones_are_drawn(first) -> None:
    classes = ("seven", "two", "zero", "eight")
    torch.manual_seed(0)
    spec, network = origins.network(first.classifier, classes)
    assert spec.classes == 4
    new, old = models.head(network), models.head(first.classifier.network)
    for row, before in ((1, 2), (2, 0)):
        assert torch.equal(new.weight[row], old.weight[before])
        assert new.bias[row] == old.bias[before]
    assert not any(torch.equal(new.weight[row], old.weight[before]) for row in (0, 3) for before in range(3))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8))
    answers = classifier.logits(classifier.Classifier(network, spec, first.classifier.preprocessing, classes), images)
    np.testing.assert_allclose(answers[:, [2, 1]], classifier.logits(first.classifier, images)[:, [0, 2]], atol=1e-6)


def test_a_new_class_is_learnt_and_the_origin_is_told(first, tmp_path) -> None:
    data = digits(20, ("zero", "one", "two", "three"))
    run = opsin.train(data, recipe(epochs=4, size=0), out=tmp_path / "run", how=HOW, start=first.classifier)
    assert run.classifier.classes == ("zero", "one", "two", "three")
    started = run.classifier.facts["started from"]
    assert started["digest"] == classifier.digest(first.classifier)
    assert run.classifier.facts["recipe"]["model"]["start"] == started["digest"]
    events = (run.folder / "events.jsonl").read_text()
    assert "starts from a model of digits, 3 classes known, 1 new" in events
    assert json.loads((run.folder / "report.json").read_text())


def test_what_the_first_model_has_seen_is_not_new_to_the_second(first, tmp_path) -> None:
    data = digits()
    folder = runs.create(data, recipe(epochs=1, seed=5), out=tmp_path / "run", start=first.classifier)
    told = [e.values["text"] for e in runs.events(data, resume=folder, how=HOW) if e.kind == "notice"]
    leaked = {r.key for r in splits.read(data, first.folder / "split.csv").records if r.split != "test"}
    leaked &= {r.key for r in splits.read(data, folder / "split.csv").test.records}
    assert leaked
    assert any(f"warning: {len(leaked)} test pictures trained the model that it starts from" in text for text in told)
    assert not leaked - scoring.trained_on(runs.load(folder), data)


def test_the_licence_of_the_first_weights_goes_on(first) -> None:
    clf = first.classifier
    licensed = classifier.Classifier(
        clf.network, clf.spec, clf.preprocessing, clf.classes, facts={"licence": "apache-2.0", "name": "first"}
    )
    assert origins.facts(licensed)["licence"] == "apache-2.0"


def test_a_run_that_starts_from_a_model_goes_on_to_the_same_bytes(first, tmp_path) -> None:
    choices = recipe(epochs=2, size=0, optimiser="adamw", ema=0.9)
    whole = opsin.train(digits(), choices, out=tmp_path / "whole", how=HOW, start=first.classifier)
    for kind in ("start", "step"):
        stream = opsin.events(digits(), choices, out=tmp_path / kind, how=HOW, start=first.classifier)
        next(event for event in stream if event.kind == kind)
        stream.close()
        opsin.train(digits(), resume=tmp_path / kind, how=HOW)
        assert digests(tmp_path / kind / "model") == digests(whole.folder / "model")


@pytest.mark.parametrize("changes", [{"size": 16}, {"size": 64, "fit": "letterbox"}])
def test_what_contradicts_the_models_preprocessing_is_refused(first, tmp_path, changes) -> None:
    with pytest.raises(CallError, match="contradicts the model"):
        opsin.train(digits(), recipe(**changes), out=tmp_path / "run", how=HOW, start=first.classifier)
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_such_a_run_asks_for_its_model(first, tmp_path) -> None:
    again = opsin.train(digits(), recipe(epochs=0), out=tmp_path / "again", how=HOW, start=first.classifier)
    chosen = recipes.read(again.folder / "recipe.toml")
    calls = (
        lambda: opsin.train(digits(), chosen, out=tmp_path / "run", how=HOW),
        lambda: opsin.cross_validate(digits(), chosen, folds=2, out=tmp_path / "run", how=HOW),
        lambda: runs.augmented(digits(), chosen),
    )
    for call in calls:
        with pytest.raises(CallError, match="--from"):
            call()
    assert not (tmp_path / "run").exists()
    opsin.train(digits(), chosen, out=tmp_path / "run", how=HOW, start=first.classifier)


def test_a_pipeline_is_the_models_or_refused(first, tmp_path) -> None:
    with pytest.raises(CallError, match="no pipeline"):
        opsin.train(digits(), recipe(pipeline="gamma"), out=tmp_path / "run", how=HOW, start=first.classifier)
    road = dataclasses.replace(first.classifier.preprocessing, pipeline=ops.from_text("clahe:clip=2"))
    start = dataclasses.replace(first.classifier, preprocessing=road)
    for asked in ("", "clahe:clip=2.0"):
        suited = origins.suited(recipe(pipeline=asked), start)
        assert suited.pixels.pipeline == ops.from_text("clahe:clip=2").text
    with pytest.raises(CallError, match="clahe"):
        origins.suited(recipe(pipeline="gamma"), start)


def test_a_network_of_ones_own_and_a_start_are_too_much(first, tmp_path) -> None:
    with pytest.raises(CallError, match="both"):
        opsin.train(digits(), recipe(), out=tmp_path / "run", how=HOW, start=first.classifier, network=net(digits()))


def test_the_command_starts_from_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "old", {"dark": 8, "light": 8})
    write_pngs(tmp_path / "new", {"dark": 8, "grey": 8, "light": 8})
    plain = ["--device", "cpu", "--precision", "fp32", "--threads", "1"]
    small = ["--recipe", "textbook", "--set", "epochs=1", *plain]
    assert cli.run(["train", "old", *small, "--set", "size=8"]) == 0
    assert cli.run(["train", "new", *small, "--from", "last"]) == 0
    assert "starts from a model of old, 2 classes known, 1 new" in capsys.readouterr().out
    assert cli.run(["train", "new", *small, "--set", "size=16", "--from", "old-1"]) == 2
    assert cli.run(["train", "new", *small, "--from", "old-1", "--folds", "2"]) == 2
    assert cli.run(["train", "new", *small, "--from", "nothing"]) == 2

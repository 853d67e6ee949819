"""Where first weights come from, if from a model of ours: it is kept in the run's folder, so that runs can go on.

The network and its preprocessing are the model's. Of the head, the rows of classes that both have are kept, and those
of new classes are drawn; classes that are no longer there are left out. Where only a head is to be had (recipe `probe`,
which has no epochs), it is fitted anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import artefact, classifier, errors, models, ops
from ..classifier import Classifier
from ..models import NetworkSpec
from ..recipe import PRESETS, Recipe

FOLDER = "start"


def suited(recipe: Recipe, start: Classifier | None) -> Recipe:
    """The recipe for training that starts from `start`: its network, size, fit and pipeline. As it is without one.

    Raises:
        CallError: when another size, fit or pipeline than the preset's own is asked for, the model is of a user's own
            network, or the recipe is that of a run which started from a model.
    """
    if start is None:
        if recipe.model.start:
            raise errors.CallError(
                "the recipe is of a run that started from a model",
                expected=f"that model, {recipe.model.start[:12]}…",
                received="none",
                do="Give it with --from, or take start out of the recipe and set pretrained",
            )
        return recipe
    if start.spec is None:
        raise errors.CallError("--from", expected="a network of a name", received="a user's own module")
    unasked = PRESETS.get(recipe.name, Recipe)().pixels
    road = start.preprocessing
    kept = {"size": road.size, "fit": road.fit, "pipeline": road.pipeline.text if road.pipeline else ""}
    for name, has in kept.items():
        asked = getattr(recipe.pixels, name)
        if name == "pipeline" and asked.strip():
            asked = ops.from_text(asked).text
        if asked not in (0, getattr(unasked, name), has):  # size 0 leaves it open
            raise errors.CallError(
                f"--set {name}={asked} contradicts the model to start from",
                expected=f"{name}={has}, as it was trained with" if has else f"no {name}, as it was trained with none",
                received=asked,
                do=f"Leave {name} out, or train without --from",
            )
    return recipe.set(
        network=start.spec.name,
        pool=start.spec.pool,
        pretrained=False,
        start=classifier.digest(start),
        **kept,
    )


def keep(folder: Path, start: Classifier) -> None:
    """Keep the model that the run in `folder` starts from. Raises MachineError when it cannot be written."""
    artefact.save(start, folder / FOLDER)


def kept(folder: Path) -> Classifier | None:
    """The model that the run in `folder` starts from; None where it starts from none."""
    return artefact.load(folder / FOLDER) if (folder / FOLDER).is_dir() else None


def network(start: Classifier, classes: Sequence[str]) -> tuple[NetworkSpec, nn.Module]:
    """The model's network with its weights and a head for `classes`; new rows follow torch's global generator.

    Raises:
        ModelError: when the classes are others and the network has no head that can be cut.
    """
    assert start.spec is not None
    spec = dataclasses.replace(start.spec, classes=len(classes))
    made, weights = models.build(spec), start.network.state_dict()
    if tuple(classes) != start.classes:
        head, old = models.head(made), models.head(start.network)
        place = next(name for name, module in made.named_modules() if module is head)
        with torch.no_grad():
            for row, name in enumerate(classes):
                if name in start.classes:
                    head.weight[row] = old.weight[start.classes.index(name)]
                    head.bias[row] = old.bias[start.classes.index(name)]
        weights |= {f"{place}.{name}": value for name, value in head.state_dict().items()}
    made.load_state_dict(weights)
    return spec, made


def begun(start: Classifier, classes: Sequence[str]) -> tuple[NetworkSpec | None, nn.Module, dict[str, Any]]:
    """How to build it again, the network, and what there is to say of its first weights."""
    return *network(start, classes), facts(start)


def words(start: Classifier, classes: Sequence[str]) -> str:
    """What is told of it."""
    new = [name for name in classes if name not in start.classes]
    gone = [name for name in start.classes if name not in classes]
    text = f"starts from a model of {start.facts.get('name', 'ours')}, {len(classes) - len(new):,} classes known"
    text += f", {len(new):,} new" * bool(new) + f", {len(gone):,} left out" * bool(gone)
    return text


def facts(start: Classifier) -> dict[str, Any]:
    """What the new model tells of it: which it was, what that one started from, the licence of the first weights."""
    origin = {"name": start.facts.get("name"), "source": "a model of opsin", "digest": classifier.digest(start)}
    before = {"before": start.facts.get("started from"), "fingerprint": start.facts.get("fingerprint")}
    return {"started from": origin | before, "licence": start.facts.get("licence")}

"""What `opsin train` does, and what it leaves behind.

    runs/<name>/
      data.json     source, fingerprint, class names, refused files    recipe.toml   every choice, resolved
      split.csv     record, split, group                               plan.json     how it was executed
      events.jsonl  the stream                                         checkpoint/   the last good states
      logits/       every score can be computed from them again        scores.json   of validation and test
      model/        the artefact                                       report.html    for people; and .json

A run is a generator of events; to stop is to stop asking. It is made so that the same command gives the same
`model/`, undisturbed or killed and resumed.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from .. import artefact, classifier, errors, metrics, reports
from .. import recipe as recipes
from ..classifier import Classifier
from ..recipe import Recipe
from ..vocabulary import Dataset, Event, Scores
from . import stages
from .folder import create, find, listed, record, reopen
from .previews import augmented, find_rate
from .scoring import evaluate, evaluating
from .stages import MEASURED, Execution, check

__all__ = [
    "MEASURED",
    "Execution",
    "Run",
    "augmented",
    "check",
    "create",
    "evaluate",
    "evaluating",
    "events",
    "find",
    "find_rate",
    "finish",
    "listed",
    "load",
    "reopen",
    "report",
    "train",
    "work",
]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where everything is.
        classifier: loaded from its `model/`.
        scores: by split. `test` was scored once; `val` may have chosen the epoch, so it is no test.
    """

    folder: Path
    classifier: Classifier
    scores: Mapping[str, Scores]


def work(
    folder: Path, data: Dataset, recipe: Recipe, *, network: nn.Module | None = None, how: Execution = MEASURED
) -> Generator[Event, None, None]:
    """Work on the run in `folder`, from its last checkpoint where it has one, until its model is saved and scored.

    Every event but `progress` is written to the run's events.jsonl as well. Stop by breaking off: the state is saved
    on the way out.

    Args:
        folder, data, recipe: as `create` or `reopen` gave them; `data` split.
        network: a user's own module, `(B, 3, S, S)` → `(B, K)`, instead of the recipe's.
        how: what to force of the plan.

    Raises:
        DataError: when no picture is left to train on.
        CallError: for a run that is finished, choices that do not fit the data, and a loss that is not finite.
        MachineError: memory, disk, an unreachable hub.
    """
    if (folder / "model" / artefact.DESCRIPTION).is_file():
        raise errors.CallError(f"{folder} is finished", do="Its model is ready: opsin predict, opsin evaluate")
    # Closed here and not by the garbage collector, which would swallow the error of a state that cannot be saved.
    with closing(stages.stream(folder, data, recipe, network, how)) as events_:
        for event in events_:
            if event.kind != "progress":
                record(folder, event)
            yield event


def finish(folder: Path, *, network: nn.Module | None = None) -> Run:
    """The finished run in `folder`.

    Raises:
        ModelError: when it has no model yet.
    """
    clf = artefact.load(folder / "model", network=network)
    return Run(folder, clf, {split: metrics.from_dict(scores) for split, scores in clf.facts["scores"].items()})


def report(folder: Path, data: Dataset, *, pictures: bool = True) -> Path:
    """Write the report of the finished run in `folder`, report.html and report.json; the page's path.

    Args:
        data: the run's, divided as `reopen` gives it.
        pictures: whether the page may hold small copies of them; not for data that must not leave.

    Raises:
        CallError: when the run is not finished.
        MachineError: when they cannot be written.
    """
    return reports.write(reports.of_run(folder, data), folder, store=data.store, pictures=pictures)


def events(
    data: Dataset,
    recipe: str | Recipe = "finetune",
    *,
    out: str | Path = "",
    resume: str | Path = "",
    network: nn.Module | None = None,
    how: Execution = MEASURED,
    leaks: bool = False,
) -> Generator[Event, None, None]:
    """A run seen from inside: split where there is no split, train, save, load anew, score the test once.

    Args:
        data: what `opsin.read` gave.
        recipe: a Recipe, the name of a preset, or a TOML file.
        out: the run's folder; `runs/<name>-<number>` by default.
        resume: the folder of a run on the same data that is to go on; `recipe` and `out` are not looked at.
        network: a module of your own, `(B, 3, S, S)` → `(B, K)`, instead of the recipe's.
        how: what to force of the plan.
        leaks: go on although test pictures are copies of pictures in train or val.

    Raises:
        CallError, DataError, MachineError: as `create`, `reopen` and `work` say.
    """
    folder = Path(resume) if resume else _begun(data, recipe, out, network, how, leaks)
    return work(folder, *reopen(folder, data), network=network, how=how)


def train(
    data: Dataset,
    recipe: str | Recipe = "finetune",
    *,
    out: str | Path = "",
    resume: str | Path = "",
    network: nn.Module | None = None,
    how: Execution = MEASURED,
    leaks: bool = False,
) -> Run:
    """Recipe in, Classifier out: `events` until they end, and a report. Takes and raises what `events` does."""
    folder = Path(resume) if resume else _begun(data, recipe, out, network, how, leaks)
    divided, chosen = reopen(folder, data)
    for _ in work(folder, divided, chosen, network=network, how=how):
        pass
    report(folder, divided)
    return finish(folder, network=copy.deepcopy(network) if network is not None else None)


def _begun(
    data: Dataset, recipe: str | Recipe, out: str | Path, network: nn.Module | None, how: Execution, leaks: bool
) -> Path:
    chosen = recipe if isinstance(recipe, Recipe) else recipes.read(recipe, task=data.task)
    check(chosen, how, network, task=data.task)
    return create(data, chosen, out=out, leaks=leaks)


def load(model: str | Path, *, network: nn.Module | None = None) -> Classifier:
    """The Classifier of a model's folder, a run's folder or name, `last`, or `imagenet`.

    Args:
        network: the module to fill where the model is of a user's own network.

    Raises:
        CallError: when there is no such thing.
        ModelError: when it is damaged.
    """
    if (Path(model) / artefact.DESCRIPTION).is_file():
        return artefact.load(model, network=network)
    if str(model) == "imagenet":
        return classifier.imagenet()
    folder = find(model)
    if not (folder / "model").is_dir():
        raise errors.ModelError(f"{folder} is not finished", do=f"Go on with: opsin train --resume {folder}")
    return artefact.load(folder / "model", network=network)

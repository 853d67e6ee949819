"""What `opsin train` does, and what it leaves behind.

    runs/<name>/
      data.json     source, fingerprint, class names, refused files    recipe.toml   every choice, resolved
      split.csv     record, split, group                               plan.json     how it was executed
      events.jsonl  the stream                                         checkpoint/   the last good states
      logits/       every score can be computed from them again        scores.json   of validation and test
      model/        the artefact                                       report.html    for people; and .json
      start/        the model that it started from, if from one of ours

Folds, and runs by several seeds, are a series: a folder of such folders (see `series`).

A run is a generator of events; to stop is to stop asking. It is made so that the same command gives the same
`model/`, undisturbed or killed and resumed.
"""

from __future__ import annotations

import copy
import html
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from .. import artefact, classifier, errors, exported, metrics, reports, sources
from .. import recipe as recipes
from ..classifier import Classifier
from ..recipe import Recipe
from ..sources import Source
from ..vocabulary import Dataset, Event, Scores
from . import series, stages
from .folder import Origin, chosen, create, find, fitting, forget_after, listed, record, reopen, rows, told, unchanged
from .previews import augmented, find_rate
from .scoring import alike, data_for, divided, evaluate, evaluating, refuse_mirrors, settling, with_mirrored
from .series import Series
from .stages import MEASURED, Execution, check

__all__ = [
    "MEASURED",
    "Execution",
    "Origin",
    "Run",
    "Series",
    "alike",
    "augmented",
    "check",
    "chosen",
    "create",
    "cross_validate",
    "data_for",
    "divided",
    "evaluate",
    "evaluating",
    "events",
    "find",
    "find_rate",
    "finish",
    "fitting",
    "listed",
    "load",
    "refuse_mirrors",
    "reopen",
    "repeat",
    "report",
    "rows",
    "series",
    "settling",
    "told",
    "train",
    "unchanged",
    "with_mirrored",
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

    def _repr_html_(self) -> str:
        """The report, in its place in a notebook."""
        file = self.folder / "report.html"
        if not file.is_file():
            return f"<p>{html.escape(str(self.folder))} has no report yet</p>"
        return reports.framed(file.read_text(encoding="utf-8"))


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
    forget_after(folder)  # what was told before it went on, and then again


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
    data: Dataset | Source,
    recipe: str | Recipe = "finetune",
    *,
    out: str | Path = "",
    resume: str | Path = "",
    network: nn.Module | None = None,
    how: Execution = MEASURED,
    leaks: bool = False,
    start: Classifier | None = None,
) -> Generator[Event, None, None]:
    """A run seen from inside: split where there is no split, train, save, load anew, score the test once.

    Args:
        data: what `opsin.read` gave, or what it takes.
        recipe: a Recipe, the name of a preset, or a TOML file.
        out: the run's folder; `runs/<name>-<number>` by default.
        resume: the folder or name of a run on the same data that is to go on, or `last`; `recipe` and `out` are not
            looked at.
        network: a module of your own, `(B, 3, S, S)` → `(B, K)`, instead of the recipe's. Its weights are taken for
            random ones, unless the recipe names its class: `recipe.set(network="MyNet", pretrained=True)`.
        how: what to force of the plan.
        leaks: go on although test pictures are copies of pictures in train or val.
        start: a model of ours whose weights and preprocessing it starts from; classes may be others.

    Raises:
        CallError, DataError, MachineError: as `create`, `reopen` and `work` say.
    """
    data = sources.given(data)
    folder = _resumed(resume) if resume else _begun(data, recipe, out, network, how, leaks, start)
    return work(folder, *reopen(folder, data), network=network, how=how)


def train(
    data: Dataset | Source,
    recipe: str | Recipe = "finetune",
    *,
    out: str | Path = "",
    resume: str | Path = "",
    network: nn.Module | None = None,
    how: Execution = MEASURED,
    leaks: bool = False,
    start: Classifier | None = None,
) -> Run:
    """Recipe in, Classifier out: `events` until they end, and a report. Takes and raises what `events` does."""
    data = sources.given(data)
    folder = _resumed(resume) if resume else _begun(data, recipe, out, network, how, leaks, start)
    divided, chosen = reopen(folder, data)
    for _ in work(folder, divided, chosen, network=network, how=how):
        pass
    report(folder, divided)
    return finish(folder, network=copy.deepcopy(network) if network is not None else None)


def cross_validate(
    data: Dataset | Source,
    recipe: str | Recipe = "finetune",
    *,
    folds: int | str = 5,
    out: str | Path = "",
    resume: str | Path = "",
    network: nn.Module | None = None,
    how: Execution = MEASURED,
    leaks: bool = False,
) -> Series:
    """Measure a recipe: every picture outside a given test part is tested once, by a model that did not learn from it.

    Args:
        folds: how many, stratified and with groups whole; or `group`: one fold a group (leave one hospital out).
        resume: the folder or name of a series that is to go on, or `last`; finished folds are not made again.
        data, recipe, out, network, how, leaks: as for `events`.

    Raises:
        CallError, DataError, MachineError: as `series.begin` and `events` say.
    """
    data = sources.given(data)
    chosen = _chosen(data, recipe, network, how)
    folder = find(resume) if resume else series.begin(data, chosen, folds=folds, out=out, leaks=leaks)
    return _all_of(folder, data, network, how)


def repeat(
    data: Dataset | Source,
    recipe: str | Recipe = "finetune",
    *,
    seeds: int = 3,
    out: str | Path = "",
    resume: str | Path = "",
    network: nn.Module | None = None,
    how: Execution = MEASURED,
    leaks: bool = False,
) -> Series:
    """Runs by several seeds on one division: what first weights, order and augmentation do to the scores.

    Args:
        seeds: how many: the recipe's and those after it.
        data, recipe, out, resume, network, how, leaks: as for `cross_validate`.

    Raises:
        CallError, DataError, MachineError: as `series.begin` and `events` say.
    """
    data = sources.given(data)
    chosen = _chosen(data, recipe, network, how)
    folder = find(resume) if resume else series.begin(data, chosen, seeds=seeds, out=out, leaks=leaks)
    return _all_of(folder, data, network, how)


def _all_of(folder: Path, data: Dataset, network: nn.Module | None, how: Execution) -> Series:
    for _, at, parts, recipe in series.left(folder, data):
        for _ in work(at, parts, recipe, network=network, how=how):
            pass
        report(at, parts)
    return series.finish(folder, data)


def _resumed(name: str | Path) -> Path:
    folder = find(name)
    if series.is_series(folder):
        raise errors.CallError(
            f"{folder} is a series of runs", do="Go on with opsin.cross_validate(data, resume=…), or opsin.repeat"
        )
    return folder


def _begun(
    data: Dataset,
    recipe: str | Recipe,
    out: str | Path,
    network: nn.Module | None,
    how: Execution,
    leaks: bool,
    start: Classifier | None,
) -> Path:
    if start and network is not None:
        raise errors.CallError("start", expected="a model to start from, or a network of your own", received="both")
    return create(data, _chosen(data, recipe, network, how), out=out, leaks=leaks, start=start)


def _chosen(data: Dataset, recipe: str | Recipe, network: nn.Module | None, how: Execution) -> Recipe:
    chosen = recipe if isinstance(recipe, Recipe) else recipes.read(recipe, task=data.task)
    check(chosen, how, network, task=data.task)
    return chosen


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
    if exported.find(model):
        raise errors.CallError(
            f"{model} is an exported file, which has no network to work with",
            expected="a run or a model's folder",
            do="opsin predict, evaluate and compare take it",
        )
    folder = find(model, also=["imagenet"])
    if series.is_series(folder):
        raise errors.CallError(f"{folder} is a series of runs", do=f"Choose one of them, such as {_first(folder)}")
    if not (folder / "model").is_dir():
        raise errors.ModelError(f"{folder} is not finished", do=f"Go on with: opsin train --resume {folder}")
    return artefact.load(folder / "model", network=network)


def _first(folder: Path) -> Path:
    return min((file.parent for file in folder.glob("[!.]*/data.json")), default=folder / "fold-1")

"""Several runs that are one measurement: folds, of which each is tested once, or seeds, on one division of the data.

    runs/<name>/
      data.json, recipe.toml     as of a run        series.json   what was asked for
      fold-1/ …  or  seed-0/ …   runs like any      scores.json   of all folds together, or the spread over the seeds

A run that is finished is not made again, so a series goes on where it was stopped.

Folds measure a recipe and leave no model of all the data: each of theirs is a model of most of it. Where the data comes
with a test part, folds divide the rest, and the test part is left for the model that is trained in the end.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import artefact, errors, metrics, sources, splits
from .. import recipe as recipes
from ..answers import answers_of
from ..duplicates import Pair
from ..metrics import labels
from ..recipe import Recipe
from ..reports.contents import kept
from ..vocabulary import Dataset, Record, Scores, Task, finished
from . import folder as folders
from . import scoring
from .folder import ERRORS, NOWHERE, Origin

MOST_GROUPS = 100  # a fold each: more runs than that were hardly meant
SHOWN: dict[Task, tuple[str, ...]] = {
    "single-label": ("accuracy", "macro F1"),
    "multi-label": ("mAP", "macro F1"),
    "regression": ("MAE", "R2", "mean relative MAE", "mean R2"),
}


@dataclass(frozen=True)
class Member:
    """One run of a series: its folder's name, what it is for people, and what it trains on."""

    name: str
    text: str
    data: Dataset  # divided
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Spread:
    """A score over the seeds: their mean, the least and the greatest."""

    mean: float
    least: float
    greatest: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.least:.3f} to {self.greatest:.3f})"


@dataclass(frozen=True)
class Series:
    """A finished series.

    Attributes:
        scores: of each run's test part, by the name of its folder; none of a fold whose test pictures are all refused.
        texts: what each run is, for people.
        pooled: of folds: the scores of all their answers together, every picture answered by a model that did not
            learn from it. Intervals are those of pictures, or of whole groups where there are groups. None of seeds.
    """

    folder: Path
    scores: Mapping[str, Scores]
    texts: Mapping[str, str]
    pooled: Scores | None

    @property
    def shown(self) -> list[str]:
        """The scores that matter, of those that every run has."""
        each = list(self.scores.values())
        return [name for name in SHOWN[each[0].task] if all(name in scores.overall for scores in each)]

    @property
    def worst(self) -> str:
        """The name of the run that is worst by the first of these: with the least accuracy, for classes."""
        first = self.shown[0]
        sign = -1 if first in ERRORS else 1
        return min(self.scores, key=lambda name: sign * self.scores[name].overall[first].value)

    @property
    def spread(self) -> dict[str, Spread]:
        """Every overall score over the runs: their mean, least and greatest."""
        each = list(self.scores.values())
        found = {}
        for name in each[0].overall:
            values = [scores.overall[name].value for scores in each if name in scores.overall]
            found[name] = Spread(statistics.mean(values), min(values), max(values), len(values))
        return found


def begin(
    data: Dataset,
    recipe: Recipe,
    *,
    folds: str | int = "",
    seeds: int = 0,
    origin: Origin = NOWHERE,
    out: str | Path = "",
    leaks: bool = False,
    pairs: Sequence[Pair] | None = None,
) -> Path:
    """A new series' folder, whole or not there.

    Args:
        folds: how many, 2 or more, stratified, groups whole; or `group`: one for each group, which is then tested by a
            model that saw none of it. Validation is carved out of what is left; with `group` it shares the groups
            of training, since a whole one would be too much where there are few.
        seeds: how many runs on the division of `recipe.seed`, by that seed and those after it. Either folds or seeds.
        origin, out, leaks: as for `folder.create`.
        pairs: what `scoring.alike` found in `divisible(data, folds)`: these pictures are kept in one fold. Looked for
            once, and written down with the series.

    Raises:
        CallError: when the folder is there, for both or neither of folds and seeds, and as `folder.fitting` says.
        DataError: when the data does not have so many groups or pictures.
        MachineError: when it cannot be written.
    """
    if bool(folds) == bool(seeds) or seeds < 0:
        raise errors.CallError("a series of runs", expected="folds, or seeds", received=f"{folds!r} and {seeds}")
    recipe = folders.fitting(data, recipe)
    pairs = finished(scoring.alike(divisible(data, folds))) if pairs is None else pairs
    asked = {"folds": str(folds), "seeds": seeds, "leaks": leaks, "pairs": [dataclasses.astuple(p) for p in pairs]}
    next(_members(data, recipe, asked))  # refused before there is a folder
    folder = folders.unused(out, data.name)
    with folders.begun(folder, recipe, data, origin) as beside:
        folders.write_json(beside / "series.json", asked)
    return folder


def is_series(folder: Path) -> bool:
    return (folder / "series.json").is_file()


def members(folder: Path, data: Dataset | None = None) -> Iterator[Member]:
    """The runs of the series in `folder`, finished or not, in order.

    Args:
        data: the series' data; read from where it came by default.

    Raises:
        CallError: when there is no series.
        DataError: when the data has changed since.
    """
    return _members(folders.unchanged(folder, data), recipes.read(folder / "recipe.toml"), _asked(folder))


def opened(folder: Path, member: Member) -> tuple[Path, Dataset, Recipe] | None:
    """The folder of a run of the series, begun where it was not, with its data and recipe; None where it is finished.

    Raises:
        DataError: when its test pictures stand in train or val as well.
        MachineError: when it cannot be written.
    """
    at = folder / member.name
    if (at / "model" / artefact.DESCRIPTION).is_file():
        return None
    if not at.exists():
        first = recipes.read(folder / "recipe.toml").seed
        origin = Origin(target=folders.target_of(folder), seed=first if first != member.recipe.seed else None)
        folders.create(member.data, member.recipe, origin=origin, out=at, leaks=_asked(folder)["leaks"])
    return at, *folders.reopen(at, member.data)


def left(folder: Path, data: Dataset) -> Iterator[tuple[Member, Path, Dataset, Recipe]]:
    """The runs of the series that are not finished, each with what `opened` gives, begun when it is asked for.

    Raises what `members` and `opened` do.
    """
    for member in members(folder, data):
        if begun := opened(folder, member):
            yield member, *begun


def finish(folder: Path, data: Dataset | None = None) -> Series:
    """The finished series in `folder`; its scores are written as well. Takes and raises what `members` does.

    Raises:
        DataError: when not one of its runs had a test picture that could be read.
        ModelError: when a run of it is not finished.
    """
    each = list(members(folder, data))
    scores = {member.name: test for member in each if (test := _test_scores(folder / member.name))}
    if not scores:
        raise errors.DataError(f"{folder}: nothing is measured", expected="a test part", received="no test picture")
    tested = [member for member in each if member.name in scores]
    pooled = _pooled(folder, tested, _asked(folder)["folds"] == "group") if _asked(folder)["folds"] else None
    found = Series(folder, scores, {member.name: member.text for member in each}, pooled)
    folders.write_json(folder / "scores.json", to_dict(found))
    return found


def to_dict(found: Series) -> dict[str, Any]:
    """The scores as plain values: `pooled` as of a run, or `mean of N seeds`, each with its least and greatest."""
    if found.pooled:
        return {"pooled": metrics.to_dict(found.pooled)}
    n = next(iter(found.scores.values())).n
    overall = {
        name: {"value": s.mean, "least": s.least, "greatest": s.greatest, "n": n} for name, s in found.spread.items()
    }
    return {f"mean of {len(found.scores)} seeds": {"overall": overall, "n": n}}


def _asked(folder: Path) -> dict[str, Any]:
    try:
        text = (folder / "series.json").read_text(encoding="utf-8", errors="surrogateescape")
        return json.loads(text)  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise errors.CallError(f"{folder} is no series of runs", expected="what --folds or --seeds made") from error


def _members(data: Dataset, recipe: Recipe, asked: Mapping[str, Any]) -> Iterator[Member]:
    pairs = [Pair(*pair) for pair in asked["pairs"]]
    if asked["seeds"]:
        divided = scoring.divided(data, recipe.seed, pairs=pairs)
        for seed in range(recipe.seed, recipe.seed + asked["seeds"]):
            yield Member(f"seed-{seed}", f"seed {seed}", divided, recipe.set(seed=seed))
        return
    data = divisible(data, asked["folds"])
    alike, notes = scoring.together(data, pairs)
    data = dataclasses.replace(data, notes=(*data.notes, *notes))
    if asked["folds"] == "group":
        names = _groups(data)
        places = {record.key: names.index(record.group or "") for record in data.records}
        data = dataclasses.replace(data, records=tuple(dataclasses.replace(r, group=None) for r in data.records))
    else:
        names = [""] * _count(asked["folds"])
        places = splits.folds(data, len(names), seed=recipe.seed, together=alike)
    for at, name in enumerate(names):
        records = tuple(_placed(record, tested=places[record.key] == at) for record in data.records)
        divided = splits.split(dataclasses.replace(data, records=records), seed=recipe.seed, together=alike)
        text = f"fold {at + 1} of {len(names)}" + f", tested on group {name!r}" * bool(name)
        yield Member(f"fold-{at + 1}", text, divided, recipe)


def divisible(data: Dataset, folds: str | int) -> Dataset:
    """What a series divides: of folds all the records that are not of a given test part, without their splits."""
    tested = len(data.test)
    if not folds or {record.split for record in data.records} == {None}:
        return data
    records = tuple(dataclasses.replace(r, split=None) for r in data.records if r.split != "test")
    note = f"folds divide what is not of the test part, whose {tested:,} pictures are left alone" if tested else ""
    fingerprint = sources.fingerprint(records, data.classes)
    return dataclasses.replace(
        data, records=records, fingerprint=fingerprint, notes=(*data.notes, *filter(None, [note]))
    )


def _groups(data: Dataset) -> list[str]:
    """The names of all groups, of which each will be a fold.

    Raises:
        DataError: for records without a group, and for fewer groups than two or more than MOST_GROUPS.
    """
    without = sum(not record.group for record in data.records)
    names = sorted({record.group for record in data.records if record.group})
    if without or not 2 <= len(names) <= MOST_GROUPS:
        raise errors.DataError(
            "one fold a group",
            expected=f"a group for every picture, 2 to {MOST_GROUPS} in all",
            received=f"{len(names):,} groups, and {without:,} pictures without one",
            do="Say what a group is with --group PATTERN, or ask for --folds 5, which keeps groups whole",
        )
    return names


def _count(folds: str) -> int:
    if not folds.isdigit():
        raise errors.CallError("--folds", expected="a number, or group", received=repr(folds))
    return int(folds)


def _placed(record: Record, *, tested: bool) -> Record:
    return dataclasses.replace(record, split="test" if tested else "train")


def _test_scores(folder: Path) -> Scores | None:
    file = folder / "scores.json"
    if not (folder / "model").is_dir() or not file.is_file():
        raise errors.ModelError(f"{folder} is not finished", do=f"Go on with: opsin train --resume {folder.parent}")
    scores = json.loads(file.read_text(encoding="utf-8", errors="surrogateescape"))
    return metrics.from_dict(scores["test"]) if "test" in scores else None


def _pooled(folder: Path, each: list[Member], by_group: bool) -> Scores:
    """The scores of all folds' answers together, each at its own model's temperature and thresholds."""
    task, classes = each[0].data.task, each[0].data.classes
    rows, targets, least, means, said, decided = [], [], [], [], [], False
    groups: list[str | None] = []
    for member in each:
        answers = kept(folder / member.name)
        if answers is None or answers.part != "test":
            raise errors.ModelError(f"{folder / member.name} has no answers to its test", do="Take it away and go on")
        description = folder / member.name / "model" / artefact.DESCRIPTION
        described = json.loads(description.read_text(encoding="utf-8", errors="surrogateescape"))
        scale, own, unsure = described.get("scale", ()), described["thresholds"], described.get("unsure_below", 0.0)
        rows.append(answers.logits / described["temperature"] if task == "single-label" else
                    answers_of(answers.logits, task, described["temperature"], scale))  # fmt: skip
        targets.append(answers.targets)
        least += [[own.get(name, labels.HALF) for name in classes]] * len(answers.keys)
        means.append([mean for mean, _ in scale])
        if task == "single-label":
            thresholds = {classes.index(name): value for name, value in own.items()}
            said.append(metrics.named(metrics.softmax(rows[-1]), thresholds, least=unsure))
            decided |= bool(thresholds) or unsure > 0
        groups += [member.name] * len(answers.keys) if by_group else answers.groups or [None] * len(answers.keys)
    found, true = np.concatenate(rows), np.concatenate(targets)
    whole = groups if any(groups) else None
    if task == "multi-label":
        return metrics.score_labels(found, true, classes, least, groups=whole)
    if task == "regression":
        return metrics.score_quantities(found, true, classes, np.mean(means, axis=0).tolist(), groups=whole)
    largest = int(np.bincount(true, minlength=len(classes)).argmax())
    answers_ = np.concatenate(said) if decided else None
    return metrics.score(found, true, classes, largest=largest, groups=whole, answers=answers_)

"""A run's folder: how it comes to be, what is written into it, how it is found again."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .. import calibration, checks, errors, plans, sources, splits
from .. import recipe as recipes
from ..classifier import Classifier
from ..duplicates import Pair
from ..plans import Plan
from ..recipe import Recipe
from ..vocabulary import SPLITS, Dataset, Event, finished
from . import origins, scoring


@dataclass(frozen=True)
class Origin:
    """What `sources.read` was given, so that a run can go on; all "" for data that was made in Python.

    And the seed that the data was divided by before it came to the run, where that is not the recipe's.
    """

    source: str = ""
    group: str = ""
    picture: str = ""
    target: str = ""
    task: str = ""
    seed: int | None = None

    def read(self) -> Dataset:
        """The data, read again."""
        columns = {"picture": self.picture, "target": self.target, "task": self.task}
        return sources.read(self.source, group=self.group, **columns)


NOWHERE = Origin()


def create(
    data: Dataset,
    recipe: Recipe,
    *,
    origin: Origin = NOWHERE,
    out: str | Path = "",
    split: str | Path = "",
    leaks: bool = False,
    pairs: Sequence[Pair] | None = None,
    start: Classifier | None = None,
) -> Path:
    """A new run's folder, whole or not there: the data's split, the recipe and where the data came from.

    Args:
        origin: where the data came from, for resuming.
        out: the folder; `runs/<name of the data>-<number>` by default.
        split: the split.csv of another run, to use that run's split.
        leaks: go on although test pictures are copies of pictures in train or val.
        pairs: what `scoring.alike` found: these pictures are kept in one split.
        start: the model whose weights it starts from; kept in the folder.

    Raises:
        CallError: when the folder is there already, for a want that names no class, and when the recipe contradicts
            `start`, or its absence.
        DataError: when the data cannot be split, there is no validation to set thresholds on, or its test pictures
            stand in train or val as well.
        MachineError: when it cannot be written.
    """
    wanted = calibration.wants(recipe.learn.want, data.classes, data.task)
    recipe = origins.suited(recipe, start)
    pairs = finished(scoring.alike(data, near=not split)) if pairs is None else pairs
    divided = scoring.divided(data, recipe.seed, split=split, pairs=pairs)
    calibration.refuse_hopeless(wanted, divided.val.counts())
    divided = _looked_at(divided, [pair for pair in pairs if pair.kind == "bytes"], leaks)
    folder = unused(out, data.name)
    with begun(folder, recipe, divided, origin) as beside:
        (beside / "checkpoint").mkdir()
        splits.write(divided, beside / "split.csv")
        if start:
            origins.keep(beside, start)
    return folder


@contextmanager
def begun(folder: Path, recipe: Recipe, data: Dataset, origin: Origin) -> Iterator[Path]:
    """A folder beside `folder`, with what every run and series has, to write the rest into; then it takes its place.

    Raises:
        MachineError: when it cannot be written.
    """
    with errors.writing(folder):
        beside = folder.with_name(f".{folder.name}.{os.getpid()}")
        beside.mkdir(parents=True)
        try:
            _write_text(beside / "recipe.toml", recipe.to_toml())
            _write_data(beside, data, origin)
            yield beside
            beside.replace(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def fitting(data: Dataset, recipe: Recipe, start: Classifier | None = None) -> Recipe:
    """The recipe as it is for `data` and `start`; refused is what can be before any picture is looked at.

    Raises:
        CallError: for a want that names no class, and when the recipe contradicts `start`, or its absence.
    """
    calibration.wants(recipe.learn.want, data.classes, data.task)
    return origins.suited(recipe, start)


def _looked_at(data: Dataset, pairs: Sequence[Pair], leaks: bool) -> Dataset:
    """The data with what the quick checks found among its notes."""
    report = checks.quick(data, pairs)
    if not leaks:
        checks.refuse_leaks(report)
    found = [finding for finding in report.findings if finding.severity != "note" and finding.kind != "unreadable"]
    notes = (f"{finding.severity}: {finding.text}; {finding.effect}" for finding in found)
    return dataclasses.replace(data, notes=(*data.notes, *notes))


def unused(out: str | Path, name: str) -> Path:
    """The folder of a new run on data called `name`: `out`, or the first that is free.

    Raises:
        CallError: when `out` exists.
    """
    folder = Path(out) if out else _free(Path("runs"), name)
    if folder.exists():
        raise errors.CallError(
            f"{folder} exists", expected="a new folder", do=f"Choose another --out, or go on with --resume {folder}"
        )
    return folder


def _free(parent: Path, name: str) -> Path:
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def _write_data(folder: Path, data: Dataset, origin: Origin) -> None:
    content = {
        **dataclasses.asdict(origin),
        "name": data.name,
        "fingerprint": data.fingerprint,
        "split": splits.fingerprint(data),
        "classes": list(data.classes),
        "counts": {split: data.part(split).counts() for split in SPLITS},
        "records": {split: len(data.part(split)) for split in SPLITS},
        "notes": list(data.notes),
        "refused": [dataclasses.asdict(refusal) for refusal in data.refused],
    }
    write_json(folder / "data.json", content)


def write_json(file: Path, content: object) -> None:
    """Write plain values as JSON, whole or not at all.

    Raises:
        MachineError: when it cannot be written.
    """
    _write_text(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write_text(file: Path, text: str) -> None:
    """Write `file` whole or not at all; names whose bytes are no UTF-8 are written as those bytes."""
    with errors.replacing(file) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def reopen(folder: Path, data: Dataset | None = None) -> tuple[Dataset, Recipe]:
    """The data, split as it was, and the recipe of a run that is to go on.

    Args:
        folder: the run's.
        data: the run's data; read from where it came by default.

    Raises:
        CallError: when there is no run.
        DataError: when the data has changed since.
    """
    data = unchanged(folder, data)
    notes = tuple(_read_data(folder)["notes"])
    divided = dataclasses.replace(splits.read(data, folder / "split.csv"), notes=notes)
    return divided, recipes.read(folder / "recipe.toml")


def unchanged(folder: Path, data: Dataset | None = None) -> Dataset:
    """The data of a run as it is read, not divided. Takes and raises what `reopen` does."""
    known = _read_data(folder)
    if data is None:
        if not known["source"]:
            raise errors.CallError(f"{folder} was made from Python", do="Resume it there: opsin.train(data, resume=…)")
        data = _origin(known).read()
    if data.fingerprint != known["fingerprint"]:
        raise errors.DataError(
            f"{known['source'] or data.name} has changed since {folder} began",
            expected=f"fingerprint {known['fingerprint'][:12]}…",
            received=f"{data.fingerprint[:12]}…",
            do="Put the data back as it was, or start a new run",
        )
    return data


def target_of(folder: Path) -> str:
    """The columns of a table that the run's user named; "" for none."""
    return str(_read_data(folder).get("target", ""))


def division(folder: Path) -> dict[str, int]:
    """The seed that the run's data was divided by, as `divided by`, where it is not the recipe's."""
    seed = _origin(_read_data(folder)).seed
    return {} if seed is None else {"divided by": seed}


def _read_data(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "data.json").read_text(encoding="utf-8", errors="surrogateescape"))  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise errors.CallError(f"{folder} is not a run", expected="a folder that opsin train made") from error


def _origin(known: dict[str, Any]) -> Origin:
    """Runs of before 0.2 do not know their columns."""
    return Origin(**{field.name: known[field.name] for field in dataclasses.fields(Origin) if field.name in known})


def keep(folder: Path, recipe: Recipe, data: Dataset) -> None:
    """Write down what was decided on the way: the resolved recipe, and what was refused."""
    _write_text(folder / "recipe.toml", recipe.to_toml())
    _write_data(folder, data, _origin(_read_data(folder)))


def plan(folder: Path, work: str) -> Plan | None:
    """How this run did `work` (training, features) before; None where it did not yet."""
    plan = _plans(folder).get(work)
    return plans.from_dict(plan) if plan else None


def keep_plan(folder: Path, work: str, plan: Plan) -> None:
    """Write down how `work` is done, so that a resumed run does it alike.

    Raises:
        MachineError: when it cannot be written.
    """
    write_json(folder / "plan.json", {**_plans(folder), work: plan.to_dict()})


def _plans(folder: Path) -> dict[str, Any]:
    file = folder / "plan.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def tidy(folder: Path) -> None:
    """Take away what a kill left half written."""
    for debris in (*folder.glob(".model-*"), *folder.glob("checkpoint/.candidate-*")):
        shutil.rmtree(debris, ignore_errors=True)
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


# ── events.jsonl ──


def record(folder: Path, event: Event) -> None:
    """Add one event to the run's events.jsonl.

    Raises:
        MachineError: when it cannot be written.
    """
    file = folder / "events.jsonl"
    with errors.writing(file), file.open("a", encoding="utf-8", errors="surrogateescape") as opened:
        opened.write(json.dumps(dataclasses.asdict(event), ensure_ascii=False) + "\n")


def forget_after(folder: Path, step: float = math.inf) -> None:
    """Drop what a killed run told of steps that its last checkpoint does not hold, and what was told a second time.

    The former is about to be told again; the latter belongs to no step, such as notes on the data.
    """
    file = folder / "events.jsonl"
    if file.exists():
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
        left = "".join(line + "\n" for line in dict.fromkeys(text.split("\n")) if _told_until(line, step))
        if left != text:
            _write_text(file, left)


def _told_until(line: str, step: float) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except ValueError:  # torn by the kill, or the empty rest after the last line
        return False


# ── names ──


def find(name: str | Path, parent: str | Path = "runs", *, also: Sequence[str] = ()) -> Path:
    """The folder of a run: a path, a name in `parent`, or `last`, the run, or series of runs, that was begun last.

    Args:
        also: other names that the caller takes, for the error's sake.

    Raises:
        CallError: when there is none.
    """
    if str(name) == "last":
        folders = [file.parent for file in Path(parent).glob("[!.]*/data.json")]
        if not folders:
            raise errors.CallError("last", expected=f"a run in {parent}/", received="none", do="Begin with opsin train")
        return max(folders, key=_began)
    for folder in (Path(name), Path(parent) / name):
        if (folder / "data.json").is_file():
            return folder
    raise errors.unknown("run", str(name), ["last", *also, *listed(parent)])


def _began(folder: Path) -> int:
    """When it began, in ns: series.json and split.csv are written once, then; data.json again when a run goes on."""
    files = (folder / name for name in ("series.json", "split.csv", "data.json"))
    return next(file for file in files if file.is_file()).stat().st_mtime_ns


HEADLINES = ("accuracy", "mAP", "micro F1", "MAE", "mean relative MAE")  # of a run the first that it has
ERRORS = ("MAE", "RMSE", "median absolute error", "mean relative MAE")  # of which less is better


def listed(parent: str | Path = "runs") -> dict[str, str]:
    """Every run in `parent`: its name and what it came to."""
    return {row["name"]: told(row) for row in rows(parent)}


def told(row: Mapping[str, Any]) -> str:
    """A row of `rows` as one line."""
    parts = ((part, found) for part, found in row.items() if isinstance(found, dict))
    named = ((part, found, next(name for name in HEADLINES if name in found)) for part, found in parts)
    scores = (f"{part} {name} {found[name]:.4f} (n {found['n']:,})" for part, found, name in named)
    came = "   ".join(scores) if row["state"] == "finished" else row["state"]
    return f"{came}   {row['recipe']} on {row['data']}   {row['begun']}"


def rows(parent: str | Path = "runs") -> list[dict[str, Any]]:
    """Every run in `parent`, as plain values.

    `name`, `state` (`finished`, `not finished`, `damaged`), `data`, `recipe`, `begun` (local time), and for each split
    that was scored (of a series `pooled`, or `mean of 3 seeds`) `n` and the values of its overall scores.
    """
    return [_row(file.parent) for file in sorted(Path(parent).glob("[!.]*/data.json"))]


def _row(folder: Path) -> dict[str, Any]:
    begun = datetime.fromtimestamp(_began(folder) / 1e9).strftime("%Y-%m-%d %H:%M:%S")
    row: dict[str, Any] = {"name": folder.name, "state": "damaged", "data": "?", "recipe": "?", "begun": begun}
    try:
        row["data"] = _read_data(folder)["name"]
        row["recipe"] = recipes.read(folder / "recipe.toml").name
        file = folder / "scores.json"
        if not file.is_file():
            return {**row, "state": "not finished"}
        for split, found in json.loads(file.read_text(encoding="utf-8", errors="surrogateescape")).items():
            row[split] = {"n": found["n"]} | {name: score["value"] for name, score in found["overall"].items()}
    except (errors.OpsinError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return row
    done = (folder / "model").is_dir() or (folder / "series.json").is_file()  # a series' scores are its last thing
    return {**row, "state": "finished" if done else "not finished"}


def chosen(
    found: Iterable[dict[str, Any]], *, by: str = "name", where: Sequence[str] = (), data: str = "", recipe: str = ""
) -> list[dict[str, Any]]:
    """Those of `rows` that are asked for, in order.

    Args:
        by: `name`, `begun` (the newest first), or a score such as `accuracy` or `macro F1` (the best first), that of
            the test, or of validation where there was no test. Runs without it come last.
        where: conditions on a score, `accuracy>0.9`, `macro F1<=0.5`: all of them hold.
        data, recipe: what the names of these contain.

    Raises:
        CallError: for a condition of another form, and a score that no run has.
    """
    kept = [row for row in found if data in row["data"] and recipe in row["recipe"]]
    for text in where:
        read = re.fullmatch(r"\s*(.+?)\s*(>=|<=|>|<)\s*(-?\d*\.?\d+)\s*", text)
        if not read:
            raise errors.CallError("--where", expected="such as 'accuracy>0.9'", received=repr(text))
        name, holds, bound = _known(read[1], kept), _HOLDS[read[2]], float(read[3])
        kept = [row for row in kept if (value := _score(row, name)) is not None and holds(value, bound)]
    if by in ("name", "begun"):
        return sorted(kept, key=lambda row: str(row[by]), reverse=by == "begun")
    name = _known(by, kept)
    sign = 1 if name in ERRORS else -1
    return sorted(kept, key=lambda row: math.inf if (value := _score(row, name)) is None else sign * value)


_HOLDS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def _known(name: str, found: Sequence[Mapping[str, Any]]) -> str:
    """The score that is meant by `name`, in which case and - do not matter."""
    names = {key for row in found for split in SPLITS[1:] for key in row.get(split, {})}
    same = [one for one in names if one.lower() == name.lower().replace("-", " ")]
    if not same and names:
        raise errors.unknown("score", name, names)
    return same[0] if same else name


def _score(row: Mapping[str, Any], name: str) -> float | None:
    return row.get("test", row.get("val", {})).get(name)  # type: ignore[no-any-return]

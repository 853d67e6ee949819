"""A run's folder: how it comes to be, what is written into it, how it is found again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from .. import checks, errors, plans, sources, splits
from .. import recipe as recipes
from ..plans import Plan
from ..recipe import Recipe
from ..vocabulary import SPLITS, Dataset, Event
from . import scoring


def create(
    data: Dataset,
    recipe: Recipe,
    *,
    source: str = "",
    group: str = "",
    target: str = "",
    out: str | Path = "",
    split: str | Path = "",
    leaks: bool = False,
) -> Path:
    """A new run's folder, whole or not there: the data's split, the recipe and where the data came from.

    Args:
        source, group, target: what `sources.read` was given, for resuming.
        out: the folder; `runs/<name of the data>-<number>` by default.
        split: the split.csv of another run, to use that run's split.
        leaks: go on although test pictures are copies of pictures in train or val.

    Raises:
        CallError: when the folder is there already.
        DataError: when the data cannot be split, or its test pictures stand in train or val as well.
        MachineError: when it cannot be written.
    """
    divided = splits.read(data, Path(split)) if split else scoring.divided(data, recipe.seed)
    divided = _looked_at(divided, leaks)
    folder = Path(out) if out else _free(Path("runs"), data.name)
    if folder.exists():
        raise errors.CallError(
            f"{folder} exists", expected="a new folder", do=f"Choose another --out, or go on with --resume {folder}"
        )
    with errors.writing(folder):
        beside = folder.with_name(f".{folder.name}.{os.getpid()}")
        (beside / "checkpoint").mkdir(parents=True)
        try:
            (beside / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
            _write_data(beside, divided, source, group, target)
            splits.write(divided, beside / "split.csv")
            beside.replace(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def _looked_at(data: Dataset, leaks: bool) -> Dataset:
    """The data with what the quick checks found among its notes."""
    report = checks.quick(data)
    if not leaks:
        checks.refuse_leaks(report)
    found = [finding for finding in report.findings if finding.severity != "note" and finding.kind != "unreadable"]
    notes = (f"{finding.severity}: {finding.text}; {finding.effect}" for finding in found)
    return dataclasses.replace(data, notes=(*data.notes, *notes))


def _free(parent: Path, name: str) -> Path:
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def _write_data(folder: Path, data: Dataset, source: str, group: str, target: str) -> None:
    content = {
        "source": source,
        "group": group,
        "target": target,
        "task": data.task,
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
    with errors.writing(file):
        temporary = file.with_suffix(".part")
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        temporary.replace(file)


def reopen(folder: Path, data: Dataset | None = None) -> tuple[Dataset, Recipe]:
    """The data, split as it was, and the recipe of a run that is to go on.

    Args:
        folder: the run's.
        data: the run's data; read from where it came by default.

    Raises:
        CallError: when there is no run.
        DataError: when the data has changed since.
    """
    known = _read_data(folder)
    if data is None:
        if not known["source"]:
            raise errors.CallError(f"{folder} was made from Python", do="Resume it there: opsin.train(data, resume=…)")
        target, task = known.get("target", ""), known.get("task", "")
        data = sources.read(known["source"], group=known["group"], target=target, task=task)
    if data.fingerprint != known["fingerprint"]:
        raise errors.DataError(
            f"{known['source'] or data.name} has changed since {folder} began",
            expected=f"fingerprint {known['fingerprint'][:12]}…",
            received=f"{data.fingerprint[:12]}…",
            do="Put the data back as it was, or start a new run",
        )
    divided = dataclasses.replace(splits.read(data, folder / "split.csv"), notes=tuple(known["notes"]))
    return divided, recipes.read(folder / "recipe.toml")


def target_of(folder: Path) -> str:
    """The columns of a table that the run's user named; "" for none."""
    return str(_read_data(folder).get("target", ""))


def _read_data(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "data.json").read_text(encoding="utf-8", errors="surrogateescape"))  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise errors.CallError(f"{folder} is not a run", expected="a folder that opsin train made") from error


def keep(folder: Path, recipe: Recipe, data: Dataset) -> None:
    """Write down what was decided on the way: the resolved recipe, and what was refused."""
    _write_text(folder / "recipe.toml", recipe.to_toml())
    known = _read_data(folder)
    _write_data(folder, data, known["source"], known["group"], known.get("target", ""))


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
    """Take away what a kill left half written beside the model."""
    for debris in (*folder.glob(".model-*"), *folder.glob("checkpoint/.candidate-*")):
        shutil.rmtree(debris, ignore_errors=True)


# ── events.jsonl ──


def record(folder: Path, event: Event) -> None:
    """Add one event to the run's events.jsonl.

    Raises:
        MachineError: when it cannot be written.
    """
    file = folder / "events.jsonl"
    with errors.writing(file), file.open("a", encoding="utf-8", errors="surrogateescape") as opened:
        opened.write(json.dumps(dataclasses.asdict(event), ensure_ascii=False) + "\n")


def forget_after(folder: Path, step: int) -> None:
    """Drop what a killed run told of steps that its last checkpoint does not hold; they are about to be told again."""
    file = folder / "events.jsonl"
    if file.exists():
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        _write_text(file, "".join(line + "\n" for line in lines if _told_until(line, step)))


def _told_until(line: str, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except ValueError:  # torn by the kill, or the empty rest after the last line
        return False


# ── names ──


def find(name: str | Path, parent: str | Path = "runs") -> Path:
    """The folder of a run: a path, a name in `parent`, or `last`, the run that was begun last.

    Raises:
        CallError: when there is none.
    """
    if str(name) == "last":
        # split.csv is written once, when a run begins; the other files again when it goes on.
        begun = sorted(Path(parent).glob("*/split.csv"), key=lambda file: file.stat().st_mtime_ns)
        if not begun:
            raise errors.CallError("last", expected=f"a run in {parent}/", received="none", do="Begin with opsin train")
        return begun[-1].parent
    for folder in (Path(name), Path(parent) / name):
        if (folder / "data.json").is_file():
            return folder
    raise errors.unknown("run", str(name), ["last", *listed(parent)])


def listed(parent: str | Path = "runs") -> dict[str, str]:
    """Every run in `parent`: its name and what it came to."""
    found = {}
    for file in sorted(Path(parent).glob("*/data.json")):
        scores = file.with_name("scores.json")
        text = "not finished"
        if scores.is_file():
            by_split = json.loads(scores.read_text(encoding="utf-8", errors="surrogateescape"))
            text = "   ".join(
                f"{split} accuracy {value['overall']['accuracy']['value']:.4f} (n {value['n']:,})"
                for split, value in by_split.items()
            )
        found[file.parent.name] = text
    return found

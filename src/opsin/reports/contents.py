"""What a report says, as plain values: one dict from which the page, the model card and the JSON are made."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import artefact, calibration, errors, evaluation, metrics
from ..answers import Answering, answers_of
from ..vocabulary import SPLITS, UNSURE, Dataset, Finding, Scale, Score, Scores, Task, finished
from . import tasks

CONFUSIONS, EXAMPLES = 8, 4  # how many are shown, with how many pictures each
MISTAKES = 12
SLICES = 8
REFUSED = 100
FEW = 30  # test pictures of a class: below, its own figures say little


@dataclass(frozen=True)
class Answers:
    """The answers of a test, row by row.

    Attributes:
        part: `test`, `val`, `all`.
        logits, targets: float `(N, K)`, int `(N,)`, before any temperature; of the other tasks both `(N, K)`.
        keys, groups: of the records; groups None where there are none.
    """

    part: str
    logits: np.ndarray
    targets: np.ndarray
    keys: tuple[str, ...]
    groups: tuple[str | None, ...] | None
    classes: tuple[str, ...]


def kept(folder: Path) -> Answers | None:
    """What a run kept of its test, or of its validation where it had no test; None where it kept neither."""
    for part in ("test", "val"):
        file = folder / "logits" / f"{part}.npz"
        if file.is_file():
            with np.load(file, allow_pickle=False) as rows:
                groups = [str(g) or None for g in rows["groups"]] if "groups" in rows else []
                return Answers(
                    part,
                    rows["logits"],
                    rows["targets"],
                    tuple(rows["keys"].tolist()),
                    tuple(groups) if any(groups) else None,
                    tuple(rows["classes"].tolist()),
                )
    return None


def of_run(
    folder: Path,
    data: Dataset | None = None,
    *,
    seconds: Mapping[str, float] | None = None,
    findings: Sequence[Finding] = (),
) -> dict[str, Any]:
    """The contents of the report of a finished run.

    Args:
        folder: the run's.
        data: the run's data, for slices by brightness and size; left out where it is None.
        seconds: how long each stage took, by its name.
        findings: what `opsin check` found in the data.

    Raises:
        CallError: when there is no finished run in `folder`.
    """
    tested = kept(folder)
    if tested is None:
        raise errors.CallError(f"{folder} has no answers to report on", expected="a finished run")
    description = _json(folder / "model" / artefact.DESCRIPTION)
    known = _json(folder / "data.json")
    part = data.where(lambda record: record.split == tested.part) if data else None
    found = of_test(
        tested,
        temperature=description["temperature"],
        thresholds=description["thresholds"],
        unsure_below=description.get("unsure_below", 0.0),
        facts=description["facts"],
        data=part,
        task=description.get("task", "single-label"),
        scale=description.get("scale", ()),
    )
    return found | {
        "data": _data(known, findings),
        "learning": _learning(folder / "events.jsonl"),
        "speed": _speed(folder, seconds or {}),
        "run": folder.name,
        "folder": shlex.quote(folder.as_posix()),
        "start": (folder / "start").is_dir(),
        "source": known["source"],
        "group": known["group"],
        "target": known.get("target", ""),
    }


def of_classifier(clf: Answering, tested: Answers, data: Dataset | None = None) -> dict[str, Any]:
    """The contents of the report of a test of any classifier, or exported file, as `opsin evaluate` makes one."""
    found = of_test(
        tested,
        temperature=clf.temperature,
        thresholds=clf.thresholds,
        unsure_below=clf.unsure_below,
        facts=clf.facts,
        data=data,
        task=clf.task,
        scale=clf.scale,
    )
    if data is None:
        return found
    counts = {tested.part: data.counts()}
    refused = [asdict(refusal) for refusal in data.refused]
    known = {"counts": counts, "records": {tested.part: len(data)}, "notes": data.notes, "refused": refused}
    return found | {"data": _data(known), "source": data.name}


def of_test(
    tested: Answers,
    *,
    temperature: float,
    thresholds: Mapping[str, float],
    facts: Mapping[str, Any],
    unsure_below: float = 0.0,
    data: Dataset | None = None,
    task: Task = "single-label",
    scale: Scale = (),
) -> dict[str, Any]:
    """The part of the contents that a test alone tells."""
    if task != "single-label":
        return _of_other_test(tested, temperature, thresholds, facts, task, scale, data)
    logits = tested.logits / temperature
    shares = metrics.softmax(logits)
    own = {tested.classes.index(name): least for name, least in thresholds.items()}
    decided = bool(own) or unsure_below > 0
    said = metrics.named(shares, own, least=unsure_below)
    counts = np.bincount(tested.targets, minlength=len(tested.classes))
    largest = facts.get("largest class") or tested.classes[int(counts.argmax())]
    scores = metrics.score(
        logits,
        tested.targets,
        tested.classes,
        largest=tested.classes.index(largest),
        groups=tested.groups,
        answers=said if decided else None,
    )
    return _frame(tested, facts, scores, "single-label") | {
        "summary": summary(scores, grouped=tested.groups is not None),
        "confusions": _confusions(tested, said, shares),
        "mistakes": _mistakes(tested, said, shares),
        **_slices(tested, said == tested.targets, data),
        "calibration": _calibration(tested, temperature, thresholds),
        "wants": list(facts.get("wants", [])) if decided else [],
    }


def _of_other_test(
    tested: Answers,
    temperature: float,
    thresholds: Mapping[str, float],
    facts: Mapping[str, Any],
    task: Task,
    scale: Scale,
    data: Dataset | None,
) -> dict[str, Any]:
    """The same of several labels or of quantities: no confusion, and no calibration yet."""
    answers = answers_of(tested.logits, task, temperature, scale)
    least = [thresholds.get(name, 0.5) for name in tested.classes]
    scores = tasks.scores(tested, answers, task, least, scale)
    return _frame(tested, facts, scores, task) | {
        "summary": tasks.summary(scores, grouped=tested.groups is not None),
        "confusions": [],
        "mistakes": tasks.mistakes(tested, answers, task, least),
        **_slices(tested, tasks.right(tested, answers, task, least), data),
        "calibration": None,
        "thresholds": dict(thresholds),
        "wants": list(facts.get("wants", [])),
        "charts": tasks.charts(tested, answers) if task == "regression" else [],
    }


def _frame(tested: Answers, facts: Mapping[str, Any], scores: Scores, task: Task) -> dict[str, Any]:
    """What every test tells, whatever its task."""
    return {
        "name": facts.get("name", "a classifier"),
        "task": task,
        "asked": _asked(facts, tested.classes),
        "part": tested.part,
        "groups": len({g or i for i, g in enumerate(tested.groups)}) if tested.groups else None,
        "scores": metrics.to_dict(scores),
        "fingerprint": facts.get("fingerprint"),
        "licence": facts.get("licence"),
        "data": None,
        "learning": [],
        "speed": None,
        "run": None,
        "folder": None,
        "start": False,
        "source": None,
        "group": "",
        "target": "",
    }


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8", errors="surrogateescape"))  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise errors.CallError(f"{file.parent} is not a finished run", received=str(error)) from error


# ---- in words


def summary(scores: Scores, *, grouped: bool = False) -> list[str]:
    """What matters most, in sentences for people who do not program."""
    right, base = scores.overall["accuracy"], scores.overall["largest class"]
    said = [
        f"Of 100 new pictures like those tested, about {_hundred(right.value)} are named right. With 95 % confidence "
        f"it is between {_hundred(right.low)} and {_hundred(right.high)}; {scores.n:,} pictures were tested.",
        _against(right, base, scores.largest_class),
        *_unsure(scores),
    ]
    if len(scores.per_class) > 1:
        worst = min(scores.per_class, key=lambda name: scores.per_class[name]["recall"].value)
        recall = scores.per_class[worst]["recall"]
        said.append(
            f"The class found least often is “{worst}”: {round(recall.value * recall.n):,} of its {recall.n:,} "
            f"pictures, so between {_hundred(recall.low)} and {_hundred(recall.high)} of 100."
        )
    few = [name for name, each in scores.per_class.items() if each["recall"].n < FEW]
    if few:
        said.append(
            f"{_share(len(few), len(scores.per_class))} classes were tested on fewer than {FEW} pictures: what is said "
            "of each of them alone is uncertain, and its interval is wide."
        )
    if scores.untested:
        said.append(f"{len(scores.untested):,} classes were not tested at all: no picture of theirs is in the test.")
    if grouped:
        said.append("Pictures come in groups, and all intervals count whole groups, not single pictures.")
    return said


def _unsure(scores: Scores) -> Iterator[str]:
    """What it does not name, where it may be unsure."""
    if not any(scores.unsure):
        return
    right, answered = scores.overall["accuracy on answered"], scores.overall["coverage"]
    yield (
        f"Of 100 pictures it names about {_hundred(answered.value)}; of the others it says “unsure”. Of 100 that it "
        f"names about {_hundred(right.value)} are named right, between {_hundred(right.low)} and "
        f"{_hundred(right.high)}."
    )


def _share(some: int, of: int) -> str:
    return f"All {of:,}" if some == of else f"{some:,} of {of:,}"


def _hundred(share: float) -> str:
    return f"{100 * share:.0f}" if 0.01 < share < 0.985 else f"{100 * share:.1f}".removesuffix(".0")


def _against(right: Score, base: Score, largest: str) -> str:
    always = f"always answering “{largest}”, the largest class, would be right on {_hundred(base.value)} of 100"
    if right.low > base.high:
        return f"That is clearly better than no skill: {always}."
    if right.value > base.value:
        return f"That is not clearly better than no skill: {always}."
    return f"That is no better than no skill: {always}."


def _asked(facts: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    recipe = facts.get("recipe") or {}
    model, pixels, learn = (recipe.get(name) or {} for name in ("model", "pixels", "learn"))
    started = facts.get("started from") or {}
    return {
        "classes": list(classes),
        "recipe": recipe.get("name"),
        "network": model.get("network"),
        "size": pixels.get("size"),
        "fit": pixels.get("fit"),
        "epochs": learn.get("epochs"),
        "started from": started.get("source") or started.get("name") or bool(started),
        "seed": recipe.get("seed"),
    }


def _data(known: Mapping[str, Any], findings: Sequence[Finding] = ()) -> dict[str, Any]:
    refused = known["refused"]
    counts = {split: dict(each) for split, each in known["counts"].items() if sum(each.values())}
    sizes = known.get("records") or {split: sum(each.values()) for split, each in counts.items()}
    return {
        "counts": counts,
        "sizes": {split: sizes[split] for split in counts},
        "total": sum(sizes.values()),
        "notes": list(known["notes"]),
        "findings": [{name: getattr(one, name) for name in ("severity", "text", "effect", "do")} for one in findings],
        "refused": refused[:REFUSED],
        "refused in all": len(refused),
        "refused by reason": dict(Counter(one["code"] for one in refused).most_common()),
    }


# ---- where it fails


def _confusions(tested: Answers, said: np.ndarray, shares: np.ndarray) -> list[dict[str, Any]]:
    """The pairs of classes that are taken for one another most often, with examples: the surest ones."""
    k, sure = len(tested.classes), shares.max(axis=1)
    wrong = np.flatnonzero((said != tested.targets) & (said != UNSURE))
    pairs, counts = np.unique(tested.targets[wrong] * k + said[wrong], return_counts=True)
    records = np.bincount(tested.targets, minlength=k)
    found = []
    for at in np.lexsort((pairs, -counts))[:CONFUSIONS]:
        true, answer = divmod(int(pairs[at]), k)
        rows = wrong[(tested.targets[wrong] == true) & (said[wrong] == answer)]
        shown = rows[np.argsort(-sure[rows], kind="stable")][:EXAMPLES]
        found.append(
            {
                "true": tested.classes[true],
                "said": tested.classes[answer],
                "count": int(counts[at]),
                "of": int(records[true]),
                "keys": [tested.keys[row] for row in shown],
            }
        )
    return found


def _mistakes(tested: Answers, said: np.ndarray, shares: np.ndarray) -> list[dict[str, Any]]:
    """The wrong answers that were given with most certainty: mislabelled pictures are found here first."""
    sure = shares[np.arange(len(said)), said]
    wrong = np.flatnonzero((said != tested.targets) & (said != UNSURE))
    return [
        {
            "key": tested.keys[row],
            "true": tested.classes[tested.targets[row]],
            "said": tested.classes[said[row]],
            "probability": float(sure[row]),
        }
        for row in wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    ]


def _slices(tested: Answers, right: np.ndarray, data: Dataset | None) -> dict[str, Any]:
    columns: dict[str, np.ndarray] = {}
    if data is not None:
        by_key = {record.key: record for record in data.records}
        rows = [by_key[key] for key in tested.keys if key in by_key]
        if len(rows) == len(tested.keys):
            columns = finished(evaluation.columns(dataclasses.replace(data, records=tuple(rows))))
    elif tested.groups:
        columns = {"group": np.array(tested.groups, object)}
    found = [asdict(one) for one in metrics.slices_of(right, columns, groups=tested.groups)[:SLICES]]
    return {"slices": found, "worse slices": sum(one["accuracy"]["high"] < one["others"]["low"] for one in found)}


# ---- how honest, how it learned, how fast


def _calibration(tested: Answers, temperature: float, thresholds: Mapping[str, float]) -> dict[str, Any]:
    before = calibration.honesty(tested.logits, tested.targets)
    after = calibration.honesty(tested.logits, tested.targets, temperature=temperature)
    bins = calibration.reliability(tested.logits, tested.targets, temperature=temperature)
    probabilities = metrics.softmax(tested.logits / temperature)
    return {
        "temperature": temperature,
        "claimed": float(probabilities.max(axis=1).mean()),
        "right": float((probabilities.argmax(axis=1) == tested.targets).mean()),
        "before": asdict(before),
        "after": asdict(after),
        "bins": [asdict(one) for one in bins],
        "thresholds": dict(thresholds),
    }


def _learning(file: Path) -> list[dict[str, Any]]:
    """Epoch by epoch what events.jsonl tells; [] where there is none."""
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        if '"kind": "epoch"' in line:
            event = json.loads(line)
            found.append({"epoch": event["epoch"], **event["values"]})
    return found


def _speed(folder: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    plan = folder / "plan.json"
    plans = _json(plan) if plan.is_file() else {}
    return {"plans": {work: one for work, one in plans.items() if isinstance(one, dict)}, "seconds": dict(seconds)}


def splits_of(contents: Mapping[str, Any]) -> list[str]:
    """The splits that have records, in their order."""
    return [split for split in (*SPLITS, "all") if split in contents["data"]["counts"]] if contents["data"] else []

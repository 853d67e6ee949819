"""What `opsin train` does, and what it leaves behind.

    runs/<name>/
      data.json     source, fingerprint, class names, refused files    recipe.toml   every choice, resolved
      split.csv     record, split, group                               plan.json     how it was executed
      events.jsonl  the stream                                         checkpoint/   the last good states
      logits/       every score can be computed from them again        scores.json   of validation and test
      model/        the artefact

A run is a generator of events; to stop is to stop asking. It is made so that the same command gives the same
`model/`, undisturbed or killed and resumed.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from . import (
    artefact,
    augmentation,
    cache,
    classifier,
    errors,
    evaluation,
    features,
    losses,
    metrics,
    models,
    plans,
    preprocessing,
    sources,
    splits,
    training,
)
from . import recipe as recipes
from .batches import Batches
from .cache import Pixels
from .classifier import Classifier
from .models import weights
from .models.small import Small
from .plans import Plan
from .preprocessing import Preprocessing
from .recipe import Recipe
from .training import Job, TrainState
from .vocabulary import SPLITS, Dataset, Event, Record, Scores, Split, Work, finished

T = TypeVar("T")

CHECKPOINT_SECONDS = 60.0
LARGEST_SIDE = 128  # of pictures that a network learns from scratch, unless a size is asked for


@dataclass(frozen=True)
class Execution:
    """What may be forced of the plan; `auto` and 0 are measured or left to torch."""

    device: str = "auto"
    precision: str = "auto"
    threads: int = 0


MEASURED = Execution()


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


def create(
    data: Dataset, recipe: Recipe, *, source: str = "", group: str = "", out: str | Path = "", split: str | Path = ""
) -> Path:
    """A new run's folder, whole or not there: the data's split, the recipe and where the data came from.

    Args:
        source, group: what `sources.read` was given, for resuming.
        out: the folder; `runs/<name of the data>-<number>` by default.
        split: the split.csv of another run, to use that run's split.

    Raises:
        CallError: when the folder is there already.
        DataError: when the data cannot be split.
        MachineError: when it cannot be written.
    """
    divided = splits.read(data, Path(split)) if split else splits.split(data, seed=recipe.seed)
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
            _write_data(beside, divided, source, group)
            splits.write(divided, beside / "split.csv")
            beside.replace(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def _free(parent: Path, name: str) -> Path:
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def _write_data(folder: Path, data: Dataset, source: str, group: str) -> None:
    content = {
        "source": source,
        "group": group,
        "name": data.name,
        "fingerprint": data.fingerprint,
        "split": splits.fingerprint(data),
        "classes": list(data.classes),
        "counts": {split: data.part(split).counts() for split in SPLITS},
        "notes": list(data.notes),
        "refused": [dataclasses.asdict(refusal) for refusal in data.refused],
    }
    _write_json(folder / "data.json", content)


def _write_json(file: Path, content: object) -> None:
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
        DataError: when the data is no longer what it was.
    """
    known = _read_data(folder)
    if data is None:
        if not known["source"]:
            raise errors.CallError(f"{folder} was made from Python", do="Resume it there: opsin.train(data, resume=…)")
        data = sources.read(known["source"], group=known["group"])
    return _as_before(data, known, folder), recipes.read(folder / "recipe.toml")


def _read_data(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "data.json").read_text(encoding="utf-8", errors="surrogateescape"))  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise errors.CallError(f"{folder} is not a run", expected="a folder that opsin train made") from error


def _as_before(data: Dataset, known: dict[str, Any], folder: Path) -> Dataset:
    if data.fingerprint != known["fingerprint"]:
        raise errors.DataError(
            f"{known['source'] or data.name} has changed since {folder} began",
            expected=f"fingerprint {known['fingerprint'][:12]}…",
            received=f"{data.fingerprint[:12]}…",
            do="Put the data back as it was, or start a new run",
        )
    return dataclasses.replace(splits.read(data, folder / "split.csv"), notes=tuple(known["notes"]))


def work(
    folder: Path, data: Dataset, recipe: Recipe, *, network: nn.Module | None = None, how: Execution = MEASURED
) -> Iterator[Event]:
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
    with closing(_stages(folder, data, recipe, network, how)) as stages:
        for event in stages:
            if event.kind != "progress":
                _record(folder / "events.jsonl", event)
            yield event


def _stages(
    folder: Path, data: Dataset, recipe: Recipe, network: nn.Module | None, how: Execution
) -> Generator[Event, None, None]:
    split = splits.fingerprint(data)  # of all records: whoever divides the data again cannot know which are refused
    recipe, road, notes = _resolved(recipe, data)
    yield from map(_note, (*data.notes, *notes))
    data, pixels, enlarged = yield from _decode(data, recipe, road)
    _keep(folder, recipe, data)
    yield from (_note(f"refused {r.key}: {r.reason}") for r in data.refused[:5])
    torch.manual_seed(recipe.seed)
    spec, built, origin = _network(recipe, len(data.classes), network)
    job = yield from _planned(folder, built, _job(recipe, pixels, enlarged, road), how)
    yield from _first_weights(built, pixels.part(_in("train")), job)
    state = training.start(built, job)
    found = training.load(state, folder / "checkpoint")
    _forget_after(folder / "events.jsonl", state.step)
    if found:
        yield _note(f"going on from epoch {state.epoch}, step {state.step}")
    yield from _trained(state, job, folder)
    state.network.load_state_dict(state.best or state.weights())
    facts = _facts(recipe, data, split, origin)
    clf = Classifier(state.network.cpu().float(), spec, road, data.classes, facts=facts)
    yield from _scored(folder, clf, pixels, recipe)


def finish(folder: Path, *, network: nn.Module | None = None) -> Run:
    """The finished run in `folder`.

    Raises:
        ModelError: when it has no model yet.
    """
    clf = artefact.load(folder / "model", network=network)
    return Run(folder, clf, {split: metrics.from_dict(scores) for split, scores in clf.facts["scores"].items()})


def events(
    data: Dataset,
    recipe: str | Recipe = "finetune",
    *,
    out: str | Path = "",
    resume: str | Path = "",
    network: nn.Module | None = None,
    how: Execution = MEASURED,
) -> Iterator[Event]:
    """A run seen from inside: split where there is no split, train, save, load anew, score the test once.

    Args:
        data: what `opsin.read` gave.
        recipe: a Recipe, the name of a preset, or a TOML file.
        out: the run's folder; `runs/<name>-<number>` by default.
        resume: the folder of a run on the same data that is to go on; `recipe` and `out` are not looked at.
        network: a module of your own, `(B, 3, S, S)` → `(B, K)`, instead of the recipe's.
        how: what to force of the plan.

    Raises:
        CallError, DataError, MachineError: as `create`, `reopen` and `work` say.
    """
    folder = Path(resume) if resume else create(data, _recipe(recipe), out=out)
    divided, chosen = reopen(folder, data)
    return work(folder, divided, chosen, network=network, how=how)


def train(
    data: Dataset,
    recipe: str | Recipe = "finetune",
    *,
    out: str | Path = "",
    resume: str | Path = "",
    network: nn.Module | None = None,
    how: Execution = MEASURED,
) -> Run:
    """Recipe in, Classifier out: `events` until they end. Takes and raises what `events` does."""
    folder = Path(resume) if resume else create(data, _recipe(recipe), out=out)
    divided, chosen = reopen(folder, data)
    for _ in work(folder, divided, chosen, network=network, how=how):
        pass
    return finish(folder, network=copy.deepcopy(network) if network is not None else None)


def _recipe(recipe: str | Recipe) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else recipes.read(recipe)


def find(name: str | Path, parent: str | Path = "runs") -> Path:
    """The folder of a run: a path, a name in `parent`, or `last`, the run that was begun last.

    Raises:
        CallError: when there is none.
    """
    if str(name) == "last":
        begun = sorted(Path(parent).glob("*/data.json"), key=lambda file: file.stat().st_mtime_ns)
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


def evaluate(clf: Classifier, data: Dataset, part: Split | Literal["all"] | None = None) -> Scores:
    """The Scores of `clf` on `data`: on its test part, or on all of it where it has no split; `part` says otherwise.

    Data that the classifier was trained on is divided as it was then.

    Raises:
        DataError: for classes that the classifier does not know, and when nothing is left to test.
        CallError: when `part` has no records.
    """
    return finished(evaluating(clf, data, part))[1]


def evaluating(
    clf: Classifier, data: Dataset, part: Split | Literal["all"] | None = None
) -> Generator[Event, None, tuple[str, Scores]]:
    """`evaluate` as events; gives the part's name and its Scores."""
    name, chosen = _part(clf, data, part)
    chosen, caches = yield from _told(cache.build(chosen, [clf.preprocessing]), "decoding", len(chosen))
    expected = evaluation.targets(clf, chosen)
    found = yield from _told(evaluation.logits(clf, caches[0]), "scoring", len(chosen))
    largest = clf.facts.get("largest class") or max(chosen.counts().items(), key=lambda pair: pair[1])[0]
    return name, evaluation.score(clf, found, expected, largest)


def _part(clf: Classifier, data: Dataset, part: str | None) -> tuple[str, Dataset]:
    if data.fingerprint == clf.facts.get("fingerprint"):
        data = splits.split(data, seed=clf.facts["recipe"]["seed"])
        if splits.fingerprint(data) != clf.facts["split"] and part != "all":
            raise errors.DataError(
                "the model was trained on part of this data, divided by a split file",
                expected="other data, or the test part alone",
                do="Give the pictures of the test part, or --part all to score training pictures too",
            )
    name = part or ("test" if any(record.split == "test" for record in data.records) else "all")
    chosen = data if name == "all" else data.where(lambda record: record.split == name)
    if not len(chosen):
        raise errors.CallError("part", expected="one that has records", received=name)
    return name, chosen


def _record(file: Path, event: Event) -> None:
    with errors.writing(file), file.open("a", encoding="utf-8", errors="surrogateescape") as opened:
        opened.write(json.dumps(dataclasses.asdict(event), ensure_ascii=False) + "\n")


def _forget_after(file: Path, step: int) -> None:
    """Drop what a killed run told of steps that its last checkpoint does not hold; they are about to be told again."""
    if file.exists():
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        _write_text(file, "".join(line + "\n" for line in lines if _told_until(line, step)))


def _told_until(line: str, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except ValueError:  # torn by the kill, or the empty rest after the last line
        return False


def _in(split: Split) -> Callable[[Record], bool]:
    return lambda record: record.split == split


def _note(text: str) -> Event:
    return Event("notice", 0, 0, {"text": text})


def _told(work: Work[T], what: str, of: int) -> Generator[Event, None, T]:
    """Long work as events; gives its result."""
    while True:
        try:
            done = next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        yield Event("progress", 0, 0, {"what": what, "done": done, "of": of})


def _resolved(recipe: Recipe, data: Dataset) -> tuple[Recipe, Preprocessing, list[str]]:
    """The recipe with its size and flips decided, the preprocessing that follows, and what a user should know."""
    size = recipe.pixels.size
    origin = weights.pretrained_info(recipe.model.network) if recipe.model.pretrained else None
    if not size:
        size = origin.size if origin else _size(data)
    augment, notes = augmentation.resolved(recipe.augment, data.classes)
    recipe = dataclasses.replace(recipe.set(size=size), augment=augment)
    road = Preprocessing(size, recipe.pixels.fit)
    if origin:
        road = dataclasses.replace(road, mean=origin.mean, std=origin.std, interpolation=origin.interpolation)
    return recipe, road, notes


def _size(data: Dataset) -> int:
    """A side for learning from scratch: the median shorter side in steps of 32, from 32 to LARGEST_SIDE."""
    sides = []
    for record in data.records[:: max(1, len(data) // 64)]:
        try:
            sides.append(min(cache.picture(data, record).shape[:2]))
        except errors.PictureError:
            continue
    median = statistics.median(sides) if sides else 32
    return int(min(LARGEST_SIDE, max(32, round(median / 32) * 32)))


def _decode(
    data: Dataset, recipe: Recipe, road: Preprocessing
) -> Generator[Event, None, tuple[Dataset, Pixels, Pixels | None]]:
    """Every picture by the one road, and the training pictures enlarged where the augmentation wants them so."""
    margin = augmentation.margin(recipe.augment)
    roads = [road] if margin == 1 else [road, preprocessing.enlarged(road, margin)]
    data, caches = yield from _told(cache.build(data, roads), "decoding", len(data))
    if not len(data.train):
        raise errors.DataError(f"{data.name}: no picture to train on", do="Look at data.json for what was refused")
    return data, caches[0], caches[1] if len(caches) > 1 else None


def _keep(folder: Path, recipe: Recipe, data: Dataset) -> None:
    """Write down what was decided on the way: the resolved recipe, and what was refused."""
    _write_text(folder / "recipe.toml", recipe.to_toml())
    known = _read_data(folder)
    _write_data(folder, data, known["source"], known["group"])


def _network(
    recipe: Recipe, classes: int, own: nn.Module | None
) -> tuple[models.NetworkSpec | None, nn.Module, weights.Pretrained | None]:
    if own is not None:
        described = models.NetworkSpec(type(own).__name__, classes, recipe.pixels.size)
        with models.refusals(described):
            # A copy: the user's module stays as it is, so the same call gives the same model.
            return None, models.tried(copy.deepcopy(own), described), None
    model = recipe.model
    spec = models.spec_for(model.network, classes, recipe.pixels.size, model.pool, model.pretrained)
    if model.pretrained:
        network, origin = weights.load(spec)
        return spec, network, origin
    return spec, models.build(spec), None


def _job(recipe: Recipe, pixels: Pixels, enlarged: Pixels | None, road: Preprocessing) -> Job:
    learn = recipe.learn
    train = (enlarged or pixels).part(_in("train"))
    batch = len(train) if recipe.optim.optimiser == "gd" else learn.batch
    classes = len(train.data.classes)
    val = pixels.part(_in("val")) if any(record.split == "val" for record in pixels.data.records) else None
    weights_ = losses.class_weights(list(train.data.counts().values()), learn.class_weights)
    batches = Batches(train, batch, recipe.pixels.size, recipe.augment, recipe.seed)
    return Job(batches, val, classes, weights_, road, recipe, Plan())


def _planned(folder: Path, network: nn.Module, job: Job, how: Execution) -> Generator[Event, None, Job]:
    """The job with the plan of this run before, or the one remembered for such work, or the fastest candidate now."""
    file, memory = folder / "plan.json", sources.cache_dir() / "plans.json"
    recipe = job.recipe
    if file.exists():
        return dataclasses.replace(job, plan=plans.from_dict(json.loads(file.read_text(encoding="utf-8"))))
    offered = plans.candidates(device=how.device, precision=how.precision, threads=how.threads)
    work = f"training {recipe.model.network} at {recipe.pixels.size}, batch {recipe.learn.batch}"
    plan = offered[0] if len(offered) == 1 else plans.remembered(memory, work, offered)
    if plan is None:
        plan, seconds = plans.choose(training.rehearsals(network, job, offered))
        plans.remember(memory, work, plan)
        yield _note("measured, a step: " + " · ".join(f"{s:.3f} s {p}" for p, s in seconds.items()))
    _write_json(file, plan.to_dict())
    yield _note(f"plan: {plan}, {plan.threads} threads" if plan.device == "cpu" else f"plan: {plan}")
    return dataclasses.replace(job, plan=plan)


def _first_weights(network: nn.Module, train: Pixels, job: Job) -> Generator[Event, None, None]:
    """What is computed from the training pictures before any step: a stem that whitens, a head that fits."""
    plans.place(network, job.plan)
    if isinstance(network, Small):
        rows = np.linspace(0, len(train) - 1, min(len(train), 2000)).astype(int)
        network.fit_stem(preprocessing.normalise(job.preprocessing, train.take(rows)).to(job.plan.device))
    if job.recipe.model.pretrained and job.recipe.finetune.head == "fitted":
        vectors = yield from _told(
            features.extract(network, train, job.preprocessing, job.plan), "features", len(train)
        )
        weight, bias = features.fit_head(vectors, train.targets().numpy(), job.classes)
        head = models.head(network)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            head.bias.copy_(torch.from_numpy(bias))


def _trained(state: TrainState, job: Job, folder: Path) -> Iterator[Event]:
    """The loop, with a checkpoint after every epoch, every minute, and when the listener breaks off."""
    saved = time.monotonic()
    try:
        for event in training.events(state, job):
            yield event
            if event.kind == "epoch" or time.monotonic() - saved > CHECKPOINT_SECONDS:
                training.save(state, folder / "checkpoint")
                saved = time.monotonic()
                yield Event("checkpoint", state.epoch, state.step, {})
    except GeneratorExit:
        training.save(state, folder / "checkpoint")
        raise


def _facts(recipe: Recipe, data: Dataset, split: str, origin: weights.Pretrained | None) -> dict[str, Any]:
    return {
        "name": data.name,
        "recipe": recipe.to_dict(),
        "fingerprint": data.fingerprint,
        "split": split,
        "largest class": max(data.train.counts().items(), key=lambda pair: pair[1])[0],
        "records": {split: len(data.part(split)) for split in SPLITS},
        "refused": len(data.refused),
        "started from": dataclasses.asdict(origin) if origin else None,
        "licence": origin.license if origin else None,
    }


def _scored(folder: Path, clf: Classifier, pixels: Pixels, recipe: Recipe) -> Iterator[Event]:
    """Save, load anew, score validation and test from what was loaded, and save once more with the scores."""
    candidate = folder / "checkpoint" / "candidate"
    artefact.save(clf, candidate)
    loaded = artefact.load(candidate, network=clf.network if clf.spec is None else None)
    scores: dict[str, Any] = {}
    for split in SPLITS[1:]:
        if any(record.split == split for record in pixels.data.records):
            part = pixels.part(_in(split))
            found = yield from _told(evaluation.logits(loaded, part), f"scoring {split}", len(part))
            evaluation.save_logits(folder / "logits" / f"{split}.npz", part.data, found, clf.classes)
            expected = evaluation.targets(loaded, part.data)
            scored = evaluation.score(loaded, found, expected, clf.facts["largest class"])
            scores[split] = metrics.to_dict(scored)
    final = dataclasses.replace(loaded, facts={**clf.facts, "scores": scores})
    _write_json(folder / "scores.json", scores)
    artefact.save(final, folder / "model")  # the last thing: a run with a model is finished
    shutil.rmtree(candidate, ignore_errors=True)
    yield Event("scores", recipe.learn.epochs, 0, {split: value["overall"] for split, value in scores.items()})

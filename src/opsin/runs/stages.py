"""The stages of a run, one after the other: decode, plan, first weights, the loop, save, score."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from .. import (
    answers,
    artefact,
    augmentation,
    cache,
    calibration,
    errors,
    evaluation,
    features,
    heads,
    losses,
    metrics,
    models,
    ops,
    optim,
    plans,
    preprocessing,
    sources,
    splits,
    training,
)
from ..batches import Batches, growing
from ..cache import Pixels
from ..calibration import Threshold
from ..classifier import Classifier
from ..models import weights
from ..models.small import Small
from ..plans import Plan
from ..preprocessing import Preprocessing
from ..recipe import Recipe
from ..training import Job, TrainState
from ..vocabulary import SPLITS, Dataset, Event, Record, Scale, Split, Task
from . import folder as folders
from . import origins
from .scoring import largest_class, pictures, seen, told, trained_on

CHECKPOINT_SECONDS = 60.0
TOLD = 5  # refused files that are told of one by one
MANY = 500  # steps below which nobody asks whether compiling would pay
LARGEST_SIDE = 128  # of pictures that a network learns from scratch, unless a size is asked for


@dataclass(frozen=True)
class Execution:
    """What may be forced of the plan; `auto` and 0 are measured or left to torch."""

    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    engine: str = "auto"  # of frozen networks; training is torch's
    compile: Literal["auto", "yes", "no"] = "auto"  # by torch.compile, of training


MEASURED = Execution()


def check(
    recipe: Recipe, how: Execution = MEASURED, network: nn.Module | None = None, *, task: Task | None = None
) -> None:
    """Refuse what no data, or none of a task, could make possible, before there is a run's folder to leave behind.

    Raises:
        CallError: for names that no table holds, a network without published weights, a device that is not here, and
            choices that do not fit the task.
    """
    if network is None:
        models.spec_for(recipe.model.network, 2, 64, pretrained=recipe.model.pretrained)
        if recipe.model.pretrained:
            weights.pretrained_info(recipe.model.network)
    _road(recipe, 64)
    if task:
        _check_task(recipe, task)
    for what, name, table in (
        ("loss", recipe.learn.loss, {name for known in losses.OF_TASK.values() for name in known}),
        ("optimiser", recipe.optim.optimiser, optim.OPTIMISERS),
        ("schedule", recipe.optim.schedule, optim.SCHEDULES),
    ):
        if name not in table:
            raise errors.unknown(what, name, table)
    optim.refuse_two_averages(recipe.optim)
    _offered(how), _offered_for_features(how)


METRICS: dict[Task, tuple[str, ...]] = {
    "single-label": ("accuracy", "macro F1", "loss"),
    "multi-label": ("mAP", "loss"),
    "regression": ("MAE", "loss"),
}


def _check_task(recipe: Recipe, task: Task) -> None:
    """Refuse choices that are another task's.

    Mixed pictures have a share of each label, and so have mixed labels. Of quantities that is not so: of a picture
    turned by 30° and one by -30°, blended, 0° is wrong; so neither MixUp nor CutMix.
    """
    learn, augment = recipe.learn, recipe.augment
    losses.loss(learn.loss, task)
    if learn.metric not in METRICS[task]:
        raise errors.CallError(f"metric {learn.metric} is not for {task}", expected=", ".join(METRICS[task]))
    if task == "single-label":
        return
    choices = (
        ("class_weights", learn.class_weights != "none"),
        ("sampling", learn.sampling != "natural"),
        ("label_smoothing", learn.label_smoothing > 0),
        ("mixup", augment.mixup > 0 and task == "regression"),
        ("cutmix", augment.cutmix > 0 and task == "regression"),
    )
    for name, chosen in choices:
        if chosen:
            raise errors.CallError(f"{name} is not for {task}", do=f"Leave {name} out, or use the preset for {task}")


def _offered(how: Execution) -> list[Plan]:
    return plans.candidates(device=how.device, precision=how.precision, threads=how.threads)


def _offered_for_features(how: Execution) -> list[Plan]:
    return plans.inference_candidates(
        device=how.device, precision=how.precision, engine=how.engine, threads=how.threads
    )


def stream(
    folder: Path, data: Dataset, recipe: Recipe, network: nn.Module | None, how: Execution
) -> Generator[Event, None, None]:
    """Every stage of the run in `folder`, which is told and checkpointed on the way. See `runs.work`."""
    folders.tidy(folder)
    start = origins.kept(folder)
    # Of all records: whoever divides the data again cannot know which are refused.
    divided: dict[str, Any] = {"split": splits.fingerprint(data), "pictures": pictures(data)}
    if not start or "seen" in start.facts or "pictures" not in start.facts:  # else what it has seen is unknown
        divided["seen"] = seen(data, start)
    divided |= folders.division(folder)
    recipe, road, notes = _resolved(recipe, data, start, network)
    yield from map(_note, (*data.notes, *notes))
    if network is None:
        models.ahead(recipe.model.network)
    data, pixels, enlarged = yield from _decode(data, recipe, road)
    folders.keep(folder, recipe, data)
    yield from (_note(f"refused {r.key}: {r.reason}") for r in data.refused[:TOLD])
    if more := len(data.refused[TOLD:]):
        yield _note(f"{more:,} more are refused: {folder / 'data.json'} lists them with their reasons")
    torch.manual_seed(recipe.seed)
    spec, built, started = origins.begun(start, data.classes) if start else _network(recipe, len(data.classes), network)
    if start:
        yield _note(origins.words(start, data.classes))
        if leaked := len(trained_on(start, data) & {record.key for record in data.test.records}):
            yield _note(f"warning: {leaked:,} test pictures trained the model that it starts from: scores are too good")
    if recipe.learn.grow_from:
        small = models.NetworkSpec(recipe.model.network, len(data.classes), recipe.learn.grow_from)
        with models.refusals(small):
            models.tried(built, small)
    job = yield from _planned(folder, built, _job(recipe, pixels, enlarged, road), how)
    state = training.start(built, job)
    found = training.load(state, folder / "checkpoint")
    if not found and not (start and recipe.learn.epochs):  # what is about to learn keeps the head that it came with
        yield from _first_weights(built, pixels.part(_in("train")), job, folder, how)
        state = training.start(built, job)
    folders.forget_after(folder, state.step)
    if found:
        yield _note(f"going on from epoch {state.epoch}, step {state.step}")
    yield from _trained(state, job, folder)
    state.network.load_state_dict(state.best or state.weights())
    facts = _facts(recipe, data, divided, started)
    facts |= {"target": folders.target_of(folder)} if data.task != "single-label" else {}
    clf = Classifier(state.network.cpu().float(), spec, road, data.classes, data.task, facts=facts, scale=job.scale)
    yield from _scored(folder, clf, pixels, recipe)


def _in(split: Split) -> Callable[[Record], bool]:
    return lambda record: record.split == split


def _note(text: str) -> Event:
    return Event("notice", 0, 0, {"text": text})


def _resolved(
    recipe: Recipe, data: Dataset, start: Classifier | None = None, own: nn.Module | None = None
) -> tuple[Recipe, Preprocessing, list[str]]:
    """The recipe with its size and flips decided, the preprocessing that follows, and what a user should know."""
    if own is not None and recipe.model.network != type(own).__name__:  # what it says of weights is another network's
        recipe = recipe.set(network=type(own).__name__, pretrained=False)
    size = recipe.pixels.size
    origin = weights.pretrained_info(recipe.model.network) if recipe.model.pretrained and own is None else None
    if not size:
        size = origin.size if origin else _size(data)
    if recipe.learn.grow_from >= size:
        raise errors.CallError("grow_from", expected=f"less than the size, {size}", received=recipe.learn.grow_from)
    _check_task(recipe, data.task)
    if data.task == "regression" and "safe" in (recipe.augment.hflip, recipe.augment.vflip):
        recipe = recipe.set(**{flip: "no" for flip in ("hflip", "vflip") if getattr(recipe.augment, flip) == "safe"})
    augment, notes = augmentation.resolved(recipe.augment, data.classes)
    road = _road(recipe, size)
    steps = road.pipeline.text if road.pipeline else ""
    recipe = dataclasses.replace(recipe.set(size=size, pipeline=steps), augment=augment)
    if origin:
        road = dataclasses.replace(road, mean=origin.mean, std=origin.std, interpolation=origin.interpolation)
    return recipe, start.preprocessing if start else road, notes


def _road(recipe: Recipe, size: int) -> Preprocessing:
    """What the recipe does to pictures. Raises CallError for a pipeline that has no place in it."""
    steps = recipe.pixels.pipeline
    return Preprocessing(size, recipe.pixels.fit, pipeline=ops.from_text(steps) if steps.strip() else None)


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
    data, caches = yield from told(cache.build(data, roads, keep=sources.cache_dir() / "pixels"), "decoding", len(data))
    yield from (_note(pixels.notice) for pixels in caches if pixels.notice)
    if not len(data.train):
        raise errors.DataError(f"{data.name}: no picture to train on", do="Look at data.json for what was refused")
    return data, caches[0], caches[1] if len(caches) > 1 else None


def _network(
    recipe: Recipe, classes: int, own: nn.Module | None
) -> tuple[models.NetworkSpec | None, nn.Module, dict[str, Any]]:
    """How to build it again, the network, and what there is to say of its first weights."""
    nothing = {"started from": None, "licence": None}
    if own is not None:
        described = models.NetworkSpec(type(own).__name__, classes, recipe.pixels.size)
        with models.refusals(described):
            # A copy: the user's module stays as it is, so the same call gives the same model.
            return None, models.tried(copy.deepcopy(own), described), nothing
    model = recipe.model
    spec = models.spec_for(model.network, classes, recipe.pixels.size, model.pool, model.pretrained)
    if model.pretrained:
        network, origin = weights.load(spec)
        return spec, network, {"started from": dataclasses.asdict(origin), "licence": origin.license}
    return spec, models.build(spec), nothing


def _job(recipe: Recipe, pixels: Pixels, enlarged: Pixels | None, road: Preprocessing) -> Job:
    learn = recipe.learn
    train = (enlarged or pixels).part(_in("train"))
    batch = len(train) if recipe.optim.optimiser == "gd" else learn.batch * learn.accumulate
    classes = len(train.data.classes)
    val = pixels.part(_in("val")) if any(record.split == "val" for record in pixels.data.records) else None
    weights_ = losses.class_weights(list(train.data.counts().values()), learn.class_weights, learn.effective_beta)
    batches = Batches(
        train,
        batch,
        recipe.pixels.size,
        recipe.augment,
        recipe.seed,
        balanced=learn.sampling == "balanced",
        sides=growing(learn.grow_from, recipe.pixels.size, learn.epochs) if learn.grow_from else (),
    )
    return Job(batches, val, classes, weights_, road, recipe, Plan(), train.data.task, _scale(train.data))


def _scale(train: Dataset) -> Scale:
    """The mean and deviation of every quantity's training values; () for the other tasks.

    Raises:
        DataError: for a quantity whose training values are not two different ones.
    """
    if train.task != "regression":
        return ()
    found = []
    for name, column in zip(train.classes, zip(*(record.targets for record in train.records))):
        known = np.array([value for value in column if value is not None])
        if len(np.unique(known)) < 2:
            raise errors.DataError(
                f"{name!r} cannot be learned",
                expected="two different training values or more",
                received=f"{len(known):,} values",
                do="Look at the table, and at the split",
            )
        found.append((float(known.mean()), float(known.std())))
    return tuple(found)


def _planned(folder: Path, network: nn.Module, job: Job, how: Execution) -> Generator[Event, None, Job]:
    """The job with the plan of this run before, or the one remembered for such work, or the fastest candidate now."""
    memory = sources.cache_dir() / "plans.json"
    recipe = job.recipe
    plan = yield from _kept(folder, how)
    if plan is None and not recipe.learn.epochs:
        plan = _offered(how)[0]
    if plan is None:
        offered = _offered(how)
        work = f"training {recipe.model.network} at {recipe.pixels.size}, batch {recipe.learn.batch}"
        plan = offered[0] if len(offered) == 1 else plans.remembered(memory, work, offered)
        if plan is None:
            plan, seconds = plans.choose(training.rehearsals(network, job, offered))
            plans.remember(memory, work, plan)
            yield _measured(seconds)
        if plan.engine == "torch" and not recipe.learn.grow_from:
            plan = yield from _compiled(network, job, plan, how.compile)
        folders.keep_plan(folder, "training", plan)
        yield _note(f"plan: {plan}, {plan.threads} threads" if plan.device == "cpu" else f"plan: {plan}")
    return dataclasses.replace(job, plan=plan)


def _kept(folder: Path, how: Execution) -> Generator[Event, None, Plan | None]:
    """The plan of this run before, with what is forced otherwise now; None where it has none yet.

    Raises:
        CallError: when its device is not here, and for what cannot be forced.
    """
    kept = folders.plan(folder, "training")
    if kept is None:
        return None
    forced = {name: getattr(how, name) for name in ("device", "precision", "threads")}
    forced = {name: value for name, value in forced.items() if value not in ("auto", 0)}
    plan = dataclasses.replace(kept, compiled=kept.compiled and how.compile != "no", **forced)
    _offered(how)  # what is forced and cannot be is refused
    try:
        plans.candidates(device=plan.device)
    except errors.CallError as error:
        error.do = f"Go on where there is {kept.device}, as the run began, or with --device cpu"
        raise
    if plan != kept:
        folders.keep_plan(folder, "training", plan)
        yield _note(f"plan: {plan}, {plan.threads} threads, from now on: not to the byte what it was to be")
    return plan


def _measured(seconds: Mapping[Plan, float]) -> Event:
    return _note("measured, a step: " + " · ".join(f"{s:.3f} s {p}" for p, s in seconds.items()))


def _compiled(network: nn.Module, job: Job, plan: Plan, wanted: str) -> Generator[Event, None, Plan]:
    """`plan`, compiled where that is faster and the work is long enough to repay it, or where it is wanted."""
    compiled = dataclasses.replace(plan, compiled=True)
    steps = job.recipe.learn.epochs * len(job.batches)
    if wanted == "no" or (wanted == "auto" and steps < MANY):
        return plan
    if wanted == "auto":
        _, seconds = plans.choose(training.rehearsals(network, job, [plan]), rounds=1)
        if seconds[plan] * steps < plans.LONG:
            return plan
    try:
        faster, seconds = plans.choose(training.rehearsals(network, job, [plan, compiled]))
    except Exception as error:  # the compiler raises what it likes; often there is no C++ compiler for it
        if wanted == "yes":
            raise errors.MachineError("torch.compile", received=errors.first_line(error)) from error
        yield _note(f"not compiled: {errors.first_line(error)}")
        return plan
    yield _measured(seconds)
    return compiled if wanted == "yes" else faster


def _first_weights(
    network: nn.Module, train: Pixels, job: Job, folder: Path, how: Execution
) -> Generator[Event, None, None]:
    """What is computed from the training pictures before any step: a stem that whitens, a head that fits."""
    if isinstance(network, Small) and not job.recipe.model.tuned:
        rows = np.linspace(0, len(train) - 1, min(len(train), 2000)).astype(int)
        network.fit_stem(preprocessing.normalise(job.preprocessing, train.take(rows)).to(job.plan.device))
    if job.recipe.model.tuned and job.recipe.finetune.head == "fitted":
        vectors = yield from _vectors(network, train, job, folder, how)
        groups = evaluation.groups(train.data)
        targets, seed = train.targets(), job.recipe.seed
        if job.task == "single-label":
            (weight, bias), told_ = features.best_head(vectors, targets.numpy(), job.classes, groups=groups, seed=seed)
        else:
            aims = losses.standardised(targets, job.scale).numpy()
            (weight, bias), told_ = heads.best_heads(vectors, aims, job.task, groups=groups, seed=seed)
        yield _note(told_)
        head = models.head(network)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            head.bias.copy_(torch.from_numpy(bias))


def _vectors(
    network: nn.Module, train: Pixels, job: Job, folder: Path, how: Execution
) -> Generator[Event, None, np.ndarray]:
    """The training pictures through the frozen network, by the fastest engine that answers as the reference does."""
    known = folders.plan(folder, "features")
    sample = job.val if job.val and len(job.val) >= plans.ENOUGH else train
    choice = features.settle(
        network,
        sample,
        job.preprocessing,
        [known] if known and known.device in ("cpu", job.plan.device) else _offered_for_features(how),
        pictures=len(train),
        memory=sources.cache_dir() / "plans.json",
    )
    yield from map(_note, choice.notes)
    folders.keep_plan(folder, "features", choice.plan)
    yield _note(f"plan for features: {choice.plan}, {choice.plan.threads} threads")
    key = features.key(network, train, job.preprocessing, choice.plan)
    vectors = features.recall(key)
    if vectors is None:
        work = features.extract(network, train, job.preprocessing, choice.plan, ready=choice.engine)
        vectors = yield from told(work, "features", len(train))
        yield from map(_note, filter(None, [features.keep(key, vectors)]))
    return vectors


def _trained(state: TrainState, job: Job, folder: Path) -> Iterator[Event]:
    """The loop, with a checkpoint after every epoch, every minute, and when it is broken off between two steps."""
    saved = time.monotonic()
    try:
        for event in training.events(state, job):
            yield event
            if event.kind == "epoch" or time.monotonic() - saved > CHECKPOINT_SECONDS:
                training.save(state, folder / "checkpoint")
                saved = time.monotonic()
                yield Event("checkpoint", state.epoch, state.step, {})
    except BaseException:  # a listener that stops is a GeneratorExit
        if not state.torn:
            training.save(state, folder / "checkpoint")
        raise


def _facts(recipe: Recipe, data: Dataset, divided: dict[str, Any], started: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": data.name,
        "recipe": recipe.to_dict(),
        "fingerprint": data.fingerprint,
        **divided,
        "largest class": largest_class(data.train),
        "records": {split: len(data.part(split)) for split in SPLITS},
        "refused": len(data.refused),
        **started,
    }


def _val_chose_nothing(recipe: Recipe) -> bool:
    """Only then may validation set the temperature: a part that chose the epoch is surer than new pictures are."""
    return recipe.learn.keep == "last" and not recipe.learn.patience


def _set_on_validation(
    clf: Classifier, recipe: Recipe, found: np.ndarray, expected: np.ndarray, groups: Sequence[str | None] | None
) -> Generator[Event, None, tuple[Classifier, tuple[Threshold, ...]]]:
    """What logits of validation, `(N, K)`, may set: the temperature, and thresholds; and what those promise."""
    if clf.task == "multi-label":
        least = metrics.best_thresholds(answers.answers(clf, found), expected)
        yield _note(f"a threshold a label, of the best F1 on {len(found):,} val pictures")
        clf = dataclasses.replace(clf, thresholds=dict(zip(clf.classes, least)))
    if clf.task == "single-label" and _val_chose_nothing(recipe):
        clf = calibration.calibrate(clf, found, expected)
        yield _note(f"calibrated on {len(found):,} val pictures: temperature {clf.temperature:.3f}")
    if wanted := calibration.wants(recipe.learn.want, clf.classes, clf.task):
        try:
            return calibration.with_thresholds(clf, found, expected, wanted, groups=groups)
        except errors.DataError as error:  # what was trained is not lost
            yield _note(f"no threshold is set: {error}")
    return clf, ()


def _scored(folder: Path, clf: Classifier, pixels: Pixels, recipe: Recipe) -> Iterator[Event]:
    """Save, load anew, calibrate, score validation and test from what was loaded, and save once more with scores."""
    candidate = folder / "checkpoint" / "candidate"
    artefact.save(clf, candidate)
    loaded = answering = artefact.load(candidate, network=clf.network if clf.spec is None else None)
    scores: dict[str, Any] = {}
    settled: tuple[Threshold, ...] = ()
    for split in SPLITS[1:]:
        if any(record.split == split for record in pixels.data.records):
            part = pixels.part(_in(split))
            # By the one whose network is folded already; what validation sets below moves no logit.
            found = yield from told(evaluation.logits(answering, part), f"scoring {split}", len(part))
            evaluation.save_logits(folder / "logits" / f"{split}.npz", part.data, found, clf.classes)
            expected = evaluation.targets(loaded, part.data)
            groups = evaluation.groups(part.data)
            if split == "val":
                loaded, settled = yield from _set_on_validation(loaded, recipe, found, expected, groups)
            elif settled:
                settled = calibration.priced(loaded, settled, split, found, expected, groups=groups)
            scored = evaluation.score(loaded, found, expected, clf.facts["largest class"], groups=groups)
            scores[split] = metrics.to_dict(scored)
    yield from (_note(str(one)) for one in settled)
    facts = {**clf.facts, "scores": scores, "wants": calibration.to_dict(settled)}
    final = dataclasses.replace(loaded, facts=facts)
    folders.write_json(folder / "scores.json", scores)
    artefact.save(final, folder / "model")  # the last thing: a run with a model is finished
    shutil.rmtree(candidate, ignore_errors=True)
    yield Event("scores", recipe.learn.epochs, 0, {split: value["overall"] for split, value in scores.items()})

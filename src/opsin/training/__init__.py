"""THE LOOP: a run yields events and calls nobody.

    for event in training.events(state, job):  # a progress bar, a log, an early stop look at events; to stop, break
        ...

All it knows is in one TrainState, valid after every event.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import errors, losses, metrics, models, optim, plans, preprocessing
from ..batches import Batch, Batches
from ..cache import Pixels
from ..plans import Plan
from ..preprocessing import Preprocessing
from ..recipe import Recipe
from ..vocabulary import Event, Scale, Task
from .rates import Trial, rate_chart, smoothed_losses, suggested_rate
from .sheet import contact_sheet
from .state import TrainState, load, save

__all__ = [
    "Job",
    "TrainState",
    "Trial",
    "contact_sheet",
    "events",
    "load",
    "logits",
    "rate_chart",
    "rehearsals",
    "save",
    "start",
    "step",
    "suggested_rate",
    "try_rates",
]

VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Job:
    """What stays the same during a run: the data, the recipe, the plan."""

    batches: Batches
    val: Pixels | None
    classes: int
    weights: Tensor  # float32 (K,), of mean 1 over the training pictures
    preprocessing: Preprocessing
    recipe: Recipe  # sizes and flips resolved
    plan: Plan
    task: Task = "single-label"
    scale: Scale = ()  # of quantities: the network gives them at mean 0 and deviation 1


def start(network: nn.Module, job: Job) -> TrainState:
    """A fresh TrainState for `network`, which is placed as the plan says and learns in place."""
    recipe = job.recipe
    plans.place(network, job.plan)
    tuned = recipe.model.tuned
    optimiser = optim.optimiser(
        network, recipe.optim, models.stages(network) if tuned else (), recipe.finetune.layer_decay if tuned else 1.0
    )
    steps = recipe.learn.epochs * len(job.batches)
    average = optim.average(network, recipe.optim, steps, pretrained=tuned)
    slow = optim.slow_weights(network) if recipe.optim.lookahead else None
    forward = torch.compile(network) if job.plan.compiled else network
    return TrainState(network, forward, optimiser, micro=recipe.learn.batch, average=average, slow=slow)


def step(state: TrainState, job: Job, batch: Batch) -> float:
    """One step of the optimiser on one batch; returns its loss.

    Raises:
        CallError: when the loss is not finite; weights are those of the step before, statistics of batch norms are not.
    """
    recipe, network = job.recipe, state.network
    # Dropout's draws belong to (seed, step), so a resumed run draws the same.
    torch.manual_seed(recipe.seed * 1_000_003 + state.step)
    steps = recipe.learn.epochs * len(job.batches)
    optim.set_rate(state.optimiser, optim.rate(recipe.optim, state.step, steps, len(job.batches)))
    state.optimiser.zero_grad()
    total = 0.0
    for part in batch.parts(state.micro):
        images, *aims = (tensor.to(job.plan.device) for tensor in part)
        inputs = preprocessing.normalise(job.preprocessing, images)
        with plans.autocast(job.plan):
            logits = state.forward(plans.lay_out(inputs, job.plan))
        each = losses.each(logits.float(), aims, job.weights, recipe.learn, job.task, job.scale)
        loss = each.sum() / len(batch.images)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    if not math.isfinite(total):
        raise errors.CallError(
            f"the loss {recipe.learn.loss} is {total} in step {state.step + 1} (epoch {state.epoch + 1})",
            expected="a finite number",
            do=f"Lower the rate (--set lr={recipe.optim.lr / 10:g}) or clip gradients (--set clip_norm=1)",
        )
    optim.clip(network.parameters(), recipe.optim)
    state.optimiser.step()
    if state.slow and (state.step + 1) % recipe.optim.lookahead == 0:
        optim.look_back(network, state.slow)
    if state.average:
        state.average.update(network)
    return total


@torch.no_grad()
def hardest(state: TrainState, job: Job, batch: Batch) -> Batch:
    """The pictures of a batch with the largest losses, as many as the recipe learns from.

    All are sent through the network in evaluation mode, without gradients, and only these again to learn from
    (Jiang et al. 2019, arXiv 1910.00762). If backward is twice forward, half of them cost 1 + 3/2 instead of 3.
    """
    if job.recipe.learn.hardest == 1:
        return batch
    state.network.eval()
    found = []
    for part in batch.parts(state.micro):
        images, *aims = (tensor.to(job.plan.device) for tensor in part)
        with plans.autocast(job.plan):
            outputs = state.network(plans.lay_out(preprocessing.normalise(job.preprocessing, images), job.plan))
        found.append(losses.each(outputs.float(), aims, job.weights, job.recipe.learn, job.task, job.scale))
    _learning_mode(state, job.recipe)
    count = max(1, round(job.recipe.learn.hardest * len(batch.images)))
    return batch.only(torch.cat(found).topk(count).indices.sort().values.cpu().numpy())


def events(state: TrainState, job: Job) -> Iterator[Event]:
    """Go on with `state` until the recipe's epochs are done or its patience is; break whenever you like.

    Raises:
        CallError: when the loss is not finite.
        MachineError: when memory does not even hold one picture's step.
    """
    yield _event(
        "start", state, epochs=job.recipe.learn.epochs, steps=len(job.batches), pictures=len(job.batches.pixels)
    )
    while state.epoch < job.recipe.learn.epochs and not _patience_over(state, job):
        _learning_mode(state, job.recipe)
        for batch in job.batches.epoch(state.epoch, state.batch):
            before, state.torn = state.micro, True
            loss = _step_within_memory(state, job, batch)
            state.batch, state.step, state.loss_sum = state.batch + 1, state.step + 1, state.loss_sum + loss
            state.torn = False
            if state.micro != before:
                yield _event("notice", state, text=f"memory: {state.micro} pictures at a time, batches as before")
            yield _event("step", state, loss=loss, rate=state.optimiser.param_groups[0]["lr"])
        scores = {"training loss": state.loss_sum / max(1, state.batch), **_validate(state, job)}
        history, best = [*state.history, scores], state.best
        if _is_best(history, job.recipe.learn.metric) and job.recipe.learn.keep == "best":
            best = {name: value.detach().clone() for name, value in state.weights().items()}
        # All at once: an error before leaves a state whose epoch is not validated yet.
        state.history, state.best, state.epoch, state.batch, state.loss_sum = history, best, state.epoch + 1, 0, 0.0
        yield _event("epoch", state, **scores)
    done = state.epoch >= job.recipe.learn.epochs
    yield _event("stop", state, reason="all epochs done" if done else f"no better {job.recipe.learn.metric}")


@torch.no_grad()
def logits(network: nn.Module, pixels: Pixels, road: Preprocessing, plan: Plan) -> Tensor:
    """float32 `(N, K)` on the CPU: the network in evaluation mode on every picture, at the plan's precision.

    Raises:
        MachineError: when memory does not even hold one picture.
    """
    network.eval()
    found = []
    row, batch = 0, VALIDATION_BATCH
    while row < len(pixels):
        try:
            images = torch.from_numpy(pixels.array[row : row + batch]).to(plan.device)
            with plans.autocast(plan):
                found.append(network(plans.lay_out(preprocessing.normalise(road, images), plan)).float().cpu())
        except RuntimeError as error:
            batch = _fewer(min(batch, len(pixels) - row), error)
        else:
            row += batch
    return torch.cat(found)


def rehearsals(network: nn.Module, job: Job, offered: Sequence[Plan]) -> dict[Plan, Callable[[], float]]:
    """For every plan a call that makes one real step on a copy of `network`, for timing; `network` is left alone."""
    batch = next(job.batches.epoch(len(job.batches.sides)))  # of pictures that have grown
    calls: dict[Plan, Callable[[], float]] = {}
    for plan in offered:
        planned = dataclasses.replace(job, plan=plan)
        calls[plan] = partial(_rehearse, start(copy.deepcopy(network), planned), planned, batch)
    return calls


def _rehearse(state: TrainState, job: Job, batch: Batch) -> float:
    plans.place(state.network, job.plan)  # threads belong to the process, so each turn sets its own
    return _step_within_memory(state, job, batch)


def try_rates(
    network: nn.Module, job: Job, *, lowest: float = 1e-6, highest: float = 10.0, steps: int = 100
) -> Iterator[Trial]:
    """A learning-rate range test: (rate, loss) of each step of a copy of `network`, whose rate rises geometrically.

    Ends early where the loss, smoothed, is four times its least, or is no number any more.
    """
    state = start(copy.deepcopy(network), job)
    _learning_mode(state, job.recipe)
    endless = itertools.chain.from_iterable(map(job.batches.epoch, itertools.count()))
    losses: list[float] = []
    for batch in itertools.islice(endless, steps):
        rate = lowest * (highest / lowest) ** (state.step / max(1, steps - 1))
        recipe = job.recipe.set(lr=rate, schedule="constant", warmup=0.0)
        try:
            losses.append(_step_within_memory(state, dataclasses.replace(job, recipe=recipe), batch))
        except errors.CallError:  # not finite: the rate before was too much
            return
        yield rate, losses[-1]
        state.step += 1
        smooth = smoothed_losses(losses)
        if smooth[-1] > 4 * min(smooth):
            return


def _event(kind: Any, state: TrainState, **values: Any) -> Event:
    return Event(kind, state.epoch, state.step, values)


def _learning_mode(state: TrainState, recipe: Recipe) -> None:
    """What this epoch learns: norms their statistics or not, all weights or those of the head alone."""
    state.network.train()
    if not recipe.model.tuned:
        return
    if recipe.finetune.freeze_norms:
        for module in state.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    if recipe.finetune.frozen_epochs:
        head = set(models.head(state.network).parameters())
        for group in state.optimiser.param_groups:  # what never learns is in none
            for weight in group["params"]:
                weight.requires_grad_(state.epoch >= recipe.finetune.frozen_epochs or weight in head)


def _step_within_memory(state: TrainState, job: Job, batch: Batch) -> float:
    """One step; where memory does not suffice, fewer pictures at a time, the gradient still that of the batch."""
    while True:
        try:
            return step(state, job, hardest(state, job, batch))
        except RuntimeError as error:
            state.micro = _fewer(min(state.micro, len(batch.images)), error)


def _fewer(pictures: int, error: RuntimeError) -> int:
    """How many to try after so many were refused for want of memory; any other error is raised again."""
    # On a CPU it is a plain RuntimeError: "can't allocate memory: you tried to allocate …" (alloc_cpu.cpp).
    if not isinstance(error, torch.OutOfMemoryError) and "tried to allocate" not in str(error):
        raise error
    if pictures == 1:
        do = "Choose a smaller --set size= or network"
        raise errors.MachineError("memory does not hold one picture's way through the network", do=do) from error
    return pictures // 2


def _validate(state: TrainState, job: Job) -> dict[str, float]:
    """Scores on validation of the weights that would be kept; {} without validation pictures."""
    if job.val is None or not len(job.val):
        return {}
    with _averaged(state):
        found = logits(state.network, job.val, job.preprocessing, job.plan)
    targets = job.val.targets()
    if job.task != "single-label":
        aims = losses.standardised(targets, job.scale)
        loss = float(losses.loss(job.recipe.learn.loss, job.task)(found, aims).mean())
        return {"loss": loss, **_brief(found.numpy(), targets.numpy(), job.scale)}
    soft = losses.soft_targets(targets, job.classes)
    matrix = metrics.confusion(targets.numpy(), found.argmax(1).numpy(), job.classes)
    return {
        "loss": float(losses.loss(job.recipe.learn.loss)(found, soft).mean()),
        "accuracy": float(matrix.trace() / matrix.sum()),
        "macro F1": metrics.macro_f1(matrix),
    }


def _brief(found: np.ndarray, targets: np.ndarray, scale: Scale) -> dict[str, float]:
    """mAP of labels; MAE and R² of quantities, from outputs at mean 0 and deviation 1."""
    if not scale:
        value = metrics.mean_average_precision(found, targets)
        return {} if math.isnan(value) else {"mAP": value}
    means, deviations = np.array(scale).T
    return metrics.brief_errors(found * deviations + means, targets, deviations)


@contextmanager
def _averaged(state: TrainState) -> Iterator[None]:
    """The network with its averaged weights, where there are some, and afterwards with those that it had."""
    if state.average is None:
        yield
        return
    learnt = {name: value.detach().clone() for name, value in state.network.state_dict().items()}
    try:
        state.network.load_state_dict(state.average.values)
        yield
    finally:
        state.network.load_state_dict(learnt)


def _best_epoch(history: list[dict[str, float]], metric: str) -> int:
    """The first epoch, from 0, with the best score; the last one where nothing was scored."""
    if not history or metric not in history[-1]:
        return len(history) - 1
    better = operator.lt if metric in ("loss", "MAE") else operator.gt
    best = 0
    for epoch, scores in enumerate(history):
        if better(scores[metric], history[best][metric]):
            best = epoch
    return best


def _is_best(history: list[dict[str, float]], metric: str) -> bool:
    return _best_epoch(history, metric) == len(history) - 1


def _patience_over(state: TrainState, job: Job) -> bool:
    learn = job.recipe.learn
    return bool(learn.patience) and len(state.history) - 1 - _best_epoch(state.history, learn.metric) >= learn.patience

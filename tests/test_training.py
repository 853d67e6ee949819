"""The loop: what a step does, what memory and bad numbers do to it, when it stops, what it keeps on disk."""

from __future__ import annotations

import copy
import dataclasses
import errno
import math
import os
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opsin import losses, preprocessing, training
from opsin.errors import CallError, MachineError, ModelError
from opsin.training import state as states
from tiny import ROAD, Linear, Net, job, recipe, seeded


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(network: nn.Module, work: training.Job) -> tuple[training.TrainState, list]:
    state = training.start(network, work)
    return state, list(training.events(state, work))


class Hungry(nn.Module):
    """Works on `most` pictures at a time and then runs out of memory, as `error` says."""

    def __init__(self, most: int, error: type[Exception] | str = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.inner, self.most, self.error, self.seen = seeded(Linear), most, error, []

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            if isinstance(self.error, str):
                raise RuntimeError(self.error)
            raise self.error("out of memory")
        self.seen.append(len(images))
        return self.inner(images)


# ── a step ──


@pytest.mark.parametrize("micro", [1, 5, 12, 64])
def test_full_batch_gradient_descent_is_the_exact_step_whatever_fits_at_a_time(micro: int) -> None:
    work = job(recipe(optimiser="gd", batch=micro, lr=0.1))
    network = seeded(Linear)
    before = weights(network)
    state = training.start(network, work)
    batches = list(work.batches.epoch(0))
    assert [len(batch.images) for batch in batches] == [12]
    loss = training.step(state, work, batches[0])

    x = preprocessing.normalise(ROAD, batches[0].images).double().numpy().reshape(12, -1)
    weight, bias = (before[name].double().numpy() for name in ("head.weight", "head.bias"))
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    hot = np.eye(3)[batches[0].targets.numpy()]
    assert loss == pytest.approx(-(hot * np.log(p)).sum() / 12, abs=1e-6)
    np.testing.assert_allclose(network.head.weight.detach(), weight - 0.1 * (p - hot).T @ x / 12, atol=1e-6)
    np.testing.assert_allclose(network.head.bias.detach(), bias - 0.1 * (p - hot).mean(0), atol=1e-6)


@pytest.mark.parametrize("optimiser", ["momentum", "muon", "adamw"])
def test_accumulated_batches_are_the_big_batch(optimiser: str) -> None:
    """Networks without batch norm: three batches of four a step, or one of twelve."""
    small, big = (
        job(recipe(optimiser=optimiser, batch=batch, accumulate=12 // batch, epochs=3, mixup=0.5)) for batch in (4, 12)
    )
    assert len(small.batches) == len(big.batches) == 1
    ends = []
    for work in (small, big):
        hungry = Hungry(work.recipe.learn.batch)
        run(hungry, work)
        assert set(hungry.seen) == {work.recipe.learn.batch}
        ends.append(weights(hungry.inner))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], atol=2e-6 if optimiser != "muon" else 1e-3, rtol=0)


def test_a_batch_is_cut_evenly() -> None:
    """A part of one picture would spoil a batch norm."""
    batch = next(job(recipe(batch=13), n=13).batches.epoch(0))
    parts = list(batch.parts(6))
    assert [len(images) for images, *_ in parts] == [5, 4, 4]
    for column, whole in enumerate((batch.images, batch.targets, batch.others, batch.shares)):
        assert torch.equal(torch.cat([part[column] for part in parts]), whole)


def test_mixed_labels_and_their_class_weights_are_in_the_loss() -> None:
    work = job(recipe(label_smoothing=0.2, mixup=1.0))
    work = dataclasses.replace(work, weights=torch.tensor([3.0, 0.0, 0.5]))
    network = seeded(Linear)
    batch = next(work.batches.epoch(0))
    assert ((batch.shares > 0.05) & (batch.shares < 0.95)).sum() > 6
    logs = network(preprocessing.normalise(ROAD, batch.images)).detach().log_softmax(1).numpy().astype(float)
    total = 0.0
    for row, log in enumerate(logs):
        own, other, share = int(batch.targets[row]), int(batch.others[row]), float(batch.shares[row])
        target = np.full(3, 0.2 / 3)
        target[own] += 0.8 * share
        target[other] += 0.8 * (1 - share)
        weight = share * float(work.weights[own]) + (1 - share) * float(work.weights[other])
        total -= weight * (target * log).sum() / 12
    assert training.step(training.start(network, work), work, batch) == pytest.approx(total, abs=1e-6)


def test_class_weights_and_smoothing_are_in_the_loss() -> None:
    work = job(recipe(label_smoothing=0.3))
    work = dataclasses.replace(work, weights=torch.tensor([3.0, 0.0, 0.5]))
    network = seeded(Linear)
    batch = next(work.batches.epoch(0))
    logits = network(preprocessing.normalise(ROAD, batch.images)).detach()
    each = nn.functional.cross_entropy(logits, batch.targets, reduction="none", label_smoothing=0.3)
    expected = (each * work.weights[batch.targets]).mean()
    assert training.step(training.start(network, work), work, batch) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 4])  # in the first step, in the second of the second epoch
def test_a_loss_that_is_not_finite_ends_in_its_own_step(tmp_path, value: float, at: int) -> None:
    work = job(recipe(batch=4, epochs=3))
    network = seeded(Linear)
    calls = []
    network.register_forward_hook(lambda _, __, out: calls.append(1) or (out * value if len(calls) == at + 1 else out))
    state = training.start(network, work)
    training.save(state, tmp_path)
    last = weights(network)

    def go() -> None:
        nonlocal last
        for event in training.events(state, work):
            if event.kind == "step":
                last = weights(network)
                training.save(state, tmp_path)

    with pytest.raises(CallError) as caught:
        go()
    assert caught.value.exit_code == 2
    for part in ("cross-entropy", f"step {at + 1} ", f"epoch {at // 3 + 1}", "lr="):
        assert part in str(caught.value)
    assert equal(weights(network), last)
    assert state.step == at
    fresh = training.start(seeded(Linear, 1), work)
    assert training.load(fresh, tmp_path)
    assert equal(weights(fresh.network), last)
    assert all(value.isfinite().all() for value in weights(fresh.network).values())


# ── memory ──


CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, CPU])
def test_a_batch_too_large_for_memory_is_cut_and_its_gradient_stays(error) -> None:
    work = job(recipe(batch=12, epochs=1))
    hungry = Hungry(4, error)
    state = training.start(hungry, work)
    told = list(training.events(state, work))
    assert [event.kind for event in told] == ["start", "notice", "step", "epoch", "stop"]
    assert "3 pictures at a time" in told[1].values["text"]
    assert hungry.seen == [3, 3, 3, 3]
    whole = training.start(seeded(Linear), work)
    batch = next(work.batches.epoch(0))
    training.step(whole, work, batch)
    for cut, uncut in zip(hungry.inner.parameters(), whole.network.parameters()):
        torch.testing.assert_close(cut.grad, uncut.grad, atol=1e-6, rtol=0)
        torch.testing.assert_close(cut, uncut, atol=1e-6, rtol=0)


def test_a_real_refusal_of_memory_is_understood() -> None:
    work = job(recipe(batch=12, epochs=1))
    network = seeded(Linear)
    network.register_forward_pre_hook(lambda _, inputs: torch.empty(1 << 55) if len(inputs[0]) > 6 else None)
    state, told = run(network, work)
    assert state.micro == 6
    assert told[-1].kind == "stop"


def test_memory_for_not_even_one_picture_is_the_machines_fault() -> None:
    hungry = Hungry(0)
    before = weights(hungry)
    with pytest.raises(MachineError, match="one picture") as caught:
        run(hungry, job(recipe(batch=12)))
    assert caught.value.exit_code == 5
    assert equal(weights(hungry), before)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, CPU])
def test_validation_too_large_for_memory_is_cut_and_finds_the_same(error) -> None:
    work = job(recipe(), val=12)
    hungry = Hungry(4, error)
    found = training.logits(hungry, work.val, ROAD, work.plan)
    assert hungry.seen == [3, 3, 3, 3]
    torch.testing.assert_close(found, training.logits(hungry.inner, work.val, ROAD, work.plan), atol=1e-6, rtol=0)
    with pytest.raises(MachineError, match="one picture"):
        training.logits(Hungry(0, error), work.val, ROAD, work.plan)
    with pytest.raises(RuntimeError, match="shapes"):
        training.logits(Hungry(0, "shapes do not fit"), work.val, ROAD, work.plan)


def test_another_runtime_error_is_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        run(Hungry(0, "shapes do not fit"), job(recipe()))


# ── epochs ──


def scripted(monkeypatch: pytest.MonkeyPatch, metric: str, values: list[float]) -> None:
    """Validation that finds these values, epoch by epoch."""
    monkeypatch.setattr(training, "_validate", lambda state, work: {metric: values[state.epoch]})


@pytest.mark.parametrize(
    ("metric", "values", "best", "epochs"),
    [
        ("accuracy", [0.1, 0.5, 0.4, 0.3, 0.9], 2, 4),
        ("accuracy", [0.5, 0.5, 0.5, 0.5, 0.9], 1, 3),  # as good is not better
        ("macro F1", [0.1, 0.2, 0.1, 0.3, 0.2], 4, 5),
        ("loss", [3.0, 1.0, 2.0, 2.0, 0.1], 2, 4),
    ],
)
def test_patience_and_the_best_weights_follow_the_scores(monkeypatch, metric, values, best, epochs) -> None:
    scripted(monkeypatch, metric, values)
    work = job(recipe(epochs=5, patience=2, keep="best", metric=metric))
    state = training.start(seeded(Linear), work)
    kept, told = {}, []
    for event in training.events(state, work):
        told.append(event)
        if event.kind == "epoch":
            kept[event.epoch] = weights(state.network)
    assert state.epoch == epochs == len(state.history)
    assert equal(state.best, kept[best])
    assert not equal(kept[best], kept[epochs])
    early = epochs < 5
    assert told[-1].values["reason"] == (f"no better {metric}" if early else "all epochs done")


def test_without_validation_nothing_stops_early_and_the_last_is_best() -> None:
    work = job(recipe(epochs=4, patience=1, keep="best"))
    state, _ = run(seeded(Linear), work)
    assert state.epoch == 4
    assert equal(state.best, weights(state.network))
    assert all(set(scores) == {"training loss"} for scores in state.history)


def test_no_epochs_is_no_step() -> None:
    network = seeded(Linear)
    before = weights(network)
    _, told = run(network, job(recipe(epochs=0)))
    assert [event.kind for event in told] == ["start", "stop"]
    assert equal(weights(network), before)


def test_validation_scores_the_averaged_weights_and_gives_the_learnt_ones_back() -> None:
    work = job(recipe(epochs=1, ema=0.99, lr=0.5), val=12)
    network = seeded(Net)
    state = training.start(network, work)
    learnt: dict[str, Tensor] = {}
    for event in training.events(state, work):
        if event.kind == "step":
            learnt = weights(network)
    assert equal(weights(network), learnt)
    averaged = copy.deepcopy(network)
    averaged.load_state_dict(state.average.values)
    found = training.logits(averaged, work.val, ROAD, work.plan)
    expected = nn.functional.cross_entropy(found, work.val.targets()).item()
    assert state.history[0]["loss"] == pytest.approx(expected, abs=1e-6)
    of_learnt = nn.functional.cross_entropy(training.logits(network, work.val, ROAD, work.plan), work.val.targets())
    assert abs(of_learnt.item() - expected) > 1e-4


def test_frozen_norms_keep_their_statistics_only_when_weights_were_pretrained() -> None:
    for pretrained in (True, False):
        choices = recipe(epochs=1, pretrained=pretrained)
        network = seeded(Net)
        run(network, job(choices))
        assert (network.norm.num_batches_tracked == 0) == pretrained


def test_first_the_head_learns_and_then_all_of_it() -> None:
    """What is frozen keeps its bits, and its gradient is not clipped, decayed or averaged into others."""
    choices = recipe(epochs=3, batch=4, pretrained=True, frozen_epochs=2, optimiser="adamw", weight_decay=0.1)
    network = seeded(Net)
    state = training.start(network, job(choices))
    first = weights(network)
    for event in training.events(state, job(choices)):
        if event.kind == "epoch":
            now = weights(network)
            assert not torch.equal(now["head.weight"], first["head.weight"])
            assert torch.equal(now["conv.weight"], first["conv.weight"]) == (event.epoch <= 2)
            assert torch.equal(now["norm.bias"], first["norm.bias"]) == (event.epoch <= 2)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.01])
@pytest.mark.parametrize("micro", [12, 5])
def test_what_is_hardest_is_learnt_from_and_nothing_else(share: float, micro: int) -> None:
    work = job(recipe(batch=12, hardest=share, mixup=0.5))
    network = seeded(Net)
    state = training.start(network, work)
    state.micro = micro
    batch = next(work.batches.epoch(0))
    chosen = training.hardest(state, work, batch)
    assert network.training
    network.eval()
    with torch.no_grad():
        found = network(preprocessing.normalise(ROAD, batch.images))
    hot = losses.mixed_targets(batch.targets, batch.others, batch.shares, 3)
    order = (-losses.cross_entropy(found, hot)).argsort()[: max(1, round(share * 12))]
    rows = sorted(order.tolist())
    assert chosen.rows.tolist() == batch.rows[rows].tolist()
    assert torch.equal(chosen.images, batch.images[rows])
    assert torch.equal(chosen.shares, batch.shares[rows])


def test_a_run_on_the_hardest_half_makes_the_steps_of_these_pictures() -> None:
    work = job(recipe(batch=12, epochs=1, hardest=0.5))
    network, other = seeded(Net), seeded(Net)
    run(network, work)
    state = training.start(other, work)
    other.train()
    training.step(state, work, training.hardest(state, work, next(work.batches.epoch(0))))
    assert equal(weights(other), weights(network))


def test_with_all_of_a_batch_nothing_is_chosen() -> None:
    work = job(recipe(batch=12))
    batch = next(work.batches.epoch(0))
    assert training.hardest(training.start(seeded(Net), work), work, batch) is batch


def test_rehearsals_leave_the_network_alone() -> None:
    work = job(recipe(batch=6))
    network = seeded(Net)
    before = weights(network)
    calls = training.rehearsals(network, work, [work.plan, dataclasses.replace(work.plan, precision="bf16")])
    assert all(math.isfinite(call()) for call in calls.values())
    assert equal(weights(network), before)


# ── checkpoints ──


CHOICES = {
    "momentum": {"optimiser": "momentum"},
    "adamw, averaged": {"optimiser": "adamw", "ema": 0.9, "weight_decay": 0.1},
    "best, patience": {"keep": "best", "patience": 1, "optimiser": "nesterov"},
    "plain": {"optimiser": "sgd"},
    "averaged at the end": {"average_from": 0.5},
    "adam, looking back": {"optimiser": "adam", "lookahead": 2},
    "rmsprop": {"optimiser": "rmsprop", "lr": 0.001},
    "lion": {"optimiser": "lion", "weight_decay": 0.1, "lr": 0.001},
    "muon": {"optimiser": "muon", "weight_decay": 0.1, "ema": 0.9},
    "mixed": {"mixup": 1.0, "cutmix": 1.0, "loss": "focal", "label_smoothing": 0.1},
    "head first": {"pretrained": True, "frozen_epochs": 1, "optimiser": "adamw"},
    "hardest": {"hardest": 0.5, "ema": 0.9},
    "changed": {"policy": "augmix", "noise": 0.1, "blur": 1.0, "erase": 0.5, "perspective": 0.2},
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_run_cut_after_any_event_goes_on_to_the_same_bits(tmp_path, name: str) -> None:
    work = job(recipe(batch=4, epochs=3, **CHOICES[name]), val=6)
    whole, told = run(seeded(Net), work)
    for cut in range(1, len(told) + 1):
        folder = tmp_path / str(cut)
        first = training.start(seeded(Net), work)
        before = list(islice(training.events(first, work), cut))
        assert before == told[:cut]
        training.save(first, folder)
        second = training.start(seeded(Net, seed=cut), work)  # other first weights: all comes from the checkpoint
        assert training.load(second, folder)
        after = list(training.events(second, work))
        steps = [event for event in (*before, *after) if event.kind in ("step", "epoch")]
        assert steps == [event for event in told if event.kind in ("step", "epoch")]
        assert equal(weights(second.network), weights(whole.network))
        assert equal(second.weights(), whole.weights())
        assert (second.best is None) == (whole.best is None)
        assert whole.best is None or equal(second.best, whole.best)
        assert second.history == whole.history


def test_two_checkpoints_are_kept_and_nothing_lies_about(tmp_path) -> None:
    work = job(recipe(batch=3, epochs=2))
    state = training.start(seeded(Linear), work)
    for event in training.events(state, work):
        if event.kind == "step":
            training.save(state, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["000000007.safetensors", "000000008.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "no state"])
def test_a_checkpoint_that_cannot_be_read_gives_way_to_the_one_before(tmp_path, damage: str) -> None:
    work = job(recipe(batch=3))
    state = training.start(seeded(Linear), work)
    files = []
    for event in training.events(state, work):
        if event.kind == "step" and event.step <= 2:
            files.append(training.save(state, tmp_path))
    if damage == "no state":
        states.save_file({"network/head.weight": torch.zeros(1)}, files[1])
    else:
        whole = files[1].read_bytes()
        files[1].write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "noise": os.urandom(99)}[damage])
    fresh = training.start(seeded(Linear), work)
    assert training.load(fresh, tmp_path)
    assert fresh.step == 1


def test_where_no_checkpoint_can_be_read_new_ones_are_kept(tmp_path) -> None:
    for step in (40, 41):
        (tmp_path / f"{step:09d}.safetensors").write_bytes(b"half")
    work = job(recipe(batch=3, epochs=1))
    state = training.start(seeded(Linear), work)
    assert not training.load(state, tmp_path)
    for event in training.events(state, work):
        if event.kind == "step":
            assert training.save(state, tmp_path).exists()
    assert sorted(os.listdir(tmp_path)) == ["000000003.safetensors", "000000004.safetensors"]


def test_what_a_kill_inside_a_write_leaves_is_ignored_and_swept(tmp_path) -> None:
    state = training.start(seeded(Linear), job(recipe()))
    training.save(state, tmp_path)
    for name in (".tmpAbCdEf", "000000001.safetensors"):
        (tmp_path / "unfinished").mkdir(exist_ok=True)
        (tmp_path / "unfinished" / name).write_bytes(b"half")
    assert training.load(state, tmp_path)
    assert state.step == 0
    state.step = 2
    training.save(state, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["000000000.safetensors", "000000002.safetensors"]


def test_no_checkpoint_is_no_error(tmp_path) -> None:
    assert not training.load(training.start(seeded(Linear), job(recipe())), tmp_path / "none")


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["fsync", "file size", "rename"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, where: str) -> None:
    work = job(recipe())
    state = training.start(seeded(Linear), work)
    first = training.save(state, tmp_path)
    before = first.read_bytes()
    state.step = 1
    with monkeypatch.context() as patched:
        if where == "file size":
            resource = pytest.importorskip("resource")
            old = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))  # a real refusal by the operating system
        elif where == "fsync":
            patched.setattr(os, "fsync", refuse)
        else:
            patched.setattr(type(tmp_path), "replace", refuse)
        try:
            with pytest.raises(MachineError, match="Free some space") as caught:
                training.save(state, tmp_path)
        finally:
            if where == "file size":
                resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert caught.value.exit_code == 5
    assert os.listdir(tmp_path) == [first.name]
    assert first.read_bytes() == before
    assert training.load(training.start(seeded(Linear), work), tmp_path)


@pytest.mark.parametrize("other", ["network", "averaging", "lookahead"])
def test_a_checkpoint_of_another_network_or_recipe_is_refused(tmp_path, other: str) -> None:
    training.save(training.start(seeded(Linear), job(recipe())), tmp_path)
    if other == "network":
        state = training.start(seeded(Net), job(recipe()))
    else:
        changed = {"averaging": {"ema": 0.9}, "lookahead": {"lookahead": 3}}[other]
        state = training.start(seeded(Linear), job(recipe(**changed)))
    with pytest.raises(ModelError, match="checkpoint") as caught:
        training.load(state, tmp_path)
    assert caught.value.exit_code == 4

"""How weights move, against the papers' formulas written out in numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from opsin import optim
from opsin.errors import CallError
from opsin.optim import OPTIMISERS, SCHEDULES, Average, clip, rate, set_rate
from opsin.recipe import OptimiserChoice

# f(w) = ½ Σ a (w - c)²; a 2-D weight, which decays, and a 1-D one, which does not
CURVES = np.array([[1.0, 4.0], [0.5, 2.0]])
CENTRES = np.array([[1.0, -2.0], [3.0, 0.5]])
LR, BETA, DECAY = 0.1, 0.8, 0.05


class Bowl(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
        self.bias = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self) -> torch.Tensor:
        off = self.matrix - torch.from_numpy(CENTRES)
        return (torch.from_numpy(CURVES) * off**2).sum() / 2 + (3 * self.bias**2).sum() / 2


def slope(matrix: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return CURVES * (matrix - CENTRES), 3 * bias


def sgd(weight: np.ndarray, gradient: np.ndarray, decay: float, memory: dict[str, Any]) -> np.ndarray:
    return weight - LR * (gradient + decay * weight)


def momentum(weight: np.ndarray, gradient: np.ndarray, decay: float, memory: dict[str, Any]) -> np.ndarray:
    """v ← βv + g, w ← w - ηv (Polyak 1964; Sutskever et al. 2013, with the rate outside)."""
    memory["v"] = BETA * memory.get("v", 0) + gradient + decay * weight
    return weight - LR * memory["v"]


def nesterov(weight: np.ndarray, gradient: np.ndarray, decay: float, memory: dict[str, Any]) -> np.ndarray:
    gradient = gradient + decay * weight
    memory["v"] = BETA * memory.get("v", 0) + gradient
    return weight - LR * (gradient + BETA * memory["v"])


def adamw(weight: np.ndarray, gradient: np.ndarray, decay: float, memory: dict[str, Any]) -> np.ndarray:
    """Loshchilov & Hutter 2017, algorithm 2: decay beside the moments, times the rate."""
    memory["t"] = memory.get("t", 0) + 1
    memory["m"] = BETA * memory.get("m", 0) + (1 - BETA) * gradient
    memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * gradient**2
    m, v = memory["m"] / (1 - BETA ** memory["t"]), memory["v"] / (1 - 0.999 ** memory["t"])
    return weight * (1 - LR * decay) - LR * m / (np.sqrt(v) + 1e-8)


def adam(weight: np.ndarray, gradient: np.ndarray, decay: float, memory: dict[str, Any]) -> np.ndarray:
    """Kingma & Ba 2014, algorithm 1: decay is part of the gradient."""
    return adamw(weight, gradient + decay * weight, 0.0, memory)


def rmsprop(weight: np.ndarray, gradient: np.ndarray, decay: float, memory: dict[str, Any]) -> np.ndarray:
    gradient = gradient + decay * weight
    memory["s"] = 0.99 * memory.get("s", 0) + 0.01 * gradient**2
    memory["v"] = BETA * memory.get("v", 0) + gradient / (np.sqrt(memory["s"]) + 1e-8)
    return weight - LR * memory["v"]


def lion(weight: np.ndarray, gradient: np.ndarray, decay: float, memory: dict[str, Any]) -> np.ndarray:
    """Chen et al. 2023, algorithm 2."""
    m = memory.get("m", 0)
    memory["m"] = 0.99 * m + 0.01 * gradient
    return weight - LR * (np.sign(BETA * m + (1 - BETA) * gradient) + decay * weight)


def nadamw(weight: np.ndarray, gradient: np.ndarray, decay: float, memory: dict[str, Any]) -> np.ndarray:
    """What muon leaves small matrices and vectors to: adamw, whose first moment looks one step ahead (Dozat 2016)."""
    t = memory["t"] = memory.get("t", 0) + 1
    memory["m"] = BETA * memory.get("m", 0) + (1 - BETA) * gradient
    memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * gradient**2
    ahead = (BETA * memory["m"] + (1 - BETA) * gradient) / (1 - BETA**t)
    return weight * (1 - LR * decay) - LR * ahead / (np.sqrt(memory["v"] / (1 - 0.999**t)) + 1e-7)


FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    "gd": sgd,
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adamw": adamw,
    "adam": adam,
    "rmsprop": rmsprop,
    "lion": lion,
    "muon": nadamw,
}


def chosen(**changes: Any) -> OptimiserChoice:
    return dataclasses.replace(OptimiserChoice(lr=LR, momentum=BETA, weight_decay=DECAY), **changes)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_three_steps_are_those_of_the_formula_and_biases_do_not_decay(name: str) -> None:
    network = Bowl()
    optimiser = optim.optimiser(network, chosen(optimiser=name))
    matrix, bias = np.zeros((2, 2)), np.ones(2)
    memories: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for _ in range(3):
        optimiser.zero_grad()
        network().backward()
        optimiser.step()
        slopes = slope(matrix, bias)
        matrix = FORMULAS[name](matrix, slopes[0], DECAY, memories[0])
        bias = FORMULAS[name](bias, slopes[1], 0.0, memories[1])
        np.testing.assert_allclose(network.matrix.detach().numpy(), matrix, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(network.bias.detach().numpy(), bias, rtol=1e-9, atol=1e-12)


def test_the_formulas_differ() -> None:
    """So that a table that mixes them up is found out."""
    ends = {}
    for name in FORMULAS.keys() - {"gd"}:
        weight, memory = np.zeros((2, 2)), {}
        for _ in range(3):
            weight = FORMULAS[name](weight, CURVES * (weight - CENTRES), DECAY, memory)
        ends[name] = weight.tobytes()
    assert len(set(ends.values())) == 8


def test_nesterov_without_momentum_is_plain() -> None:
    assert optim.optimiser(Bowl(), chosen(optimiser="nesterov", momentum=0.0)).param_groups[0]["nesterov"] is False


def test_an_unknown_optimiser_answers_with_the_nearest() -> None:
    with pytest.raises(CallError, match=r"unknown optimiser 'adamz'.*Did you mean 'adam"):
        optim.optimiser(Bowl(), chosen(optimiser="adamz"))


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("lookahead", [0, 5])
def test_every_optimiser_reaches_the_same_minimum_of_a_convex_problem(name: str, lookahead: int) -> None:
    """Least squares with a 6 × 8 matrix, large enough for muon, and a bias; the rate falls to 0."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)), rng.normal(size=(60, 6))
    both = np.column_stack([x, np.ones(60)])
    wanted = np.linalg.lstsq(both, y, rcond=None)[0]
    network = nn.Linear(8, 6).double()
    choice = chosen(optimiser=name, weight_decay=0.0, lr=0.05, schedule="linear", lookahead=lookahead)
    optimiser, slow = optim.optimiser(network, choice), optim.slow_weights(network)
    for step in range(1500):
        set_rate(optimiser, rate(choice, step, 1500, 10))
        optimiser.zero_grad()
        (network(torch.from_numpy(x)) - torch.from_numpy(y)).square().sum(1).mean().backward()
        optimiser.step()
        if lookahead and (step + 1) % lookahead == 0:
            optim.look_back(network, slow)
    np.testing.assert_allclose(network.weight.detach().numpy(), wanted[:-1].T, atol=1e-3)
    np.testing.assert_allclose(network.bias.detach().numpy(), wanted[-1], atol=1e-3)


RATES = {"gd": 1.0, "sgd": 0.1, "momentum": 0.02, "nesterov": 0.02, "rmsprop": 0.0003, "lion": 0.001, "muon": 0.005}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_learns_handwritten_digits_that_it_has_not_seen(name: str) -> None:
    """450 digits of three kinds that are easily confused, a convolution and a head; a third is tested."""
    found = load_digits()
    rows = np.flatnonzero(np.isin(found.target, (3, 8, 9)))[:450]
    images = torch.from_numpy(found.images[rows]).float()[:, None] / 8 - 1
    targets = torch.from_numpy(np.searchsorted((3, 8, 9), found.target[rows]))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 3))
    choice = chosen(optimiser=name, lr=RATES.get(name, 0.005), momentum=0.9, schedule="one-cycle", weight_decay=0.01)
    optimiser = optim.optimiser(network, choice)
    batches = [torch.arange(300)] * 120 if name == "gd" else torch.randperm(300).repeat(12).split(30)
    for step, batch in enumerate(batches):
        set_rate(optimiser, rate(choice, step, len(batches), 10))
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images[batch]), targets[batch]).backward()
        optimiser.step()
    with torch.no_grad():
        right = (network(images[300:]).argmax(1) == targets[300:]).float().mean()
    assert right > 0.93


@pytest.mark.parametrize("shape", [(6, 8), (8, 4, 3, 3)])
def test_muon_steps_along_the_nearest_orthogonal_matrix(shape: tuple[int, ...]) -> None:
    """A convolution's kernels are the rows of one matrix. A step goes along U Vᵀ of the gradient, to 30 %."""
    layer = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    before = layer.detach().clone()
    made = nn.ParameterList([layer])
    optimiser = optim.optimiser(made, chosen(optimiser="muon", weight_decay=0.5))
    layer.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    optimiser.step()
    moved = (layer.detach() - before * (1 - LR * 0.5)).flatten(1).numpy().astype(float)
    u, _, vt = np.linalg.svd(layer.grad.flatten(1).numpy().astype(float), full_matrices=False)
    in_their_axes = u.T @ moved @ vt.T / (-LR * 0.2 * np.sqrt(max(moved.shape)))
    assert np.abs(np.diag(in_their_axes) - 1).max() < 0.3
    assert np.abs(in_their_axes - np.diag(np.diag(in_their_axes))).max() < 0.03


def test_looking_back_goes_half_way() -> None:
    made = nn.Linear(2, 2)
    made.bias.requires_grad_(False)
    slow = optim.slow_weights(made)
    before = made.weight.detach().clone()
    assert set(slow) == {"weight"}
    with torch.no_grad():
        made.weight.add_(1)
        made.bias.add_(1)
    bias = made.bias.clone()
    optim.look_back(made, slow)
    torch.testing.assert_close(made.weight.detach(), before + 0.5)
    assert torch.equal(slow["weight"], made.weight)
    with torch.no_grad():
        made.weight.add_(1)
    assert not torch.equal(slow["weight"], made.weight)  # a copy of its own
    assert torch.equal(made.bias, bias)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5, 2))


def told(optimiser: torch.optim.Optimizer, made: nn.Module, what: str) -> dict[str, float]:
    """Name → what its group says."""
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    return {names[id(p)]: group[what] for group in optimiser.param_groups for p in group["params"]}


def test_only_weights_of_more_dimensions_decay() -> None:
    made = network()
    decays = told(optim.optimiser(made, chosen()), made, "weight_decay")
    assert {name for name, decay in decays.items() if decay == DECAY} == {"0.weight", "2.weight", "4.weight"}
    assert {name for name, decay in decays.items() if decay == 0} == {
        "0.bias",
        "1.weight",
        "1.bias",
        "2.bias",
        "4.bias",
    }


def test_frozen_weights_are_left_out() -> None:
    made = network()
    made[0].requires_grad_(False)
    optimiser = optim.optimiser(made, chosen())
    assert set(told(optimiser, made, "lr")) == {"1.weight", "1.bias", "2.weight", "2.bias", "4.weight", "4.bias"}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_rates_fall_by_layer_decay_from_the_head_to_the_input(name: str) -> None:
    made = network()
    stages = [["0.weight", "0.bias"], ["1.weight", "1.bias", "2.weight", "2.bias"], ["4.weight", "4.bias"]]
    optimiser = optim.optimiser(made, chosen(optimiser=name), stages, 0.5)
    set_rate(optimiser, 0.8)
    rates = told(optimiser, made, "lr")
    wanted = {name: share for stage, share in zip(stages, (0.2, 0.4, 0.8)) for name in stage}
    assert rates == pytest.approx(wanted)
    assert told(optimiser, made, "weight_decay")["0.weight"] == DECAY
    assert told(optimiser, made, "weight_decay")["0.bias"] == 0


def test_without_stages_all_have_one_rate() -> None:
    made = network()
    optimiser = optim.optimiser(made, chosen())
    set_rate(optimiser, 0.3)
    assert set(told(optimiser, made, "lr").values()) == {0.3}


# Schedules -----------------------------------------------------------------------------------------------------------


def rates(**changes: Any) -> list[float]:
    """The rates of 100 steps, 10 an epoch."""
    return [rate(chosen(lr=2.0, **changes), step, 100, 10) for step in range(100)]


def test_constant_is_constant() -> None:
    assert set(rates(schedule="constant")) == {2.0}


def test_step_drops_at_its_epochs() -> None:
    found = rates(schedule="step", step_every=3, step_factor=0.5)
    assert [found[i] for i in (0, 29, 30, 59, 60, 89, 90, 99)] == [2, 2, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_cosine_is_a_half_wave() -> None:
    found = rates(schedule="cosine")
    assert [found[i] for i in (0, 25, 50, 75)] == pytest.approx([2, 1 + np.sqrt(0.5), 1, 1 - np.sqrt(0.5)])
    assert 0 < found[-1] < 0.01


def test_linear_falls_in_a_straight_line() -> None:
    assert rates(schedule="linear") == pytest.approx([2 * (1 - i / 100) for i in range(100)])


def test_one_cycle_rises_over_30_percent_or_its_warmup_and_falls() -> None:
    found = rates(schedule="one-cycle")
    assert found[:30] == pytest.approx([2 * (i + 1) / 30 for i in range(30)])
    assert found[30:] == pytest.approx([2 * (1 - (i - 30) / 70) for i in range(30, 100)])
    assert np.argmax(rates(schedule="one-cycle", warmup=0.5)) in (49, 50)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_rises_in_a_straight_line_to_the_highest_rate_and_never_over_it(schedule: str) -> None:
    found = rates(schedule=schedule, warmup=0.2, step_every=3)
    assert found[:20] == pytest.approx([2 * (i + 1) / 20 for i in range(20)])
    assert max(found) == found[19] == found[20] == 2
    assert min(found) > 0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_runs_have_rates_too(schedule: str, warmup: float, steps: int) -> None:
    found = [rate(chosen(schedule=schedule, warmup=warmup), step, steps, 1) for step in range(steps)]
    assert all(0 < one <= LR * (1 + 1e-12) for one in found)


def test_an_unknown_schedule_answers_with_the_nearest() -> None:
    with pytest.raises(CallError, match=r"unknown schedule 'cosin'.*Did you mean 'cosine'"):
        rate(chosen(schedule="cosin"), 0, 1, 1)


# Clipping ------------------------------------------------------------------------------------------------------------


def with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(made, gradients):
        parameter.grad = torch.tensor(gradient)
    return made


def gradients(parameters: list[nn.Parameter]) -> list[float]:
    return [value for p in parameters if p.grad is not None for value in p.grad.tolist()]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({}, [3, -4, 12]),
        ({"clip_norm": 13.0}, [3, -4, 12]),
        ({"clip_norm": 1.3}, [0.3, -0.4, 1.2]),  # of all together: √(9 + 16 + 144) = 13
        ({"clip_value": 3.5}, [3, -3.5, 3.5]),
        ({"clip_value": 4.0, "clip_norm": 1.0}, (np.array([3, -4, 4]) / np.sqrt(41)).tolist()),
    ],
)
def test_gradients_are_clipped_by_value_then_by_norm(choice: dict[str, float], wanted: list[float]) -> None:
    parameters = with_gradients([3.0, -4.0], [12.0])
    clip([*parameters, nn.Parameter(torch.zeros(1))], chosen(**choice))
    assert gradients(parameters) == pytest.approx(wanted, rel=1e-5)


def test_clipping_takes_a_generator() -> None:
    parameters = with_gradients([3.0], [4.0])
    clip((p for p in parameters), chosen(clip_value=10.0, clip_norm=0.5))
    assert gradients(parameters) == pytest.approx([0.3, 0.4], rel=1e-5)


# Averaging -----------------------------------------------------------------------------------------------------------


def test_the_average_is_numpys_and_whole_numbers_are_copied() -> None:
    made = nn.BatchNorm1d(2).double()
    average = Average(made, 0.5)
    wanted = {name: value.numpy().copy() for name, value in made.state_dict().items()}
    rng = np.random.default_rng(0)
    for update in range(1, 13):
        with torch.no_grad():
            for value in (made.weight, made.running_mean):
                value.copy_(torch.from_numpy(rng.normal(size=2)))  # type: ignore[union-attr]
            made.num_batches_tracked.fill_(update)  # type: ignore[union-attr]
        average.update(made)
        decay = min(0.5, (1 + update) / (10 + update))
        for name, value in made.state_dict().items():
            new = value.numpy()
            wanted[name] = decay * wanted[name] + (1 - decay) * new if new.dtype.kind == "f" else new.copy()
        for name, value in average.values.items():
            np.testing.assert_allclose(value.numpy(), wanted[name], rtol=1e-12)
    assert average.updates == 12
    assert average.values["num_batches_tracked"] == 12


def test_from_its_beginning_on_every_step_counts_alike() -> None:
    made = nn.BatchNorm1d(2).double()
    made.weight.requires_grad_(False)
    average = optim.average(made, chosen(average_from=0.6), 10, pretrained=False)
    given = np.random.default_rng(0).normal(size=(10, 2))
    for update, row in enumerate(given):
        made.weight.copy_(torch.from_numpy(row))
        made.running_var.fill_(update)  # type: ignore[union-attr]
        average.update(made)
        expected = row if update < 6 else given[6 : update + 1].mean(0)
        np.testing.assert_allclose(average.values["weight"].numpy(), expected, rtol=1e-12)
    assert average.values["running_var"].tolist() == pytest.approx([7.5, 7.5])  # of 6, 7, 8, 9


def test_there_is_no_average_unless_asked_for_and_never_two() -> None:
    made = nn.Linear(2, 2)
    assert optim.average(made, chosen(), 10, pretrained=False) is None
    assert optim.average(made, chosen(average_from=0.99), 10, pretrained=False) is None  # nothing is left to average
    with pytest.raises(CallError, match="ema or average_from"):
        optim.refuse_two_averages(chosen(ema=0.9, average_from=0.5))


def test_the_average_is_a_copy_that_learns_nothing() -> None:
    made = nn.Linear(2, 2)
    before = made.weight.detach().clone()
    average = Average(made, 0.9)
    with torch.no_grad():
        made.weight.add_(1)
    assert torch.equal(average.values["weight"], before)
    average.update(made)
    assert torch.equal(made.weight, before + 1)
    assert not any(value.requires_grad for value in average.values.values())


def test_pretrained_weights_are_not_forgotten_early() -> None:
    made = nn.Linear(1, 1, bias=False)
    average = Average(made, 0.9, pretrained=True)
    first = made.weight.item()
    with torch.no_grad():
        made.weight.fill_(first + 1)
    for _ in range(3):
        average.update(made)
    assert average.values["weight"].item() == pytest.approx(first + 1 - 0.9**3)

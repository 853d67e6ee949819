"""How weights move: optimisers, schedules, clipping, averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CallError, unknown
from .recipe import OptimiserChoice

Groups = list[dict[str, Any]]


# Fused: one pass over the weights instead of three; on two cores that is what an update costs.


def _sgd(momentum: bool, nesterov: bool = False) -> Callable[[Groups, OptimiserChoice], torch.optim.Optimizer]:
    def make(groups: Groups, choice: OptimiserChoice) -> torch.optim.Optimizer:
        beta = choice.momentum if momentum else 0.0
        return torch.optim.SGD(groups, lr=choice.lr, momentum=beta, nesterov=nesterov and beta > 0, fused=True)

    return make


def _adamw(groups: Groups, choice: OptimiserChoice) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=choice.lr, betas=(choice.momentum, 0.999), fused=True)


def _adam(groups: Groups, choice: OptimiserChoice) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=choice.lr, betas=(choice.momentum, 0.999), fused=True)


def _rmsprop(groups: Groups, choice: OptimiserChoice) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr=choice.lr, alpha=0.99, momentum=choice.momentum)


def _lion(groups: Groups, choice: OptimiserChoice) -> torch.optim.Optimizer:
    from timm.optim.lion import Lion

    return Lion(groups, lr=choice.lr, betas=(choice.momentum, 0.99))


def _muon(groups: Groups, choice: OptimiserChoice) -> torch.optim.Optimizer:
    """A convolution's weights are one matrix, (out, in·H·W); vectors and small matrices go by NAdamW.

    A matrix's step is scaled so that its entries move as far as AdamW's would (Liu et al. 2025, arXiv 2502.16982).
    """
    from timm.optim.muon import Muon

    return Muon(groups, lr=choice.lr, momentum=choice.momentum, nesterov=True, betas=(choice.momentum, 0.999))


# gd is sgd whose batch is the whole training set: the loop sees to that.
OPTIMISERS: dict[str, Callable[[Groups, OptimiserChoice], torch.optim.Optimizer]] = {
    "gd": _sgd(momentum=False),
    "sgd": _sgd(momentum=False),
    "momentum": _sgd(momentum=True),  # Polyak 1964
    "nesterov": _sgd(momentum=True, nesterov=True),  # Sutskever et al. 2013
    "adamw": _adamw,  # Loshchilov & Hutter 2017, arXiv 1711.05101
    "adam": _adam,  # Kingma & Ba 2014, arXiv 1412.6980
    "rmsprop": _rmsprop,  # Tieleman & Hinton 2012, with momentum
    "lion": _lion,  # Chen et al. 2023, arXiv 2302.06675; wants a rate 3 to 10 times smaller than adamw's
    "muon": _muon,  # Jordan et al. 2024
}


def optimiser(
    network: nn.Module, choice: OptimiserChoice, stages: Sequence[Sequence[str]] = (), layer_decay: float = 1.0
) -> torch.optim.Optimizer:
    """The optimiser of all weights of `network` that learn.

    Args:
        network: its biases and norms (every parameter of one dimension) take no weight decay.
        choice: which, and its numbers.
        stages: names of parameters from input to head; with them stage i learns at `layer_decay ** (last - i)`.
        layer_decay: 1 for one rate everywhere.

    Raises:
        CallError: for an unknown optimiser.
    """
    if choice.optimiser not in OPTIMISERS:
        raise unknown("optimiser", choice.optimiser, OPTIMISERS)
    depth = {name: len(stages) - 1 - i for i, stage in enumerate(stages) for name in stage}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            scale = layer_decay ** depth.get(name, 0)
            groups.setdefault((scale, choice.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    made = [{"params": p, "scale": scale, "weight_decay": decay} for (scale, decay), p in groups.items()]
    return OPTIMISERS[choice.optimiser](made, choice)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


# progress 0…1 over the part after the warm-up → factor 1…0
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "step": lambda progress: 1.0,  # drops at epochs, see `rate`
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,  # Loshchilov & Hutter 2016, arXiv 1608.03983
    "linear": lambda progress: 1 - progress,
    "one-cycle": lambda progress: 1 - progress,  # up and down in straight lines: Smith 2018, arXiv 1803.09820
}


def rate(choice: OptimiserChoice, step: int, steps: int, steps_per_epoch: int) -> float:
    """The learning rate of optimiser step `step` (from 0) of `steps`.

    Warm-up rises in a straight line over `choice.warmup` of all steps; `one-cycle` without a warm-up rises over 30 %.

    Raises:
        CallError: for an unknown schedule.
    """
    if choice.schedule not in SCHEDULES:
        raise unknown("schedule", choice.schedule, SCHEDULES)
    share = choice.warmup or (0.3 if choice.schedule == "one-cycle" else 0.0)
    rising = round(share * steps)
    if step < rising:
        return choice.lr * (step + 1) / rising
    factor = SCHEDULES[choice.schedule]((step - rising) / max(1, steps - rising))
    if choice.schedule == "step":
        factor = choice.step_factor ** (step // steps_per_epoch // choice.step_every)
    return choice.lr * factor


def clip(parameters: Iterable[Tensor], choice: OptimiserChoice) -> None:
    """Clip gradients in place, by value, then by the norm of all of them together (Pascanu et al. 2012)."""
    learning = [p for p in parameters if p.grad is not None]
    if choice.clip_value:
        nn.utils.clip_grad_value_(learning, choice.clip_value)
    if choice.clip_norm:
        nn.utils.clip_grad_norm_(learning, choice.clip_norm)


def refuse_two_averages(choice: OptimiserChoice) -> None:
    """Raises CallError."""
    if choice.ema and choice.average_from < 1:
        raise CallError("two averages", expected="ema or average_from", received="both", do="Leave one of them out")


def average(network: nn.Module, choice: OptimiserChoice, steps: int, *, pretrained: bool) -> Average | None:
    """What averages the weights of a run of so many steps; None where nothing is to be averaged."""
    if choice.ema:
        return Average(network, choice.ema, pretrained=pretrained)
    begin = round(choice.average_from * steps)
    return Average(network, begin=begin) if begin < steps else None


class Average:
    """A moving average of weights and buffers: exponential, or equal from update `begin` on.

    Exponential (Polyak & Juditsky 1992): random first weights are soon forgotten, as early on the decay is less,
    (1 + t) / (10 + t). Pretrained ones are worth remembering: between them and what they became lie weights that know
    both (Wortsman et al. 2021, arXiv 2109.01903). Equal (Izmailov et al. 2018, arXiv 1803.05407): until it begins
    the weights as they are; batch norms' statistics are averaged, not measured anew.
    """

    def __init__(
        self, network: nn.Module, decay: float = 0.0, *, pretrained: bool = False, begin: int | None = None
    ) -> None:
        self.decay, self.pretrained, self.begin, self.updates = decay, pretrained, begin, 0
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights; whole numbers are copied."""
        self.updates += 1
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - self._kept())
            else:
                self.values[name].copy_(value)

    def _kept(self) -> float:
        """The share of the average that this update leaves."""
        if self.begin is not None:
            return 1 - 1 / max(1, self.updates - self.begin)
        return self.decay if self.pretrained else min(self.decay, (1 + self.updates) / (10 + self.updates))


def slow_weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights that learn: where Lookahead starts from."""
    return {name: weight.detach().clone() for name, weight in network.named_parameters() if weight.requires_grad}


@torch.no_grad()
def look_back(network: nn.Module, slow: dict[str, Tensor]) -> None:
    """Lookahead (Zhang et al. 2019, arXiv 1907.08610): slow weights go half-way to the fast ones, and these back."""
    weights = dict(network.named_parameters())
    for name, value in slow.items():
        weights[name].copy_(value.lerp_(weights[name], 0.5))

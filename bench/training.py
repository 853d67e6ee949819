"""Row 4: one training step, opsin's (measured plan) against torch's defaults (eager, fp32, contiguous), batch by batch.

    python bench/training.py

Both sides take the same uint8 batch to updated weights, torch's in a process of its own. FLOPs are three times those
that torch.utils.flop_counter finds in a forward pass (in a backward pass it counts convolutions by groups as whole
ones); the machine's matrix rate is the best of five products of 2048 × 2048 in the precision of the plan.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from record import alternating, apart, conditions, spread, write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from opsin import losses, models, plans, recipe, training
from opsin.augmentation import AugmentChoice
from opsin.batches import Batch, Batches
from opsin.cache import Pixels
from opsin.plans import Plan
from opsin.preprocessing import Preprocessing
from opsin.sources import arrays
from opsin.training import Job

CASES = {
    "textbook at 32": ("textbook", 32, 64),
    "textbook at 64": ("textbook", 64, 64),
    "ResNet-18 at 128": ("resnet18", 128, 32),
    "EfficientNet-Lite0 at 224": ("tf_efficientnet_lite0", 224, 32),
}
STEPS = 8  # a turn


def main() -> None:
    """Measure every case and keep the table."""
    state = conditions("torch", "timm")
    rates = {"fp32": matrix_rate(torch.float32), "bf16": matrix_rate(torch.bfloat16)}
    rows = [row(name, *case, rates) for name, case in CASES.items()]
    write(
        "training",
        "A training step (row 4)",
        ["network", "opsin, images/s", "torch defaults, images/s", "ratio", "plan", "share of the matrix rate"],
        rows,
        conditions=state,
        notes=["matrix rate: " + ", ".join(f"{kind} {rate / 1e9:,.0f} GFLOP/s" for kind, rate in rates.items())],
    )


def row(name: str, network: str, size: int, batch: int, rates: dict[str, float]) -> list[object]:
    """One case: both sides in turn."""
    torch.manual_seed(0)
    built = models.build(models.spec_for(network, 10, size))
    job, drawn = job_of(network, size, batch)
    flops = step_flops(built, size, batch)
    plan, _ = plans.choose(training.rehearsals(built, job, plans.candidates()))
    job = dataclasses.replace(job, plan=plan)
    state = training.start(copy.deepcopy(built), job)
    theirs = apart(plain, built, drawn.images.contiguous(), drawn.targets)
    sides = {"opsin": lambda: [training.step(state, job, drawn) for _ in range(STEPS)], "torch": theirs}
    seconds = alternating(sides)
    speed = {side: [batch * STEPS / s for s in each] for side, each in seconds.items()}
    ratio = float(np.median(speed["opsin"]) / np.median(speed["torch"]))
    share = flops * np.median(speed["opsin"]) / batch / rates[plan.precision]
    return [name, spread(speed["opsin"]), spread(speed["torch"]), f"{ratio:.2f}", str(plan), f"{share:.0%}"]


def job_of(network: str, size: int, batch: int) -> tuple[Job, Batch]:
    """A job on noise, and its first batch."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    data = arrays.dataset("noise", {"train": (images, np.arange(batch) % 10)}, tuple("abcdefghij"))
    pixels = Pixels(data, images.transpose(0, 3, 1, 2).copy())
    chosen = recipe.textbook().set(network=network, size=size, batch=batch, epochs=1_000_000)
    batches = Batches(pixels, batch, size, AugmentChoice(), 0)
    weights = losses.class_weights([1] * 10, "none")
    return Job(batches, None, 10, weights, Preprocessing(size), chosen, Plan()), next(batches.epoch(0))


def plain(built: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    """The same step as a torch tutorial writes it."""
    network = copy.deepcopy(built).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def turn() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss = criterion(network((images / 255 - mean) / std), targets)
            loss.backward()
            optimiser.step()
            loss.item()

    return turn


def step_flops(built: nn.Module, size: int, batch: int) -> int:
    """Floating-point operations of one forward and backward pass of a batch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(built)(torch.zeros(batch, 3, size, size))
    return 3 * counter.get_total_flops()


def matrix_rate(kind: torch.dtype, side: int = 2048) -> float:
    """FLOP/s of the best of five matrix products."""
    a, b = (torch.randn(side, side).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


if __name__ == "__main__":
    main()

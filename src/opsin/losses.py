"""What is minimised. A loss gives one value a picture; the step divides their sum by the batch, however it was cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .errors import unknown

# float32 logits (B, K), float32 targets (B, K) whose rows sum to 1 → float32 (B,)
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-Σ_k target_k log softmax(logits)_k, `(B, K)` each → `(B,)` (Bishop 2006, eq. 4.108)."""
    return -(targets * functional.log_softmax(logits, dim=1)).sum(1)


def mse(logits: Tensor, targets: Tensor) -> Tensor:
    """Σ_k (softmax(logits)_k - target_k)², `(B, K)` each → `(B,)`: the Brier score (Brier 1950) as a loss."""
    return (logits.softmax(1) - targets).square().sum(1)


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "mse": mse}


def loss(name: str) -> Loss:
    """The loss called `name`.

    Raises:
        CallError: for an unknown name.
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]


def soft_targets(targets: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """int64 `(B,)` → float32 `(B, K)`: one-hot, with `smoothing` of it spread evenly (Szegedy et al. 2015, §7)."""
    hot = functional.one_hot(targets, classes).to(torch.float32)
    return hot * (1 - smoothing) + smoothing / classes


def class_weights(counts: Sequence[int], kind: str) -> Tensor:
    """float32 `(K,)`, of mean 1 over the training pictures: all 1 (`none`), or N / (K · count) (`balanced`)."""
    count = torch.tensor(counts, dtype=torch.float32)
    if kind == "none":
        return torch.ones(len(count))
    present = count > 0
    return torch.where(present, count.sum() / (present.sum() * count.clamp_min(1)), 0.0)

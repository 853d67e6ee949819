"""What is minimised. A loss gives one value a picture; the step divides their sum by the batch, however it was cut."""

from __future__ import annotations

import math
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


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """-Σ_k target_k (1 - p_k)² log p_k with p = softmax(logits): what is known counts less (Lin et al. 2017, γ = 2)."""
    logs = functional.log_softmax(logits, dim=1)
    return -(targets * (1 - logs.exp()).square() * logs).sum(1)


def poly_1(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy + 1 - Σ_k target_k p_k: a larger first term of its series (Leng et al. 2022, ε = 1)."""
    return cross_entropy(logits, targets) + 1 - (targets * logits.softmax(1)).sum(1)


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "mse": mse, "focal": focal, "poly-1": poly_1}


def loss(name: str) -> Loss:
    """The loss called `name`.

    Raises:
        CallError: for an unknown name.
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]


def mixed_targets(targets: Tensor, others: Tensor, shares: Tensor, classes: int) -> Tensor:
    """int64 `(B,)` twice and float32 `(B,)` → float32 `(B, K)`: one-hot, `shares` of `targets`, the rest `others`."""
    first, second = (functional.one_hot(each, classes).to(torch.float32) for each in (targets, others))
    return shares[:, None] * first + (1 - shares[:, None]) * second


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    """`(B, K)` whose rows sum to 1, with `smoothing` of each spread evenly (Szegedy et al. 2015, §7)."""
    return targets * (1 - smoothing) + smoothing / targets.shape[1]


def soft_targets(targets: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """int64 `(B,)` → float32 `(B, K)`: one-hot, with `smoothing` of it spread evenly."""
    return smoothed(functional.one_hot(targets, classes).to(torch.float32), smoothing)


def class_weights(counts: Sequence[int], kind: str, beta: float = 0.999) -> Tensor:
    """float32 `(K,)`, of mean 1 over the training pictures; 0 for a class without any.

    Args:
        counts: pictures of each class.
        kind: `none`: all 1. `balanced`: inverse to the count. `effective`: inverse to the effective number
            (1 - beta^count) / (1 - beta) of pictures, as many are like others (Cui et al. 2019, arXiv 1901.05555).
        beta: from 0, where classes are alike, towards 1, where it is `balanced`.
    """
    if kind == "none":
        return torch.ones(len(counts))
    count = torch.tensor(counts, dtype=torch.float64)
    number = count if kind == "balanced" else -torch.expm1(count * math.log(beta)) if beta else count.clamp_max(1)
    inverse = torch.where(count > 0, 1 / number, 0.0)
    return (inverse * count.sum() / (inverse * count).sum()).float()

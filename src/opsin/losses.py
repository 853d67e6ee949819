"""What is minimised. A loss gives one value a picture; the step divides their sum by the batch, however it was cut.

Of labels and of quantities it is the mean over all K of a picture; those that are unknown count nothing, so every
known one counts alike, however many a picture has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .errors import CallError, unknown
from .recipe import LearnChoice
from .vocabulary import Scale, Task

# float32 logits (B, K), float32 targets (B, K) → float32 (B,). Rows of targets sum to 1; for the other tasks they are
# shares 0…1 of labels, or quantities at mean 0 and deviation 1, and NaN where unknown.
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


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-t log p - (1 - t) log (1 - p) with p = sigmoid(logit), of each label (Bishop 2006, eq. 4.90)."""
    known, aims = _known(targets)
    return (functional.binary_cross_entropy_with_logits(logits, aims, reduction="none") * known).mean(1)


def binary_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy · |t - p|²: what is known counts less (Lin et al. 2017, γ = 2; as in Li et al. 2020)."""
    known, aims = _known(targets)
    each = functional.binary_cross_entropy_with_logits(logits, aims, reduction="none")
    return (each * (aims - logits.sigmoid()).square() * known).mean(1)


def asymmetric(logits: Tensor, targets: Tensor) -> Tensor:
    """-t log p - (1 - t) q⁴ log (1 - q), q = max(p - 0.05, 0): easy negatives count little (Ridnik et al. 2021).

    Their γ+ = 0, γ- = 4, m = 0.05 (arXiv 2009.14119, eq. 7). The focusing factor has a gradient here, as in the
    paper's equation and not as in its code.
    """
    known, aims = _known(targets)
    shifted = (logits.sigmoid() - 0.05).clamp_min(0)
    positive = aims * functional.logsigmoid(logits)
    negative = (1 - aims) * shifted**4 * torch.log1p(-shifted)
    return -((positive + negative) * known).mean(1)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """(output - target)², of each quantity."""
    known, aims = _known(targets)
    return ((outputs - aims).square() * known).mean(1)


def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    """|output - target|, of each quantity."""
    known, aims = _known(targets)
    return ((outputs - aims).abs() * known).mean(1)


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    """(output - target)² / 2 up to one deviation, from there on a line (Huber 1964, δ = 1): outliers pull less."""
    known, aims = _known(targets)
    return (functional.huber_loss(outputs, aims, reduction="none") * known).mean(1)


def _known(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Which are known, bool, and the targets with 0 for those that are not: NaN times 0 would be NaN."""
    known = ~targets.isnan()
    return known, targets.nan_to_num(0.0)


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "mse": mse, "focal": focal, "poly-1": poly_1}
MULTI_LABEL: dict[str, Loss] = {
    "binary-cross-entropy": binary_cross_entropy,
    "binary-focal": binary_focal,
    "asymmetric": asymmetric,
}
REGRESSION: dict[str, Loss] = {"mse": squared, "mae": absolute, "huber": huber}
OF_TASK: Mapping[Task, dict[str, Loss]] = {
    "single-label": LOSSES,
    "multi-label": MULTI_LABEL,
    "regression": REGRESSION,
}


def loss(name: str, task: Task = "single-label") -> Loss:
    """The loss called `name`.

    Raises:
        CallError: for an unknown name, and one that is another task's.
    """
    if name in OF_TASK[task]:
        return OF_TASK[task][name]
    known = {one: of for of, table in OF_TASK.items() for one in table}
    if name not in known:
        raise unknown("loss", name, known)
    raise CallError(
        f"loss {name} is not for {task}",
        expected=", ".join(OF_TASK[task]),
        received=f"a loss for {known[name]}",
        do=f"Choose one with --set loss=, or a preset for the task: opsin.preset(name, task={task!r})",
    )


def each(
    outputs: Tensor, aims: Sequence[Tensor], weights: Tensor, learn: LearnChoice, task: Task, scale: Scale
) -> Tensor:
    """What every picture of a batch adds to the loss: its task's loss against targets mixed as its picture is.

    Args:
        outputs: float32 `(B, K)`: logits, or quantities at mean 0 and deviation 1.
        aims: targets, others and shares, as a Batch has them.
        weights: float32 `(K,)`, of classes.
        learn: the loss, and how much targets are smoothed.
        scale: of quantities.

    Returns:
        float32 `(B,)`.
    """
    targets, others, shares = aims
    chosen = loss(learn.loss, task)
    if task == "single-label":
        hot = mixed_targets(targets, others, shares, len(weights))
        soft = smoothed(hot, learn.label_smoothing)
        return chosen(outputs, soft) * (hot * weights.to(hot.device)).sum(1)
    return chosen(outputs, mixed_values(standardised(targets, scale), standardised(others, scale), shares))


def standardised(targets: Tensor, scale: Scale) -> Tensor:
    """`(B, K)` with mean 0 and deviation 1 in training; as they are where there is no scale."""
    if not scale:
        return targets
    mean, deviation = torch.tensor(scale, device=targets.device).T
    aims: Tensor = (targets - mean) / deviation
    return aims


def mixed_values(targets: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """float32 `(B, K)` twice and `(B,)` → `(B, K)`: `shares` of `targets`, the rest `others`; unknown where one is.

    A picture of which nothing is left says nothing, so its unknown targets make none unknown.
    """
    own = shares[:, None]
    mixed = own * targets + (1 - own) * others
    return torch.where(own == 1, targets, torch.where(own == 0, others, mixed))


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

"""What stands around a convolution folded into it: the same answers from fewer passes through memory.

    network ─ folded ─> without batch norms, for any engine ─ fused ─> paddings and activations too, for torch on a CPU

In evaluation mode a batch norm is a factor and a shift a channel, which the weights of a convolution can take over
(Jacob et al. 2018, arXiv:1712.05877, section 3.2). What is computed in fp32 then differs by rounding only. Engines with
a compiler do the rest by themselves; torch, which has to do one operation after the other, is given larger ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

CLOSE = 1e-4  # of the largest output: what folding may change, some hundred times what rounding does
SAME = "Conv2dSame"  # timm's class, by its name: importing timm takes seconds, which networks of others need not wait

# What oneDNN does to the results of a convolution before it writes them: its name for it, and numbers.
ACTIVATIONS: dict[type[nn.Module], tuple[str, Sequence[float]]] = {
    nn.Identity: ("none", ()),
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("hardtanh", (0, 6)),
    nn.Hardswish: ("hardswish", ()),
}


@torch.no_grad()
def folded(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy of `network`, for inference, with batch norms folded away; `network` itself where none can be.

    A batch norm that is defined right after a convolution is taken for what follows it; because a forward pass may do
    otherwise, both networks answer `example`, and one that differs is not used.

    Args:
        network: in evaluation mode.
        example: float `(B, C, H, W)` where the network's weights are.
    """
    if not any(True for _ in _pairs(network)):
        return network
    made = copy.deepcopy(network)
    for module, convolution, name, norm in list(_pairs(made)):
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        setattr(module, name, _rest(norm))
    return made if _alike(network(example), made(example)) else network


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Module, Any, str, Any]]:
    """Module, a convolution in it, and the name and the batch norm that is defined next."""
    for module in network.modules():
        for (_, convolution), (name, norm) in pairwise(module.named_children()):
            if _fits(convolution, norm):
                yield module, convolution, name, norm


def _fits(convolution: nn.Module, norm: nn.Module) -> bool:
    return (
        isinstance(convolution, nn.Conv2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.running_mean is not None
        and norm.num_features == convolution.out_channels
    )


def _rest(norm: nn.Module) -> nn.Module:
    """What timm's batch norms do besides: DropBlock, which does nothing here, and the activation."""
    act = getattr(norm, "act", None)
    return act if isinstance(act, nn.Module) else nn.Identity()


def _alike(expected: Tensor, found: Tensor) -> bool:
    return bool((expected - found).abs().max() <= CLOSE * expected.abs().max())


# ── torch on a CPU ──


@torch.no_grad()
def fused(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy of `network` made of `OnePass`, for torch in fp32 on a CPU; `network` itself where none can be.

    Takes what `folded` does, and is as careful: an activation that is defined right after a convolution is taken for
    what follows it, and both networks answer `example`.
    """
    if example.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return network
    made = copy.deepcopy(network)
    found = [(module, *pair) for module in made.modules() for pair in _passes(module)]
    for module, name, convolution, after, act in found:
        setattr(module, name, OnePass(convolution, act))
        setattr(module, after, nn.Identity())
    try:
        return made if found and _alike(network(example), made(example)) else network
    except (RuntimeError, TypeError):  # the operator is one of torch's compiler, and may be another some day
        return network


def _passes(module: nn.Module) -> Iterator[tuple[str, nn.Conv2d, str, nn.Module]]:
    """Name and convolution, wherever `OnePass` saves something, and name and activation of what is defined next."""
    for (name, convolution), (after, act) in pairwise(module.named_children()):
        saves = _padded(convolution) or (_plain(convolution) and not isinstance(act, nn.Identity))
        if saves and type(act) in ACTIVATIONS:
            yield name, convolution, after, act  # type: ignore[misc]


def _plain(convolution: nn.Module) -> bool:
    return (
        type(convolution) is nn.Conv2d
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    )


def _padded(convolution: nn.Module) -> bool:
    return (
        isinstance(convolution, nn.Conv2d)
        and type(convolution).__name__ == SAME
        and convolution.dilation == (1, 1)
        and all(length >= step for length, step in zip(convolution.kernel_size, convolution.stride))
    )


class OnePass(nn.Module):
    """A convolution with its padding and its activation, float32 `(B, C, H, W)`, written to memory once.

    TensorFlow's padding "same", which timm's Conv2dSame does, makes a copy of its input, since for a kernel of k at
    stride s it takes k - s pixels, one more of them below than above where that is odd. A kernel that begins with a row
    and a column of zeros sees the same pixels with equal padding on all sides. So it is where the stride divides the
    sides of the input; others go the long way.
    """

    def __init__(self, convolution: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.convolution, self.act = convolution, act
        self.padded = _padded(convolution)
        self.weight, self.padding = convolution.weight, convolution.padding
        if self.padded:
            missing = [length - step for length, step in zip(convolution.kernel_size, convolution.stride)]
            self.padding = tuple(-(-pixels // 2) for pixels in missing)
            zeros = (missing[1] % 2, 0, missing[0] % 2, 0)
            self.weight = nn.Parameter(functional.pad(convolution.weight, zeros), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        own = self.convolution
        if self.padded and any(side % step for side, step in zip(images.shape[2:], own.stride)):
            return self.act(own(images))  # type: ignore[no-any-return]
        sizes = (self.padding, own.stride, own.dilation, own.groups)
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            images, self.weight, own.bias, *sizes, *ACTIVATIONS[type(self.act)], ""
        )

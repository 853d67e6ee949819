"""Batch norms folded into the convolutions before them: the same answers from fewer passes through memory.

In evaluation mode a batch norm is a factor and a shift a channel, which the weights of a convolution can take over
(Jacob et al. 2018, arXiv:1712.05877, section 3.2). What is computed in fp32 then differs by rounding only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

CLOSE = 1e-4  # of the largest output: what folding may change, some hundred times what rounding does


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

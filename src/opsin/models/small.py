"""A small network for learning from scratch in minutes: whitened patches, six convolutions, one residual a stage.

After the CIFAR-10 speed records (Jordan 2024, arXiv 2404.00498; Page 2018, "How to train your ResNet"): the first
layer whitens patches and is computed from the training pictures instead of learnt; each stage pools right after its
first convolution, so that norms and activations, which a CPU pays for in memory traffic, see a quarter of the pixels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

WIDTHS = (32, 128, 256)
SCALE = 1 / 9  # of what comes into the head (Page 2018): the largest values of 256 maps would make its steps too long


class Stage(nn.Module):
    """conv, 2×2 max-pool, norm, GELU; then conv, norm, GELU added to its own input (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.pool(self.conv1(x))))
        return x + cast(Tensor, self.act(self.norm2(self.conv2(x))))


class Small(nn.Module):
    """float32 `(B, 3, H, W)` → logits `(B, K)`; about 1.1 million weights.

    Args:
        classes: K.
        size: side of the input, at least 16; from 48 on the stem takes strides, so that the first map stays near 32×32.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        stride = max(1, round(size / 32))
        patch = max(2, stride)
        whitened = 2 * min(3 * patch * patch, 24)
        self.stem = nn.Conv2d(3, whitened, patch, stride=stride)
        self.stem.weight.requires_grad_(False)  # also in a run that goes on, whose weights come from its checkpoint
        self.act = nn.GELU(approximate="tanh")
        self.stages = nn.Sequential(
            *(Stage(a, b) for a, b in zip((whitened, *WIDTHS[:-1]), WIDTHS)),
        )
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.act(self.stem(x)))
        return cast(Tensor, self.head(torch.amax(x, dim=(2, 3)) * SCALE))

    @torch.no_grad()
    def fit_stem(self, images: Tensor) -> None:
        """Set the stem to whiten the patches of normalised training images, `(N, 3, H, W)`. Its weights never learn.

        The filters are the leading eigenvectors of the patches' covariance, each with its negative, scaled to unit
        variance, but for those whose variance is near 5e-4 or below (Page 2018). The bias still learns.
        """
        patch, stride = self.stem.kernel_size[0], self.stem.stride[0]
        patches = nn.functional.unfold(images.float(), patch, stride=stride).transpose(1, 2).flatten(0, 1)
        covariance = (patches.T @ patches / len(patches)).cpu()  # Apple's GPUs have no float64
        values, vectors = torch.linalg.eigh(covariance.double())
        half = self.stem.out_channels // 2
        leading = (vectors.T / (values.clamp_min(0) + 5e-4).sqrt()[:, None]).flip(0)[:half].float()
        self.stem.weight.copy_(torch.cat([leading, -leading]).reshape(self.stem.weight.shape))
        self.stem.bias.zero_()  # type: ignore[union-attr]

"""The textbook network: three convolutions, two hidden layers. The baseline that everything is compared with."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from ..errors import CallError, unknown

WIDTHS = (3, 64, 128, 256)  # channels before, between and after the three convolutions
POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


class Textbook(nn.Module):
    """Three 3×3 convolutions (64-128-256), each with ReLU and 2×2 pooling; then fully connected 1024-512-K.

    Fits any side of at least 8: flattened, side S gives 256·(S//8)² numbers. The text's own numbers (16384 → 1024)
    agree at S = 64. As in the text there is no dropout and no normalisation; the first weights are PyTorch's defaults.

    >>> import torch
    >>> Textbook(10, 32)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])

    Args:
        classes: K.
        size: side S of the square pictures that it will be given.
        pool: `max` or `average`.

    Raises:
        CallError: for a side below 8 (three poolings leave nothing) and for an unknown pooling.
    """

    def __init__(self, classes: int, size: int, pool: str = "max") -> None:
        super().__init__()
        if size < 8:
            raise CallError(
                "network 'textbook'", expected="a side of at least 8", received=size, do="Set size=8 or more"
            )
        if pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        layers: list[nn.Module] = []
        for before, after in pairwise(WIDTHS):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), POOLS[pool](2)]
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Linear(WIDTHS[-1] * (size // 8) ** 2, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU()
        )
        self.head = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        """float32 (B, 3, S, S) → logits (B, K)."""
        logits: Tensor = self.head(self.hidden(self.convolutions(images).flatten(1)))
        return logits

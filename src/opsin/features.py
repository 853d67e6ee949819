"""Pictures → vectors through a frozen network, and a head fitted on such vectors."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn

from . import models, plans, preprocessing
from .cache import Pixels
from .plans import Plan
from .preprocessing import Preprocessing
from .vocabulary import Work

BATCH = 64


@torch.no_grad()
def extract(network: nn.Module, pixels: Pixels, road: Preprocessing, plan: Plan) -> Work[np.ndarray]:
    """float32 `(N, D)`: what comes into the head of `network`, in evaluation mode, for every picture. Long work.

    Args:
        network: placed as `plan` says.
        pixels: uint8 `(N, 3, S, S)`.
    """
    network.eval()
    rows = []
    for start in range(0, len(pixels), BATCH):
        images = torch.from_numpy(pixels.array[start : start + BATCH]).to(plan.device)
        with plans.autocast(plan):
            inputs = plans.lay_out(preprocessing.normalise(road, images), plan)
            rows.append(models.features(network, inputs).float().cpu().numpy())
        yield min(start + BATCH, len(pixels))
    return np.concatenate(rows)


def fit_head(
    vectors: np.ndarray, targets: np.ndarray, classes: int, *, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Regularised logistic regression on standardised vectors, as the weights of a linear layer.

    Args:
        vectors: float32 `(N, D)`.
        targets: int `(N,)`; classes without a record get a weight of zero and a low bias.
        classes: K.
        strength: scikit-learn's C for vectors scaled to unit length on average.

    Returns:
        float32 weight `(K, D)` and bias `(K,)` that act on vectors as they are, not standardised.
    """
    from sklearn.linear_model import LogisticRegression

    mean, std = vectors.mean(0), vectors.std(0) + 1e-6
    scale = std * np.sqrt(vectors.shape[1])
    fitted = LogisticRegression(C=strength * vectors.shape[1] / 100, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a head that has not quite converged is a fine place to start from
        fitted.fit((vectors - mean) / scale, targets)
    coefficients, intercept = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercept = (
            np.stack([-coefficients[0], coefficients[0]]) / 2,
            np.stack([-intercept[0], intercept[0]]) / 2,
        )
    weight, bias = np.zeros((classes, vectors.shape[1])), np.full(classes, intercept.min() - 10.0)
    weight[fitted.classes_] = coefficients / scale
    bias[fitted.classes_] = intercept - (coefficients / scale) @ mean
    return weight.astype(np.float32), bias.astype(np.float32)

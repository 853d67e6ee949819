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
    vectors: np.ndarray, targets: np.ndarray, classes: int, *, strength: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Regularised logistic regression on standardised vectors, as the weights of a linear layer.

    Args:
        vectors: float32 `(N, D)`.
        targets: int `(N,)`; a class without a record gets no weight and a low bias.
        classes: K.
        strength: scikit-learn's C, the inverse of the regularisation.

    Returns:
        float32 weight `(K, D)` and bias `(K,)` that act on vectors as they are, not standardised.
    """
    from sklearn.linear_model import LogisticRegression

    mean, std = vectors.mean(0), vectors.std(0) + 1e-6
    fitted = LogisticRegression(C=strength, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a head that has not quite converged is a fine place to start from
        fitted.fit((vectors - mean) / std, targets)
    slopes, intercepts = fitted.coef_, fitted.intercept_
    if len(slopes) == 1:  # scikit-learn keeps one row for two classes
        slopes, intercepts = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    slopes = slopes / std
    weight, bias = np.zeros((classes, vectors.shape[1])), np.full(classes, intercepts.min() - 10.0)
    weight[fitted.classes_], bias[fitted.classes_] = slopes, intercepts - slopes @ mean
    return weight.astype(np.float32), bias.astype(np.float32)

"""Losses of labels and quantities against numpy in float64; what is unknown counts nothing; mixed targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from opsin import losses
from opsin.errors import CallError
from opsin.losses import MULTI_LABEL, OF_TASK, REGRESSION, mixed_values, standardised
from opsin.recipe import LearnChoice, preset

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(0, 2, (12, 5))
SHARES = RNG.random((12, 5))
QUANTITIES = RNG.normal(0, 2, (12, 5))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def entropy(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    return -t * np.log(sigmoid(x)) - (1 - t) * np.log(1 - sigmoid(x))


def asymmetric(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    q = np.maximum(sigmoid(x) - 0.05, 0)
    return -t * np.log(sigmoid(x)) - (1 - t) * q**4 * np.log(1 - q)


def huber(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    off = np.abs(x - t)
    return np.where(off < 1, off**2 / 2, off - 0.5)


REFERENCES = {
    "binary-cross-entropy": entropy,
    "binary-focal": lambda x, t: entropy(x, t) * (t - sigmoid(x)) ** 2,
    "asymmetric": asymmetric,
    "mse": lambda x, t: (x - t) ** 2,
    "mae": lambda x, t: np.abs(x - t),
    "huber": huber,
}
LISTED = [("multi-label", name) for name in MULTI_LABEL] + [("regression", name) for name in REGRESSION]


def aims(task: str) -> list[np.ndarray]:
    return [QUANTITIES] if task == "regression" else [SHARES, (SHARES > 0.5).astype(float)]


@pytest.mark.parametrize(("task", "name"), LISTED)
def test_a_loss_is_numpys_mean_over_a_pictures_targets(task: str, name: str) -> None:
    for targets in aims(task):
        found = losses.loss(name, task)(torch.tensor(OUTPUTS), torch.tensor(targets))
        np.testing.assert_allclose(found.numpy(), REFERENCES[name](OUTPUTS, targets).mean(1), rtol=1e-9)


@pytest.mark.parametrize(("task", "name"), LISTED)
def test_gradients_are_right(task: str, name: str) -> None:
    outputs = torch.tensor(OUTPUTS[:4], requires_grad=True)
    assert torch.autograd.gradcheck(losses.loss(name, task), (outputs, torch.tensor(aims(task)[0][:4])))


@pytest.mark.parametrize(("task", "name"), LISTED)
def test_what_is_unknown_has_neither_loss_nor_gradient(task: str, name: str) -> None:
    """It is as a 0 of which nothing is counted; a picture of which nothing is known adds 0."""
    unknown = RNG.random((12, 5)) < 0.4
    unknown[3] = True
    targets = aims(task)[0]
    outputs = torch.tensor(OUTPUTS, requires_grad=True)
    found = losses.loss(name, task)(outputs, torch.tensor(np.where(unknown, np.nan, targets)))
    found.sum().backward()
    wanted = np.where(unknown, 0, REFERENCES[name](OUTPUTS, targets)).mean(1)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9)
    assert float(found[3].detach()) == 0
    assert outputs.grad is not None
    assert (outputs.grad.numpy()[unknown] == 0).all()
    assert (outputs.grad.numpy()[~unknown & (np.abs(OUTPUTS) < 2)] != 0).mean() > 0.9


@pytest.mark.parametrize(("task", "name"), LISTED)
def test_a_loss_stays_finite_where_the_network_is_sure(task: str, name: str) -> None:
    outputs = torch.tensor([[1e4, -1e4]], requires_grad=True)
    found = losses.loss(name, task)(outputs, torch.tensor([[0.0, 1.0]]))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize(
    ("task", "name", "of"),
    [
        ("multi-label", "cross-entropy", "single-label"),
        ("single-label", "asymmetric", "multi-label"),
        ("regression", "poly-1", "single-label"),
    ],
)
def test_another_tasks_loss_is_refused(task: str, name: str, of: str) -> None:
    with pytest.raises(CallError, match=f"{name} is not for {task}.*{of}"):
        losses.loss(name, task)


def test_every_preset_has_a_loss_of_its_task() -> None:
    for task in OF_TASK:
        for name in ("textbook", "modern", "finetune", "probe"):
            assert preset(name, task=task).learn.loss in OF_TASK[task]
    assert preset("modern", task="single-label") == preset("modern")


def test_labels_are_mixed_as_their_pictures_are() -> None:
    own = torch.tensor([[1.0, 0, 1], [0, torch.nan, 1], [1, 0, torch.nan]])
    others = torch.tensor([[0.0, 0, 1], [1, 1, torch.nan], [torch.nan, 1, 0]])
    found = mixed_values(own, others, torch.tensor([0.75, 0.4, 1.0]))
    np.testing.assert_allclose(found[0], [0.75, 0, 1])
    np.testing.assert_allclose(found[1], [0.6, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(found[2], own[2])  # nothing was mixed in, so nothing becomes unknown


def test_quantities_are_standardised_and_scales_do_not_matter() -> None:
    """The loss of values in degrees with their scale is that of values in radians with theirs."""
    degrees, outputs = torch.tensor(QUANTITIES * 40 + 10).float(), torch.tensor(OUTPUTS).float()
    scale = tuple((float(m), float(d)) for m, d in zip(degrees.mean(0), degrees.std(0, correction=0)))
    found = standardised(degrees, scale)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(0, correction=0), 1, rtol=1e-5)
    radians, turn = torch.deg2rad(degrees), np.pi / 180
    weights, shares, learn = torch.ones(5), torch.ones(12), LearnChoice(loss="huber")
    one = losses.each(outputs, (degrees, degrees, shares), weights, learn, "regression", scale)
    scale = tuple((mean * turn, deviation * turn) for mean, deviation in scale)
    other = losses.each(outputs, (radians, radians, shares), weights, learn, "regression", scale)
    np.testing.assert_allclose(one, other, rtol=1e-4)

"""Losses against numpy in float64, their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from opsin import losses
from opsin.errors import CallError
from opsin.losses import LOSSES, class_weights, mixed_targets, smoothed, soft_targets

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (20, 7))
SOFT = RNG.dirichlet(np.ones(7), 20)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


REFERENCES = {
    "cross-entropy": lambda logits, targets: -(targets * np.log(softmax(logits))).sum(1),
    "mse": lambda logits, targets: ((softmax(logits) - targets) ** 2).sum(1),
    "focal": lambda logits, targets: -(targets * (1 - softmax(logits)) ** 2 * np.log(softmax(logits))).sum(1),
    "poly-1": lambda logits, targets: (
        -(targets * np.log(softmax(logits))).sum(1) + 1 - (targets * softmax(logits)).sum(1)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_numpys(name: str) -> None:
    for targets in (SOFT, np.eye(7)[RNG.integers(0, 7, 20)]):
        found = losses.loss(name)(torch.tensor(LOGITS, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32))
        assert found.shape == (20,)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), REFERENCES[name](LOGITS, targets), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    logits = torch.tensor(LOGITS[:4], requires_grad=True)
    targets = torch.tensor(SOFT[:4])
    losses.loss(name)(logits, targets).sum().backward()
    assert logits.grad is not None
    for row, column in np.ndindex(4, 7):
        nudge = np.zeros((4, 7))
        nudge[row, column] = 1e-6
        up, down = (REFERENCES[name](LOGITS[:4] + sign * nudge, SOFT[:4]).sum() for sign in (1, -1))
        assert float(logits.grad[row, column]) == pytest.approx((up - down) / 2e-6, abs=1e-7)
    assert torch.autograd.gradcheck(losses.loss(name), (logits, targets))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_stays_finite_where_the_network_is_sure(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    found = losses.loss(name)(logits, torch.eye(3)[[0, 0]])
    found.sum().backward()
    assert found.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert found[0] == 0
    assert found[1] == {"cross-entropy": 2e4, "mse": 2, "focal": 2e4, "poly-1": 2e4 + 1}[name]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_float64(name: str) -> None:
    found = losses.loss(name)(torch.tensor(LOGITS), torch.tensor(SOFT))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), REFERENCES[name](LOGITS, SOFT), rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_least_for_a_sure_and_right_network(name: str) -> None:
    sure = torch.eye(3) * 20
    found = losses.loss(name)(sure, torch.eye(3))
    assert (found < 1e-6).all()
    assert (losses.loss(name)(sure, torch.eye(3).roll(1, 0)) > 1).all()


def test_focal_gives_easy_pictures_less_weight_than_cross_entropy_does() -> None:
    easy, hard = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    target = torch.tensor([[1.0, 0.0]])
    shares = [losses.focal(logits, target) / losses.cross_entropy(logits, target) for logits in (easy, hard)]
    assert shares[0] < 0.001
    assert shares[1] > 0.95


def test_an_unknown_loss_answers_with_the_nearest() -> None:
    with pytest.raises(CallError, match=r"unknown loss 'cross_entropy'.*Did you mean 'cross-entropy'"):
        losses.loss("cross_entropy")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothing_spreads_evenly(smoothing: float) -> None:
    targets = [2, 0, 4, 4]
    found = soft_targets(torch.tensor(targets), 5, smoothing)
    wanted = np.full((4, 5), smoothing / 5)
    wanted[range(4), targets] += 1 - smoothing
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)
    np.testing.assert_allclose(found.sum(1).numpy(), 1, rtol=1e-6)


def test_targets_are_mixed_as_their_shares_say() -> None:
    targets, others, shares = [2, 0, 1], [0, 0, 2], [0.7, 0.25, 1.0]
    found = mixed_targets(torch.tensor(targets), torch.tensor(others), torch.tensor(shares), 4)
    wanted = np.zeros((3, 4))
    for row, (target, other, share) in enumerate(zip(targets, others, shares)):
        wanted[row, target] += share
        wanted[row, other] += 1 - share
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-7)
    spread = smoothed(found, 0.2)
    np.testing.assert_allclose(spread.numpy(), 0.8 * wanted + 0.05, atol=1e-7)


def test_targets_that_nothing_was_mixed_into_are_exactly_soft_targets() -> None:
    """So a run without mixing keeps its bits."""
    targets = torch.arange(5)
    for smoothing in (0.0, 0.1):
        mixed = smoothed(mixed_targets(targets, targets, torch.ones(5), 5), smoothing)
        assert torch.equal(mixed, soft_targets(targets, 5, smoothing))


def test_without_smoothing_targets_are_exactly_one_hot() -> None:
    assert torch.equal(soft_targets(torch.tensor([1, 0]), 3), torch.tensor([[0.0, 1, 0], [1, 0, 0]]))


COUNTS = [[10, 20, 70], [1, 1, 1], [5, 0, 15], [1, 99999]]


@pytest.mark.parametrize("counts", COUNTS)
def test_balanced_weights_have_mean_1_over_the_pictures_and_equal_sums_a_class(counts: list[int]) -> None:
    weights = class_weights(counts, "balanced").numpy().astype(float)
    count = np.array(counts)
    assert (weights * count).sum() / count.sum() == pytest.approx(1, abs=1e-6)
    sums = (weights * count)[count > 0]
    np.testing.assert_allclose(sums, sums.mean(), rtol=1e-6)
    assert (weights[count == 0] == 0).all()


def test_balanced_weights_are_inverse_to_the_counts() -> None:
    assert class_weights([10, 20, 70], "balanced").tolist() == pytest.approx([100 / 30, 100 / 60, 100 / 210])


def test_no_weights_are_ones() -> None:
    assert class_weights([10, 0, 70], "none").tolist() == [1, 1, 1]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("beta", [0.0, 1e-12, 0.9, 0.999, 1 - 1e-9])
def test_effective_weights_are_inverse_to_the_number_of_different_pictures(counts: list[int], beta: float) -> None:
    """Cui et al. 2019: the n-th picture is a new one with probability beta^(n-1)."""
    weights = class_weights(counts, "effective", beta).numpy().astype(float)
    numbers = np.array([sum(beta**i for i in range(n)) for n in counts])
    present = np.array(counts) > 0
    assert (weights[~present] == 0).all()
    products = (weights * numbers)[present]
    np.testing.assert_allclose(products, products.mean(), rtol=1e-5)
    assert (weights * counts).sum() / sum(counts) == pytest.approx(1, abs=1e-6)


def test_effective_weights_go_from_none_to_balanced() -> None:
    counts = [10, 20, 70]
    assert class_weights(counts, "effective", 0.0).tolist() == pytest.approx([1, 1, 1])
    balanced = class_weights(counts, "balanced").tolist()
    assert class_weights(counts, "effective", 1 - 1e-12).tolist() == pytest.approx(balanced, rel=1e-5)
    assert 1 < class_weights(counts, "effective", 0.9)[0] < balanced[0]

"""Batch norms are folded where that changes nothing, and only there."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opsin import classifier, engines, models
from opsin.classifier import Classifier
from opsin.models import NetworkSpec, folding
from opsin.preprocessing import Preprocessing


def lived(network: nn.Module) -> nn.Module:
    """With statistics and weights that no batch norm begins with."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 3)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "textbook"])
def test_a_folded_network_answers_alike(name: str) -> None:
    torch.manual_seed(0)
    network = lived(models.build(NetworkSpec(name, 5, 64)))
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        made = folding.folded(network, images[:1])
        assert norms(made) == 0
        torch.testing.assert_close(made(images), network(images), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items()), "the network is left"


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(6, eps=0.1)], ids=["no weights", "large eps"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_every_kind_of_norm_is_folded(norm: nn.Module, bias: bool) -> None:
    network = lived(nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=bias), copy.deepcopy(norm)))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        made = folding.folded(network, images)
        assert norms(made) == 0
        torch.testing.assert_close(made(images), network(images))


class Elsewhere(nn.Module):
    """Defines a norm after a convolution, and calls it before another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.second(self.norm(self.first(images).relu()))
        return found


def test_what_would_answer_otherwise_is_left_as_it_is() -> None:
    network = lived(Elsewhere())
    assert folding.folded(network, torch.randn(1, 3, 8, 8)) is network


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6, track_running_stats=False), nn.Identity()])
def test_without_statistics_there_is_nothing_to_fold(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), norm).eval()
    assert folding.folded(network, torch.randn(1, 3, 8, 8)) is network


def test_the_reference_and_the_engine_torch_are_folded_and_equal() -> None:
    spec, road = NetworkSpec("resnet18", 3, 64), Preprocessing(64)
    clf = Classifier(lived(models.build(spec)), spec, road, ("a", "b", "c"))
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    engine = engines.build(engines.Logits(clf.network, road), "torch", engines.How(threads=torch.get_num_threads()))
    found = classifier.logits(clf, torch.from_numpy(images))
    assert np.array_equal(found, engine(images))
    assert (norms(clf.network), norms(clf.quick)) == (20, 0)
    with torch.no_grad():
        plain = clf.network(engines.preprocessing.normalise(road, torch.from_numpy(images)))
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [64, 63, 50])
def test_paddings_and_activations_in_one_pass_answer_alike(side: int) -> None:
    """Sides that strides of two divide, and sides that they do not, which timm pads otherwise."""
    torch.manual_seed(0)
    example = torch.randn(1, 3, 64, 64)
    network = folding.folded(lived(models.build(NetworkSpec("tf_efficientnet_lite0", 5, 64))), example)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        made = folding.fused(network, example)
        assert sum(isinstance(module, folding.OnePass) for module in made.modules()) == 33
        assert not any(isinstance(module, folding.OnePass) for module in network.modules()), "the network is left"
        torch.testing.assert_close(made(images), network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6(), nn.Hardswish()])
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (6, False)])
def test_every_activation_is_done_in_the_pass(act: nn.Module, groups: int, bias: bool) -> None:
    convolution = nn.Conv2d(6, 6, (3, 5), stride=(2, 1), padding=(2, 1), groups=groups, bias=bias)
    network = nn.Sequential(convolution, act).eval()
    images = 9 * torch.randn(2, 6, 9, 8)
    with torch.no_grad():
        made = folding.fused(network, images)
        assert isinstance(made[0], folding.OnePass)  # type: ignore[index]
        torch.testing.assert_close(made(images), network(images))


class Branching(nn.Module):
    """Defines an activation after a convolution whose output it reads twice, once before the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.act = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.first(images)
        return found + self.act(found)


def test_what_one_pass_would_answer_otherwise_is_left_as_it_is() -> None:
    network = Branching().eval()
    assert folding.fused(network, torch.randn(1, 3, 8, 8)) is network


def test_an_operator_of_another_torch_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()).eval()

    def other(*_: object) -> Tensor:
        raise RuntimeError("expected at most 9 arguments")

    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", other)
    assert folding.fused(network, torch.randn(1, 3, 8, 8)) is network

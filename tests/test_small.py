"""The small network: its stem whitens, its sizes work, it pools where its docstring says."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import opsin
from conftest import shared
from opsin import codecs
from opsin.models.small import SCALE, Small, Stage
from opsin.recipe import preset
from tiny import HOW, digits


def smooth(n: int, size: int) -> torch.Tensor:
    """Normalised pictures whose neighbouring pixels and channels go together, as photographs' do."""
    noise = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    blurred = nn.functional.avg_pool2d(noise, 3, 1, 1) + 0.1 * noise
    mixed = torch.einsum("dc,nchw->ndhw", torch.tensor([[1.0, 0.5, 0.4], [0.5, 1.0, 0.5], [0.4, 0.5, 1.0]]), blurred)
    return mixed / mixed.std()


def responses(network: Small, images: torch.Tensor) -> np.ndarray:
    """float64 (positions, outputs) of the stem."""
    with torch.no_grad():
        return network.stem(images).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()


@pytest.mark.parametrize("size", [32, 96])
def test_the_stem_whitens(size: int) -> None:
    network = Small(10, size)
    images = smooth(200, size)
    network.fit_stem(images)
    found = responses(network, images)
    half = found.shape[1] // 2
    assert half == min(3 * network.stem.kernel_size[0] ** 2, 24)
    leading = found[:, :half]
    second_moments = leading.T @ leading / len(leading)
    # 5e-4 is added to every variance, so the smallest come out a little under 1 and none over it.
    assert np.abs(second_moments - np.diag(np.diag(second_moments))).max() < 2e-3
    assert np.diag(second_moments).max() < 1.001
    assert np.diag(second_moments).min() > 0.9
    np.testing.assert_allclose(found[:, half:], -leading, atol=1e-5)


def test_without_fitting_the_stem_does_not_whiten() -> None:
    torch.manual_seed(0)
    found = responses(Small(10, 32), smooth(50, 32))[:, :12]
    assert np.abs(found.T @ found / len(found) - np.eye(12)).max() > 0.3


def test_the_leading_filters_come_first() -> None:
    """Stride 3 sees patches of 27 values, of which the 24 with the largest variance are kept, largest first."""
    network = Small(10, 96)
    images = smooth(100, 96)
    network.fit_stem(images)
    patch = network.stem.kernel_size[0]
    cut = images.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).reshape(-1, 27).double()
    variances = np.linalg.svd(cut.numpy(), compute_uv=False) ** 2 / len(cut)
    norms = network.stem.weight.detach()[:24].flatten(1).double().norm(dim=1).numpy()
    np.testing.assert_allclose(norms, 1 / np.sqrt(variances[:24] + 5e-4), rtol=1e-3)


def test_the_fitted_weights_are_frozen_and_the_bias_learns_from_zero() -> None:
    network = Small(10, 32)
    network.fit_stem(smooth(20, 32))
    assert not network.stem.weight.requires_grad
    assert network.stem.bias is not None
    assert network.stem.bias.requires_grad
    assert not network.stem.bias.any()
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == {"stem.weight"}


def test_fitting_is_deterministic_and_leaves_the_images() -> None:
    images = smooth(20, 32)
    before = images.clone()
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = Small(10, 32)
        network.fit_stem(images)
        weights.append(network.stem.weight.detach())
    assert torch.equal(*weights)
    assert torch.equal(images, before)


class Single(torch.Tensor):
    """A tensor of a device that has no float64, as Apple's GPUs."""

    def double(self) -> torch.Tensor:
        raise TypeError("no float64 here")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_fitting_asks_the_device_for_no_float64() -> None:
    one, other = Small(10, 32), Small(10, 32)
    one.fit_stem(smooth(20, 32))
    other.fit_stem(smooth(20, 32).as_subclass(Single))
    assert torch.equal(one.stem.weight, other.stem.weight)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pictures_of_one_colour_do_not_break_the_stem(value: float) -> None:
    network = Small(3, 32)
    network.fit_stem(torch.full((4, 3, 32, 32), value))
    assert network.stem.weight.isfinite().all()
    assert network(torch.randn(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("size", [16, 17, 28, 32, 48, 49, 64, 96, 128, 160, 224])
def test_every_size_works_and_the_first_map_stays_near_32(size: int) -> None:
    network = Small(7, size)
    images = torch.randn(2, 3, size, size)
    first = network.stem(images).shape[-1]
    assert first == size - 1 if size < 48 else 24 <= first <= 40
    logits = network(images)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


def test_weights_are_about_1_2_million() -> None:
    assert sum(p.numel() for p in Small(10, 32).parameters()) == pytest.approx(1.2e6, rel=0.1)


def test_a_stage_is_its_formula() -> None:
    """conv, pool, norm, GELU; then conv, norm, GELU, added to its own input: pooled before the norm."""
    torch.manual_seed(0)
    stage = Stage(6, 8)
    x = torch.randn(4, 6, 10, 10)

    def gelu(value: torch.Tensor) -> torch.Tensor:
        return value * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (value + 0.044715 * value**3))) / 2

    def norm(value: torch.Tensor) -> torch.Tensor:
        mean, variance = value.mean((0, 2, 3), keepdim=True), value.var((0, 2, 3), correction=0, keepdim=True)
        return (value - mean) / (variance + 1e-5).sqrt()

    convolved = nn.functional.conv2d(x, stage.conv1.weight, padding=1)
    pooled = convolved.unflatten(2, (5, 2)).unflatten(4, (5, 2)).amax((3, 5))
    half = gelu(norm(pooled))
    whole = half + gelu(norm(nn.functional.conv2d(half, stage.conv2.weight, padding=1)))
    assert torch.allclose(stage(x), whole, atol=1e-5)
    assert whole.shape == (4, 8, 5, 5)


def test_stages_halve_and_the_head_sees_the_largest_of_every_map() -> None:
    network = Small(5, 32).eval()
    images = torch.randn(2, 3, 32, 32)
    maps = network.act(network.stem(images))
    sides = [maps.shape[-1]]
    for stage in network.stages:
        maps = stage(maps)
        sides.append(maps.shape[-1])
    assert sides == [31, 15, 7, 3]
    largest = maps.flatten(2).max(2).values
    assert torch.allclose(network(images), SCALE * largest @ network.head.weight.T + network.head.bias, atol=1e-5)


def test_the_stem_whitens_real_pictures() -> None:
    with zipfile.ZipFile(shared("cifar10-jpg.zip")) as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")][::200][:200]
        pictures = [codecs.decode(archive.read(name)) for name in names]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    network = Small(10, 32)
    network.fit_stem(images)
    leading = responses(network, images)[:, :12]
    moments = leading.T @ leading / len(leading)
    cut = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double().numpy()
    variances = np.linalg.svd(cut, compute_uv=False) ** 2 / len(cut)
    np.testing.assert_allclose(moments, np.diag(variances / (variances + 5e-4)), atol=2e-3)
    assert (variances[:6] > 0.04).all()  # so the larger half comes out within 2 % of 1


def test_it_learns_few_pictures_in_few_steps(tmp_path) -> None:
    """With logits nine times as large the first steps are too long, and 26 of them end at chance."""
    data = digits(each=60, names=[str(k) for k in range(10)])
    chosen = preset("modern").set(size=32, epochs=3, batch=50, warmup=0.3)
    run = opsin.train(data, chosen, out=tmp_path / "run", how=HOW)
    assert run.scores["test"].overall["accuracy"].value > 0.7

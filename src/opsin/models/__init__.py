"""Networks by name: how one is described, built again, cut open at its head and grouped into stages.

    NetworkSpec ─ build ─> nn.Module: float32 (B, 3, H, W) → logits (B, K)
                           ├─ head      its last nn.Linear
                           ├─ features  what comes into the head, (B, D)
                           └─ stages    its parameters from input to head

`MODELS` holds our own names; every other name is timm's. `weights` loads published weights. Importing this file imports
neither torch, torchvision nor timm: each comes when a network needs it. `head`, `features` and `stages` work on a
user's own `nn.Module` too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..errors import CallError, MachineError, ModelError, OpsinError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

SMALL = 96  # below this side a stem that divides it by four leaves too little for four more halvings


@dataclass(frozen=True)
class NetworkSpec:
    """What it takes to build a network again. Plain values: an artefact keeps it as JSON."""

    name: str  # of MODELS or timm, there also with the tag of its weights: `resnet18.a1_in1k`
    classes: int  # K
    size: int  # side of the square pictures that it is made for
    pool: str = "max"  # `max` or `average`: of `textbook` only
    small_stem: bool = False  # stride 1 at the start, for small pictures

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkSpec:
        """The spec that `to_dict` wrote.

        >>> NetworkSpec.from_dict(NetworkSpec("textbook", 10, 64).to_dict()).size
        64

        Raises:
            ModelError: for a key too many or too few, or a value of another type.
        """
        kinds = {"str": str, "int": int, "bool": bool}
        expected = {field.name: kinds[str(field.type)] for field in dataclasses.fields(cls)}
        if set(values) != set(expected):
            raise ModelError("network description", expected=sorted(expected), received=sorted(values))
        for key, kind in expected.items():
            if type(values[key]) is not kind:
                raise ModelError(f"network description: {key}", expected=kind.__name__, received=repr(values[key]))
        return cls(**values)


def _textbook(spec: NetworkSpec) -> nn.Module:
    from .textbook import Textbook

    return Textbook(spec.classes, spec.size, spec.pool)


def _small(spec: NetworkSpec) -> nn.Module:
    from .small import Small

    return Small(spec.classes, spec.size)


def _alexnet(spec: NetworkSpec) -> nn.Module:
    from . import bridge

    return bridge.alexnet(spec)


MODELS: dict[str, Callable[[NetworkSpec], nn.Module]] = {"textbook": _textbook, "small": _small, "alexnet": _alexnet}


def names() -> list[str]:
    """Every name that `build` knows: our own first, then timm's (which is imported for it)."""
    from . import bridge

    return [*MODELS, *(name for name in bridge.names() if name not in MODELS)]


def build(spec: NetworkSpec) -> nn.Module:
    """The network with random first weights, in training mode: float32 (B, 3, H, W) → logits (B, K).

    The weights follow torch's global generator: seed it, and they are the same. Zeros of (2, 3, size, size) are sent
    through once, so a network that cannot work at this size is refused here and not after an hour of decoding.

    Raises:
        CallError: for an unknown name, and for a size, pooling or number of classes that the network cannot have.
        ModelError: for a network that answers with something else than logits.
        MachineError: when it does not fit into memory.
    """
    from . import bridge

    with refusals(spec):
        make = MODELS.get(spec.name, bridge.timm_network)
        return tried(make(spec), spec)


def ahead(name: str) -> None:
    """Begin to import what network `name` is built with, if that takes long, beside what is done before it is built."""
    from . import bridge

    if name not in MODELS:
        bridge.ahead()


@contextmanager
def refusals(spec: NetworkSpec) -> Iterator[None]:
    """Turn what a network's code raises while it is built and tried into errors of ours."""
    if min(spec.classes, spec.size) < 1:
        raise CallError(f"network {spec.name!r}", expected="at least one class and one pixel", received=spec)
    try:
        yield
    except OpsinError:
        raise
    except MemoryError as error:
        raise _too_large(spec) from error
    except (RuntimeError, ValueError, AssertionError) as error:
        if "allocate" in str(error):  # torch reports memory as a RuntimeError
            raise _too_large(spec) from error
        raise _unfit(spec, error) from error


def _too_large(spec: NetworkSpec) -> MachineError:
    do = "Choose a smaller --set size= or another network"
    return MachineError(f"network {spec.name!r} at {spec.size}×{spec.size} does not fit into memory", do=do)


def _unfit(spec: NetworkSpec, error: Exception) -> CallError:
    from . import bridge

    native = bridge.native_size(spec.name)
    return CallError(
        f"network {spec.name!r} cannot work on {spec.size}×{spec.size} pixels ({error})",
        expected="another side" + (f", such as {native}," if native else "") + " or another network",
        received=spec.size,
        do="Set another size=, or another network=",
    )


def tried(network: nn.Module, spec: NetworkSpec) -> nn.Module:
    """The same network, in training mode, after it has been seen to give logits (2, K) for pictures of the size."""
    network.eval()  # neither batch statistics nor the generator move
    shape = _answer(network, spec.size)
    if shape != (2, spec.classes):
        raise ModelError(
            f"network {spec.name!r}",
            expected=f"logits (2, {spec.classes})",
            received=shape,
            do="Choose another network",
        )
    return network.train()


def _answer(network: nn.Module, size: int) -> tuple[int, ...] | str:
    """The shape of what the network says to (2, 3, size, size); the name of its type where that is no tensor.

    First with tensors on `meta`, which have shapes and no numbers, so it costs nothing (VGG at 224 takes seconds).
    Not every network's code can do that; where it fails for any reason, real zeros decide.
    """
    import torch

    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    with torch.no_grad():
        try:
            logits = torch.func.functional_call(network, shapes, torch.empty(2, 3, size, size, device="meta"))
        except Exception:
            device = next((tensor.device for tensor in tensors.values()), None)
            logits = network(torch.zeros(2, 3, size, size, device=device))
    return tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__


def default_small_stem(name: str, size: int) -> bool:
    """Whether `name` should start at stride 1 for pictures of this side: AlexNet and ResNets below 96.

    >>> default_small_stem("alexnet", 32), default_small_stem("alexnet", 224), default_small_stem("textbook", 32)
    (True, False, False)
    """
    if size >= SMALL or name in ("textbook", "small"):
        return False
    from . import bridge

    return name == "alexnet" or bridge.is_residual(name)


def spec_for(name: str, classes: int, size: int, pool: str = "max", pretrained: bool = False) -> NetworkSpec:
    """The spec of a network as we would build it; published weights fit the usual stem only, so they get that.

    Raises:
        CallError: for an unknown name.
    """
    if name not in MODELS:
        from . import bridge

        if not bridge.is_known(name):
            raise unknown("network", name, names())
    return NetworkSpec(name, classes, size, pool, small_stem=not pretrained and default_small_stem(name, size))


def content(network: nn.Module) -> Iterator[Any]:
    """Names, types, shapes and bytes of all weights and buffers, in pieces for a digest."""
    import torch

    for name, tensor in network.state_dict().items():
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        yield tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def head(network: nn.Module) -> nn.Linear:
    """The last layer, which turns features (B, D) into logits (B, K).

    timm says where it is (`get_classifier`); our networks have it as `head`; of any other, torchvision's and a user's
    own, it is the last `nn.Linear` in the order of `modules()`, which is the order of definition.

    Raises:
        ModelError: when that is no `nn.Linear`, or there is none.
    """
    from torch import nn

    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if hasattr(network, "get_classifier"):
        layers = _classifiers(network)
    elif isinstance(getattr(network, "head", None), nn.Linear):
        layers = [network.head]  # type: ignore[list-item]
    if not layers:
        raise ModelError(
            f"network {type(network).__name__} has no head that can be fitted",
            expected="an nn.Linear as its last layer",
            received="another layer, or several heads",
            do="End the network in an nn.Linear, or choose another network",
        )
    return layers[-1]


def _classifiers(network: Any) -> list[nn.Linear]:
    """The one layer of timm's classifier that gives the logits; none when several do, whose answers are averaged."""
    from torch import nn

    classifier = network.get_classifier()
    modules = classifier.modules() if isinstance(classifier, nn.Module) else ()
    layers = [m for m in modules if isinstance(m, nn.Linear) and m.out_features == network.num_classes]
    return layers if len(layers) == 1 else []


def features(network: nn.Module, images: Tensor) -> Tensor:
    """What comes into the head: float (B, 3, H, W) → (B, D), in the network's mode and with its gradients.

    For a network whose output is its head's, `head(network)(features(network, images))` are its logits.

    Raises:
        ModelError: when there is no head, or the head is not given one (B, D) tensor in a forward pass.
    """
    caught: list[Tensor] = []
    handle = head(network).register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    if len(caught) != 1 or caught[0].ndim != 2:
        received = [tuple(tensor.shape) for tensor in caught]
        raise ModelError(f"the head of {type(network).__name__}", expected="one (B, D) input", received=received)
    return caught[0]


def stages(network: nn.Module) -> list[list[str]]:
    """Parameter names in groups from input to head, for rates that differ by layer; each name exactly once.

    timm groups its own networks; of any other, each top-level child is a stage, in the order of definition. The head's
    parameters are the last stage, of their own. Parameters that timm puts nowhere go with the first stage.
    """
    from . import bridge

    last = _head_names(network)
    rest = [name for name, _ in network.named_parameters() if name not in last]
    numbers = bridge.stage_numbers(network)
    if numbers is None:
        numbers = _child_numbers(rest)
    stage = {name: numbers.get(name, 0) for name in rest}
    groups = groupby(sorted(rest, key=stage.__getitem__), key=stage.__getitem__)
    return [*(list(group) for _, group in groups), *([last] if last else [])]


def _child_numbers(names: list[str]) -> dict[str, int]:
    """name → position of the top-level child that it belongs to."""
    children = list(dict.fromkeys(name.partition(".")[0] for name in names))
    return {name: children.index(name.partition(".")[0]) for name in names}


def _head_names(network: nn.Module) -> list[str]:
    """The names of the head's parameters; none for a network without a head."""
    try:
        own = {id(parameter) for parameter in head(network).parameters()}
    except ModelError:
        return []
    return [name for name, parameter in network.named_parameters() if id(parameter) in own]

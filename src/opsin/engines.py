"""What executes a network for inference: torch, ONNX Runtime, OpenVINO, behind one call.

    Logits, Features: nn.Module, uint8 pictures → answers ─┬─> torch
                                                           ├─ exported ─> OpenVINO
                                                           └─ to_onnx ──> ONNX Runtime, files

Normalisation is inside every engine's graph, traced from `preprocessing.normalise`, so no engine has its own.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import models, preprocessing
from .answers import Engine as Engine
from .errors import MachineError, first_line, unknown
from .extras import core, optional
from .models import folding
from .preprocessing import Preprocessing

CHUNK = 32  # pictures that OpenVINO, and torch on a CPU, are given at a time


class Logits(nn.Module):
    """All that follows the geometry: uint8 `(B, 3, S, S)` → logits `(B, K)`."""

    def __init__(self, network: nn.Module, road: Preprocessing) -> None:
        super().__init__()
        self.network, self.road = network.eval(), road

    def forward(self, images: Tensor) -> Tensor:
        return self.network(preprocessing.normalise(self.road, images))  # type: ignore[no-any-return]


class Features(Logits):
    """The same up to the head: uint8 `(B, 3, S, S)` → vectors `(B, D)`."""

    def forward(self, images: Tensor) -> Tensor:
        return models.features(self.network, preprocessing.normalise(self.road, images))


@dataclass(frozen=True)
class How:
    """What an engine is told. `device` is where the module's weights are; only torch knows others than `cpu`."""

    precision: str = "fp32"
    threads: int = 1
    device: str = "cpu"


def build(module: Logits, engine: str, how: How) -> Engine:
    """The engine that runs `module`, whose weights should not change after that: only torch may see that they do.

    Args:
        module: Logits or Features; its road says the pictures' side.
        engine: a name of ENGINES.

    Raises:
        CallError: for an unknown engine.
        MissingExtra: when the engine is not installed.
        MachineError: when the engine cannot run such a network.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    make, parts = ENGINES[engine]
    for part in parts:
        optional(part)
    try:
        return make(module, how)
    except Exception as error:  # foreign converters raise what they like
        raise MachineError(
            f"{engine} cannot run this network: {first_line(error)}", do="Use the engine torch"
        ) from error


def installed() -> list[str]:
    """The names of the engines that are here, torch first; nothing is imported for it."""
    return [name for name, (_, parts) in ENGINES.items() if all(find_spec(part) for part in parts)]


def version(engine: str) -> str:
    """The engine's name and the versions of the packages that it needs, which decide what it answers, and how fast."""
    found = [engine]
    for part in ENGINES[engine][1]:
        with suppress(metadata.PackageNotFoundError):  # there is an onnxruntime by other names too
            found.append(metadata.version(part))
    return " ".join(found)


def to_onnx(module: nn.Module, example: Tensor, *, outputs: Sequence[str] = ("logits",)) -> bytes:
    """An ONNX model with one input, `images`, and named outputs, all of a free first dimension, `batch`.

    Args:
        module: in evaluation mode, on the CPU.
        example: two or more pictures of the shape and dtype that the model shall take; what is in them is of no matter.
        outputs: a name for everything that the module gives.

    Raises:
        MissingExtra: when onnx or onnxscript are not installed.
    """
    for part in ("onnx", "onnxscript"):
        optional(part)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecated parts that the exporter itself uses
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=["images"],
            output_names=list(outputs),
            verbose=False,
        )
        assert program is not None
        return bytes(program.model_proto.SerializeToString())


def folded(network: nn.Module, road: Preprocessing) -> nn.Module:
    """`models.folding.folded`, tried on a picture of the road's size."""
    return folding.folded(network, _picture(network, road))


def fused(network: nn.Module, road: Preprocessing) -> nn.Module:
    """`models.folding.fused` of what is `folded`, for torch in fp32."""
    return folding.fused(folded(network, road), _picture(network, road))


def _picture(network: nn.Module, road: Preprocessing) -> Tensor:
    picture = torch.arange(3 * road.size**2).remainder(256).view(1, 3, road.size, road.size).byte()
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    return preprocessing.normalise(road, picture.to(device))


def _torch(module: Logits, how: How) -> Engine:
    kind = how.device.partition(":")[0]
    if kind == "cpu":
        torch.set_num_threads(how.threads)
    ready = fused if how.precision == "fp32" else folded
    module = type(module)(ready(module.network, module.road), module.road)

    def run(images: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(images).to(how.device)
        half = torch.autocast(kind, dtype=torch.bfloat16, enabled=how.precision == "bf16")
        with torch.no_grad(), half, _exact() if kind == "cuda" else nullcontext():
            return module(inputs).float().cpu().numpy()  # type: ignore[no-any-return]

    # More at a time would fall out of a processor's caches.
    return run if kind != "cpu" else lambda images: np.concatenate([run(chunk) for chunk in _chunks(images)])


@contextmanager
def _exact() -> Iterator[None]:
    """fp32 is fp32 on NVIDIA's GPUs too, where torch rounds what goes into a convolution to ten bits by default."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _onnxruntime(module: Logits, how: How) -> Engine:
    runtime = optional("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = how.threads
    options.log_severity_level = 3  # errors
    content = to_onnx(module, _example(module))
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def _openvino(module: Logits, how: How) -> Engine:
    openvino = optional("openvino")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # Straight from torch's graph: it takes a third of the time that the way through ONNX takes.
        program = torch.export.export(module, (_example(module),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        model = openvino.convert_model(program)
    side = module.road.size
    hints = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[how.precision],
        "INFERENCE_NUM_THREADS": how.threads,
        "NUM_STREAMS": 1,
    }

    @functools.cache
    def compiled(n: int) -> Any:  # for one shape, so nothing is decided again for another
        model.reshape([n, 3, side, side])
        return core().compile_model(model, "CPU", hints)

    compiled(CHUNK)

    def run(images: np.ndarray) -> np.ndarray:
        size = 1 if len(images) == 1 else CHUNK  # a single picture is not made to wait for CHUNK - 1 empty ones
        return np.concatenate([_padded(compiled(size), chunk, size) for chunk in _chunks(images)])

    return run


def _chunks(images: np.ndarray) -> list[np.ndarray]:
    return np.split(images, range(CHUNK, len(images), CHUNK))


def _padded(compiled: Any, images: np.ndarray, size: int) -> np.ndarray:
    """The answers for up to `size` pictures; the place of missing ones is filled."""
    rest = size - len(images)
    filled = np.concatenate([images, np.zeros((rest, *images.shape[1:]), np.uint8)]) if rest else images
    return np.array(compiled(filled)[0][: len(images)])  # a copy: the next call writes over it


def _example(module: Logits) -> Tensor:
    side = module.road.size
    return torch.zeros(CHUNK, 3, side, side, dtype=torch.uint8)


# name → how it is built, and the packages that it needs
ENGINES: dict[str, tuple[Callable[[Logits, How], Engine], tuple[str, ...]]] = {
    "torch": (_torch, ()),
    "onnxruntime": (_onnxruntime, ("onnxruntime", "onnx", "onnxscript")),
    "openvino": (_openvino, ("openvino",)),
}

"""A classifier as one graph, and the forms in which it is written to a file and opened again.

    uint8 (B, 3, S, S) ─ normalise ─ network ─ softmax at the temperature ─> probabilities, float32 (B, K)
    uint8 (B, 3, H, W) ─ resize ─┘             sigmoid of several labels; quantities in their units

Everything is traced from the functions of the one road, so no form has a preprocessing of its own.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import engines, exported, preprocessing
from ..classifier import Classifier
from ..errors import CallError, MachineError, OpsinError, first_line
from ..exported import KEY, Opened
from ..extras import optional
from ..preprocessing import Preprocessing
from ..vocabulary import Task
from . import resizing

ANSWERS = {"single-label": "probabilities", "multi-label": "probabilities", "regression": "quantities"}
RESIZING = "resizing"


def steps(task: Task) -> tuple[str, str, str]:
    """The names of what a graph makes, one from the other, up to the answers."""
    return ("normalisation", "logits", ANSWERS[task])


class Graph(nn.Module):
    """All that is done to prepared pictures: uint8 `(B, 3, S, S)` → answers `(B, K)`, as `answers.answers` has them.

    With `steps` it gives what each of `steps` gives, the last being the answers: where a difference begins shows.
    """

    def __init__(self, clf: Classifier, *, steps: bool = False) -> None:
        super().__init__()
        self.network, self.road, self.temperature, self.steps = clf.network, clf.preprocessing, clf.temperature, steps
        self.task, self.scale = clf.task, clf.scale

    def normalised(self, images: Tensor) -> Tensor:
        return preprocessing.normalise(self.road, images)

    def answers(self, logits: Tensor) -> Tensor:
        if self.task == "regression":
            scale = torch.tensor(self.scale, dtype=torch.float32)
            return logits * scale[:, 1] + scale[:, 0]
        cooled = logits / self.temperature
        return torch.softmax(cooled, 1) if self.task == "single-label" else torch.sigmoid(cooled)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        inputs = self.normalised(images)
        logits = self.network(inputs)
        found = self.answers(logits)
        return (inputs, logits, found) if self.steps else found

    @property
    def example(self) -> Tensor:
        return torch.zeros(2, 3, self.road.size, self.road.size, dtype=torch.uint8)

    @property
    def outputs(self) -> tuple[str, ...]:
        return steps(self.task) if self.steps else steps(self.task)[-1:]


@dataclass(frozen=True)
class Form:
    """A kind of file. `write` takes the graph, what it shall tell, whether it resizes, and where to."""

    endings: tuple[str, ...]  # the file's, and those of files that belong to it
    write: Callable[[Graph, Mapping[str, Any], bool, Path], None]
    open: Callable[[Path], Opened]
    resizes: bool = False


def write(form: str, graph: Graph, told: Mapping[str, Any], resize: bool, file: Path) -> Opened:
    """Write `graph` as `file` and open that.

    Raises:
        MissingExtra: when what writes or runs such files is not installed.
        MachineError: when the network has no such form, or the file would hold a pickle.
    """
    with refusals(form):
        FORMS[form].write(graph, told, resize, file)
        return FORMS[form].open(file)


@contextmanager
def refusals(form: str) -> Iterator[None]:
    """Turn what a foreign converter or engine raises, which is anything, into a MachineError of one line."""
    try:
        yield
    except (OpsinError, OSError):
        raise
    except Exception as error:
        others = " or ".join(name for name in FORMS if name != form)
        raise MachineError(f"{form} cannot hold this network: {first_line(error)}", do=f"Try --to {others}") from error


def refuse_without_graph(form: str, road: Preprocessing) -> None:
    """Refuse to resize inside the graph where that cannot be done.

    Raises:
        CallError: for bars and centre crops, whose sizes depend on each picture's, for a pipeline of operations, which
            no graph holds, and for forms that do not resize.
    """
    if road.pipeline:
        raise CallError(
            "--with-resize: this preprocessing has no form in a graph",
            expected="a model without a pipeline",
            received=str(road.pipeline),
            do="Export without --with-resize: README.md beside the file says how to do them first",
        )
    if not FORMS[form].resizes:
        able = ", ".join(name for name, each in FORMS.items() if each.resizes)
        raise CallError(f"--with-resize has no form in {form}", expected=able, received=form)
    if road.fit != "squash":
        raise CallError(
            "--with-resize: this preprocessing has no form in a graph",
            expected="squash, which makes one size of every picture",
            received=road.fit,
            do="Export without --with-resize: README.md beside the file has the lines that prepare a picture",
        )


# ── ONNX ──


def _write_onnx(graph: Graph, told: Mapping[str, Any], resize: bool, file: Path) -> None:
    content = engines.to_onnx(graph, graph.example, outputs=graph.outputs)
    onnx = optional("onnx")
    model = onnx.load_from_string(content)
    _without_traces(model)
    if resize:
        model = resizing.before(onnx, model, graph.road.size, graph.road.interpolation, keep=graph.steps)
    onnx.helper.set_model_props(model, {KEY: json.dumps(told)})  # ASCII: a class may be named in no UTF-8
    onnx.checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString())


def _without_traces(model: Any) -> None:
    """Take out where each node came from: it names folders of this machine."""
    for part in (model.graph, *model.functions):
        for node in (*part.node, *part.value_info):
            del node.metadata_props[:]
            node.doc_string = ""
    for end in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del end.metadata_props[:]
    del model.graph.metadata_props[:]


# ── OpenVINO ──


def _write_openvino(graph: Graph, told: Mapping[str, Any], resize: bool, file: Path) -> None:
    between = file.with_suffix(".onnx")
    _write_onnx(graph, told, resize, between)
    openvino = optional("openvino")
    model = openvino.convert_model(between)
    between.unlink()
    model.set_rt_info(json.dumps(told), [KEY])
    openvino.save_model(model, file, compress_to_fp16=False)  # which would answer otherwise


# ── torch ──


def _write_torch(graph: Graph, told: Mapping[str, Any], resize: bool, file: Path) -> None:
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecated parts that the exporter itself uses
        program = torch.export.export(graph, (graph.example,), dynamic_shapes=({0: batch},))
        program.example_inputs = None  # would be written as a pickle
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names folders of this machine
        torch.export.save(program, file, extra_files={KEY: json.dumps(told)})
    if held := pickles(file):
        file.unlink()
        raise MachineError(f"torch's file would hold a pickle: {held[0]}", do="Use --to onnx, which holds none")


def pickles(file: Path) -> list[str]:
    """What in a `.pt2` is a pickle, or is said to be one; a zip inside it is what `torch` pickles into."""
    found = []
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            described = b'"use_pickle": true' in data or b'"use_pickle":true' in data
            if described or data.startswith(b"PK\3\4"):
                found.append(name)
    return found


def _open_torch(file: Path) -> Opened:
    texts = {KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(file, extra_files=texts).module()

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            found = module(torch.from_numpy(images))
        return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]

    return Opened(run, json.loads(texts[KEY]))


FORMS: dict[str, Form] = {
    "onnx": Form((".onnx",), _write_onnx, exported.open_onnx, resizes=True),
    "openvino": Form((".xml", ".bin"), _write_openvino, exported.open_openvino),
    "torch": Form((".pt2",), _write_torch, _open_torch),
}

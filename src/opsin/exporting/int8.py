"""An exported ONNX file in eight bits: calibrated on training pictures, tested on others, kept only where it pays.

Static quantisation by ONNX Runtime: activations uint8, weights int8 with a scale for each output channel, as pairs of
QuantizeLinear and DequantizeLinear around what is computed in eight bits (onnxruntime.ai/docs/performance).
"""

from __future__ import annotations

import itertools
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import cache, errors, evaluation, metrics
from ..answers import BATCH
from ..cache import Pixels
from ..classifier import Classifier
from ..exported import KEY, Opened
from ..extras import optional
from ..vocabulary import Dataset, Score, finished, refuse_other_tasks
from .graphs import FORMS, refusals

CALIBRATED = 128  # training pictures that show the ranges of the activations
ROUNDS = 5  # of timing, in turn
TIMED = 16  # pictures a timed call
DROP = 0.01  # the accuracy that may be lost


@dataclass(frozen=True)
class Int8:
    """What eight bits came to on `n` tested pictures; `why` it was not kept, or ""."""

    file: Path
    accuracy: Score
    before: Score  # of the file in fp32
    lost: int  # pictures that are right in fp32 only
    won: int  # pictures that are right in eight bits only
    agreement: float  # share of labels that are those of fp32
    difference: float  # the largest between two probabilities of one class
    speed: float  # times as fast as fp32, here
    why: str = ""

    def __str__(self) -> str:
        return f"accuracy {self.accuracy}, in fp32 {self.before}; {self.speed:.2f} times as fast here"


def quantise(clf: Classifier, file: Path, train: Dataset, test: Dataset, *, drop: float = DROP) -> Int8:
    """Write the ONNX `file` in eight bits as `…-int8.onnx` beside it, where that loses little and is faster.

    Args:
        file: an ONNX file of `export`, without resizing.
        train: pictures to calibrate on.
        test: other pictures, with classes: those of validation.
        drop: the accuracy, 0…1, that may be lost, as it was measured on `test`.

    Raises:
        CallError: for another task than single-label.
        DataError: when there are no pictures, or `test` has other classes than `clf`.
        MissingExtra: when onnxruntime or onnx are not installed.
        MachineError: when ONNX Runtime cannot quantise this network.
    """
    refuse_other_tasks(clf.task, "int8")
    result = file.with_stem(file.stem + "-int8")
    calibration, tested = (_pixels(clf, data, most) for data, most in ((train, CALIBRATED), (test, len(test))))
    targets = evaluation.targets(clf, tested.data)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{result.stem}-") as folder:
        made = Path(folder) / result.name
        with refusals("onnx, in eight bits,"):
            _quantised(file, made, calibration)
            before, after = (FORMS["onnx"].open(each) for each in (file, made))
        found = _measured(result, before, after, tested, targets, drop)
        if not found.why:
            with errors.writing(result):
                made.replace(result)
    return found


def _pixels(clf: Classifier, data: Dataset, most: int) -> Pixels:
    if not len(data):
        raise errors.DataError("--int8 needs pictures to calibrate on and others to test", do="Give a data set: --data")
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), most)).astype(int))
    chosen = {data.records[row].key for row in rows}
    return finished(cache.build(data.where(lambda record: record.key in chosen), [clf.preprocessing]))[1][0]


def _quantised(file: Path, result: Path, pixels: Pixels) -> None:
    optional("onnxruntime")
    onnx, quantization = optional("onnx"), optional("onnxruntime.quantization")
    shaped = result.with_name("shaped.onnx")
    with _quiet():
        optional("onnxruntime.quantization.shape_inference").quant_pre_process(file, shaped, skip_symbolic_shape=True)
        quantization.quantize_static(
            shaped,
            result,
            _Reader(pixels),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_ends(onnx.load(shaped)),
        )
    model = onnx.load(result)
    told = {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}
    onnx.helper.set_model_props(model, {KEY: json.dumps({**json.loads(told[KEY]), "precision": "int8"})})
    result.write_bytes(model.SerializeToString())


def _ends(model: Any) -> list[str]:
    """The nodes that stay in fp32: normalisation before the network, and softmax behind it."""
    begins = itertools.takewhile(lambda node: node.op_type in ("Cast", "Mul", "Add"), model.graph.node)
    softmax = (node for node in model.graph.node if node.op_type in ("Div", "Softmax"))
    return [node.name for node in (*begins, *softmax)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice to do what has just been done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _Reader:
    """What a quantiser asks for: the next batch by its input's name, None after the last."""

    def __init__(self, pixels: Pixels) -> None:
        self.batches = _batches(pixels)

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self.batches, None)
        return None if images is None else {"images": images}


def _batches(pixels: Pixels) -> Iterator[np.ndarray]:
    for start in range(0, len(pixels), BATCH):
        yield np.ascontiguousarray(pixels.array[start : start + BATCH])


def _measured(file: Path, before: Opened, after: Opened, tested: Pixels, targets: np.ndarray, drop: float) -> Int8:
    answers = [np.concatenate([each.run(images)[-1] for images in _batches(tested)]) for each in (before, after)]
    first, second = (metrics.accuracy(each, targets) for each in answers)
    labels = [each.argmax(1) for each in answers]
    right = [each == targets for each in labels]
    lost, won = (int((right[one] & ~right[other]).sum()) for one, other in ((0, 1), (1, 0)))
    agreement, apart = float((labels[0] == labels[1]).mean()), float(np.abs(answers[0] - answers[1]).max())
    slow, fast = seconds([before, after], np.ascontiguousarray(tested.array[:TIMED]))
    why = f"it is not faster here: {slow / fast:.2f} times as fast" if fast >= slow else ""
    if first.value - second.value > drop:
        why = f"it loses {first.value - second.value:.3f} of accuracy, and {drop:g} is allowed"
    return Int8(file, second, first, lost, won, agreement, apart, slow / fast, why)


def seconds(files: Sequence[Opened], images: np.ndarray, *, rounds: int = ROUNDS) -> list[float]:
    """The median seconds of a call of each, in turn, after one to warm up."""
    times: list[list[Any]] = [[] for _ in files]
    for _ in range(rounds + 1):
        for file, taken in zip(files, times):
            began = time.perf_counter()
            file.run(images)
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken[1:]) for taken in times]

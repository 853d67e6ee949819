"""A file that `opsin export` wrote, as whoever gets it opens it, and as what answers.

    file ─ OPEN ─> Opened: what it answers, what it tells of itself ─ load ─> Exported, on the road of a Classifier

Importing this file imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import answers, codecs, errors, preprocessing, resizing
from .extras import core, optional
from .preprocessing import Decode, Preprocessing
from .resizing import Resize
from .vocabulary import Scale, Task

KEY = "opsin"  # under which a file tells of itself
FORMAT = 2  # of what it tells; the first did not say which pictures it had learned from
ROOM = "jpeg at 1/2, 1/4, 1/8 down to"  # where it tells of `preprocessing.ROOM`


@dataclass(frozen=True)
class Opened:
    """An exported file as whoever gets it sees it: what it answers, and what it tells of itself."""

    run: Callable[[np.ndarray], Sequence[np.ndarray]]  # uint8 (B, 3, H, W) → its outputs, in their order
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Exported:
    """A file in the place of the Classifier that it was made of, whose attributes it has, but for the network.

    Answers come out of its graph. What `run` gives are the logits they were made of, so that what is done with a
    Classifier's, such as the mean of two, or scores, is done with these as well.
    """

    file: Path
    opened: Opened = field(repr=False)
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    task: Task
    temperature: float
    thresholds: Mapping[str, float]
    facts: Mapping[str, Any] = field(repr=False)
    unsure_below: float
    scale: Scale
    resize: Resize = field(default_factory=resizing.thrifty, repr=False)

    def prepare(self, data: bytes | np.ndarray, *, decode: Decode = codecs.decode) -> np.ndarray:
        """What `preprocessing.load` gives, as an array, uint8 `(3, S, S)`: to a file that resizes nothing is left."""
        return preprocessing.pixels(self.preprocessing, data, decode=decode, resize=self.resize)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Prepared pictures, uint8 `(B, 3, S, S)` → logits, float64 `(B, K)`, as `answers.logits_of` gives them.

        Raises:
            ModelError: when the graph answers for another number of classes than the file tells.
        """
        found = self.opened.run(images)[-1]
        if found.shape != (len(images), len(self.classes)):
            raise errors.ModelError(
                f"{self.file} is damaged", expected=(len(images), len(self.classes)), received=found.shape
            )
        return answers.logits_of(found, self.task, self.temperature, self.scale)


def find(model: str | Path) -> Path | None:
    """The exported file at `model`, or `model.onnx` or `model.xml` in a folder that is no run; None for none.

    Raises:
        CallError: for a file of another kind.
    """
    path = Path(model)
    if path.is_dir():
        files = (path / f"model{ending}" for ending in OPEN if not (path / "data.json").exists())
        return next((file for file in files if file.is_file()), None)
    if path.suffix in OPEN or (path.suffix and path.is_file()):
        if path.suffix in OPEN and path.is_file():
            return path
        raise errors.CallError(
            f"{path} cannot be run",
            expected=f"a file that opsin export wrote, in {' or '.join(OPEN)}; or a run or a model's folder",
            received=f"a {path.suffix} file" if path.is_file() else "nothing there",
        )
    return None


def load(file: Path) -> Exported:
    """The exported file as what answers.

    Raises:
        ModelError: when it cannot be opened, is not of opsin, or of another version.
        MissingExtra: when what runs such files is not installed.
    """
    try:
        opened = OPEN[file.suffix](file)
    except (errors.OpsinError, OSError):
        raise
    except Exception as error:  # of a foreign engine, which raises what it likes
        raise errors.ModelError(
            f"{file} cannot be opened: {errors.first_line(error)}", do="Copy it again, or export the run again"
        ) from error
    told = opened.told
    version = told.get("format")
    if version != FORMAT:
        raise errors.ModelError(
            f"{file}: format {version}",
            expected=f"format {FORMAT}",
            do="Export the run again, or use the version of opsin that made it",
        )
    try:
        alike = {name: told[name] for name in ("task", "temperature", "thresholds", "facts", "unsure_below")}
        road, classes = _road(told["preprocessing"]), tuple(told["classes"])
        scale = tuple((mean, deviation) for mean, deviation in told["scale"])
        return Exported(file=file, opened=opened, preprocessing=road, classes=classes, scale=scale, **alike)
    except (KeyError, TypeError, ValueError) as error:
        raise errors.ModelError(f"what {file} tells of itself is damaged", received=repr(error)) from error


def digest(exported: Exported) -> str:
    """64 hexadecimal letters of the file's content, and of what belongs to it."""
    weights = exported.file.with_suffix(".bin")
    parts = [exported.file, *([weights] if exported.file.suffix == ".xml" else [])]
    return hashlib.sha256(b"".join(hashlib.sha256(part.read_bytes()).digest() for part in parts)).hexdigest()


def _road(told: Mapping[str, Any]) -> Preprocessing:
    values = dict(told)
    room, _ = values.pop(ROOM), values.pop("antialias")
    if room != preprocessing.ROOM:
        raise errors.ModelError("JPEGs are decoded otherwise", expected=preprocessing.ROOM, received=room)
    return preprocessing.from_dict(values)


def _told(file: Path, text: str) -> Mapping[str, Any]:
    """What a file says of itself under KEY, "" for nothing."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise errors.ModelError(
            f"{file} is not of opsin",
            expected="a file that opsin export wrote, which tells its classes and what to do to a picture",
            received="one that does not",
            do="Export the run it came from: opsin export RUN",
        ) from None


def open_onnx(file: Path) -> Opened:
    """Raises ModelError where it is not of opsin, MissingExtra, and what ONNX Runtime raises."""
    runtime = optional("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    told = _told(file, session.get_modelmeta().custom_metadata_map.get(KEY, ""))
    name = session.get_inputs()[0].name
    return Opened(lambda images: session.run(None, {name: images}), told)


def open_openvino(file: Path) -> Opened:
    """Raises ModelError where it is not of opsin, MissingExtra, and what OpenVINO raises."""
    core().set_property({"ENABLE_MMAP": False})  # a mapped file cannot be moved on Windows
    model = core().read_model(file)
    told = _told(file, model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else "")
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: np.ndarray) -> list[np.ndarray]:
        return [np.array(each) for each in compiled(images).values()]  # copies: the next call writes over them

    return Opened(run, told)


# the ending of a file → how it is opened
OPEN: dict[str, Callable[[Path], Opened]] = {".onnx": open_onnx, ".xml": open_openvino}

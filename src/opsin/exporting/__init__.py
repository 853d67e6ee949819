"""A classifier as one file that runs anywhere and answers the same, or no file at all.

    Classifier ─ graphs.write ─> file, opened again ─ compare ─> Parity ─┬─ differs ─> the step where it begins; no file
                       pictures by the one road ─────────┘               └─ agrees ──> file, its .json, README.md

The file holds normalisation, network and softmax at the stored temperature, and tells its class names, thresholds and
what a picture must go through before it. What is compared is the file as it was written, opened as others open it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import answers, cache, classifier, errors, exported, preprocessing
from ..classifier import Classifier
from ..exported import Opened
from ..vocabulary import Dataset, Task, finished
from . import graphs, int8, readme
from .graphs import FORMS, RESIZING, Graph
from .int8 import Int8, quantise

__all__ = [
    "FORMS",
    "LIMITS",
    "Int8",
    "Limits",
    "Parity",
    "compare",
    "contract",
    "export",
    "latency",
    "quantise",
    "where",
]

MOST = 500  # pictures that are compared
FEW = 8  # batches that are looked at for where a difference begins
PARITY = "parity"  # what only a file's JSON of ours tells
CALLS = 20  # that a latency is the median of
# How far a step's values may be from what the reference makes of its own input.
TOLERANCES = {RESIZING: 0.0, "normalisation": 1e-4, "logits": 1e-3, "probabilities": 1e-4, "quantities": 1e-4}

# What the file is given, uint8 (B, 3, H, W), and what the road makes of it, uint8 (B, 3, S, S).
Asked = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Limits:
    """What a file must keep to; resized pictures are equal."""

    agreement: float = 0.995  # the least share of pictures that are answered alike
    difference: float = 1e-4  # the largest of any probability, or of any quantity in deviations


LIMITS = Limits()


@dataclass(frozen=True)
class Parity:
    """How a file answers beside the reference, torch in fp32, on `n` pictures."""

    n: int
    agreement: float  # share of pictures with the same label or labels, or with quantities within LIMITS
    difference: float  # the largest between two probabilities of one class, or two quantities in deviations of training
    task: Task = "single-label"

    def within(self, limits: Limits) -> bool:
        return self.agreement >= limits.agreement and self.difference <= limits.difference

    def __str__(self) -> str:
        alike = f"{100 * self.agreement:.2f} % of {self.n:,} {ALIKE[self.task]} alike"
        far = f"{self.difference:.1e}{' deviations' * (self.task == 'regression')}"
        return f"{alike}, {graphs.ANSWERS[self.task]} at most {far} apart"


ALIKE = {"single-label": "labels", "multi-label": "pictures' labels", "regression": "quantities"}


def export(
    clf: Classifier, file: str | Path, data: Dataset, *, to: str = "onnx", resize: bool = False, most: int = MOST
) -> Parity:
    """Write `clf` as one file, beside it what the file tells of itself as JSON and a README.md, once parity is shown.

    Args:
        file: with the ending of its form; its folder is made. Of what is there, a README.md or JSON that is not ours is
            not replaced.
        data: pictures to compare on, such as `data.val`; nothing is asked of their classes.
        to: a name of FORMS.
        resize: put the resizing to S × S into the graph as well.
        most: pictures that are compared, evenly chosen.

    Returns:
        what was measured, which is within LIMITS.

    Raises:
        CallError: unknown form, another ending, a place that is taken, preprocessing
            that has no form in a graph.
        DataError: when no picture can be read.
        ModelError: when the file answers otherwise: nothing is written, and it says where the difference begins.
        MissingExtra, MachineError: when the form cannot be written or run here.
    """
    file = Path(file)
    _check_place(file, to)
    if resize:
        graphs.refuse_without_graph(to, clf.preprocessing)
    with errors.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{file.stem}-", dir=file.parent))
    try:
        with errors.writing(file):
            opened = graphs.write(to, Graph(clf), contract(clf, resize=resize), resize, beside / file.name)
        with graphs.refusals(to):
            parity = compare(clf, opened, asked(clf, data, resize=resize, most=most))
        if not parity.within(LIMITS):
            raise _differs(clf, data, to, resize, parity, beside)
        with errors.writing(file):
            _describe(clf, beside / file.name, to, resize, parity, opened)
            for each in sorted(beside.iterdir(), key=lambda each: each.name == file.name):  # the file itself comes last
                each.replace(file.with_name(each.name))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return parity


def contract(clf: Classifier, *, resize: bool = False) -> dict[str, Any]:
    """What a file tells of itself, as plain values: enough to use it without opsin, and to know what it answers."""
    road = clf.preprocessing
    size: list[Any] = ["height", "width"] if resize else [road.size, road.size]
    last = {"single-label": "softmax", "multi-label": "sigmoid", "regression": "scale"}[clf.task]
    done_inside = [*(["resize"] if resize else []), "normalise", "network", last]
    return {
        "format": exported.FORMAT,
        "task": clf.task,
        "classes": list(clf.classes),
        "thresholds": dict(clf.thresholds),
        "unsure_below": clf.unsure_below,
        "temperature": clf.temperature,
        "scale": clf.scale,
        "input": {"shape": ["batch", 3, *size], "type": "uint8", "colour": "RGB, sRGB", "range": [0, 255]},
        "output": {"shape": ["batch", len(clf.classes)], "type": "float32", "holds": graphs.ANSWERS[clf.task]},
        "inside": done_inside,
        "preprocessing": {**road.to_dict(), "antialias": True, exported.ROOM: preprocessing.ROOM},
        "network": clf.spec.name if clf.spec else None,
        "licence": clf.facts.get("licence"),
        "data fingerprint": clf.facts.get("fingerprint"),
        "facts": {name: value for name, value in clf.facts.items() if name != "scores"},  # those are the model's
    }


def latency(file: str | Path, *, to: str = "onnx") -> float:
    """Milliseconds that one picture takes the file here, decoding apart: the median of CALLS, after one to warm up."""
    opened = FORMS[to].open(Path(file))
    shape = [each if isinstance(each, int) else 500 for each in opened.told["input"]["shape"][1:]]
    return 1000 * int8.seconds([opened], np.zeros((1, *shape), np.uint8), rounds=CALLS)[0]


# ── parity ──


def asked(clf: Classifier, data: Dataset, *, resize: bool = False, most: int = MOST) -> Iterator[Asked]:
    """Pairs of what the file is given and what the road makes of it, in batches; whole pictures one by one.

    Raises:
        DataError: when there is no picture, or none can be read.
    """
    if not len(data):
        raise errors.DataError("no pictures to compare on", do="Give some: --data FOLDER")
    rows = set(np.linspace(0, len(data) - 1, min(len(data), most)).astype(int).tolist())
    chosen = dataclasses.replace(data, records=tuple(data.records[row] for row in sorted(rows)))
    return _whole(clf, chosen) if resize else _prepared(clf, chosen)


def _prepared(clf: Classifier, data: Dataset) -> Iterator[Asked]:
    _, (pixels,) = finished(cache.build(data, [clf.preprocessing]))
    for start in range(0, len(pixels), answers.BATCH):
        images = np.ascontiguousarray(pixels.array[start : start + answers.BATCH])
        yield images, images


def _whole(clf: Classifier, data: Dataset) -> Iterator[Asked]:
    read = 0
    for record in data.records:
        try:
            picture = cache.picture(data, record)
        except errors.PictureError:
            continue
        read += 1
        given = np.ascontiguousarray(picture.transpose(2, 0, 1))[None]
        yield given, preprocessing.prepare(clf.preprocessing, picture).numpy()[None]
    if not read:
        raise errors.DataError("no picture could be read", do="Give others: --data FOLDER")


def compare(clf: Classifier, opened: Opened, pairs: Iterator[Asked]) -> Parity:
    """The answers of a file beside those of the reference; classes are matched by the names that the file tells.

    Raises:
        ModelError: when the file does not know these classes.
    """
    place = {name: column for column, name in enumerate(opened.told["classes"])}
    if set(place) != set(clf.classes):
        raise errors.ModelError("the file has other classes", expected=clf.classes[:5], received=list(place)[:5])
    order = [place[name] for name in clf.classes]
    same: list[bool] = []
    apart = 0.0
    for given, images in pairs:
        expected = answers.answers(clf, classifier.logits(clf, torch.from_numpy(images)))
        found = np.asarray(opened.run(given)[-1], np.float64)[:, order]
        between = np.abs(found - expected) / ([deviation for _, deviation in clf.scale] or 1.0)
        same += _alike(clf, found, expected, between).tolist()
        worst = float(between.max())
        apart = max(apart, worst if np.isfinite(worst) else float("inf"))
    return Parity(len(same), sum(same) / len(same), apart, clf.task)


def _alike(clf: Classifier, found: np.ndarray, expected: np.ndarray, between: np.ndarray) -> np.ndarray:
    """bool `(B,)`: whether answers `(B, K)` say the same of a picture."""
    if clf.task == "single-label":
        return np.asarray(found.argmax(1) == expected.argmax(1))
    if clf.task == "regression":
        return np.asarray((between <= LIMITS.difference).all(1))
    least = answers.blank(clf).thresholds
    return np.asarray(((found >= least) == (expected >= least)).all(1))


def where(clf: Classifier, opened: Opened, pairs: Sequence[Asked]) -> str:
    """The first step at which a file gives something else than the reference makes of that step's input; "" for none.

    Args:
        opened: a file with the outputs of all steps, of RESIZING too where it resizes.
    """
    steps = graphs.steps(clf.task)
    names = steps if len(opened.run(pairs[0][0])) == len(steps) else (RESIZING, *steps)
    apart = dict.fromkeys(names, False)
    for given, images in pairs:
        found = dict(zip(names, opened.run(given)))
        for name, expected in _expected(clf, found, images).items():
            apart[name] |= not _close(found[name], expected, TOLERANCES[name])
    names_differ = "class names" if tuple(opened.told["classes"]) != clf.classes else ""
    return next((name for name in names if apart[name]), names_differ)


def _expected(clf: Classifier, found: dict[str, np.ndarray], images: np.ndarray) -> dict[str, np.ndarray]:
    """What the reference makes at each step of what came before it in the file."""
    expected = {RESIZING: images} if RESIZING in found else {}
    prepared = torch.from_numpy(found.get(RESIZING, images))
    with torch.no_grad():
        expected["normalisation"] = preprocessing.normalise(clf.preprocessing, prepared).numpy()
        expected["logits"] = clf.network(torch.from_numpy(found["normalisation"])).numpy()
    expected[graphs.ANSWERS[clf.task]] = answers.answers(clf, found["logits"])
    return expected


def _close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    scale = max(1.0, float(np.abs(expected).max()))
    return bool(np.abs(found.astype(np.float64) - expected).max() <= tolerance * scale)


def _differs(clf: Classifier, data: Dataset, to: str, resize: bool, parity: Parity, folder: Path) -> errors.ModelError:
    """The error of a file that answers otherwise, with the step where that begins."""
    steps = graphs.write(
        to, Graph(clf, steps=True), contract(clf, resize=resize), resize, folder / f"steps{FORMS[to].endings[0]}"
    )
    few = [pair for _, pair in zip(range(FEW), asked(clf, data, resize=resize, most=FEW * answers.BATCH))]
    begins = where(clf, steps, few)
    return errors.ModelError(
        f"the {to} file answers otherwise than the model, so it is not written",
        expected=f"{100 * LIMITS.agreement:.1f} % of {ALIKE[clf.task]} alike, and at most {LIMITS.difference:g} apart",
        received=str(parity),
        do=f"The difference begins at: {begins or 'no single step'}. Try another --to, and tell us of this model",
    )


# ── places ──


def _check_place(file: Path, to: str) -> None:
    if to not in FORMS:
        raise errors.unknown("form", to, FORMS)
    ending = FORMS[to].endings[0]
    if file.suffix != ending:
        raise errors.CallError(f"{file}", expected=f"a name that ends in {ending}", received=file.suffix or "no ending")
    for other, mark in ((file.with_name(readme.NAME), readme.MARK), (file.with_suffix(".json"), PARITY)):
        if other.exists() and mark not in other.read_text(encoding="utf-8", errors="replace"):
            raise errors.CallError(
                f"{other} is there and is not ours", expected="a folder of its own", do="Choose another --out"
            )


def _describe(clf: Classifier, file: Path, to: str, resize: bool, parity: Parity, opened: Opened) -> None:
    """What the file tells, with what was measured, as JSON for programs and as README.md for people."""
    facts = {name: value for name, value in opened.told["facts"].items() if name != "seen"}  # letters a picture
    about = {**opened.told, "facts": facts, "file": file.name, PARITY: dataclasses.asdict(parity)}
    file.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    text = readme.text(clf, file.name, to, resize, str(parity))
    file.with_name(readme.NAME).write_text(text, encoding="utf-8", errors="replace")

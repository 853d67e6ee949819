"""Small classifiers, and pictures to compare their exported files on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from opsin import engines, exporting
from opsin.classifier import Classifier
from opsin.preprocessing import Preprocessing
from opsin.sources import ArrayStore
from opsin.vocabulary import Dataset, Record
from tiny import ROAD, Net, seeded

CLASSES = ("red", "green", "blue")
RESIZING = pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])


def needed(*names: str) -> None:
    for name in names:
        if name not in engines.installed():
            pytest.skip(f"needs {name}: pip install 'opsin[fast]'")


NEEDS = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
TASKS = pytest.mark.parametrize("task", ["multi-label", "regression"])
FORMS = pytest.mark.parametrize("form", exporting.FORMS)


def sure(network: torch.nn.Module) -> torch.nn.Module:
    """Weights so large that answers differ from picture to picture."""
    with torch.no_grad():
        network.head.weight *= 5
    return network


def made(road: Preprocessing = ROAD) -> Classifier:
    return Classifier(sure(seeded(Net)), None, road, CLASSES, temperature=1.7, thresholds={"red": 0.4})


def soft(n: int, seed: int = 0, least: int = 20, most: int = 60) -> dict[str, np.ndarray]:
    """Coloured pictures of different sizes, smooth as photographs are, with a grain that only antialiasing removes."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(n):
        height, width = rng.integers(least, most, 2)
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        large = np.asarray(Image.fromarray(small).resize((int(width), int(height)), Image.Resampling.BICUBIC))
        grain = rng.integers(-60, 61, large.shape)
        found[f"{number:03}"] = np.clip(large.astype(int) + grain, 0, 255).astype(np.uint8)
    return found


def data(n: int = 40, **sides: int) -> Dataset:
    pictures = soft(n, **sides)
    return Dataset("soft", tuple(Record(key) for key in pictures), (), ArrayStore(pictures), "")


def name_of(form: str) -> str:
    return f"model{exporting.FORMS[form].endings[0]}"


def of_task(task: str, road: Preprocessing = ROAD) -> Classifier:
    """Several labels, each with a threshold of its own; or three quantities of quite different units."""
    if task == "multi-label":
        return dataclasses.replace(made(road), task=task, thresholds={"red": 0.3, "green": 0.6})
    return dataclasses.replace(made(road), task=task, thresholds={}, scale=((5.0, 2.0), (-300.0, 40.0), (0.0, 0.01)))

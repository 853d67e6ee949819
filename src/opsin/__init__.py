"""opsin: from a folder of pictures to a classifier that can be trusted and shipped, on the machine you own.

The public names, loaded when they are used: `import opsin` imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "Classifier": "classifier",
    "Dataset": "vocabulary",
    "Event": "vocabulary",
    "Prediction": "vocabulary",
    "Recipe": "recipe",
    "Record": "vocabulary",
    "Run": "runs",
    "Scores": "vocabulary",
    "check": "checks",
    "cross_validate": "runs",
    "evaluate": "runs",
    "events": "runs",
    "export": "exporting",
    "load": "runs",
    "predict": "classifier",
    "preset": "recipe",
    "read": "sources",
    "repeat": "runs",
    "save": "artefact",
    "split": "splits",
    "study": "studies",
    "train": "runs",
}

__all__ = [
    "Classifier",
    "Dataset",
    "Event",
    "Prediction",
    "Recipe",
    "Record",
    "Run",
    "Scores",
    "check",
    "cross_validate",
    "evaluate",
    "events",
    "export",
    "load",
    "predict",
    "preset",
    "read",
    "repeat",
    "save",
    "split",
    "study",
    "train",
]

if TYPE_CHECKING:
    from .artefact import save
    from .checks import check
    from .classifier import Classifier, predict
    from .exporting import export
    from .recipe import Recipe, preset
    from .runs import Run, cross_validate, evaluate, events, load, repeat, train
    from .sources import read
    from .splits import split
    from .studies import study
    from .vocabulary import Dataset, Event, Prediction, Record, Scores


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'opsin' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

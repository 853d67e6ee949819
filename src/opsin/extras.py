"""Optional packages, imported when they are needed."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from .errors import MissingExtra

EXTRA = "fast"


def optional(name: str) -> Any:
    """An optional package, imported now.

    OpenVINO sends what it is used for to Google Analytics, from its import on, and keeps an identity in the home
    folder, unless its telemetry package is missing: so that is what it finds.

    Raises:
        MissingExtra: when it is not installed.
    """
    if name == "openvino" and name not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(name, EXTRA) from error


@functools.cache
def core() -> Any:
    """OpenVINO's one Core: of two, the first to go leaves signals with a stack that is freed, and Ctrl-C crashes."""
    return optional("openvino").Core()

"""What a study does to every picture: from a command line's texts to one change for each row of its table.

"jpeg:quality=5..95"        from 5 to 95, in steps
"jpeg:quality=5,10,20"      these
"jpeg:quality"              over all that the operation declares
"clahe:clip=3"              with it and without it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import corruptions, ops, params
from ..errors import CallError
from ..ops import Op, Pipeline
from ..params import Parameter

RATIO = 50  # a range whose upper end is more often its lower one is divided by equal ratios, not by equal differences


@dataclass(frozen=True)
class Change:
    """One row of a study.

    Attributes:
        name: what is done, as one would ask for it.
        value: of what moves from row to row; None where nothing does.
        make: `make(key, picture)`, uint8 `(H, W, 3)` → what is classified instead: a picture, or the bytes of one.
    """

    name: str
    value: Any
    make: Callable[[str, np.ndarray], np.ndarray | bytes]


@dataclass(frozen=True)
class Changes:
    """All rows of a study, and what moves from one to the next: `jpeg quality`, `severity`, or "" for nothing.

    Attributes:
        unchanged: what is done to a picture before any change, and alone to what a changed picture is compared with.
    """

    moving: str
    rows: tuple[Change, ...]
    unchanged: Change = Change("", None, lambda key, picture: picture)


def of_ops(texts: Sequence[str], steps: int) -> Changes:
    """The changes that these steps of a pipeline mean, of which one parameter may move.

    Args:
        texts: as above, one an operation, done in this order.
        steps: into how many values a range is divided.

    Raises:
        CallError: for unknown names, values out of bounds, two parameters that move, and what makes no picture.
    """
    read = [_read(text, steps) for text in texts]
    moving = [
        (at, name) for at, (_, settings) in enumerate(read) for name, values in settings.items() if len(values) > 1
    ]
    if len(moving) > 1:
        raise CallError(
            "a study moves one parameter", expected="one range or list", received=", ".join(name for _, name in moving)
        )
    if not moving:
        return Changes("", (_change(_at(read, 0), None),))
    at, name = moving[0]
    values = read[at][1][name]
    return Changes(
        f"{read[at][0].name} {name}", tuple(_change(_at(read, row), values[row]) for row in range(len(values)))
    )


def _at(read: Sequence[tuple[Op, Mapping[str, list[Any]]]], row: int) -> Pipeline:
    """The pipeline of one row; what does not move has one value."""
    return ops.pipeline(
        *({"op": op.name, **{name: values[row % len(values)] for name, values in given.items()}} for op, given in read)
    )


def _change(pipeline: Pipeline, value: Any) -> Change:
    last = pipeline.steps[-1]
    if last.op.kind not in ("image", "bytes"):
        raise CallError(
            f"{last.name} makes a {last.op.kind} of a picture",
            expected="an operation that makes a picture",
            do="See: opsin list ops",
        )
    return Change(str(pipeline), value, lambda key, picture: pipeline(picture))


def _read(text: str, steps: int) -> tuple[Op, dict[str, list[Any]]]:
    """The operation, and the values of each parameter that is named: one, or those that a study goes through."""
    name, _, rest = text.partition(":")
    operation = ops.find(name.strip())
    known = {parameter.name: parameter for parameter in operation.parameters}
    asked: dict[str, list[str]] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = (word.strip() for word in part.partition("="))
        if equals or key in known or not asked:
            ops.pipelines.check_names(operation, [key], known)
            asked[key] = [value] if equals else []
        else:
            asked[[*asked][-1]].append(key)  # one more value of the list that came before
    return operation, {key: _values(operation, known[key], texts, steps) for key, texts in asked.items()}


def _values(operation: Op, parameter: Parameter, texts: Sequence[str], steps: int) -> list[Any]:
    low, dots, high = texts[0].partition("..") if len(texts) == 1 else ("", "", "")
    if dots and parameter.type in (int, float):
        return _spaced(params.read_text(parameter, low), params.read_text(parameter, high), steps, parameter)
    if texts:
        return [params.read_text(parameter, text) for text in texts]
    if parameter.choices or parameter.type is bool:
        return [*parameter.choices] or [False, True]
    return _declared(operation, parameter, steps)


def _declared(operation: Op, parameter: Parameter, steps: int) -> list[Any]:
    """Values over all that is allowed; an end that itself is not allowed is left out."""
    bounds = parameter.interval
    low = bounds.ge if bounds.ge is not None else bounds.gt
    high = bounds.le if bounds.le is not None else bounds.lt
    if low is None or high is None:
        raise CallError(
            f"{operation.name}: {parameter.name} has no range", do=f"List values: {operation.name}:{parameter.name}=A,B"
        )
    outside = (bounds.ge is None, bounds.le is None)
    values = _spaced(low, high, steps + sum(outside), parameter)
    return values[outside[0] : len(values) - outside[1]]


def _spaced(low: Any, high: Any, steps: int, parameter: Parameter) -> list[Any]:
    """At most `steps` values from low to high, both included: rounded, whole where the parameter is, each once."""
    if steps < 2 or not low < high:
        raise CallError(
            f"a range of {parameter.name}",
            expected="low..high, and 2 steps at least",
            received=f"{low}..{high}, {steps}",
        )
    spaced = np.geomspace if 0 < RATIO * low < high else np.linspace
    values = [float(f"{value:.3g}") for value in spaced(low, high, steps)]
    values[0], values[-1] = low, high
    return sorted({round(value) for value in values} if parameter.type is int else {float(value) for value in values})


def of_corruptions(side: int, seed: int = 0) -> Changes:
    """Every corruption at every severity, of pictures whose shorter side is first brought down to `side` pixels."""
    rows = [
        Change(name, severity, _corrupting(name, severity, side, seed))
        for name in corruptions.CORRUPTIONS
        for severity in corruptions.SEVERITIES
    ]
    return Changes("severity", tuple(rows), Change("", None, lambda key, picture: _brought_down(picture, side)))


def _brought_down(picture: np.ndarray, side: int) -> np.ndarray:
    height, width = picture.shape[:2]
    if min(height, width) <= side:
        return picture
    scale = side / min(height, width)
    return ops.resize(picture, width=max(1, round(width * scale)), height=max(1, round(height * scale)))


def _corrupting(name: str, severity: int, side: int, seed: int) -> Callable[[str, np.ndarray], np.ndarray]:
    def make(key: str, picture: np.ndarray) -> np.ndarray:
        picture = _brought_down(picture, side)
        return corruptions.corrupt(picture, name, severity, corruptions.generator(seed, key, name))

    return make

"""Pipelines: operations one after the other, as data: from a command line's texts, from and to TOML.

"clahe:clip=3,tiles=4"   an operation's name, and the parameters that are not at their defaults
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import params
from ..errors import CallError, unknown
from .compression import reopened
from .contract import Op
from .table import OPS


@dataclass(frozen=True)
class Step:
    """One operation with all of its parameters, so that it means the same when a default changes."""

    name: str
    settings: Mapping[str, Any]

    @property
    def op(self) -> Op:
        return OPS[self.name]

    def __str__(self) -> str:
        defaults = {parameter.name: parameter.default for parameter in self.op.parameters}
        return self.told({name: value for name, value in self.settings.items() if value != defaults[name]})

    def told(self, settings: Mapping[str, Any]) -> str:
        """The step with these of its settings, as a text."""
        told = [f"{name}={_text(value)}" for name, value in settings.items()]
        return self.name + (":" + ",".join(told) if told else "")


@dataclass(frozen=True)
class Pipeline:
    """Steps that are applied in their order. The last may give a map or bytes; bytes in between are opened again."""

    steps: tuple[Step, ...]

    def __call__(self, image: Any, *, exif: bytes = b"") -> Any:
        """What the steps make of a picture or batch; `exif` goes into the file, where the last step makes one.

        Raises:
            CallError: when a step cannot be done on this picture.
        """
        for step in self.steps[:-1]:
            done = step.op.run(image, **step.settings)
            image = reopened(done, image) if step.op.kind == "bytes" else done
        last = self.steps[-1]
        extra = {"exif": exif} if exif and last.op.kind == "bytes" else {}
        return last.op.run(image, **last.settings, **extra)

    def __str__(self) -> str:
        return " ".join(map(str, self.steps))

    @property
    def text(self) -> str:
        """All steps with all of their settings: `from_text` gives the pipeline back, whatever becomes of defaults."""
        return " | ".join(step.told(step.settings) for step in self.steps)

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values, one table a step: `op` and its parameters."""
        return [{"op": step.name, **step.settings} for step in self.steps]

    def to_toml(self) -> str:
        import tomli_w

        return tomli_w.dumps({"step": self.to_list()})

    @property
    def digest(self) -> str:
        """SHA-256 of the steps: the same for pipelines that do the same."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()


def pipeline(*steps: str | Mapping[str, Any]) -> Pipeline:
    """A pipeline of texts such as `resize:side=512`, or of tables such as `{"op": "resize", "side": 512}`.

    >>> print(pipeline("clahe:clip=3,tiles=8", {"op": "resize", "side": 512}))
    clahe:clip=3 resize:side=512

    Raises:
        CallError: for an unknown operation or parameter, a value out of bounds, and an order that cannot be.
    """
    made = tuple(_step(*(_read(step) if isinstance(step, str) else _table(step))) for step in steps)
    if not made:
        raise CallError("a pipeline without a step", do="Name an operation of: opsin list ops")
    for step in made:
        _check_place(step, last=step is made[-1])
    return Pipeline(made)


def from_text(text: str) -> Pipeline:
    """The pipeline of steps with bars between them.

    >>> from_text("clahe:clip=3 | gamma").text
    'clahe:clip=3,tiles=8 | gamma:gamma=0.7'

    Raises:
        CallError: as `pipeline` says.
    """
    return pipeline(*text.split("|"))


def from_toml(text: str) -> Pipeline:
    """The pipeline that `to_toml` wrote.

    Raises:
        CallError: when the text is another thing.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CallError("this is not TOML", received=error) from error
    steps = tables.get("step")
    if set(tables) != {"step"} or not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CallError("a pipeline's TOML", expected="[[step]] tables, each with its op", received=", ".join(tables))
    return pipeline(*steps)


def load(file: Path) -> Pipeline:
    """The pipeline in a TOML file.

    Raises:
        CallError: when there is none.
    """
    try:
        return from_toml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CallError(f"{file} cannot be read", received=error, do="Write one with --save-pipeline") from error


def split_text(text: str) -> tuple[str, dict[str, str]]:
    """An operation's name and its parameters' texts.

    >>> split_text("clahe:clip=3,tiles=4")
    ('clahe', {'clip': '3', 'tiles': '4'})

    Raises:
        CallError: when the text has another form.
    """
    name, _, rest = text.partition(":")
    pairs = [part.partition("=") for part in rest.split(",")] if rest else []
    if not all(equals for _, equals, _ in pairs):
        raise CallError("an operation", expected="NAME or NAME:parameter=value,parameter=value", received=repr(text))
    return name.strip(), {parameter.strip(): value.strip() for parameter, _, value in pairs}


def find(name: str) -> Op:
    """The operation called `name`.

    Raises:
        CallError: for an unknown name, with the nearest that there is.
    """
    if name not in OPS:
        raise unknown("operation", name, OPS)
    return OPS[name]


def _read(text: str) -> tuple[Op, dict[str, Any]]:
    name, texts = split_text(text)
    operation = find(name)
    known = {parameter.name: parameter for parameter in operation.parameters}
    check_names(operation, texts, known)
    return operation, {key: params.read_text(known[key], value) for key, value in texts.items()}


def _table(table: Mapping[str, Any]) -> tuple[Op, dict[str, Any]]:
    if not isinstance(table, Mapping):
        raise CallError("a step", expected="a text, or a table with its op", received=repr(table))
    operation = find(str(table.get("op", "")))
    return operation, {name: value for name, value in table.items() if name != "op"}


def _step(operation: Op, given: Mapping[str, Any]) -> Step:
    check_names(operation, given, [parameter.name for parameter in operation.parameters])
    return Step(operation.name, operation.settings(given))


def check_names(operation: Op, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse parameters that an operation does not have. Raises CallError."""
    for name in given:
        if name not in known:
            raise unknown(f"parameter of {operation.name}", name, known)


def _check_place(step: Step, *, last: bool) -> None:
    if step.op.reference:
        raise CallError(f"{step.name} needs a second picture", do=f"Call opsin.ops.{step.name} from Python")
    if step.op.kind == "number" or (step.op.kind == "map" and not last):
        made = f"{step.name} makes a {step.op.kind} of a picture"
        raise CallError(f"{made}, and nothing can follow", do="Make it the last step" if step.op.kind == "map" else "")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return str(value)

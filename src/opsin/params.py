"""One declaration of a parameter: message, CLI option, form field and test values come from it.

A parameter is a field of a frozen dataclass, typed as `Annotated[float, Interval(ge=0, le=1), Doc("…")]`. Its
bounds, its choices (a `Literal`), its default and its explanation stand there and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from typing import Any, Literal, TypeVar

from annotated_types import BaseMetadata, DocInfo, GroupedMetadata, Interval

from .errors import CallError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Parameter:
    """One choice: its dotted name, type, default, bounds, and what it means."""

    name: str  # dotted: "optim.lr"
    type: type
    default: Any
    choices: tuple[str, ...]
    bounds: str  # "≥ 0, ≤ 1", for people; pydantic enforces the declaration itself
    doc: str
    interval: Interval = field(default_factory=Interval, compare=False)  # the same bounds, for programs

    @property
    def leaf(self) -> str:
        """The name without its section."""
        return self.name.rpartition(".")[2]


_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def _interval(metadata: tuple[Any, ...]) -> Interval:
    """All bounds that are declared, as one."""
    flat: list[Any] = []
    for item in metadata:
        flat.extend(item if isinstance(item, GroupedMetadata) else [item])
    bounds = [item for item in flat if isinstance(item, BaseMetadata)]
    return Interval(**{word: getattr(item, word) for item in bounds for word in _SIGNS if hasattr(item, word)})


def _bounds(interval: Interval) -> str:
    found = {sign: getattr(interval, word) for word, sign in _SIGNS.items()}
    return ", ".join(f"{sign} {_number(bound)}" for sign, bound in found.items() if bound is not None)


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    metadata: tuple[Any, ...] = getattr(hint, "__metadata__", ())
    inner = typing.get_args(hint)[0] if metadata else hint
    choices = typing.get_args(inner) if typing.get_origin(inner) is Literal else ()
    doc = next((item.documentation for item in metadata if isinstance(item, DocInfo)), "")
    kind = str if choices else inner
    assert kind in (bool, int, float, str), f"{name}: a parameter is a plain value, not {inner}"
    interval = _interval(metadata)
    return Parameter(name, kind, default, tuple(choices), _bounds(interval), doc, interval)


@cache
def parameters(cls: type) -> tuple[Parameter, ...]:
    """Every parameter that a dataclass declares, those of its nested sections with dotted names."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found: list[Parameter] = []
    for item in dataclasses.fields(cls):
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            inner = parameters(type(default))
            found.extend(dataclasses.replace(p, name=f"{item.name}.{p.name}") for p in inner)
        else:
            found.append(_parameter(item.name, hints[item.name], None if default is dataclasses.MISSING else default))
    return tuple(found)


def find(cls: type, name: str) -> Parameter:
    """The parameter called `name`: dotted, or its leaf alone where that is unique (it is, in our own dataclasses)."""
    matches = [p for p in parameters(cls) if name in (p.name, p.leaf)]
    if not matches:
        raise unknown("setting", name, [p.leaf for p in parameters(cls)])
    return matches[0]


def read_text(parameter: Parameter, text: str) -> Any:
    """The value that `text`, from a command line or a form, stands for. Bounds are checked by `validate`."""
    if parameter.type is bool:
        word = text.strip().lower()
        if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            raise CallError(f"setting {parameter.leaf}", expected="yes or no", received=repr(text))
        return word in ("true", "yes", "on", "1")
    try:
        return parameter.type(text)
    except ValueError:
        raise CallError(
            f"setting {parameter.leaf}", expected=f"a value of type {parameter.type.__name__}", received=repr(text)
        ) from None


def changed(value: T, changes: Mapping[str, Any]) -> T:
    """A copy of the dataclass `value` with parameters changed by name, validated as a whole.

    Args:
        value: a frozen dataclass, sections nested.
        changes: name (dotted, or a leaf) → value, already of its type.

    Raises:
        CallError: for an unknown name, a wrong type or a value out of bounds.
    """
    tree = dataclasses.asdict(value)  # type: ignore[call-overload]
    for name, new in changes.items():
        *sections, leaf = find(type(value), name).name.split(".")
        place = tree
        for section in sections:
            place = place[section]
        place[leaf] = new
    return validate(type(value), tree)


def validate(cls: type[T], tree: Mapping[str, Any]) -> T:
    """Build `cls` from plain values, refusing unknown names, wrong types and values out of bounds.

    Raises:
        CallError: it names the parameter, what was expected and what was received.
    """
    from pydantic import ValidationError

    _refuse_unknown(cls, tree)
    try:
        made: T = _adapter(cls).validate_python(tree)  # type: ignore[arg-type]  # classes are hashable
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise CallError(
            f"setting {name}", expected=first["msg"].removeprefix("Input should be "), received=repr(first["input"])
        ) from None
    _refuse_infinite(cls, made)
    return made


@cache
def _adapter(cls: type) -> Any:
    """Building one takes half a millisecond."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _refuse_unknown(cls: Any, tree: Mapping[str, Any], section: str = "") -> None:
    defaults = {f.name: f.default_factory for f in dataclasses.fields(cls)}
    for name, value in tree.items():
        if name not in defaults:
            raise unknown(f"setting in [{section}]" if section else "setting", name, defaults)
        section_class: Any = defaults[name]
        if isinstance(value, Mapping) and dataclasses.is_dataclass(section_class):
            _refuse_unknown(section_class, value, name)


def _refuse_infinite(cls: type, value: Any) -> None:
    """A one-sided bound lets infinity through."""
    for parameter in parameters(cls):
        number = attrgetter(parameter.name)(value)
        if parameter.type is float and math.isinf(number):
            raise CallError(f"setting {parameter.name}", expected="a finite number", received=repr(number))

"""One declaration of a parameter: what is read from it, and what is refused because of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Interval, doc

from opsin import params
from opsin.errors import CallError
from opsin.params import Parameter, parameters


@dataclass(frozen=True)
class Inner:
    share: Annotated[float, Interval(ge=0, lt=1), doc("how much")] = 0.5
    kind: Annotated[Literal["a", "b"], doc("which")] = "a"


@dataclass(frozen=True)
class Outer:
    count: Annotated[int, Ge(1)] = 3
    on: bool = False
    name: str = "x"
    inner: Inner = field(default_factory=Inner)


def test_a_declaration_is_read_whole() -> None:
    assert parameters(Outer) == (
        Parameter("count", int, 3, (), "≥ 1", ""),
        Parameter("on", bool, False, (), "", ""),
        Parameter("name", str, "x", (), "", ""),
        Parameter("inner.share", float, 0.5, (), "≥ 0, < 1", "how much"),
        Parameter("inner.kind", str, "a", ("a", "b"), "", "which"),
    )
    assert [p.leaf for p in parameters(Outer)] == ["count", "on", "name", "share", "kind"]


def test_a_parameter_that_is_not_a_plain_value_is_our_own_mistake() -> None:
    @dataclass(frozen=True)
    class Wrong:
        values: tuple[int, ...] = ()

    # Annotations of a class inside a function are resolved in the module, where `tuple` and `int` are known too.
    with pytest.raises(AssertionError, match="plain value"):
        parameters(Wrong)


@pytest.mark.parametrize("name", ["share", "inner.share"])
def test_a_parameter_is_found_by_leaf_and_by_dotted_name(name: str) -> None:
    assert params.find(Outer, name).name == "inner.share"


def test_an_unknown_parameter_answers_with_the_nearest() -> None:
    with pytest.raises(CallError, match=r"unknown setting 'shar'.*Did you mean 'share'"):
        params.find(Outer, "shar")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "12", 12),
        ("share", "0.25", 0.25),
        ("share", "1e-1", 0.1),
        ("kind", "b", "b"),
        ("name", "a b", "a b"),
        *(("on", text, True) for text in ("yes", "true", "On", "1", " YES ")),
        *(("on", text, False) for text in ("no", "False", "off", "0")),
    ],
)
def test_texts_become_values(name: str, text: str, value: Any) -> None:
    read = params.read_text(params.find(Outer, name), text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "many", "a value of type int"),
        ("count", "1.5", "a value of type int"),
        ("share", "half", "a value of type float"),
        ("on", "maybe", "yes or no"),
    ],
)
def test_texts_of_another_type_are_refused(name: str, text: str, expected: str) -> None:
    with pytest.raises(CallError, match=f"setting {name}: expected {expected}, received '{text}'"):
        params.read_text(params.find(Outer, name), text)


def test_changes_leave_the_value_as_it_was_and_everything_else_alone() -> None:
    before = Outer(name="y")
    after = params.changed(before, {"share": 0.25, "inner.kind": "b", "count": 9})
    assert after == Outer(9, False, "y", Inner(0.25, "b"))
    assert before == Outer(name="y")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, r"setting count: expected greater than or equal to 1, received 0"),
        ({"share": 1.0}, r"setting inner\.share: expected less than 1, received 1\.0"),
        ({"share": float("nan")}, r"setting inner\.share: .*received nan"),
        ({"kind": "c"}, r"setting inner\.kind: expected 'a' or 'b', received 'c'"),
        ({"count": "many"}, r"setting count: expected a valid integer.*received 'many'"),
        ({"count": 1.5}, r"setting count: expected a valid integer.*received 1\.5"),
        ({"name": 3}, r"setting name: expected a valid string, received 3"),
        ({"cuont": 3}, r"unknown setting 'cuont'.*Did you mean 'count'"),
    ],
)
def test_wrong_changes_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError, match=message):
        params.changed(Outer(), changes)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"nmae": "y"}, r"unknown setting 'nmae'.*Did you mean 'name'"),
        ({"inner": {"shrae": 1}}, r"unknown setting in \[inner\] 'shrae'.*Did you mean 'share'"),
        ({"inner": 5}, r"setting inner: .*received 5"),
        ({"name": {"a": 1}}, r"setting name: .*received \{'a': 1\}"),
    ],
)
def test_a_tree_with_unknown_or_misplaced_names_is_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError, match=message):
        params.validate(Outer, tree)


def test_what_a_tree_leaves_out_has_its_default() -> None:
    assert params.validate(Outer, {"inner": {"kind": "b"}}) == dataclasses.replace(Outer(), inner=Inner(kind="b"))

"""Every choice of a run: its bounds hold, its name is unique, its TOML form gives it back."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from opsin import params, recipe
from opsin.errors import CallError
from opsin.params import Parameter, parameters
from opsin.recipe import PRESETS, Recipe, preset, read

ALL = parameters(Recipe)
SIGNS = {"≥": (-1, False), ">": (0, False), "≤": (1, True), "<": (0, True)}


def outside(parameter: Parameter) -> list[Any]:
    """Values just beyond each bound that the declaration tells people of."""
    found = []
    for sign, text in re.findall(r"([≥>≤<]) (\S+?)(?:,|$)", parameter.bounds):
        beyond, bound = SIGNS[sign][0], float(text)
        nudge = 1 if parameter.type is int else 1e-6
        found.append(parameter.type(bound + beyond * nudge))
    return found


def inside(parameter: Parameter) -> list[Any]:
    """Values on or just within each bound."""
    found = []
    for sign, text in re.findall(r"([≥>≤<]) (\S+?)(?:,|$)", parameter.bounds):
        bound, nudge = float(text), 1 if parameter.type is int else 1e-6
        inward = {"≥": 0, "≤": 0, ">": nudge, "<": -nudge}[sign]
        found.append(parameter.type(bound + inward))
    return found


def value_of(chosen: Recipe, parameter: Parameter) -> Any:
    value: Any = chosen
    for part in parameter.name.split("."):
        value = getattr(value, part)
    return value


def test_leaves_are_unique_so_that_set_can_use_them_alone() -> None:
    leaves = [p.leaf for p in ALL]
    assert len(leaves) == len(set(leaves)) > 35
    assert not set(leaves) & {field.name for field in dataclasses.fields(Recipe)} - {"name", "seed"}


def test_every_choice_is_explained() -> None:
    assert [p.name for p in ALL if not p.doc] == ["name"]


@pytest.mark.parametrize("parameter", [p for p in ALL if p.type in (int, float)], ids=lambda p: p.name)
def test_numbers_out_of_bounds_are_refused(parameter: Parameter) -> None:
    assert outside(parameter), "a number without any bound"
    for value in [*outside(parameter), *([math.nan] if parameter.type is float else [])]:
        with pytest.raises(CallError) as caught:
            Recipe().set(**{parameter.name: value})
        assert caught.value.message == f"setting {parameter.name}"
        assert caught.value.expected
        assert caught.value.received == repr(value)


@pytest.mark.parametrize("parameter", [p for p in ALL if p.type in (int, float)], ids=lambda p: p.name)
def test_numbers_on_their_bounds_are_taken(parameter: Parameter) -> None:
    for value in inside(parameter):
        assert value_of(Recipe().set(**{parameter.leaf: value}), parameter) == value


@pytest.mark.parametrize("parameter", [p for p in ALL if p.type is float], ids=lambda p: p.name)
def test_numbers_without_end_are_refused(parameter: Parameter) -> None:
    with pytest.raises(CallError, match=f"setting {parameter.name}"):
        Recipe().set(**{parameter.leaf: math.inf})


WRONG: dict[type, list[Any]] = {
    int: ["many", 1.5, None, [1]],
    float: ["much", None, [1.0]],
    bool: ["perhaps", None, 7],
    str: [3, None, ["a"]],
}


@pytest.mark.parametrize("parameter", ALL, ids=lambda p: p.name)
def test_values_of_another_type_are_refused(parameter: Parameter) -> None:
    for value in WRONG[parameter.type]:
        with pytest.raises(CallError) as caught:
            Recipe().set(**{parameter.name: value})
        assert caught.value.message == f"setting {parameter.name}"
        assert caught.value.expected
        assert caught.value.received == repr(value)


@pytest.mark.parametrize("parameter", [p for p in ALL if p.choices], ids=lambda p: p.name)
def test_choices_are_the_listed_ones(parameter: Parameter) -> None:
    for choice in parameter.choices:
        assert value_of(Recipe().set(**{parameter.leaf: choice}), parameter) == choice
    with pytest.raises(CallError, match=f"setting {parameter.name}: expected .*{parameter.choices[0]}.*received 'xyz'"):
        Recipe().set(**{parameter.leaf: "xyz"})


@pytest.mark.parametrize("parameter", ALL, ids=lambda p: p.name)
def test_every_choice_can_be_set_from_a_text_by_leaf_and_by_dotted_name(parameter: Parameter) -> None:
    other: Any = {bool: not parameter.default, int: 7, float: 0.25, str: "other"}[parameter.type]
    other = parameter.choices[-1] if parameter.choices else other
    texts = [f"{name}={other}" for name in (parameter.leaf, parameter.name)]
    by_leaf, by_name = (Recipe().set_texts([text]) for text in texts)
    assert by_leaf == by_name == Recipe().set(**{parameter.name: other})
    assert value_of(by_leaf, parameter) == other


def test_texts_are_applied_together_and_the_last_one_of_a_name_counts() -> None:
    chosen = preset("textbook").set_texts(("size=32", " epochs =2", "epochs=3", "hflip=no"))
    assert (chosen.pixels.size, chosen.learn.epochs, chosen.augment.hflip) == (32, 3, "no")
    assert chosen == preset("textbook").set(size=32, epochs=3, hflip="no")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size", "--set: expected name=value, received 'size'"),
        ("sise=3", "unknown setting 'sise'.*Did you mean 'size'"),
        ("size=big", "setting size: expected a value of type int, received 'big'"),
        ("size=-1", r"setting pixels\.size: expected greater than or equal to 0, received -1"),
        ("pretrained=maybe", "setting pretrained: expected yes or no, received 'maybe'"),
    ],
)
def test_wrong_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(CallError, match=message):
        Recipe().set_texts([text])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_named_and_explained(name: str) -> None:
    chosen = preset(name)
    assert chosen.name == name
    assert params.validate(Recipe, chosen.to_dict()) == chosen
    assert PRESETS[name].__doc__


@pytest.mark.parametrize("name", PRESETS)
def test_the_toml_form_gives_a_preset_back(name: str, tmp_path: Path) -> None:
    chosen = preset(name).set(seed=2**32 - 1, lr=1 / 3, size=96)
    assert tomllib.loads(chosen.to_toml()) == chosen.to_dict()
    file = tmp_path / "recipe.toml"
    file.write_text(chosen.to_toml(), encoding="utf-8")
    assert read(file) == read(str(file)) == chosen


def test_a_toml_file_may_leave_out_and_write_whole_numbers(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[optim]\nlr = 1\n[learn]\nepochs = 2\n", encoding="utf-8")
    assert read(file) == Recipe().set(lr=1.0, epochs=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[lern]\nepochs = 2", "unknown setting 'lern'.*Did you mean 'learn'"),
        ("[learn]\nepoch = 2", r"unknown setting in \[learn\] 'epoch'.*Did you mean 'epochs'"),
        ("learn = 2", "setting learn"),
        ("[learn]\nepochs = -2", r"setting learn\.epochs: expected greater than or equal to 0, received -2"),
        ("[learn", "expected a TOML file"),
        ("\x00", "expected a TOML file"),
    ],
)
def test_wrong_toml_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CallError, match=message):
        read(file)


def test_files_that_are_not_there_or_not_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="expected a TOML file"):
        read(tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CallError, match="expected a TOML file"):
        read(tmp_path / "bytes.toml")


@pytest.mark.parametrize("reader", [read, preset])
def test_an_unknown_preset_answers_with_the_nearest(reader: Any) -> None:
    with pytest.raises(CallError, match=r"unknown recipe 'textbok'.*Did you mean 'textbook'"):
        reader("textbok")


def test_textbook_is_the_texts() -> None:
    chosen = preset("textbook")
    assert (chosen.optim.optimiser, chosen.optim.lr, chosen.optim.momentum) == ("momentum", 0.001, 0.9)
    assert (chosen.augment.rotate, chosen.augment.hflip, chosen.augment.vflip) == (20.0, "safe", "safe")
    assert (chosen.learn.loss, chosen.learn.epochs, chosen.pixels.size) == ("cross-entropy", 10, 64)


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.textbook().learn.epochs = 3  # type: ignore[misc]

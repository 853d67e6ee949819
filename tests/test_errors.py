"""The tree of errors as its module draws it, the messages, and what `writing` makes of the operating system's."""

from __future__ import annotations

import errno
import inspect
import re
from pathlib import Path

import pytest

from opsin import errors
from opsin.errors import CallError, MachineError, MissingExtra, ModelError, OpsinError, PictureError, unknown, writing


def drawn() -> dict[str, tuple[str, int]]:
    """Class → (the class it hangs on, exit code), read from the drawing in the module's docstring."""
    found: dict[str, tuple[str, int]] = {}
    above = ["OpsinError"]
    for line in (errors.__doc__ or "").splitlines():
        node = re.match(r"^ {4}([│ ]*)[├└]── (\w+) .*?(\d+)(?: |$)", line)
        if node:
            depth = len(node[1]) // 4 + 1
            above = [*above[:depth], node[2]]
            found[node[2]] = (above[depth - 1], int(node[3]))
    return found


def test_the_tree_is_the_one_that_is_drawn() -> None:
    real = {
        name: (item.__bases__[0].__name__, item.exit_code)
        for name, item in inspect.getmembers(errors, inspect.isclass)
        if issubclass(item, OpsinError) and item is not OpsinError
    }
    assert drawn() == real
    assert len(real) == 7


def test_a_call_error_is_a_value_error_and_nothing_else_is() -> None:
    assert issubclass(CallError, ValueError)
    assert not issubclass(ModelError, ValueError)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "size"),
        ({"expected": "a number"}, "size: expected a number"),
        ({"received": 0}, "size: received 0"),
        ({"expected": 1, "received": 2}, "size: expected 1, received 2"),
        ({"expected": 1, "received": 2, "do": "Choose 1"}, "size: expected 1, received 2. Choose 1"),
        ({"do": "Choose 1"}, "size. Choose 1"),
    ],
)
def test_a_message_says_what_was_expected_received_and_what_to_do(facts: dict[str, object], text: str) -> None:
    error = CallError("size", **facts)  # type: ignore[arg-type]
    assert str(error) == text
    assert error.args == ("size",)


def test_a_picture_error_keeps_its_code_and_a_missing_extra_says_how_to_install_it() -> None:
    assert PictureError("truncated", "the end is missing", received="12 bytes").code == "truncated"
    assert str(MissingExtra("OpenVINO", "openvino")).endswith("pip install 'opsin[openvino]'")


def test_an_unknown_name_answers_with_the_nearest_one() -> None:
    error = unknown("loss", "cros-entropy", {"mse", "cross-entropy"})
    assert isinstance(error, CallError)
    assert str(error) == (
        "unknown loss 'cros-entropy': expected one of cross-entropy, mse. Did you mean 'cross-entropy'?"
    )


def test_an_unknown_name_far_from_all_is_not_guessed_at() -> None:
    assert "Did you mean" not in str(unknown("loss", "zzz", ["mse"]))


def test_a_long_list_of_known_names_is_cut_and_counted() -> None:
    text = str(unknown("network", "zzz", [f"net{i:02d}" for i in range(50)]))
    assert "net04" in text
    assert "net05" not in text
    assert "(50 in all)" in text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_the_machine_and_says_to_free_space(number: int) -> None:
    with pytest.raises(MachineError, match=r"could not write x: .*Free some space") as caught, writing("x"):
        raise OSError(number, "No space left on device")
    assert caught.value.exit_code == 5
    assert isinstance(caught.value.__cause__, OSError)


def test_other_refusals_to_write_say_to_choose_another_place() -> None:
    with pytest.raises(MachineError, match=r"could not write x: Permission denied\. Choose another"), writing("x"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_writing_leaves_what_is_not_the_operating_systems() -> None:
    with pytest.raises(CallError, match="wrong"), writing("x"):
        raise CallError("wrong")
    with pytest.raises(KeyError), writing("x"):
        raise KeyError("a bug")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"

    def write(text: str, error: BaseException | None = None) -> None:
        with errors.replacing(file) as part:
            part.write_text(text)
            if error:
                raise error

    write("one")
    with pytest.raises(KeyboardInterrupt):
        write("half", KeyboardInterrupt())
    with pytest.raises(MachineError, match=r"could not write .*a\.txt"):
        write("half", OSError(errno.ENOSPC, "No space left"))
    assert ([*tmp_path.iterdir()], file.read_text()) == ([file], "one")

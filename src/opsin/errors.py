"""The errors that a user can meet, and how their messages are built.

    OpsinError                     exit code
    ├── CallError      ValueError      2     the call is wrong: an option, a name, an argument
    ├── DataError                      3     the data is wrong
    │   └── PictureError               3     one picture is refused; `code` says why, for good
    ├── ModelError                     4     the model is wrong: changed, unreadable, of another format
    ├── MachineError                   5     the machine is: memory, disk, network
    │   └── MissingExtra               5     an optional part is not installed
    └── Interrupted                  130     the user stopped it; what was done is kept

A message says what was expected, what was received and what to do. `assert` is for our own invariants only. Whatever
else is raised is a fault of opsin's own: the command shows its traceback, with exit code 70.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


class OpsinError(Exception):
    """The root of all errors that opsin raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, expected: object = None, received: object = None, do: str = "") -> None:
        self.message, self.expected, self.received, self.do = message, expected, received, do
        super().__init__(message)

    def __str__(self) -> str:
        facts = [
            f"{word} {value}"
            for word, value in (("expected", self.expected), ("received", self.received))
            if value is not None
        ]
        text = f"{self.message}: {', '.join(facts)}" if facts else self.message
        return f"{text}. {self.do}" if self.do else text


class CallError(OpsinError, ValueError):
    """The call is wrong."""

    exit_code = 2


class DataError(OpsinError):
    """The data is wrong."""

    exit_code = 3


class PictureError(DataError):
    """One picture is refused. `code` is stable: `truncated`, `too-many-pixels`, `not-a-picture`, …"""

    def __init__(
        self, code: str, message: str, *, expected: object = None, received: object = None, do: str = ""
    ) -> None:
        super().__init__(message, expected=expected, received=received, do=do)
        self.code = code


class ModelError(OpsinError):
    """The model is wrong."""

    exit_code = 4


class MachineError(OpsinError):
    """The machine is: memory, disk, network, a missing part."""

    exit_code = 5


class MissingExtra(MachineError):
    """An optional part of opsin is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed", do=f"Install it with: pip install 'opsin[{extra}]'")


class Interrupted(OpsinError):
    """The user stopped the work; what was done until then is kept."""

    exit_code = 130


def unknown(what: str, name: str, known: Iterable[str]) -> CallError:
    """The error for a name that a table does not hold, with the nearest names that it does.

    >>> print(unknown("recipe", "txtbook", ["textbook", "modern"]))
    unknown recipe 'txtbook': expected one of textbook, modern. Did you mean 'textbook'?
    """
    names = sorted(known) if isinstance(known, set | frozenset) else list(known)
    near = difflib.get_close_matches(name, names, n=5)
    listed = ", ".join(names if len(names) <= 20 else near or names[:5])
    listed += f" … ({len(names)} in all)" if len(names) > 20 else ""
    return CallError(
        f"unknown {what} {name!r}", expected=f"one of {listed}", do=f"Did you mean {near[0]!r}?" if near else ""
    )


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names.

    >>> some(["a", "b"]), some(["a", "b", "c"], 2)
    ("'a', 'b'", "'a', 'b' … (3 in all)")
    """
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" … ({len(names):,} in all)" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """What a foreign exception says, in one line; its kind where it says nothing.

    >>> first_line(ValueError("no\\nmore")), first_line(KeyError())
    ('no', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Turn the operating system's refusals while `what` is written into a MachineError that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        do = "Free some space and go on; what was written before is whole" if full else "Choose another place"
        raise MachineError(f"could not write {what}: {error.strerror or error}", do=do) from error


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; what is there becomes `file` when the block ends well, and is gone otherwise.

    Raises:
        MachineError: as `writing` does.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    with writing(file):
        try:
            yield part
            part.replace(file)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise

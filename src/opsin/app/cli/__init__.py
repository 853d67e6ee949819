"""`opsin`: one verb a file, imported when it is called. `opsin --help` imports neither torch nor numpy."""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import sys
from typing import Any

import click

from ... import __version__
from ...errors import CallError, MachineError, OpsinError, first_line

VERBS = {
    "demo": "Train on real digits and name what is on real photographs: no network, no data of your own.",
    "check": "Find what is wrong with the data: refused, copied, leaked, mislabelled, odd.",
    "train": "From a folder of pictures to a tested, saved classifier.",
    "evaluate": "Test a classifier on data, with intervals.",
    "compare": "Is one classifier better than another, by how much, and may it replace it.",
    "predict": "Name what is on pictures: files, folders, zips.",
    "export": "One file that runs anywhere and answers the same: ONNX, OpenVINO, torch.",
    "study": "How far can pictures be compressed, blurred, darkened before answers change.",
    "process": "Put pictures through operations, from folder to folder.",
    "list": "What there is: models, recipes, operations, datasets, runs.",
}
OWN_FAULT = 70  # EX_SOFTWARE of sysexits.h


class Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS]  # `list` is our own verb here, once that is imported

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return importlib.import_module(f".{name}", __name__).command  # type: ignore[no-any-return]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from ...errors import unknown

            raise unknown("command", args[0], VERBS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read our output has enough (head, less): nothing is wrong, and nothing more can be said. Caught
            # here, because click would exit with 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="opsin")
def group() -> None:
    """From a folder of pictures to a classifier that can be trusted and shipped.

    Exit codes: 0 done, 1 a gate is not passed, 2 the call is wrong, 3 the data is wrong, 4 the model is wrong, 5 the
    machine is (memory, disk, missing extra), 70 a fault of opsin's own, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> None:
    """The entry point: every error becomes one message and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # on Windows a file or pipe has 256 letters
    gc.set_threshold(10_000)  # at Python's 700, looking for garbage takes a quarter of the time of timm's import
    code = run(sys.argv[1:] if arguments is None else arguments)
    gc.freeze()  # all that was imported is looked through for garbage before the end otherwise: a quarter of a second
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    try:
        code = group.main(arguments, prog_name="opsin", standalone_mode=False)  # None, or what ctx.exit was given
    except OpsinError as error:
        return _tell(error, arguments)
    except click.ClickException as error:
        if "--json" in arguments:
            return _tell(CallError(error.format_message()), arguments)
        error.show()
        return error.exit_code
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # which click ends with: a reader that has enough is no error
            return 0
        raise
    except (click.Abort, KeyboardInterrupt):
        click.echo("opsin: interrupted", err=True)
        return 130
    except (OSError, MemoryError) as error:
        what = "there is not enough memory" if isinstance(error, MemoryError) else "the system refuses"
        return _tell(MachineError(f"{what}: {first_line(error)}"), arguments)
    except Exception as error:  # a gate that is not passed must be the only 1
        return _confess(error, arguments)
    return code if isinstance(code, int) else 0


def _tell(error: OpsinError, arguments: list[str]) -> int:
    return _told(type(error).__name__, str(error), error.exit_code, arguments)


def _confess(error: Exception, arguments: list[str]) -> int:
    """Tell a fault of our own, with all that a report of it needs."""
    import traceback

    click.echo("".join(traceback.format_exception(error)), err=True)
    text = f"this is a fault of opsin {__version__}, please report it with its traceback: {first_line(error)}"
    return _told(type(error).__name__, text, OWN_FAULT, arguments)


def _told(kind: str, message: str, code: int, arguments: list[str]) -> int:
    if "--json" in arguments:
        click.echo(json.dumps({"error": {"kind": kind, "message": message, "exit_code": code}}))
    else:
        click.echo(f"opsin: {message}", err=True)
    return code

"""The command as a process: its output's letters, its pipes, its help."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from opsin.app import cli
from opsin.app.cli import progress

OPSIN = [sys.executable, "-c", "from opsin.app.cli import main; main()"]


@pytest.mark.parametrize("call", [["list", "ops", "jpeg"], ["list", "ops", "jpge→"]])
def test_letters_that_the_output_does_not_have_are_no_error(call: list[str]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run([*OPSIN, *call], capture_output=True, encoding="cp1252", check=False, env=environment)
    assert done.returncode == 0
    assert "?" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_names_between_colons_are_no_pictures(capsys) -> None:
    progress.console().print("a class named :dog:")
    assert capsys.readouterr().out == "a class named :dog:\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_a_reader_that_has_enough_is_no_error() -> None:
    with subprocess.Popen([*OPSIN, "list", "recipes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before anything can have been said
        told = process.stderr.read()
    assert (process.returncode, told) == (0, b"")


def test_a_pipe_that_click_finds_closed_is_no_failed_gate(monkeypatch) -> None:
    def main(*_: object, **__: object) -> None:
        try:
            raise error
        except Exception:
            sys.exit(1)  # as click does of EPIPE

    monkeypatch.setattr(cli.group, "main", main)
    error: Exception = BrokenPipeError()
    assert cli.run(["list", "recipes"]) == 0
    error = ValueError()
    with pytest.raises(SystemExit):
        cli.run(["list", "recipes"])


def test_help_and_version_import_neither_torch_nor_numpy() -> None:
    code = "import sys; from opsin.app import cli; assert cli.run(sys.argv[1:]) == 0; print(*sys.modules)"
    for arguments in (["--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        said, _, modules = done.stdout.rstrip().rpartition("\n")
        assert {"torch", "numpy"}.isdisjoint(modules.split())
        assert "opsin" in said


def test_help_names_every_command(capsys) -> None:
    assert cli.run(["--help"]) == 0
    said = capsys.readouterr().out
    for verb in cli.VERBS:
        assert f"  {verb} " in said
        assert cli.run([verb, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: opsin {verb} ")

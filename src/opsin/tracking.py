"""A run told to a team's own tools while it goes: consumers of its events.

    with tracking.tracker("mlflow:sqlite:///runs.db", folder) as tell:
        for event in opsin.events(data, "modern", out=folder):
            tell(event)

Nothing leaves the machine unless the address says so: TensorBoard's files stand in the run's folder, and MLflow tells
the address that it is given, or that $MLFLOW_TRACKING_URI holds.

They see the recipe, loss and rate at every step, scores after every epoch, test scores and the artefact at the end.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from . import recipe as recipes
from .errors import CallError, MachineError, MissingExtra, OpsinError, first_line, unknown
from .vocabulary import Event

Tell = Callable[[Event], None]


def numbers(event: Event) -> dict[str, float]:
    """What an event measures, by a name for charts: `step/loss`, `validation/accuracy`, `test/macro F1/low`, …"""
    if event.kind == "step":
        return {f"step/{name}": float(value) for name, value in event.values.items()}
    if event.kind == "epoch":
        named = {("training/loss" if n == "training loss" else f"validation/{n}"): v for n, v in event.values.items()}
        return {name: float(value) for name, value in named.items()}
    if event.kind == "scores":
        return {
            f"{part}/{name}" + ("" if bound == "value" else f"/{bound}"): float(score[bound])
            for part, overall in event.values.items()
            for name, score in overall.items()
            for bound in ("value", "low", "high")
            if score[bound] is not None
        }
    return {}


def choices(folder: Path) -> dict[str, Any]:
    """Every choice of the recipe of the run in `folder`, by its leaf name."""
    plain = recipes.read(folder / "recipe.toml").to_dict()
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat


def found_in(event: Event, folder: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """What an event measures, and, where it is the first, the choices of the run in `folder`."""
    return numbers(event), choices(folder) if event.kind == "start" else {}


class Steps:
    """The step that an event belongs to: the scores come after the last step, with step 0."""

    last = 0

    def of(self, event: Event) -> int:
        self.last = max(self.last, event.step)
        return self.last


@contextmanager
def tensorboard(folder: Path, where: str = "") -> Iterator[Tell]:
    """Writes event files for TensorBoard into the folder `where`, by default the run's `tensorboard/`.

    Raises:
        MissingExtra: when tensorboard is not installed.
    """
    writing = _imported("tensorboard")
    with ExitStack() as stack:
        steps = Steps()

        @cache
        def writer() -> Any:
            """Made when there is something to write: a run wants its folder to be new."""
            return stack.enter_context(
                writing.SummaryWriter(str(Path(where) / folder.name if where else folder / "tensorboard"))
            )

        def tell(event: Event) -> None:
            (found, recipe), step = found_in(event, folder), steps.of(event)
            if recipe:
                writer().add_text("recipe", "\n".join(f"    {k} = {v}" for k, v in recipe.items()))
            for name, value in found.items():
                writer().add_scalar(name, value, step)

        if where:
            writer()  # so that a place that cannot be written is found before the run
        yield tell


@contextmanager
def mlflow(folder: Path, where: str = "") -> Iterator[Tell]:
    """Tells MLflow at the address `where` (`sqlite:///runs.db`, `http://…`): a run named as `folder`, and its model.

    Raises:
        CallError: when there is no address, neither `where` nor $MLFLOW_TRACKING_URI.
        MissingExtra: when mlflow is not installed.
    """
    client = _imported("mlflow")
    address = where or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address:
        do = "Say --track mlflow:sqlite:///runs.db, or set MLFLOW_TRACKING_URI"
        raise CallError("where MLflow is", expected="an address", received="none", do=do)
    client.set_tracking_uri(address)
    with client.start_run(run_name=folder.name):
        steps = Steps()

        def tell(event: Event) -> None:
            (found, recipe), step = found_in(event, folder), steps.of(event)
            if recipe:
                client.log_params(recipe)
            if found:
                client.log_metrics({_plain(name): value for name, value in found.items()}, step=step)
            if event.kind == "scores" and (folder / "model").is_dir():
                client.log_artifacts(str(folder / "model"), "model")

        yield tell


def _plain(name: str) -> str:
    """A name of those letters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


TRACKERS: dict[str, Callable[[Path, str], AbstractContextManager[Tell]]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
}


MODULES = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow"}


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise MissingExtra({"tensorboard": "TensorBoard", "mlflow": "MLflow"}[name], name) from error


def check(text: str) -> None:
    """Refuse a `--track` that cannot be, before there is a run.

    Raises:
        CallError: for another name than those of TRACKERS.
        MissingExtra: when the tool is not installed.
    """
    if text:
        if (name := text.partition(":")[0]) not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        _imported(name)


def tracker(text: str, folder: Path, *, say: Callable[[str], object] = warnings.warn) -> AbstractContextManager[Tell]:
    """What `--track` says, for the run in `folder`: a name of TRACKERS, then a colon and where it tells; "" is nobody.

    A tool that fails while the run goes is told no more, which `say` is given a sentence of: the run goes on.

    Raises:
        CallError: for another name.
        MachineError: on entering, when the tool cannot be reached or written.
    """
    check(text)
    name, _, where = text.partition(":")
    return _guarded(name, TRACKERS[name](folder, where), say) if text else nullcontext(lambda event: None)


@contextmanager
def _guarded(name: str, made: AbstractContextManager[Tell], say: Callable[[str], object]) -> Iterator[Tell]:
    try:
        tell = made.__enter__()
    except OpsinError:
        raise
    except Exception as error:  # of a foreign tool, which raises what it likes
        raise MachineError(
            f"{name} cannot be told of the run: {first_line(error)}", do="Look at what follows --track, or leave it out"
        ) from error
    failed = False

    def attempt(call: Callable[[], object]) -> None:
        nonlocal failed
        try:
            call()
        except Exception as error:
            if not failed:
                say(f"{name} is told no more of the run: {first_line(error)}")
            failed = True

    try:
        yield lambda event: None if failed else attempt(lambda: tell(event))
    finally:
        ended = sys.exc_info()
        attempt(lambda: made.__exit__(*ended))

"""A run told to a team's own tools while it goes: consumers of its events.

    with tracking.tensorboard(folder) as tell:
        for event in opsin.events(data, "modern", out=folder):
            tell(event)

They see the recipe, loss and rate at every step, scores after every epoch, test scores and the artefact at the end.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from . import recipe as recipes
from .errors import MissingExtra
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


@contextmanager
def tensorboard(folder: Path) -> Iterator[Tell]:
    """Writes event files for TensorBoard into the run's `tensorboard/`.

    Raises:
        MissingExtra: when tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("TensorBoard", "tensorboard") from error
    with ExitStack() as stack:
        last = [0]

        @cache
        def writer() -> Any:
            """Made when there is something to write: a run wants its folder to be new."""
            return stack.enter_context(SummaryWriter(str(folder / "tensorboard")))

        def tell(event: Event) -> None:
            if event.kind == "start":
                writer().add_text("recipe", "\n".join(f"    {k} = {v}" for k, v in choices(folder).items()))
            last[0] = max(last[0], event.step)  # the scores come after the last step, with step 0
            for name, value in numbers(event).items():
                writer().add_scalar(name, value, last[0])

        yield tell


@contextmanager
def mlflow(folder: Path) -> Iterator[Tell]:
    """Tells MLflow, at the address in $MLFLOW_TRACKING_URI: a run named as `folder`, its model as an artifact.

    Raises:
        MissingExtra: when mlflow is not installed.
    """
    try:
        client = importlib.import_module("mlflow")
    except ImportError as error:
        raise MissingExtra("MLflow", "mlflow") from error
    with client.start_run(run_name=folder.name):
        last = [0]

        def tell(event: Event) -> None:
            if event.kind == "start":
                client.log_params(choices(folder))
            last[0] = max(last[0], event.step)
            if found := numbers(event):
                client.log_metrics({_plain(name): value for name, value in found.items()}, step=last[0])
            if event.kind == "scores" and (folder / "model").is_dir():
                client.log_artifacts(str(folder / "model"), "model")

        yield tell


def _plain(name: str) -> str:
    """A name of those letters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


TRACKERS: dict[str, Callable[[Path], AbstractContextManager[Tell]]] = {"tensorboard": tensorboard, "mlflow": mlflow}

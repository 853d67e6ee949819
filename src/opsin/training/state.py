"""All that a training run knows, in one place, and its way to disk and back.

A checkpoint is one safetensors file with the plain values in its header: it is written beside its place, flushed,
and renamed, so a file with a checkpoint's name is whole, whenever the process was killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import errors
from ..optim import Average

KEPT = 2  # checkpoints on disk: the last one, and one for the day that it cannot be read


@dataclass
class TrainState:
    """Valid after every event: to stop is to stop asking for events, to go on is to ask again.

    Attributes:
        forward: `network`, or what it was compiled to: the same weights.
        epoch: finished epochs. batch: finished batches of the epoch under way. step: optimiser steps in all.
        micro: pictures that go through the network at a time; less than a batch where memory asks for it.
        loss_sum: of the epoch under way, over its batches.
        history: the scores of every finished epoch; whoever decides, decides by these alone.
        best: the weights with the best score on validation so far.
        slow: where Lookahead goes back to.
        torn: a step is under way, or broke off: what it changed so far belongs to no count above.
    """

    network: nn.Module
    forward: Callable[[Tensor], Tensor]
    optimiser: torch.optim.Optimizer
    micro: int
    average: Average | None = None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    slow: dict[str, Tensor] | None = None
    torn: bool = False

    def weights(self) -> dict[str, Tensor]:
        """The weights to validate and keep: averaged where the recipe averages."""
        return self.average.values if self.average else self.network.state_dict()


_PLAIN = ("epoch", "batch", "step", "micro", "loss_sum", "history")


def save(state: TrainState, folder: Path) -> Path:
    """Write a checkpoint into `folder`; it stays, with the KEPT - 1 before it.

    Raises:
        MachineError: when it cannot be written; the checkpoints before it are untouched.
    """
    plain: dict[str, Any] = {name: getattr(state, name) for name in _PLAIN}
    plain["averaged"] = state.average.updates if state.average else None
    file = folder / f"{state.step:09d}.safetensors"
    # A folder, because safetensors writes a file of a random name first, which a kill leaves behind.
    unfinished = folder / "unfinished"
    with errors.writing(file):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            _write(unfinished / file.name, _tensors(state), plain)
            (unfinished / file.name).replace(file)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    files = sorted(folder.glob("*.safetensors"))
    end = files.index(file) + 1
    for old in (*files[: max(0, end - KEPT)], *files[end:]):  # those of later steps could not be read
        old.unlink(missing_ok=True)
    return file


def _write(file: Path, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    try:
        save_file(tensors, file, metadata={"state": json.dumps(plain)})
    except SafetensorError as error:  # the operating system's refusal stands in its text: "… (os error 28)"
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else None, str(error)) from error
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def load(state: TrainState, folder: Path) -> bool:
    """Fill `state`, freshly made by the same recipe, from the newest whole checkpoint; False where there is none.

    Raises:
        ModelError: when the checkpoint is of another network or recipe.
    """
    for file in sorted(folder.glob("*.safetensors"), reverse=True):
        try:
            with safe_open(file, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                plain = json.loads(opened.metadata()["state"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            continue
        _fill(state, tensors, plain, file)
        return True
    return False


def _tensors(state: TrainState) -> dict[str, Tensor]:
    parts: dict[str, dict[str, Tensor]] = {"network": state.network.state_dict()}
    if state.average:
        parts["average"] = state.average.values
    if state.best:
        parts["best"] = state.best
    if state.slow:
        parts["slow"] = state.slow
    for index, values in state.optimiser.state_dict()["state"].items():
        parts[f"optimiser/{index}"] = {
            name: torch.as_tensor(value) for name, value in values.items() if value is not None
        }
    # Copies: safetensors takes neither shared memory nor layouts of its own.
    return {
        f"{part}/{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for part, named in parts.items()
        for name, value in named.items()
    }


def _fill(state: TrainState, tensors: dict[str, Tensor], plain: dict[str, Any], file: Path) -> None:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = value
    try:
        state.network.load_state_dict(parts["network"])
        _fill_optimiser(state.optimiser, parts.get("optimiser", {}))
        if state.average:
            state.average.updates = plain["averaged"]
            for name, value in parts["average"].items():
                state.average.values[name].copy_(value)
        for name, value in (state.slow or {}).items():
            value.copy_(parts["slow"][name])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise errors.ModelError(
            f"checkpoint {file}", expected="one of this run's recipe", received=str(error), do="Start a new run"
        ) from error
    device = next(state.network.parameters()).device
    state.best = {name: value.to(device) for name, value in parts["best"].items()} if "best" in parts else None
    for name in _PLAIN:
        setattr(state, name, plain[name])


def _fill_optimiser(optimiser: torch.optim.Optimizer, named: dict[str, Tensor]) -> None:
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in named.items():
        index, _, rest = name.partition("/")
        if value.ndim:  # in the weight's memory layout: fused optimisers walk through memory and ask no strides
            value = torch.empty_like(weights[int(index)], dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[rest] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})

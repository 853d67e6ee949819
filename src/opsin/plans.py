"""How to execute here: device, precision, memory layout, threads. Chosen by measuring candidates, saved, reusable."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from .errors import CallError

Net = TypeVar("Net", bound=nn.Module)
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Plan:
    """How a network is executed. The same plan, versions and threads give the same bits on a CPU."""

    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = True
    threads: int = 1

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.device} {self.precision} {layout}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def from_dict(values: Mapping[str, Any]) -> Plan:
    """The Plan that `to_dict` wrote."""
    return Plan(**values)


def candidates(*, device: str = "auto", precision: str = "auto", threads: int = 0) -> list[Plan]:
    """The plans worth measuring on this machine, the plain one first; what is given is not varied.

    Raises:
        CallError: for a device that is not here, or an unknown precision.
    """
    chosen = _device(device)
    if precision not in ("auto", "fp32", "bf16"):
        raise CallError("precision", expected="auto, fp32 or bf16", received=precision)
    precisions = ("fp32", "bf16") if precision == "auto" else (precision,)
    count = threads or torch.get_num_threads()
    return [
        Plan(chosen, kind, last, count)  # type: ignore[arg-type]
        for kind in precisions
        for last in ((False, True) if chosen == "cpu" else (True,))
    ]


def _device(name: str) -> str:
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if here[device])
    if not here.get(name.partition(":")[0], False):
        raise CallError(
            "device", expected=f"one of {', '.join(d for d in here if here[d])} on this machine", received=name
        )
    return name


def choose(calls: Mapping[Plan, Callable[[], object]], *, rounds: int = 3) -> tuple[Plan, dict[Plan, float]]:
    """Time each plan's callable `rounds` times in turn, after one call to warm up; the smallest median wins.

    Taking turns makes a disturbance hit all candidates alike.

    Returns:
        the fastest plan, and the median seconds of every plan.
    """
    for call in calls.values():
        call()
    seconds: dict[Plan, list[float]] = {plan: [] for plan in calls}
    for _ in range(rounds):
        for plan, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[plan].append(time.perf_counter() - began)
    medians = {plan: statistics.median(times) for plan, times in seconds.items()}
    return min(medians, key=medians.__getitem__), medians


def place(network: Net, plan: Plan) -> Net:
    """Put `network` where, and lay out its weights how, the plan says; sets torch's threads. Returns `network`."""
    if plan.device == "cpu":
        torch.set_num_threads(plan.threads)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    return network.to(device=plan.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def lay_out(images: Tensor, plan: Plan) -> Tensor:
    """float32 `(B, C, H, W)` in the plan's memory layout."""
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    return images.contiguous(memory_format=layout)


def autocast(plan: Plan) -> AbstractContextManager[Any]:
    """The context in which a forward pass has the plan's precision."""
    kind = plan.device.partition(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=plan.precision == "bf16")


def remembered(file: Path, work: str, offered: list[Plan]) -> Plan | None:
    """The plan chosen here before for `work`, when it is among those `offered`."""
    try:
        plan = from_dict(json.loads(file.read_text(encoding="utf-8"))[_key(work)])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plan if plan in offered else None


def remember(file: Path, work: str, plan: Plan) -> None:
    """Keep the choice for the next time; a file that cannot be written only costs the measuring."""
    try:
        known = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}
    known[_key(work)] = plan.to_dict()
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def _key(work: str) -> str:
    """Other hardware or another torch is another measurement."""
    return f"{work} · torch {torch.__version__} · {platform.machine()} {platform.processor()} · {os.cpu_count()} cores"

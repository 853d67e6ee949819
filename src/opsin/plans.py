"""How to execute here: device, precision, memory layout, threads, engine. Chosen by measuring, saved, reusable.

training:  candidates ─> choose ─> remember
inference: inference_candidates ─> settle: choose, and refuse who answers otherwise than the reference ─> remember
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from . import allocation, engines, extras
from .engines import Engine
from .errors import CallError, MachineError, MissingExtra, replacing, unknown

Net = TypeVar("Net", bound=nn.Module)
Precision = Literal["fp32", "bf16"]

AGREE = 0.995  # the least share of pictures on which an engine must answer as the reference does, if not on all
ENOUGH = 200  # pictures that are asked for it: fewer cannot tell 99.5 % from 99 %
TIMED = engines.CHUNK  # pictures a timed call: of fewer, OpenVINO answers as many
SHORT = 20.0  # seconds of work that is not worth measuring for: an engine takes 4 to 12 seconds to build and compare
# What is offered for inference, as it was ranked where it was measured.
ORDER = (("openvino", "bf16"), ("openvino", "fp32"), ("onnxruntime", "fp32"), ("torch", "bf16"), ("torch", "fp32"))
GAIN = 2.0  # how many times as fast as the fastest so far another engine may be hoped to be
LONG = 3600.0  # seconds of training from which on compiling is tried: two shapes of a batch take some minutes
RACE = 1.3  # how many times as long as the fastest one measurement may have taken, for the plan to be measured again


@dataclass(frozen=True)
class Plan:
    """How a network is executed. The same plan, versions and threads give the same bits on a CPU."""

    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = True
    threads: int = 1
    engine: str = "torch"  # a name of engines.ENGINES; training has only torch
    compiled: bool = False  # by torch.compile; of training only

    def __str__(self) -> str:
        if self.engine != "torch":
            return f"{self.engine} {self.precision}"
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.device} {self.precision} {layout}" + ", compiled" * self.compiled

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
    return [
        Plan(chosen, kind, last, threads or torch.get_num_threads())
        for kind in _precisions(precision)
        for last in ((False, True) if chosen == "cpu" else (True,))
    ]


def inference_candidates(
    *, device: str = "auto", precision: str = "auto", engine: str = "auto", threads: int = 0
) -> list[Plan]:
    """The plans for a network that only answers, in ORDER; what is given is not varied.

    Engines that are not installed are left out, unless one is asked for.

    Raises:
        CallError: for a device that is not here, an unknown precision or engine, and what an engine cannot do.
        MissingExtra: when the engine that is asked for is not installed.
    """
    chosen = _device(device if engine in ("auto", "torch") or device != "auto" else "cpu")
    offered = [
        Plan(chosen, kind, True, threads or torch.get_num_threads(), name)
        for name, kind in ORDER
        if name in _engines(engine) and kind in _precisions(precision)
        if name == "torch" or chosen == "cpu"
    ]
    if not offered:
        raise CallError(
            f"engine {engine}", expected="device cpu, and fp32 for onnxruntime", received=(device, precision)
        )
    return offered


def _engines(name: str) -> list[str]:
    if name == "auto":
        return engines.installed()
    if name not in engines.ENGINES:
        raise unknown("engine", name, ["auto", *engines.ENGINES])
    if name not in engines.installed():
        raise MissingExtra(name, extras.EXTRA)
    return [name]


def _precisions(name: str) -> tuple[Precision, ...]:
    known: dict[str, tuple[Precision, ...]] = {"auto": ("fp32", "bf16"), "fp32": ("fp32",), "bf16": ("bf16",)}
    if name not in known:
        raise CallError("precision", expected="auto, fp32 or bf16", received=name)
    return known[name]


def _device(name: str) -> str:
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if here[device])
    kind, _, number = name.partition(":")
    there = {"cuda": torch.cuda.device_count()}.get(kind, 1)
    if not here.get(kind, False) or (number and not (number.isdigit() and int(number) < there)):
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


@dataclass(frozen=True)
class Choice:
    """A plan for inference, its engine, and what a user should know of how it was chosen."""

    plan: Plan
    engine: Engine
    notes: tuple[str, ...] = ()


def settle(
    offered: Sequence[Plan],
    build: Callable[[Plan], Engine],
    sample: np.ndarray,
    *,
    pictures: int,
    agreement: Callable[[np.ndarray, np.ndarray], float] | None = None,
    memory: Path | None = None,
    work: str = "",
    least: float = AGREE,
) -> Choice:
    """The fastest plan whose engine answers as the reference does, which is torch in fp32 on the CPU, and its engine.

    Work that the reference, if it is offered, does in SHORT seconds is its own. For longer work engines are built,
    timed and compared with the reference on ENOUGH pictures, in the order of `offered`, for as long as what another
    could save repays its building; those left race. Refusals are in the notes. The reference takes the work when nobody
    else can.

    Args:
        offered: what `inference_candidates` gave.
        build: a plan's engine; a MachineError that it raises is a refusal.
        sample: uint8 `(M, 3, S, S)`, ENOUGH pictures or what there is, those of validation.
        pictures: how many the work has.
        agreement: the share of pictures, 0…1, on which two results of engines for `sample` say the same: first the
            reference's, then the other's. By default the share of rows with the same largest value.
        memory, work: where choices are kept, and for what; `work` names the weights, on which agreement depends.
        least: the agreement that is asked for.
    """
    plain = dataclasses.replace(offered[0], device="cpu", precision="fp32", channels_last=True, engine="torch")
    known = remembered(memory, work, list(offered)) if memory else None
    if known and plain not in offered:  # on a GPU: the reference is not even built
        return Choice(known, build(known))
    reference, few = build(plain), sample[:TIMED]
    seconds = math.inf
    # The best of a few: what is made on the first call does not count, nor what disturbs one.
    for _ in range(4 if plain in offered else 0):
        seconds = min(seconds, _seconds(_call(reference, few)))
        if seconds * pictures / len(few) < SHORT:
            return Choice(plain, reference)
    if known:
        return Choice(known, build(known))
    sample = np.ascontiguousarray(sample)  # as engines but torch want it: what that takes is not theirs
    few = sample[:TIMED]
    expected, agree = reference(sample[:ENOUGH]), agreement or same_answers

    def refusal(plan: Plan, engine: Engine) -> str:
        share = 1.0 if plan == plain else agree(expected, engine(sample[:ENOUGH]))
        return "" if share >= least else _refusal(plan, share, len(expected), least)

    ready, notes = _fit(
        offered, lambda plan: reference if plan == plain else build(plan), refusal, few, pictures, seconds
    )
    if not ready:
        return Choice(plain, reference, (*notes, f"{plain} takes the work, for want of another"))
    plan, medians = choose({plan: _call(engine, few) for plan, engine in ready.items()})
    notes.append("measured: " + " · ".join(f"{len(few) / s:,.0f} img/s {plan}" for plan, s in medians.items()))
    if memory:
        remember(memory, work, plan)
    return Choice(plan, ready[plan], tuple(notes))


def same_answers(expected: np.ndarray, found: np.ndarray) -> float:
    """The share of rows of `(M, K)` with the same largest value; 0 where a value is not finite."""
    return float((expected.argmax(1) == found.argmax(1)).mean()) if np.isfinite(found).all() else 0.0


def _fit(
    offered: Sequence[Plan],
    build: Callable[[Plan], Engine],
    refusal: Callable[[Plan, Engine], str],
    few: np.ndarray,
    pictures: int,
    fastest: float,
) -> tuple[dict[Plan, Engine], list[str]]:
    """Those engines of `offered` that may be the fastest and are not refused, in their order, and why others are not.

    An engine is built only where one that is GAIN times as fast as the fastest so far would save the time that the
    building of the one before it took.

    Args:
        fastest: seconds that the reference takes for `few`, where it is among `offered`.
    """
    ready: dict[Plan, Engine] = {}
    notes: list[str] = []
    took = 0.0  # seconds of building
    for plan in offered:
        if took > fastest / len(few) * pictures * (1 - 1 / GAIN):
            break
        began = time.perf_counter()
        try:
            made = build(plan)
        except MachineError as error:
            notes.append(f"{plan} is not used: {error.message}")
            continue
        made(few[:2])  # what is made on the first call counts as building; one alone has engines of its own
        took = time.perf_counter() - began
        seconds = _seconds(_call(made, few))
        if seconds > RACE * fastest:
            continue
        if why := refusal(plan, made):
            notes.append(why)
            continue
        ready[plan], fastest = made, min(fastest, seconds)
    return ready, notes


def _call(engine: Engine, images: np.ndarray) -> Callable[[], object]:
    return lambda: engine(images)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _refusal(plan: Plan, share: float, of: int, least: float) -> str:
    return (
        f"{plan} is refused: it answers as the fp32 reference does for {100 * share:.1f} % of {of} pictures, "
        f"and {100 * least:.1f} % are asked for"
    )


def place(network: Net, plan: Plan) -> Net:
    """Put `network` where, and lay out its weights how, the plan says; sets torch's threads and how memory is kept.

    Returns `network`.
    """
    if plan.device == "cpu":
        allocation.keep()
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
    with suppress(MachineError), replacing(file) as part:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")


def _key(work: str) -> str:
    """Other hardware, another torch or another version of an engine is another measurement."""
    here = (*map(engines.version, engines.installed()), torch.__version__, platform.machine(), platform.processor())
    return " · ".join((work, *here, f"{os.cpu_count()} cores"))

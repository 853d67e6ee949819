"""How to execute here: what is offered, what is chosen by measuring, what is remembered."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opsin import engines, plans
from opsin.engines import Engine
from opsin.errors import CallError, MachineError, MissingExtra
from opsin.plans import Plan, candidates, choose, inference_candidates, remember, remembered, settle

CPU = [Plan("cpu", kind, last, 2) for kind in ("fp32", "bf16") for last in (False, True)]  # type: ignore[arg-type]


class Clock:
    """Time that passes only when a call takes some."""

    def __init__(self) -> None:
        self.now = 0.0

    def taking(self, *seconds: float) -> Callable[[], None]:
        """A call that takes these times in turn, the last one from then on."""
        left = list(seconds)

        def call() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


def test_the_fastest_is_chosen_and_all_times_are_told(clock: Clock) -> None:
    seconds = (0.5, 0.3, 0.1, 0.2)
    chosen, medians = choose({plan: clock.taking(s) for plan, s in zip(CPU, seconds)})
    assert chosen == CPU[2]
    assert medians == pytest.approx(dict(zip(CPU, seconds)))


def test_the_first_call_only_warms_up(clock: Clock) -> None:
    chosen, medians = choose({CPU[0]: clock.taking(0.2), CPU[1]: clock.taking(60, 0.1)})
    assert chosen == CPU[1]
    assert medians[CPU[1]] == pytest.approx(0.1)


def test_one_disturbance_does_not_decide(clock: Clock) -> None:
    chosen, _ = choose({CPU[0]: clock.taking(0.2), CPU[1]: clock.taking(0.1, 0.1, 9, 0.1)}, rounds=3)
    assert chosen == CPU[1]


def test_candidates_take_turns_and_ties_go_to_the_first() -> None:
    called: list[int] = []
    calls = {plan: (lambda i=i: called.append(i)) for i, plan in enumerate(CPU[:3])}
    choose(calls, rounds=2)
    assert called == [0, 1, 2] * 3


def test_a_tie_goes_to_the_plain_plan(clock: Clock) -> None:
    assert choose({plan: clock.taking(0.25) for plan in CPU})[0] == CPU[0]


def test_real_time_decides_too() -> None:
    chosen, medians = choose({CPU[0]: lambda: time.sleep(0.03), CPU[1]: lambda: time.sleep(0.001)})
    assert chosen == CPU[1]
    assert medians[CPU[0]] >= 0.03


def test_all_of_the_cpu_is_offered_the_plain_plan_first() -> None:
    assert candidates(device="cpu", threads=2) == CPU


def test_what_is_given_is_not_varied() -> None:
    assert candidates(device="cpu", precision="bf16", threads=3) == [
        Plan("cpu", "bf16", False, 3),
        Plan("cpu", "bf16", True, 3),
    ]
    assert {plan.threads for plan in candidates(device="cpu")} == {torch.get_num_threads()}


@pytest.mark.parametrize(("cuda", "mps", "wanted"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_fastest_device_that_is_here(
    cuda: bool, mps: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    found = candidates()
    assert {plan.device for plan in found} == {wanted}
    assert found[0].precision == "fp32"
    assert len(found) == (4 if wanted == "cpu" else 2)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "gpu", "", "CPU"])
def test_a_device_that_is_not_here_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(CallError, match="device: expected one of cpu on this machine, received") as caught:
        candidates(device=name)
    assert caught.value.received == name


def test_a_numbered_device_is_kept_where_there_are_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert {plan.device for plan in candidates(device="cuda:1")} == {"cuda:1"}
    for name in ("cuda:2", "cuda:-1", "cuda:x", "cpu:1"):
        with pytest.raises(CallError, match="device: expected one of"):
            candidates(device=name)


@pytest.mark.parametrize("precision", ["fp16", "", "FP32"])
def test_an_unknown_precision_is_refused(precision: str) -> None:
    with pytest.raises(CallError, match="precision: expected auto, fp32 or bf16, received"):
        candidates(device="cpu", precision=precision)


def test_the_plain_form_gives_the_plan_back() -> None:
    for plan in CPU:
        assert plans.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert str(CPU[3]) == "cpu bf16 channels last"
    assert str(CPU[0]) == "cpu fp32 channels first"


def test_a_choice_is_remembered_for_its_work_only(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "plans.json"
    assert remembered(file, "train small 32", CPU) is None
    remember(file, "train small 32", CPU[2])
    remember(file, "train textbook 64", CPU[1])
    assert remembered(file, "train small 32", CPU) == CPU[2]
    assert remembered(file, "train textbook 64", CPU) == CPU[1]
    assert remembered(file, "train small 64", CPU) is None
    remember(file, "train small 32", CPU[0])
    assert remembered(file, "train small 32", CPU) == CPU[0]
    assert [path.name for path in file.parent.iterdir()] == ["plans.json"]


def test_a_choice_that_is_not_offered_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    remember(file, "work", CPU[2])
    assert remembered(file, "work", CPU[:2]) is None


@pytest.mark.parametrize("what", ["torch", "machine", "engine"])
def test_another_torch_or_machine_measures_again(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plans.json"
    monkeypatch.setattr(engines, "installed", lambda: ["torch", "openvino"])
    monkeypatch.setattr(engines.metadata, "version", lambda part: "2026.1")
    remember(file, "work", CPU[2])
    assert remembered(file, "work", CPU) == CPU[2]
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
    elif what == "engine":
        monkeypatch.setattr(engines.metadata, "version", lambda part: "2026.2")
    else:
        monkeypatch.setattr(platform, "machine", lambda: "abacus")
    assert remembered(file, "work", CPU) is None


BROKEN = [b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff\xfe", b'{"other": 1}']


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_is_no_memory_and_is_written_anew(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    file.write_bytes(content)
    assert remembered(file, "work", CPU) is None
    remember(file, "work", CPU[1])
    assert remembered(file, "work", CPU) == CPU[1]


@pytest.mark.parametrize("value", [1, None, [], {}, {"devise": "cpu"}, {"device": ["cpu"]}])
def test_a_broken_entry_is_no_memory(value: Any, tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    remember(file, "work", CPU[1])
    key = next(iter(json.loads(file.read_text(encoding="utf-8"))))
    file.write_text(json.dumps({key: value}), encoding="utf-8")
    assert remembered(file, "work", CPU) is None


def test_a_file_that_cannot_be_written_is_harmless(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("", encoding="utf-8")
    remember(blocked / "plans.json", "work", CPU[1])  # its folder is a file
    (tmp_path / "plans.json").mkdir()
    remember(tmp_path / "plans.json", "work", CPU[1])  # its place is a folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "plans.json"]


@pytest.mark.parametrize("plan", CPU)
def test_a_plan_is_carried_out(plan: Plan) -> None:
    network = nn.Conv2d(3, 4, 3)
    images = torch.rand(2, 3, 8, 8)
    threads = torch.get_num_threads()
    try:
        assert plans.place(network, plan) is network
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    assert network.weight.is_contiguous(memory_format=layout)
    laid = plans.lay_out(images, plan)
    assert laid.is_contiguous(memory_format=layout)
    assert torch.equal(laid, images)
    with plans.autocast(plan):
        assert network(laid).dtype == (torch.bfloat16 if plan.precision == "bf16" else torch.float32)
    assert network.weight.dtype == torch.float32


# Inference -----------------------------------------------------------------------------------------------------------

PLAIN = Plan("cpu", "fp32", True, 2)
HALF = Plan("cpu", "bf16", True, 2)
ONNX = Plan("cpu", "fp32", True, 2, "onnxruntime")
OPENVINO = Plan("cpu", "fp32", True, 2, "openvino")
FAST = Plan("cpu", "bf16", True, 2, "openvino")
ALL = [FAST, OPENVINO, ONNX, HALF, PLAIN]
SAMPLE = np.random.default_rng(0).integers(0, 256, (200, 3, 4, 4), dtype=np.uint8)


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "installed", lambda: list(engines.ENGINES))


@pytest.mark.usefixtures("all_installed")
def test_every_engine_and_precision_is_offered() -> None:
    assert inference_candidates(device="cpu", threads=2) == ALL


@pytest.mark.usefixtures("all_installed")
def test_what_is_forced_for_inference_is_not_varied() -> None:
    assert inference_candidates(device="cpu", precision="fp32", threads=2) == [OPENVINO, ONNX, PLAIN]
    assert inference_candidates(device="cpu", engine="torch", threads=2) == [HALF, PLAIN]
    assert inference_candidates(engine="openvino", precision="bf16", threads=2) == [FAST]
    assert inference_candidates(engine="onnxruntime", threads=2) == [ONNX]


@pytest.mark.usefixtures("all_installed")
def test_other_engines_are_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert {(p.device, p.engine) for p in inference_candidates()} == {("cuda", "torch")}
    assert {(p.device, p.engine) for p in inference_candidates(engine="openvino")} == {("cpu", "openvino")}
    with pytest.raises(CallError, match="engine openvino: expected device cpu"):
        inference_candidates(device="cuda", engine="openvino")


@pytest.mark.usefixtures("all_installed")
def test_impossible_and_unknown_engines_are_refused() -> None:
    with pytest.raises(CallError, match="engine onnxruntime: expected device cpu, and fp32 for onnxruntime"):
        inference_candidates(device="cpu", engine="onnxruntime", precision="bf16")
    with pytest.raises(CallError, match="unknown engine 'tensorrt'"):
        inference_candidates(engine="tensorrt")


def test_a_missing_engine_is_left_out_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "installed", lambda: ["torch"])
    assert inference_candidates(device="cpu", threads=2) == [HALF, PLAIN]
    with pytest.raises(MissingExtra, match=r"pip install 'opsin\[fast\]'"):
        inference_candidates(engine="openvino")


class Bench:
    """Engines that take as long, and answer as wrongly, as they are told."""

    def __init__(
        self, clock: Clock, seconds: dict[Plan, float], wrong: dict[Plan, int] | None = None, *, building: float = 0
    ) -> None:
        self.clock, self.seconds, self.wrong, self.building = clock, seconds, wrong or {}, building
        self.built: list[Plan] = []

    def __call__(self, plan: Plan) -> Engine:
        if plan not in self.seconds:
            raise MachineError(f"{plan.engine} cannot run this network: no such op", do="Use torch")
        self.built.append(plan)
        self.clock.now += self.building * (plan.engine != "torch")

        def run(images: np.ndarray) -> np.ndarray:
            self.clock.now += self.seconds[plan] * len(images)
            answers = np.eye(5, dtype=np.float32)[images.reshape(len(images), -1).sum(1) % 5]
            answers[: self.wrong.get(plan, 0)] *= -1
            return answers

        return run


SECONDS = dict(zip(ALL, (0.1, 0.15, 0.2, 0.4, 1.0)))


def test_the_fastest_engine_takes_long_work(clock: Clock) -> None:
    bench = Bench(clock, SECONDS)
    choice = settle(ALL, bench, SAMPLE, pictures=1000)
    assert choice.plan == FAST
    assert choice.engine(SAMPLE[:3]).shape == (3, 5)
    assert choice.notes == ("measured: 10 img/s openvino bf16",)


def test_engines_that_are_nearly_as_fast_race(clock: Clock) -> None:
    choice = settle(ALL, Bench(clock, {**SECONDS, FAST: 0.125, ONNX: 0.1}), SAMPLE, pictures=1000)
    assert choice.plan == ONNX
    assert choice.notes == ("measured: 8 img/s openvino bf16 · 7 img/s openvino fp32 · 10 img/s onnxruntime fp32",)


def test_a_planted_slow_engine_changes_the_choice(clock: Clock) -> None:
    assert settle(ALL, Bench(clock, {**SECONDS, FAST: 0.3}), SAMPLE, pictures=1000).plan == OPENVINO
    assert settle(ALL, Bench(clock, {**SECONDS, FAST: 9, OPENVINO: 9, ONNX: 9}), SAMPLE, pictures=1000).plan == HALF


def test_a_forbidden_bf16_changes_the_choice(clock: Clock) -> None:
    offered = [plan for plan in ALL if plan.precision == "fp32"]
    bench = Bench(clock, SECONDS)
    assert settle(offered, bench, SAMPLE, pictures=1000).plan == OPENVINO
    assert not {HALF, FAST} & set(bench.built)


def test_an_engine_that_answers_otherwise_is_refused(clock: Clock) -> None:
    choice = settle(ALL, Bench(clock, SECONDS, {FAST: 2, OPENVINO: 1}), SAMPLE, pictures=1000)
    assert choice.plan == OPENVINO  # one of 200 is 99.5 %
    assert choice.notes == (
        "openvino bf16 is refused: it answers as the fp32 reference does for 99.0 % of 200 pictures, "
        "and 99.5 % are asked for",
        "measured: 7 img/s openvino fp32",
    )


def test_the_reference_takes_the_work_when_all_others_are_wrong(clock: Clock) -> None:
    choice = settle(ALL, Bench(clock, SECONDS, dict.fromkeys(ALL[:-1], 200)), SAMPLE, pictures=1000)
    assert choice.plan == PLAIN
    assert sum("refused" in note for note in choice.notes) == 4
    forced = settle([FAST], Bench(clock, SECONDS, {FAST: 3}), SAMPLE, pictures=1000)
    assert forced.plan == PLAIN
    assert "openvino bf16 is refused" in forced.notes[0]
    assert forced.notes[1] == "cpu fp32 channels last takes the work, for want of another"


def test_agreement_on_all_pictures_can_be_asked_for(clock: Clock) -> None:
    choice = settle(ALL, Bench(clock, SECONDS, {FAST: 1}), SAMPLE, pictures=1000, least=1.0)
    assert choice.plan == OPENVINO
    assert "for 99.5 % of 200 pictures, and 100.0 % are asked for" in choice.notes[0]


def test_answers_that_are_no_numbers_are_refused() -> None:
    expected = np.eye(3)
    assert plans.same_answers(expected, expected * 2) == 1
    assert plans.same_answers(expected, expected[[0, 1, 1]]) == pytest.approx(2 / 3)
    assert plans.same_answers(expected, np.where(expected == 1, np.nan, expected)) == 0


def test_an_engine_that_cannot_be_built_is_told_of(clock: Clock) -> None:
    choice = settle(ALL, Bench(clock, {PLAIN: 1.0, ONNX: 0.2}), SAMPLE, pictures=1000)
    assert choice.plan == ONNX
    assert choice.notes[:2] == tuple(
        f"openvino {kind} is not used: openvino cannot run this network: no such op" for kind in ("bf16", "fp32")
    )
    none = settle([FAST], Bench(clock, {PLAIN: 1.0}), SAMPLE, pictures=1000)
    assert none.plan == PLAIN


def test_short_work_is_the_references_and_nothing_is_built_for_it(clock: Clock) -> None:
    bench = Bench(clock, SECONDS)
    choice = settle(ALL, bench, SAMPLE, pictures=9)
    assert (choice.plan, choice.notes, bench.built) == (PLAIN, (), [PLAIN])
    assert settle([FAST], bench, SAMPLE, pictures=9).plan == FAST  # forced


def test_a_gpu_is_held_to_the_reference_on_the_cpu(clock: Clock) -> None:
    gpu = Plan("cuda", "fp32", True, 2)
    seconds = {gpu: 0.1, PLAIN: 1.0}
    for pictures in (9, 1000):
        assert settle([gpu], Bench(clock, seconds), SAMPLE, pictures=pictures).plan == gpu
        wrong = settle([gpu], Bench(clock, seconds, {gpu: 3}), SAMPLE, pictures=pictures)
        assert wrong.plan == PLAIN
        assert "cuda fp32 channels last is refused" in wrong.notes[0]


def test_a_choice_of_engine_is_remembered(clock: Clock, tmp_path: Path) -> None:
    memory, bench = tmp_path / "plans.json", Bench(clock, SECONDS)
    first = settle(ALL, bench, SAMPLE, pictures=1000, memory=memory, work="features")
    bench.built.clear()
    again = settle(ALL, bench, SAMPLE, pictures=1000, memory=memory, work="features")
    assert (first.plan, again.plan, again.notes, bench.built) == (FAST, FAST, (), [PLAIN, FAST])
    bench.built.clear()
    other = settle([p for p in ALL if p != FAST], bench, SAMPLE, pictures=1000, memory=memory, work="features")
    assert other.plan == OPENVINO
    assert settle(ALL, bench, SAMPLE, pictures=9, memory=memory, work="other weights").plan == PLAIN


def test_an_engine_is_built_only_where_it_could_repay_it(clock: Clock) -> None:
    for building, built in ((1, ALL), (40, ALL), (51, [FAST])):
        bench = Bench(clock, SECONDS, building=building)
        assert settle(ALL, bench, SAMPLE, pictures=1000).plan == FAST  # 100 s of work
        assert bench.built[1:] == [plan for plan in built if plan != PLAIN]  # the reference is there from the start


def test_agreement_may_be_of_another_kind(clock: Clock) -> None:
    choice = settle(ALL, Bench(clock, SECONDS), SAMPLE, pictures=1000, agreement=lambda expected, found: 0.9)
    assert choice.plan == PLAIN


def test_plans_of_before_engines_are_read() -> None:
    old = {"device": "cpu", "precision": "bf16", "channels_last": True, "threads": 2}
    assert plans.from_dict(old) == HALF
    assert plans.from_dict(FAST.to_dict()) == FAST
    assert str(FAST) == "openvino bf16"

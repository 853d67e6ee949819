"""How to execute here: what is offered, what is chosen by measuring, what is remembered."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from opsin import plans
from opsin.errors import CallError
from opsin.plans import Plan, candidates, choose, remember, remembered

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


def test_a_numbered_device_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert {plan.device for plan in candidates(device="cuda:1")} == {"cuda:1"}


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


@pytest.mark.parametrize("what", ["torch", "machine"])
def test_another_torch_or_machine_measures_again(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plans.json"
    remember(file, "work", CPU[2])
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
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

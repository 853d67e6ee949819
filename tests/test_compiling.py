"""torch.compile is tried where the work is long, taken where it is faster, and missed without harm."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

import opsin
from opsin import training
from opsin.errors import MachineError
from opsin.plans import Plan
from opsin.runs import Execution, stages
from opsin.vocabulary import finished
from tiny import digits, recipe

LONG_WORK: Any = SimpleNamespace(recipe=SimpleNamespace(learn=SimpleNamespace(epochs=1000)), batches=range(10**6))
SHORT_WORK: Any = SimpleNamespace(recipe=SimpleNamespace(learn=SimpleNamespace(epochs=10)), batches=range(1000))


def rehearsed(monkeypatch: pytest.MonkeyPatch, compiled: Callable[[], object]) -> None:
    """Steps of 20 ms, and of a compiled plan as they are given."""

    def calls(network: nn.Module, job: Any, offered: Sequence[Plan]) -> dict[Plan, Callable[[], object]]:
        return {plan: compiled if plan.compiled else lambda: time.sleep(0.02) for plan in offered}

    monkeypatch.setattr(training, "rehearsals", calls)


def refused() -> None:
    raise RuntimeError("no C++ compiler\nat all")


@pytest.mark.parametrize(("seconds", "taken"), [(0.001, True), (0.06, False)])
def test_long_work_is_compiled_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: float, taken: bool
) -> None:
    rehearsed(monkeypatch, lambda: time.sleep(seconds))
    assert finished(stages._compiled(nn.Identity(), LONG_WORK, Plan(), "auto")).compiled == taken


def test_short_work_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed(monkeypatch, refused)
    assert finished(stages._compiled(nn.Identity(), SHORT_WORK, Plan(), "auto")) == Plan()
    assert finished(stages._compiled(nn.Identity(), LONG_WORK, Plan(), "no")) == Plan()


def test_an_error_without_a_word_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> None:
        raise RuntimeError

    rehearsed(monkeypatch, silent)
    told = next(stages._compiled(nn.Identity(), LONG_WORK, Plan(), "auto"))
    assert "not compiled: RuntimeError" in told.values["text"]


def test_without_a_compiler_the_run_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed(monkeypatch, refused)
    work = stages._compiled(nn.Identity(), LONG_WORK, Plan(), "auto")
    assert "not compiled: no C++ compiler" in next(work).values["text"]
    assert finished(work) == Plan()
    with pytest.raises(MachineError, match=r"torch\.compile"):
        finished(stages._compiled(nn.Identity(), SHORT_WORK, Plan(), "yes"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_a_compiled_run_learns_as_the_plain_one(tmp_path: Any) -> None:
    how = [Execution("cpu", "fp32", threads=1, compile=how) for how in ("no", "yes")]
    found = [opsin.train(digits(), recipe(), out=tmp_path / each.compile, how=each) for each in how]
    plain, compiled = (np.load(run.folder / "logits" / "test.npz")["logits"] for run in found)
    assert np.abs(plain - compiled).max() < 0.05 * np.abs(plain).max()
    assert [stages.folders.plan(run.folder, "training").compiled for run in found] == [False, True]

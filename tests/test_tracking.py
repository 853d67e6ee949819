"""What a team's own tools are told of a run, read back from where they keep it."""

from __future__ import annotations

import contextlib
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import opsin
from opsin import tracking
from opsin.errors import CallError, MachineError, MissingExtra
from opsin.vocabulary import Event
from tiny import HOW, digits, recipe

SCORE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}


def test_events_become_numbers() -> None:
    assert tracking.numbers(Event("step", 0, 1, {"loss": 2, "rate": 0.1})) == {"step/loss": 2.0, "step/rate": 0.1}
    epoch = Event("epoch", 1, 3, {"training loss": 1.0, "loss": 1.5, "macro F1": 0.5})
    assert tracking.numbers(epoch) == {"training/loss": 1.0, "validation/loss": 1.5, "validation/macro F1": 0.5}
    nothing = {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    scores = tracking.numbers(Event("scores", 1, 0, {"test": {"accuracy": SCORE, "x": nothing}}))
    assert scores == {
        "test/accuracy": 0.5, "test/accuracy/low": 0.4, "test/accuracy/high": 0.6, "test/x/low": 0.0, "test/x/high": 1.0
    }  # fmt: skip
    assert tracking.numbers(Event("notice", 0, 0, {"text": "x"})) == {}


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")])
def test_a_missing_tool_is_named(name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"opsin\[{name}\]"), tracking.tracker(f"{name}:sqlite:///x.db", tmp_path):
        pass


def test_nobody_is_told_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.tracker("", tmp_path) as tell:
        tell(Event("notice", 0, 0, {"text": "x"}))
    assert not list(tmp_path.iterdir())
    with pytest.raises(CallError, match="Did you mean 'mlflow'"):
        tracking.tracker("mflow", tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    with pytest.raises(CallError, match=r"an address.*--track mlflow:sqlite"), tracking.tracker("mlflow", tmp_path):
        pass


class Failing:
    """A tool that can be told `most` events; what it was told, and how it ended."""

    def __init__(self, most: int) -> None:
        self.most, self.heard, self.ended = most, 0, ""

    @contextlib.contextmanager
    def __call__(self, folder: Path, where: str) -> Iterator[tracking.Tell]:
        if self.most < 0:
            raise ConnectionError("nobody answers\nat all")
        try:
            yield self.tell
        except ZeroDivisionError:
            self.ended = "failed"
            raise
        finally:
            self.ended = self.ended or "well"

    def tell(self, event: Event) -> None:
        if self.heard == self.most:
            raise ConnectionError("the server is gone")
        self.heard += 1


def test_a_tool_that_cannot_be_reached_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "check", lambda text: None)
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Failing(-1))
    with pytest.raises(MachineError, match=r"nobody answers\. Look at"), tracking.tracker("mlflow:http://x", tmp_path):
        pass


def test_a_tool_that_fails_later_is_told_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "check", lambda text: None)
    for most, said in ((2, ["mlflow is told no more of the run: the server is gone"]), (9, [])):
        tool, heard = Failing(most), []
        monkeypatch.setitem(tracking.TRACKERS, "mlflow", tool)
        with tracking.tracker("mlflow:http://x", tmp_path, say=heard.append) as tell:
            for step in range(5):
                tell(Event("step", 0, step, {"loss": 1.0}))
        assert (tool.heard, heard, tool.ended) == (min(most, 5), said, "well")


def test_a_run_that_fails_ends_so_for_the_tool_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "check", lambda text: None)
    tool = Failing(9)
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", tool)
    with pytest.raises(ZeroDivisionError), tracking.tracker("mlflow:http://x", tmp_path):
        raise ZeroDivisionError
    assert tool.ended == "failed"


def told(name: str, folder: Path) -> list[Event]:
    """The events of a small run in `folder`, all told to the tracker."""
    found = []
    with tracking.tracker(name, folder) as tell:
        for event in opsin.events(digits(), recipe(), out=folder, how=HOW):
            tell(event)
            found.append(event)
    return found


def test_tensorboard_reads_back_what_a_run_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = told("tensorboard", tmp_path / "run")
    kept = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    steps = [event for event in found if event.kind == "step"]
    losses = kept.Scalars("step/loss")
    assert [scalar.step for scalar in losses] == [event.step for event in steps]
    assert [scalar.value for scalar in losses] == pytest.approx([event.values["loss"] for event in steps])
    assert len(kept.Scalars("validation/accuracy")) == 2
    (accuracy,) = kept.Scalars("test/accuracy")
    assert accuracy.value == pytest.approx(found[-1].values["test"]["accuracy"]["value"])
    assert accuracy.step == steps[-1].step


def test_mlflow_reads_back_what_a_run_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = pytest.importorskip("mlflow")
        pytest.importorskip("sqlalchemy")
        monkeypatch.chdir(tmp_path)
        client.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
        client.set_experiment("opsin")
        found = told(f"mlflow:sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "run")
        (kept,) = client.MlflowClient().search_runs([client.get_experiment_by_name("opsin").experiment_id])
        history = client.MlflowClient().get_metric_history(kept.info.run_id, "step/loss")
        files = [file.path for file in client.MlflowClient().list_artifacts(kept.info.run_id, "model")]
    assert kept.info.run_name == "run"
    assert (kept.data.params["network"], kept.data.params["epochs"]) == ("textbook", "2")
    assert [metric.value for metric in history] == pytest.approx([e.values["loss"] for e in found if e.kind == "step"])
    expected = found[-1].values["test"]["macro F1"]
    assert kept.data.metrics["test/macro F1/low"] == pytest.approx(expected["low"])
    assert "model/opsin.json" in files

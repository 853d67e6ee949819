"""`opsin list runs`: sorted, filtered, with what is unfinished or damaged shown as such."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from opsin import runs
from opsin.app import cli
from opsin.errors import CallError
from opsin.recipe import preset


def made(name: str, *, data: str = "parts", recipe: str = "probe", **scores: float) -> Path:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps({"name": data}))
    (folder / "recipe.toml").write_text(preset(recipe).to_toml(), encoding="utf-8")
    if scores:
        found = {key.replace("_", " "): {"value": value} for key, value in scores.items()}
        (folder / "scores.json").write_text(json.dumps({"test": {"n": 50, "overall": found}}))
        (folder / "model").mkdir()
    return folder


@pytest.fixture
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made("a", accuracy=0.7, macro_F1=0.9)
    made("b", accuracy=0.95, macro_F1=0.5, recipe="modern", data="digits")
    made("c")
    made(".e.123")  # what a kill left of one that was about to begin
    (made("d", accuracy=0.5) / "recipe.toml").write_text("not toml")
    for i, name in enumerate("bdac"):
        os.utime(f"runs/{name}/data.json", (1e9 + 60 * i,) * 2)


def names(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert cli.run(["list", "runs", "--json", *options]) == 0
    return "".join(row["name"] for row in json.loads(capsys.readouterr().out))


@pytest.mark.usefixtures("four")
def test_runs_are_sorted_and_filtered(capsys) -> None:
    assert names(capsys) == "abcd"
    assert names(capsys, "--by", "accuracy")[:2] == "ba"
    assert names(capsys, "--by", "macro-f1")[:2] == "ab"
    assert names(capsys, "--by", "begun") == "cadb"
    assert names(capsys, "--where", "accuracy>0.6", "--where", "macro F1 <= 0.5") == "b"
    assert names(capsys, "--where", "accuracy > -0.5", "--where", "accuracy<.9") == "a"
    assert names(capsys, "--data", "digit") == "b"
    assert names(capsys, "--recipe", "probe") == "ac"


@pytest.mark.usefixtures("four")
def test_a_run_that_went_on_has_not_begun_since(capsys) -> None:
    for name, file in (("b", "split.csv"), ("d", "series.json")):
        Path("runs", name, file).touch()
        os.utime(Path("runs", name, file), (1e9 - 60,) * 2)
        os.utime(Path("runs", name, "data.json"), (1e9 + 600,) * 2)
    assert names(capsys, "--by", "begun")[:2] == "ca"
    assert runs.find("last") == Path("runs", "c")


@pytest.mark.usefixtures("four")
def test_what_a_run_came_to_is_said(capsys) -> None:
    assert cli.run(["list", "runs"]) == 0
    a, b, c, d = capsys.readouterr().out.splitlines()
    assert "test accuracy 0.7000 (n 50)   probe on parts" in a
    assert "modern on digits" in b
    assert "not finished   probe on parts" in c
    assert "damaged" in d
    assert [row["state"] for row in runs.rows()] == ["finished", "finished", "not finished", "damaged"]


@pytest.mark.usefixtures("four")
def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(CallError, match="Did you mean 'accuracy'"):
        runs.chosen(runs.rows(), by="acuracy")
    for text in ("accuracy=0.9", "accuracy>0.9.1", "accuracy>", "accuracy>."):
        with pytest.raises(CallError, match=r"such as 'accuracy>0.9'"):
            runs.chosen(runs.rows(), where=[text])
    assert cli.run(["list", "ops", "--by", "accuracy"]) == 2

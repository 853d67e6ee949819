"""What a run would do, without the run: the contact sheet, and the range test of learning rates."""

from __future__ import annotations

import dataclasses
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opsin import codecs, duplicates, runs, sources, training
from opsin.app import cli
from opsin.training import rate_chart, sheet, suggested_rate, try_rates
from opsin.vocabulary import finished
from tiny import HOW, Linear, Net, job, recipe, seeded, write_pngs

SMALL = ["--recipe", "textbook", "--set", "size=8", "--set", "batch=8", "--device", "cpu", "--precision", "fp32"]
TILE = (128 + 8 + 36, 128 + 8)


def tiles(sheet: np.ndarray) -> list[np.ndarray]:
    """The pictures on a sheet, at their own size again."""
    height, width = TILE
    places = [(y, x) for y in range(0, len(sheet), height) for x in range(0, sheet.shape[1], width)]
    return [sheet[y + 4 : y + 132 : 16, x + 4 : x + 132 : 16] for y, x in places]


# The contact sheet ---------------------------------------------------------------------------------------------------


def test_a_sheet_shows_a_batch_pixel_by_pixel() -> None:
    work = job(recipe(batch=12, mixup=0.5, noise=0.1))
    batch = next(work.batches.epoch(3))
    sheet = training.contact_sheet(batch, "abc", columns=5)
    assert (sheet.dtype, sheet.shape) == (np.uint8, (3 * TILE[0], 5 * TILE[1], 3))
    shown = tiles(sheet)
    for picture, tile in zip(batch.images.permute(0, 2, 3, 1).numpy(), shown):
        assert np.array_equal(tile, picture)
    assert all((tile == 255).all() for tile in shown[12:])


def test_a_label_stands_under_its_picture_and_both_where_two_were_mixed() -> None:
    work = job(recipe(batch=12))
    batch = next(work.batches.epoch(0))
    blank, one, two = (
        training.contact_sheet(dataclasses.replace(batch, others=others, shares=shares), names, most=1)
        for names, others, shares in (
            (["", "", ""], batch.targets, batch.shares),
            (["W" * 3] * 3, batch.targets, batch.shares),
            (["WW" + letter for letter in "ABC"], (batch.targets + 1) % 3, batch.shares * 0.6),
        )
    )
    below = slice(136, None)
    assert (blank[below] == 255).all()
    ink = [(sheet[below] < 128).any(2) for sheet in (one, two)]
    assert ink[0][:18].any()
    assert not ink[0][20:].any()
    assert ink[1][20:].any()


def test_what_is_hardly_there_and_what_is_of_the_same_class_is_no_second_label() -> None:
    batch = next(job(recipe(batch=12)).batches.epoch(0))
    same, none, other, both = (
        sheet._labels(dataclasses.replace(batch, others=others, shares=torch.full((12,), share)), 0, "abc")
        for others, share in (
            (batch.targets, 0.4),
            ((batch.targets + 1) % 3, 0.999),
            ((batch.targets + 1) % 3, 0.001),
            ((batch.targets + 1) % 3, 0.4),
        )
    )
    own, next_ = "abc"[batch.targets[0]], "abc"[(batch.targets[0] + 1) % 3]
    assert same == none == [own]
    assert other == [next_]
    assert both == [f"0.60 {next_}", f"0.40 {own}"]


def test_the_sheet_is_the_first_batch_that_the_run_trains_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sources.read(write_pngs(tmp_path / "pics", {"dark": 20, "light": 14}))
    chosen = recipe(epochs=1, rotate=20.0, resized_crop=0.5, erase=0.5, cutmix=1.0, sampling="balanced")
    sheet = runs.augmented(data, chosen)
    seen: list[np.ndarray] = []
    step = training.step

    def watched(state: training.TrainState, work: training.Job, batch: object) -> float:
        seen.append(batch.images.permute(0, 2, 3, 1).numpy().copy())  # type: ignore[attr-defined]
        return step(state, work, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "step", watched)
    runs.train(data, chosen, out=tmp_path / "run", how=HOW)
    assert len(seen[0]) <= 16
    for picture, tile in zip(seen[0], tiles(sheet)):
        assert np.array_equal(picture, tile)


def test_train_writes_the_sheet_and_trains_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "pics", {"dark": 20, "light": 14})
    assert cli.run(["train", "pics", *SMALL, "--show-augmentation", "sheet.png"]) == 0
    assert "sheet.png" in capsys.readouterr().out
    assert codecs.decode(Path("sheet.png").read_bytes()).shape[1] == 6 * TILE[1]
    assert not Path("runs").exists()
    assert cli.run(["train", "pics", *SMALL, "--show-augmentation", "sheet.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": "sheet.png"}
    assert cli.run(["train", "pics", *SMALL, "--show-augmentation", "none/sheet.png"]) == 5


def test_no_alike_counts_for_previews_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "pics", {"dark": 20, "light": 20})
    monkeypatch.setattr(duplicates, "thumbnails", lambda *given, **how: pytest.fail("looked"))
    call = ["train", "pics", *SMALL, "--threads", "1", "--no-alike"]
    assert cli.run([*call, "--show-augmentation", "sheet.png", "--find-rate", "rates.svg"]) == 0


# The range test ------------------------------------------------------------------------------------------------------


def test_rates_rise_geometrically_over_the_range_and_the_network_stays() -> None:
    network = seeded(Net)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = list(try_rates(network, job(recipe(batch=4)), lowest=1e-5, highest=1e-1, steps=9))
    assert [rate for rate, _ in found] == pytest.approx([10 ** (-5 + number / 2) for number in range(9)])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert list(try_rates(network, job(recipe(batch=4)), lowest=1e-5, highest=1e-1, steps=9)) == found


def test_each_step_is_made_at_its_rate_whatever_the_schedule() -> None:
    """Plain steps from the same weights, written out."""
    work = job(recipe(batch=12, optimiser="sgd", schedule="one-cycle", warmup=0.3))
    network = seeded(Linear)
    found = list(try_rates(network, work, lowest=0.01, highest=1.0, steps=3))
    state = training.start(seeded(Linear), work)
    for epoch, (rate, loss) in enumerate(found):
        fixed = dataclasses.replace(work, recipe=work.recipe.set(schedule="constant", warmup=0.0, lr=rate))
        assert training.step(state, fixed, next(work.batches.epoch(epoch))) == loss
        state.step += 1
    assert [rate for rate, _ in found] == pytest.approx([0.01, 0.1, 1.0])


class Fails(nn.Module):
    """Gives logits times `factor` from call `at` on."""

    def __init__(self, at: int, factor: float) -> None:
        super().__init__()
        self.inner, self.at, self.factor, self.calls = seeded(Linear), at, factor, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = self.inner(images)
        return found * (self.factor if self.calls > self.at else 1)


@pytest.mark.parametrize(("factor", "count"), [(math.nan, 6), (1000.0, 7)])
def test_it_ends_where_the_loss_explodes(factor: float, count: int) -> None:
    found = list(try_rates(Fails(6, factor), job(recipe(batch=12)), steps=30, highest=1e-3))
    assert len(found) == count


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_least_loss() -> None:
    trials = [
        (10.0 ** (-6 + n / 10), 2.0 if n < 10 else 2.0 - n / 40 if n < 50 else 0.75 + (n - 49) ** 2) for n in range(60)
    ]
    best = suggested_rate(trials)
    assert best is not None
    assert 10**-2.2 < best < 10**-1.9
    assert suggested_rate([(1e-6, 1.0), (1e-5, 2.0)]) is None
    assert suggested_rate([]) is None


def test_the_chart_holds_every_trial_within_its_frame() -> None:
    trials = [(10.0 ** (-6 + n / 10), 2 - n / 50 if n < 50 else 1.0 + 10.0**n) for n in range(60)]
    root = ElementTree.fromstring(rate_chart(trials))
    circles = [child for child in root if child.tag.endswith("circle")]
    across = [float(circle.attrib["cx"]) for circle in circles]
    assert len(circles) == 60
    assert across == sorted(across)
    assert all(20 <= float(circle.attrib["cy"]) <= 360 for circle in circles)
    texts = [child.text for child in root if child.tag.endswith("text")]
    assert {"1e-6", "1e-3", "1e-1"} <= set(texts)
    assert f"{suggested_rate(trials):.2g}" in texts


@pytest.mark.parametrize("losses", [[1.0], [1.0, 2.0], [0.0, 0.0, 0.0]])
def test_very_short_tests_have_charts_too(losses: list[float]) -> None:
    ElementTree.fromstring(rate_chart([(10.0**-n, loss) for n, loss in enumerate(losses, 3)]))


def test_a_rate_that_is_found_learns(tmp_path: Path) -> None:
    data = sources.read(write_pngs(tmp_path / "pics", {"dark": 30, "light": 30}))
    chosen = recipe(optimiser="adamw", epochs=3)
    found = finished(runs.find_rate(data, chosen, how=HOW))
    best = suggested_rate(found)
    assert best is not None
    good, slow = (runs.train(data, chosen.set(lr=lr), out=tmp_path / f"{lr}", how=HOW) for lr in (best, best / 1e4))
    assert good.scores["val"].overall["accuracy"].value > slow.scores["val"].overall["accuracy"].value
    assert not list(tmp_path.glob("runs/*"))


def test_train_finds_a_rate_and_trains_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_pngs(tmp_path / "pics", {"dark": 20, "light": 20})
    assert cli.run(["train", "pics", *SMALL, "--find-rate", "rates.svg"]) == 0
    assert "rates.svg" in capsys.readouterr().out
    ElementTree.fromstring(Path("rates.svg").read_text(encoding="utf-8"))
    assert cli.run(["train", "pics", *SMALL, "--find-rate", "rates.svg", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == "rates.svg"
    assert told["lr"] == suggested_rate(told["trials"])
    assert not Path("runs").exists()

"""The text's program, made right in plain torch, is held to opsin's textbook network and recipe."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import opsin
from opsin import metrics
from opsin.models.textbook import Textbook
from opsin.recipe import preset
from tiny import HOW

FILE = Path(__file__).parent.parent / "examples" / "textbook.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("textbook_example", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_digits(folder: Path, train: int, test: int, classes: int = 10) -> Path:
    """scikit-learn's first digits as pictures of 8 × 8 in train/ and test/, a folder a class."""
    found = load_digits()
    for number, row in enumerate(np.flatnonzero(found.target < classes)[: train + test]):
        place = folder / ("train" if number < train else "test") / f"digit-{found.target[row]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((found.images[row] * 15.9375).astype(np.uint8)).save(place / f"{row:04d}.png")
    return folder


def test_a_student_can_read_it_alone() -> None:
    text = FILE.read_text(encoding="utf-8")
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in imported if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in imported if isinstance(node, ast.ImportFrom)]
    assert len(text.splitlines()) < 120
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "torch", "torchvision"}


@pytest.mark.parametrize("size", [32, 64])
def test_its_network_is_the_textbook_network(example, size: int) -> None:
    theirs, ours = example.Network(7, size).eval(), Textbook(7, size).eval()
    before, after = list(theirs.parameters()), list(ours.parameters())
    assert [p.shape for p in before] == [p.shape for p in after]
    with torch.no_grad():
        for source, target in zip(before, after):
            target.copy_(source)
        images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
        logits = theirs(images)
        torch.testing.assert_close(ours(images), logits, atol=1e-6, rtol=0)
    assert logits.std(0).max() > 1e-4  # the pictures do reach the logits


def test_it_refuses_class_folders_that_differ(example, tmp_path) -> None:
    write_digits(tmp_path, 40, 40)
    (tmp_path / "test" / "digit-3").rename(tmp_path / "test" / "digit-x")
    with pytest.raises(SystemExit, match="digit-x"):
        example.main([str(tmp_path), "--size", "8", "--epochs", "0"])


def test_only_training_pictures_are_changed_at_random(example) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 12, 3), dtype=np.uint8))
    train, test = example.transforms(16, train=True), example.transforms(16, train=False)
    assert test(picture).shape == train(picture).shape == (3, 16, 16)
    assert torch.equal(test(picture), test(picture))
    assert len({train(picture).sum().item() for _ in range(8)}) > 4


def test_it_comes_to_what_the_recipe_comes_to(example, tmp_path) -> None:
    folder = write_digits(tmp_path / "digits", 540, 180, classes=4)
    size, rate, epochs = 8, 0.03, 14
    accuracy = example.main([str(folder), *f"--size {size} --rate {rate} --epochs {epochs}".split()])
    theirs = metrics.wilson(round(accuracy * 180), 180)

    # The recipe alone would not flip digits: a mirrored one may be another. The text does.
    recipe = preset("textbook").set(size=size, lr=rate, epochs=epochs, hflip="yes", vflip="yes")
    run = opsin.train(opsin.read(folder), recipe, out=tmp_path / "run", how=HOW)
    scores = run.scores["test"].overall
    ours, largest = scores["accuracy"], scores["largest class"]

    assert ours.n == theirs.n == 180
    assert max(ours.low, theirs.low) <= min(ours.high, theirs.high)
    assert min(ours.low, theirs.low) > largest.high + 0.2

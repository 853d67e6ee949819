"""Several labels a picture, and a quantity: what the presets make of both, beside no skill.

    python bench/tasks.py labels [--n 2000] [--recipes probe,modern]
    python bench/tasks.py angle ../shared/data/clothing.zip [--n 1000] [--recipes probe]

labels: one to four handwritten digits (scikit-learn's) anywhere on a noisy picture; which digits are on it. A label in
ten is blank. Digits of the test are drawn from other writers' pictures than those of training.
angle: photographs turned by an angle drawn from -45…45°, then the largest square that no border of the turned picture
can reach at any angle, so that nothing but what is on it tells the angle. Every photograph is used once.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import record
from sklearn.datasets import load_digits

import opsin
from opsin import codecs, runs, sources
from opsin.vocabulary import Score, Scores

SIDE = 64
LARGEST = 45.0  # degrees


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("what", choices=["labels", "angle"])
    asked.add_argument("photographs", nargs="?", type=Path)
    asked.add_argument("--n", type=int, default=0)
    asked.add_argument("--recipes", default="")
    asked.add_argument("--set", action="append", default=[], help="a choice of the recipe, as for opsin train")
    asked.add_argument("--threads", type=int, default=0)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "labels":
            labels(Path(folder), given)
        else:
            angle(Path(folder), given)


# ── several labels ──


def labels(folder: Path, given: argparse.Namespace) -> None:
    n = given.n or 2000
    data = opsin.read(compose(folder, n), task="multi-label")
    rows = []
    for name in (given.recipes or "probe,modern").split(","):
        scores, seconds = trained(data, name, folder / name, given)
        each = [one["average precision"].value for one in scores.per_class.values()]
        overall = [told(scores, key) for key in ("mAP", "micro F1", "macro F1", "exact match")]
        rows.append([" ".join([name, *given.set]), *overall, f"{min(each):.3f}", f"{seconds:.0f} s"])
    test = [[value for value in record.targets if value is not None] for record in opsin.split(data).test.records]
    never = np.mean([not any(values) for values in test])
    rows.append(["no skill", told(scores, "no skill mAP"), "", "", f"{never:.3f} (never any label)", "", ""])
    record.write(
        "tasks-labels",
        "Several labels: which of ten digits are on a picture",
        ["recipe", "mAP", "micro F1", "macro F1", "all labels right", "worst label's AP", "training"],
        rows,
        conditions=record.conditions("torch", "timm", "scikit-learn"),
        notes=[f"{n:,} composed pictures of {SIDE} px, 70/15/15; one label in ten is blank, and masked",
               "brackets are 95 % intervals; thresholds a label from validation"],
    )  # fmt: skip


def compose(folder: Path, n: int) -> Path:
    """Pictures with one to four digits, and the table of them. The digits of each split are its own."""
    found = load_digits()
    rng = np.random.default_rng(0)
    parts = np.array_split(rng.permutation(len(found.images)), 20)
    pools = {
        "train": np.concatenate(parts[:14]),
        "val": np.concatenate(parts[14:17]),
        "test": np.concatenate(parts[17:]),
    }
    rows = []
    for number in range(n):
        split = "train" if number % 20 < 14 else "val" if number % 20 < 17 else "test"
        chosen = rng.choice(pools[split], rng.integers(1, 5), replace=False)
        picture = rng.normal(60, 15, (SIDE, SIDE, 3))
        corners = rng.permutation(4)[: len(chosen)]  # a quarter each, so that none hides another
        for row, corner in zip(chosen, corners):
            side = int(rng.integers(20, 29))
            digit = cv2.resize(found.images[row] / 16, (side, side), interpolation=cv2.INTER_LINEAR)
            y, x = (SIDE // 2 * at + rng.integers(0, SIDE // 2 - side + 1) for at in divmod(int(corner), 2))
            picture[y : y + side, x : x + side] += digit[:, :, None] * rng.uniform(80, 190, 3)
        file = f"{number:05}.png"
        (folder / file).write_bytes(codecs.encode_png(picture.clip(0, 255).astype(np.uint8)))
        there, blank = set(found.target[chosen].tolist()), rng.random(10) < 0.1
        rows.append([file, split, *("" if blank[digit] else int(digit in there) for digit in range(10))])
    return written(folder / "digits.csv", ["file", "split", *(f"digit {digit}" for digit in range(10))], rows)


# ── a quantity ──


def angle(folder: Path, given: argparse.Namespace) -> None:
    n = given.n or 1000
    data = opsin.read(turn(folder, given.photographs, n), target="angle", task="regression")
    rows = []
    for name in (given.recipes or "probe").split(","):
        scores, seconds = trained(data, name, folder / name, given)
        keys = ("MAE", "median absolute error", "RMSE", "R2")
        rows.append([" ".join([name, *given.set]), *(told(scores, key, 2) for key in keys), f"{seconds:.0f} s"])
    rows.append(["always the mean", told(scores, "always the mean", 2), "", "", "", ""])
    record.write(
        "tasks-angle",
        "A quantity: the angle by which a photograph is turned, in degrees",
        ["recipe", "mean absolute error", "median absolute error", "RMSE", "R²", "training"],
        rows,
        conditions=record.conditions("torch", "timm", "scikit-learn"),
        notes=[f"{len(data):,} photographs of {given.photographs.name}, each once, turned by -45…45°; 70/15/15",
               "brackets are 95 % intervals (bootstrap of pictures)"],
    )  # fmt: skip


def turn(folder: Path, photographs: Path, n: int) -> Path:
    """Photographs turned by known angles, and the table of them."""
    source = sources.read(photographs)
    rng = np.random.default_rng(0)
    rows = []
    for number in sorted(rng.permutation(len(source))[:n].tolist()):
        picture = codecs.decode(source.store.read(source.records[number].key))
        degrees = round(float(rng.uniform(-LARGEST, LARGEST)), 2)
        file = f"{number:05}.png"
        (folder / file).write_bytes(codecs.encode_png(turned(picture, degrees)))
        rows.append([file, degrees])
    return written(folder / "angles.csv", ["file", "angle"], rows)


def turned(picture: np.ndarray, degrees: float) -> np.ndarray:
    """uint8 `(H, W, 3)` → `(S, S, 3)`: turned counter-clockwise, cut where no border is seen at any angle."""
    side = min(256, int(min(picture.shape[:2]) / np.sqrt(2)))
    scale = side * np.sqrt(2) / min(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = small.shape[:2]
    way = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    way[:, 2] += side / 2 - np.array([width, height]) / 2
    return cv2.warpAffine(small, way, (side, side), flags=cv2.INTER_LINEAR)


# ── both ──


def trained(data: opsin.Dataset, name: str, out: Path, given: argparse.Namespace) -> tuple[Scores, float]:
    recipe = opsin.preset(name, task=data.task).set_texts(given.set)
    began = time.perf_counter()
    run = opsin.train(data, recipe, out=out, how=runs.Execution("cpu", threads=given.threads))
    return run.scores["test"], time.perf_counter() - began


def told(scores: Scores, key: str, digits: int = 3) -> str:
    found: Score = scores.overall[key]
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def written(file: Path, head: list[str], rows: list[list]) -> Path:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([head, *rows])
    return file


if __name__ == "__main__":
    main()

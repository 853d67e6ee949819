"""Small classes, and groups that a model never saw: clothing.zip, its own division forgotten.

    python bench/imbalance.py weights ../shared/data/clothing.zip --log FILE
    python bench/imbalance.py groups  ../shared/data/clothing.zip --log FILE

weights: five classes have 100 pictures to learn from and five have 5, drawn anew for each seed; all others are the
test. Recipe `finetune` at 128 px with nothing against it, with class weights, with balanced sampling.
groups: one fold a group, recipe `probe` at 128 px; a picture's group is how bright its border is, in quarters, which
stands for a place or a camera: what is behind the clothes changes with it, and the clothes do not. The same recipe with
as many folds that are drawn by chance stands beside it.

Runs lie beside the log; what is finished is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ingredients import keep, known
from record import conditions, write

from opsin import duplicates, metrics, recipe, runs, sources
from opsin.cache import picture
from opsin.vocabulary import Dataset, Record, Score, Split

MANY, FEW, SIZE, EPOCHS, QUARTERS = 100, 5, 128, 6, 4
SMALL = ("dress", "hat", "outwear", "shorts", "skirt")
ROWS: dict[str, dict[str, object]] = {
    "nothing": {},
    "weights, balanced": {"class_weights": "balanced"},
    "weights, effective": {"class_weights": "effective"},
    "balanced sampling": {"sampling": "balanced"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["weights", "groups"])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2", help="of weights: of the draw and of training")
    asked = parser.parse_args()
    data = undivided(sources.read(asked.archive))
    if asked.what == "groups":
        groups(data, asked.log.with_suffix(""))
        return
    for seed in map(int, asked.seeds.split(",")):
        drawn = uneven(data, seed)
        for row in ROWS:
            if (row, seed) not in known(asked.log):
                keep(asked.log, {"row": row, "seed": seed, **tested(drawn, row, seed, asked.log)})
    weights(known(asked.log))


def undivided(data: Dataset) -> Dataset:
    """The data without its division, and without the second of pictures that are there twice."""
    again = {pair.second for pair in duplicates.same_bytes(data)}
    return changed(data, (dataclasses.replace(r, split=None) for r in data.records if r.key not in again))


def changed(data: Dataset, records: Iterator[Record]) -> Dataset:
    kept = tuple(records)
    return dataclasses.replace(data, records=kept, fingerprint=sources.fingerprint(kept, data.classes))


# ── small classes ──


def uneven(data: Dataset, seed: int) -> Dataset:
    """MANY or FEW pictures of each class to train on, the rest to test on."""
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    left = {target: FEW if name in SMALL else MANY for target, name in enumerate(data.classes)}
    split: dict[str, Split] = {}
    for record in map(sorted(data.records, key=lambda record: record.key).__getitem__, order):
        assert record.target is not None
        split[record.key] = "train" if left[record.target] > 0 else "test"
        left[record.target] -= 1
    return changed(data, (dataclasses.replace(record, split=split[record.key]) for record in data.records))


def tested(data: Dataset, row: str, seed: int, log: Path) -> dict[str, object]:
    """One run: hits among the small and the large classes' test pictures, and macro F1."""
    folder = log.with_suffix("") / f"{row.replace(' ', '-').replace(',', '')}-{seed}"
    # The last epoch: the best of 55 pictures of validation, five of them of small classes, would be drawn by lot.
    chosen = recipe.finetune().set(size=SIZE, epochs=EPOCHS, seed=seed, keep="last").set(**ROWS[row])
    if not folder.exists():
        runs.create(data, chosen, out=folder)
    if not (folder / "model").exists():
        for event in runs.work(folder, *runs.reopen(folder, data), how=runs.Execution(precision="bf16")):
            if event.kind == "epoch":
                print(row, seed, event.epoch, dict(event.values), flush=True)
    scores = runs.finish(folder).scores["test"]
    recalls = {name: each["recall"] for name, each in scores.per_class.items()}
    f1 = scores.overall["macro F1"]
    sides = {
        "small": [r for c, r in recalls.items() if c in SMALL],
        "large": [r for c, r in recalls.items() if c not in SMALL],
    }
    hits = {side: [round(sum(r.value * r.n for r in each)), sum(r.n for r in each)] for side, each in sides.items()}
    return {**hits, "macro F1": [f1.value, f1.low, f1.high], "changes": ROWS[row]}


def weights(found: dict[tuple[str, int], dict]) -> None:
    """The table: a line for each way and seed."""
    rows = []
    for row in ROWS:
        for seed in sorted(seed for name, seed in found if name == row):
            line = found[row, seed]
            f1 = "{:.3f} [{:.3f}, {:.3f}]".format(*line["macro F1"])
            rows.append([row, seed, metrics.wilson(*line["small"]), metrics.wilson(*line["large"]), f1])
    write(
        "imbalance",
        f"Small classes: {MANY} pictures against {FEW}",
        ["against it", "seed", "recall of small classes", "recall of large classes", "macro F1"],
        [[str(value) for value in row] for row in rows],
        conditions=conditions("torch", "timm"),
        notes=[
            f"clothing.zip, recipe finetune at {SIZE} px, {EPOCHS} epochs, bf16; small: {', '.join(SMALL)}",
            "of the 5 pictures of a small class one validates; recall: of all their test pictures, Wilson",
        ],
    )


# ── groups that nobody saw ──


def groups(data: Dataset, folder: Path) -> None:
    """One fold a group, and as many folds drawn by chance."""
    bright = np.array([border(picture(data, record)) for record in data.records])
    quarter = np.searchsorted(np.quantile(bright, np.arange(1, QUARTERS) / QUARTERS), bright)
    records = (dataclasses.replace(r, group=f"quarter {q + 1}") for r, q in zip(data.records, quarter.tolist()))
    grouped, rows = changed(data, records), []
    chosen = recipe.probe().set(size=SIZE)
    for name, given, folds in (("a group each", grouped, "group"), ("by chance", data, QUARTERS)):
        at = folder / name.replace(" ", "-")
        resume = {"resume": at} if at.exists() else {"out": at}
        found = runs.cross_validate(given, chosen, folds=folds, **resume)
        assert found.pooled is not None
        rows += [[name, found.texts[fold], *told(s.overall, s.n)] for fold, s in found.scores.items()]
        worst = found.texts[found.worst]
        rows += [[name, f"pooled; worst is {worst}", *told(found.pooled.overall, found.pooled.n)]]
    write(
        "groups",
        "One fold a group, against folds drawn by chance",
        ["folds", "which", "n", "accuracy", "macro F1"],
        rows,
        conditions=conditions("torch", "timm"),
        notes=[
            f"clothing.zip, recipe probe at {SIZE} px; a group is a quarter by brightness of the border",
            "the pooled interval of folds by group is that of drawing whole groups, of which there are four",
        ],
    )


def border(image: np.ndarray) -> float:
    """The mean of the outer tenth on each side."""
    rows, columns = (max(1, side // 10) for side in image.shape[:2])
    inner = image[rows:-rows, columns:-columns]
    return float((image.sum(dtype=np.int64) - inner.sum(dtype=np.int64)) / (image.size - inner.size))


def told(overall: dict[str, Score], n: int) -> list[str]:
    return [f"{n:,}", str(overall["accuracy"]), str(overall["macro F1"])]


if __name__ == "__main__":
    main()

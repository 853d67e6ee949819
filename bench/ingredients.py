"""What each ingredient adds to `modern`: a quarter of CIFAR-10's training pictures, one change a row, three seeds.

    python bench/ingredients.py ../shared/data/cifar10-jpg.zip --log FILE [--rows a,b] [--seeds 0,1,2] [--table]

The quarter is drawn once, stratified; a run is scored on the recipe's validation split (5,000 pictures), whole. The
test set is taken away before anything else: nothing here may choose by it. Each run is a line of the log as soon as it
is done, and a run that is in the log is not made again, so this can be stopped and taken up again at any time.
Six epochs of 11,250 pictures, each with a validation, should take two minutes a run on two quiet cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from record import conditions, write

from opsin import duplicates, recipe, runs, sources, splits
from opsin.recipe import Recipe
from opsin.vocabulary import Dataset, finished

EPOCHS, SIZE, SHARE = 6, 32, 0.25

# The recipe is `modern`; a row is what is changed of it. Rates are stated, not searched for: better ones may exist.
ROWS: dict[str, dict[str, object]] = {
    "modern": {},
    "without label smoothing": {"label_smoothing": 0.0},
    "without mirroring": {"hflip": "no"},
    "without crops": {"crop": 0.0},
    "EMA 0.99": {"ema": 0.99},
    "Lookahead 5": {"lookahead": 5},
    "erasing": {"erase": 0.5},
    "MixUp 0.2": {"mixup": 0.2},
    "CutMix 1": {"cutmix": 1.0},
    "TrivialAugment": {"policy": "trivialaugment"},
    "RandAugment": {"policy": "randaugment"},
    "colours": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
    "rate 0.2": {"lr": 0.2},
    "rate 0.05": {"lr": 0.05},
    "batch 64": {"batch": 64, "lr": 0.05},
    "AdamW 0.003": {"optimiser": "adamw", "lr": 0.003, "weight_decay": 0.05},
    "Lion 0.0005": {"optimiser": "lion", "lr": 0.0005, "weight_decay": 0.3},
    "Muon 0.003": {"optimiser": "muon", "lr": 0.003, "weight_decay": 0.05, "momentum": 0.95},
    "focal loss": {"loss": "focal"},
    "poly-1 loss": {"loss": "poly-1"},
    "clipped to norm 1": {"clip_norm": 1.0},
    "pictures grow from 16": {"grow_from": 16},
    "hardest half": {"hardest": 0.5},
    "hardest half of 256": {"hardest": 0.5, "batch": 256},
    "mirror images at test": {},  # not trained again: `modern` of the same seed answers twice a picture
}
TWICE = "mirror images at test"


def main() -> None:
    """Make the runs that the log lacks, then the table of what it holds."""
    asked = arguments()
    log = Path(asked.log)
    wanted = asked.rows.split(",") if asked.rows else list(ROWS)
    if unknown := set(wanted) - set(ROWS):
        raise SystemExit(f"no such row: {', '.join(sorted(unknown))}; there are: {', '.join(ROWS)}")
    if not asked.table:
        data = quarter(Path(asked.archive))
        # All rows of one seed before the next seed: however early it ends, rows can be compared.
        for seed in map(int, asked.seeds.split(",")):
            for row in wanted:
                if (row, seed) not in known(log):
                    keep(log, {"row": row, "seed": seed, **made(data, row, seed, log, asked)})
    table(known(log))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help="cifar10-jpg.zip")
    parser.add_argument("--log", required=True, help="JSON lines, one a run; runs in progress lie beside it")
    parser.add_argument("--rows", default="", help="some of them, by name, with commas between")
    parser.add_argument("--seeds", default="0,1,2", help="of weights, order and augmentation; the data stay the same")
    parser.add_argument("--table", action="store_true", help="make no run, only the table")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bf16", help="the same for all rows")
    return parser.parse_args()


def quarter(archive: Path) -> Dataset:
    """The validation split that `modern` would carve out at seed 0, and a stratified quarter of what then trains."""
    data = sources.read(archive)
    divided = splits.split(data, together=duplicates.groups(duplicates.same_bytes(data)))
    bare = tuple(dataclasses.replace(record, split=None) for record in divided.train.records)
    drawn = splits.split(dataclasses.replace(divided, records=bare), val=1 - SHARE, test=0).train
    records = drawn.records + divided.val.records
    return dataclasses.replace(data, records=records, fingerprint=sources.fingerprint(records, data.classes))


def made(data: Dataset, row: str, seed: int, log: Path, asked: argparse.Namespace) -> dict[str, object]:
    """One run, or the rest of it where it was begun: its score on validation and what it took."""
    folder = log.with_suffix("") / f"{('modern' if row == TWICE else row).replace(' ', '-')}-{seed}"
    began = time.perf_counter()
    if not folder.exists():
        split = log.with_suffix(".split.csv")
        splits.write(data, split)
        runs.create(data, changed(row, seed), out=folder, split=split)
    if not (folder / "model").exists():
        how = runs.Execution(device=asked.device, precision=asked.precision)
        for event in runs.work(folder, *runs.reopen(folder, data), how=how):
            if event.kind == "epoch":
                print(f"{row} seed {seed} epoch {event.epoch} accuracy {event.values['accuracy']:.4f}", flush=True)
    run = runs.finish(folder)
    score = run.scores["val"].overall["accuracy"]
    if row == TWICE:
        answers, _, tested = finished(runs.evaluating(run.classifier, data.val, "all"))
        score = finished(runs.with_mirrored(run.classifier, answers, tested))[1].overall["accuracy"]
    plan = json.loads((folder / "plan.json").read_text())["training"]
    seconds = round(time.perf_counter() - began, 1)
    return {"changes": ROWS[row], "epochs": EPOCHS, "accuracy": score.value, "n": score.n, "s": seconds, "plan": plan}


def changed(row: str, seed: int) -> Recipe:
    """`modern` with what the row changes."""
    return recipe.modern().set(size=SIZE, epochs=EPOCHS, seed=seed).set(**ROWS[row])


def known(log: Path) -> dict[tuple[str, int], dict]:
    """What the log holds, by row and seed."""
    lines = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
    return {(line["row"], line["seed"]): line for line in lines}


def keep(log: Path, line: Mapping[str, object]) -> None:
    with log.open("a") as opened:
        opened.write(json.dumps(line) + "\n")


def table(found: Mapping[tuple[str, int], Mapping]) -> None:
    """Mean and spread of every row, and of its differences to `modern` at the same seeds."""
    rows = []
    epochs = ", ".join(sorted({str(line["epochs"]) for line in found.values()}))
    for row in dict.fromkeys(name for name, _ in found):
        seeds = sorted(seed for name, seed in found if name == row)
        scores = [found[row, seed]["accuracy"] for seed in seeds]
        gains = [found[row, s]["accuracy"] - found["modern", s]["accuracy"] for s in seeds if ("modern", s) in found]
        changes = " ".join(f"{name}={value}" for name, value in found[row, seeds[0]]["changes"].items())
        took = statistics.median(found[row, seed]["s"] for seed in seeds)
        rows.append([row, changes, len(seeds), told(scores, ".4f"), told(gains, "+.4f"), f"{took:.0f}"])
    write(
        "ingredients",
        "What each ingredient adds to modern",
        ["row", "changed", "seeds", "accuracy, mean (min to max)", "less modern at the same seed", "s a run"],
        rows,
        conditions={**conditions("torch", "timm"), "plans": ", ".join(sorted({planned(f) for f in found.values()}))},
        notes=[
            f"a quarter of CIFAR-10's training pictures (JPEG), 32 px, {epochs} epochs, scored on 5,000 of validation",
            "the test set was not looked at; rates of optimisers are stated, not searched for",
            "seconds are of a machine that others used as well",
        ],
    )


def planned(line: Mapping) -> str:
    return f"{line['plan']['device']} {line['plan']['precision']}"


def told(values: Sequence[float], form: str) -> str:
    """`mean (min to max)`."""
    if not values:
        return ""
    return f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()

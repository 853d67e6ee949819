"""The loader against torchvision v2 + DataLoader, and its memory: rows 1, 2, 3 and 8.

    python bench/loader.py [--rows 1,2,3,8] [--rounds 5]

Every side makes the same thing: shuffled uint8 batches of 64, random resized crops and flips, from JPEG files on disk
that the page cache holds. All sides run once in every round, in turn; figures are medians over the rounds. The peer is
torchvision's v2 transforms on Pillow's pictures and on tensors, with 0, 1 and 2 workers that live through the whole
measurement; the best of the six is named. opsin's side counts everything from the file's bytes to the batch as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

BATCH = 64
AREA = 0.35  # least area of a crop, on both sides
SEED = 0
Side = Callable[[], int]  # one pass: how many pictures it made


# --- pictures ---------------------------------------------------------------------------------------------------------


def pictures(folder: Path, n: int, width: int, height: int) -> Path:
    """`n` JPEGs of quality 90 in two class folders: windows of scikit-learn's two photographs, resampled."""
    photographs = [Image.open(str(files("sklearn.datasets.images") / name)) for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(SEED)
    for number in range(n):
        photograph = photographs[number % 2]
        share = rng.uniform(0.6, 1)
        size = (photograph.width * share, photograph.width * share * height / width)
        left, top = rng.uniform(0, photograph.width - size[0]), rng.uniform(0, max(0, photograph.height - size[1]))
        box = (left, top, left + size[0], min(photograph.height, top + size[1]))
        place = folder / "ab"[number % 2] / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        photograph.resize((width, height), Image.Resampling.LANCZOS, box).save(place, quality=90)
    return folder


def repeated(folder: Path, originals: Path, n: int) -> Path:
    """`n` files of a few pictures: links, where the system has them."""
    found = sorted(originals.glob("*/*.jpg"))
    for number in range(n):
        source = found[number % len(found)]
        place = folder / source.parent.name / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, place)
    return folder


# --- opsin ------------------------------------------------------------------------------------------------------------


def streamed(folder: Path, size: int, batch: int = BATCH) -> Side:
    """Rows 1 and 2: every batch from the files."""
    from opsin import augmentation, cache, preprocessing, sources

    data = sources.read(folder)
    road = preprocessing.enlarged(preprocessing.Preprocessing(size), augmentation.MARGIN)
    return passes(cache.Pixels(data, cache.Undecoded(data, road)), size, batch=batch)


def cached(folder: Path, size: int, epochs: int = 1) -> Side:
    """Row 3: what every epoch but the first takes; `epochs` of them are one pass."""
    from opsin import augmentation, cache, preprocessing, sources, vocabulary

    road = preprocessing.enlarged(preprocessing.Preprocessing(size), augmentation.MARGIN)
    _, (pixels,) = vocabulary.finished(cache.build(sources.read(folder), [road]))
    return passes(pixels, size, epochs)


def passes(pixels: Any, size: int, epochs: int = 1, *, batch: int = BATCH) -> Side:
    from opsin import batches, recipe

    source = batches.Batches(pixels, batch, size, recipe.AugmentChoice(hflip="yes", resized_crop=AREA), SEED)
    epoch = count()
    return lambda: sum(counted(batch.images for batch in source.epoch(next(epoch))) for _ in range(epochs))


def counted(batches: Iterable[torch.Tensor]) -> int:
    return sum(len(images) for images in batches)


# --- the peer ---------------------------------------------------------------------------------------------------------


class Folder(Dataset):  # type: ignore[type-arg]
    """What `ImageFolder` does, with uint8 tensors at the end."""

    def __init__(self, folder: Path, size: int, tensors: bool) -> None:
        from torchvision.transforms import v2

        self.files = sorted(folder.glob("*/*.jpg"))
        moves = [v2.RandomResizedCrop(size, (AREA, 1), antialias=True), v2.RandomHorizontalFlip()]
        self.transform = v2.Compose([v2.PILToTensor(), *moves] if tensors else [*moves, v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), index


def peers(folder: Path, size: int, batch: int = BATCH) -> dict[str, Side]:
    sides = {}
    for tensors in (False, True):
        for workers in (0, 1, 2):
            loader = DataLoader(
                Folder(folder, size, tensors),
                batch,
                shuffle=True,
                num_workers=workers,
                persistent_workers=workers > 0,
            )
            name = f"torchvision v2 on {'tensors' if tensors else 'Pillow'}, {workers} workers"
            sides[name] = lambda loader=loader: counted(images for images, _ in loader)
    return sides


# --- measuring --------------------------------------------------------------------------------------------------------


def measured(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Pictures a second of every side in every round, after one that does not count."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            made = side()
            if number:
                rates[name].append(made / (time.perf_counter() - start))
    return rates


def row(number: str, work: str, goal: str, ours: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(found) for name, found in rates.items()}
    best = max((name for name in medians if name != ours), key=lambda name: medians[name])
    ratio = medians[ours] / medians[best]
    print(f"\nrow {number}: {work}")
    for name, found in rates.items():
        print(f"  {medians[name]:9,.0f} img/s  [{min(found):,.0f}, {max(found):,.0f}]  {name}")
    print(f"  {ratio:.2f} times {best}; goal {goal}")
    sides = {name: {"median": medians[name], "runs": found} for name, found in rates.items()}
    return {
        "row": number, "work": work, "goal": goal, "unit": "img/s",
        "ours": ours, "against": best, "ratio": ratio, "sides": sides,
    }  # fmt: skip


def memory(folder: Path) -> Iterator[dict[str, Any]]:
    """Row 8: the peak of a process that does nothing else."""
    for number in ("1", "3"):
        peaks = {}
        for n in (1_000, 10_000):
            many = repeated(folder / f"{number}-{n}", folder / "small", n)
            command = [sys.executable, __file__, "--peak", number, "--folder", str(many)]
            peaks[str(n)] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"\nrow 8: peak memory of row {number}")
        for n, found in peaks.items():
            print(
                f"  {found['MiB']:8,.0f} MiB with {int(n):,} pictures ({found['import MiB']:,.0f} MiB before the work)"
            )
        yield {"row": "8", "work": f"peak memory of row {number}", "unit": "MiB", "pictures": peaks}


def peak(number: str, folder: Path) -> dict[str, float]:
    import opsin.batches
    import opsin.sources  # noqa: F401

    before = most_memory()
    (streamed if number == "1" else cached)(folder, 224)()
    return {"MiB": most_memory(), "import MiB": before}


def most_memory() -> float:
    """The most memory that this process has had at a time, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins with that of the process it was started from
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line[:6] == "VmHWM:") / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def rows(wanted: set[str], folder: Path, rounds: int) -> Iterator[dict[str, Any]]:
    ours = "opsin"
    small = pictures(folder / "small", 640, 500, 375)
    mean = statistics.mean(file.stat().st_size for file in small.glob("*/*.jpg"))
    print(f"640 JPEGs of 500×375, {mean / 1000:.0f} kB each")
    if "1" in wanted:
        sides = {ours: streamed(small, 224), **peers(small, 224)}
        work = "500×375 JPEG → random resized crop 224 + flip, batches of 64"
        yield row("1", work, "≥ 2", ours, measured(sides, rounds))
    if "2" in wanted:
        sides = {ours: streamed(small, 64), **peers(small, 64)}
        yield row("2a", "500×375 JPEG → random resized crop 64 + flip", "≥ 4", ours, measured(sides, rounds))
        large = pictures(folder / "large", 64, 4000, 3000)
        # Batches of 64 would be a single one here, for a single worker.
        sides = {ours: streamed(large, 224, 8), **peers(large, 224, 8)}
        work = "4000×3000 JPEG → random resized crop 224 + flip, batches of 8"
        yield row("2b", work, "≥ 3", ours, measured(sides, rounds))
    if "3" in wanted:
        first = "opsin, from the files (row 1)"
        sides = {ours: cached(small, 224, epochs=10), first: streamed(small, 224)}
        yield row("3", "second epoch from the cache at 224, against row 1", "≥ 8", ours, measured(sides, rounds))
    if "8" in wanted:
        yield from memory(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1,2,3,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        print(json.dumps(peak(asked.peak, asked.folder)))
        return
    state = record.conditions("torch", "torchvision", "pillow", "simplejpeg", "opencv-python-headless")
    with tempfile.TemporaryDirectory() as folder:
        found = list(rows(set(asked.rows.split(",")), Path(folder), asked.rounds))
    speeds = [one for one in found if one["unit"] == "img/s"]
    if speeds:
        keep_speeds(speeds, state, asked.rounds)
    if len(speeds) < len(found):
        keep_memory([one for one in found if one["unit"] == "MiB"], state)


def keep_speeds(found: list[dict[str, Any]], state: dict[str, object], rounds: int) -> None:
    """Rows 1 to 3 as one table."""
    table = []
    for one in found:
        runs = (record.spread(one["sides"][side]["runs"]) for side in (one["ours"], one["against"]))
        table.append([one["row"], one["work"], *runs, one["against"], f"{one['ratio']:.2f}", one["goal"]])
    record.write(
        "loader",
        "The loader (rows 1 to 3)",
        ["row", "work", "opsin, img/s", "against, img/s", "against", "ratio", "goal"],
        table,
        conditions=state,
        notes=[f"{rounds} runs in turn; torchvision with 0, 1, 2 workers, on Pillow and on tensors: the best is shown"],
    )


def keep_memory(found: list[dict[str, Any]], state: dict[str, object]) -> None:
    """Row 8 as a table."""
    table = [
        [one["work"], n, f"{peak['MiB']:,.0f}", f"{peak['import MiB']:,.0f}"]
        for one in found
        for n, peak in one["pictures"].items()
    ]
    record.write(
        "loader-memory",
        "The loader's memory (row 8)",
        ["work", "pictures", "peak, MiB", "of that before the work, MiB"],
        table,
        conditions=state,
        notes=["row 3 keeps a cache: in memory up to 2 GiB, above that in a memory-mapped file"],
    )


if __name__ == "__main__":
    main()

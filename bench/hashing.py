"""Row 8: files to hashes, opsin's quick pass against imagededup's perceptual hash, all processors each; searching them.

    python bench/hashing.py --peer PYTHON [--pictures 10000] [--distinct 2000] [--rounds 3]
    python bench/hashing.py --search 200000 1000000

PYTHON is that of an environment with bench/requirements-peers-dedup.txt. imagededup answers from a process that stays,
so that its imports are not counted, and hashes in as many processes as there are processors, its default.

`--search` looks for near-duplicates among that many made-up thumbnails, each number in a process of its own: fields of
random waves, whose amplitudes fall with the frequency so fast that there are as many candidates as in CIFAR-10, under
noise of their own. One in a hundred is there twice: darkened, under other noise, and every other one mirrored.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import loader
import numpy as np
import record

from opsin import duplicates, isolation, sources
from opsin.vocabulary import finished

FALL = 1.8  # amplitudes are 1 / frequency to the power of this
NOISE = 20  # of 255, at most


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--peer")
    asked.add_argument("--pictures", type=int, default=10_000)
    asked.add_argument("--distinct", type=int, default=2_000)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--search", type=int, nargs="+", default=[])
    asked.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    chosen = asked.parse_args()
    if chosen.alone:
        print(json.dumps(searched(chosen.alone)))
    if chosen.search:
        search(chosen.search)
    if chosen.peer:
        rate(chosen.peer, chosen.pictures, chosen.distinct, chosen.rounds)


# ── files to hashes ──


def rate(python: str, pictures: int, distinct: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        originals = loader.pictures(Path(place) / "originals", distinct, 500, 375)
        folder = loader.repeated(Path(place) / "all", originals, pictures)
        data = sources.read(folder)
        script = Path(__file__).parent / "peers" / "imagededup_phash.py"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with isolation.Decoders() as children, subprocess.Popen([python, script, folder], **pipes) as peer:

            def hashed() -> int:
                return len(duplicates.describe(finished(duplicates.thumbnails(data))))

            def isolated() -> int:
                return len(duplicates.describe(finished(duplicates.thumbnails(data, decode=children.decode))))

            def imagededup() -> int:
                peer.stdin.write("\n")
                peer.stdin.flush()
                return int(peer.stdout.readline().split()[1])

            sides = {"opsin train": hashed, "opsin check (child processes)": isolated, "imagededup PHash": imagededup}
            for name, side in sides.items():
                assert side() == pictures, name
            seconds = record.alternating(sides, rounds=rounds)
            peer.stdin.close()
    best = {name: min(values) for name, values in seconds.items()}
    rows = [
        [name, record.spread([pictures / s for s in values]), f"{best['imagededup PHash'] / best[name]:.1f}"]
        for name, values in seconds.items()
    ]
    record.write(
        "hashing",
        f"Row 8: {pictures:,} JPEGs of 500×375 to hashes, decoding included (goal: 5 times imagededup)",
        ["by", "pictures a second", "times imagededup (best rounds)"],
        rows,
        conditions=record.conditions("pillow", "simplejpeg", "numpy"),
        notes=[f"{distinct:,} distinct pictures, the others are links"],
    )


# ── hashes to pairs ──


def search(sizes: list[int]) -> None:
    state, rows = record.conditions("numpy"), []
    for size in sizes:
        command = [sys.executable, __file__, "--alone", str(size)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append([f"{size:,}", *(f"{found[name]:,}" for name in COLUMNS[1:])])
        record.write(
            "hashing-search",
            "Near-duplicates of all pairs: hashes to pairs",
            COLUMNS,
            rows,
            conditions=state,
            notes=["made-up thumbnails; one in a hundred is there twice, darkened, every other one mirrored"],
        )


COLUMNS = ["pictures", "s", "s of processors", "peak, MiB", "of that thumbnails, MiB", "planted", "found", "others"]


def searched(n: int) -> dict[str, int]:
    images, keys = made(n), [f"{row:07d}" for row in range(n)]
    began, used = time.perf_counter(), time.process_time()
    pairs = finished(duplicates.near(keys, images))
    took = time.perf_counter() - began, time.process_time() - used
    planted = n // 100
    expected = {(keys[row], keys[n - planted + row]) for row in range(planted)}
    found = expected & {(pair.first, pair.second) for pair in pairs}
    values = (*took, loader.most_memory(), images.nbytes / 2**20, planted, len(found), len(pairs) - len(found))
    return dict(zip(COLUMNS[1:], map(round, values)))


def made(n: int) -> np.ndarray:
    """uint8 `(n, SIDE, SIDE)`: the last hundredth are the first hundredth again."""
    rng, planted = np.random.default_rng(0), n // 100
    images = np.empty((n, duplicates.SIDE, duplicates.SIDE), np.uint8)
    for start in range(0, n - planted, 1000):
        some = images[start : min(start + 1000, n - planted)]
        some[:] = under_noise(fields(rng, len(some)), rng)
    for row in range(planted):
        image = images[row].astype(np.float32) * 0.9
        images[n - planted + row] = under_noise(image[:, ::-1] if row % 2 else image, rng, NOISE // 4)
    return images


def fields(rng: np.random.Generator, n: int) -> np.ndarray:
    """float32 `(n, SIDE, SIDE)`, of mean 128 and deviation 45."""
    side, low = duplicates.SIDE, duplicates.LOW
    waves = np.cos(np.pi * np.arange(low)[:, None] * (np.arange(side) + 0.5) / side).astype(np.float32)
    amplitudes = rng.standard_normal((n, low, low), np.float32)
    amplitudes *= np.hypot(*np.mgrid[:low, :low]).clip(1).astype(np.float32) ** -FALL
    images = waves.T @ amplitudes @ waves
    images -= images.mean(axis=(1, 2), keepdims=True)
    return images * (45 / images.std(axis=(1, 2), keepdims=True)) + 128


def under_noise(images: np.ndarray, rng: np.random.Generator, most: int = NOISE) -> np.ndarray:
    noise = rng.integers(-most, most, images.shape, np.int8, endpoint=True)
    return (images + noise).clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()

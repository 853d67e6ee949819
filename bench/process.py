"""`opsin process` against a Pillow loop in a process pool, and how full byte budgets get: `python bench/process.py`.

    speed    N JPEGs, `resize:side=512` + `jpeg:quality=85`: whole commands, start-up included, in turn; and whether
             a run that is killed in the middle and taken up again leaves the bytes of an undisturbed one
    budget   how much of a byte budget is used on each of N pictures

The pictures are those of --data (a folder or zip of pictures); by default squares of four pictures of
shared/data/clothing.zip, about 800 × 1,067, JPEG of quality 90. Prints its conditions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from opsin import codecs, encoding, ops, sources

CLOTHING = Path(__file__).parent.parent.parent / "shared" / "data" / "clothing.zip"
STEPS = ("resize:side=512", "jpeg:quality=85")


# The peer, as one writes it ------------------------------------------------------------------------------------------


def pillow_one(job: tuple[str, str, bool]) -> None:
    from PIL import Image

    source, target, draft = job
    with Image.open(source) as image:
        scale = 512 / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        if draft:  # lets libjpeg decode at a half, a quarter …
            image.draft("RGB", size)
        image.convert("RGB").resize(size, Image.Resampling.BILINEAR).save(target, "JPEG", quality=85)


def pillow(source: Path, target: Path, draft: bool) -> None:
    jobs = []
    for path in sorted(source.rglob("*.jpg")):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        jobs.append((str(path), str(place), draft))
    with ProcessPoolExecutor(2) as pool:
        for _ in pool.map(pillow_one, jobs, chunksize=16):
            pass


# Speed ---------------------------------------------------------------------------------------------------------------


def write_pictures(data: Path | None, folder: Path, n: int) -> tuple[int, int]:
    """Write n JPEGs, a hundred a folder; (megapixels, megabytes) of one on average, times a thousand."""
    store, keys, _ = sources.pictures(data or CLOTHING)
    pixels = size = 0
    for number in range(n):
        if data:
            picture = codecs.decode(store.read(keys[number % len(keys)]))
        else:
            four = [codecs.decode(store.read(keys[(number + step) % len(keys)])) for step in (0, 101, 211, 307)]
            same = [ops.resize(each, width=400, height=533) for each in four]
            picture = np.concatenate([np.concatenate(same[:2], axis=1), np.concatenate(same[2:], axis=1)])
        file = folder / f"{number // 100:03d}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        encoded = encoding.jpeg(picture, quality=90)
        file.write_bytes(encoded)
        pixels, size = pixels + picture.shape[0] * picture.shape[1], size + len(encoded)
    return pixels // n // 1000, size // n // 1000


def ours(source: Path, target: Path, threads: int) -> list[str]:
    words = [word for step in STEPS for word in ("--op", step)]
    call = "from opsin.app.cli import main; main()"
    return [
        sys.executable,
        "-c",
        call,
        "process",
        str(source),
        str(target),
        *words,
        "--threads",
        str(threads),
        "--json",
    ]


def theirs(source: Path, target: Path, draft: bool) -> list[str]:
    return [sys.executable, __file__, "pillow", str(source), str(target), *(["--draft"] if draft else [])]


def timed(command: list[str], target: Path) -> tuple[float, float]:
    """(wall, CPU) seconds of a command, whose output folder is removed before."""
    shutil.rmtree(target, ignore_errors=True)
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def speed(arguments: argparse.Namespace, place: Path) -> dict[str, object]:
    source = place / "in"
    kilopixels, kilobytes = write_pictures(arguments.data, source, arguments.n)
    commands = {
        "opsin process": ours(source, place / "ours", 2),
        "Pillow": theirs(source, place / "pillow", False),
        "Pillow with draft": theirs(source, place / "draft", True),
    }
    targets = dict(zip(commands, (place / "ours", place / "pillow", place / "draft")))
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            runs[name].append(timed(command, targets[name]))
    found = {
        name: {
            "wall_s": [round(wall, 2) for wall, _ in times],
            "cpu_s": [round(cpu, 2) for _, cpu in times],
            "pictures_per_s": round(arguments.n / statistics.median(wall for wall, _ in times), 1),
        }
        for name, times in runs.items()
    }
    wall, cpu = ({name: statistics.median(run[i] for run in times) for name, times in runs.items()} for i in (0, 1))
    return {
        "pictures": arguments.n,
        "mean_kilopixels": kilopixels,
        "mean_kilobytes": kilobytes,
        "runs": found,
        "times_as_fast_as": {name: round(wall[name] / wall["opsin process"], 2) for name in commands},
        "of_its_cpu_time": {name: round(cpu[name] / cpu["opsin process"], 2) for name in commands},
        "ssim_to": {name: likeness(targets["opsin process"], targets[name]) for name in commands if "Pillow" in name},
        "killed_and_taken_up_again_is_equal": killed(arguments.n, source, place),
    }


def likeness(left: Path, right: Path) -> dict[str, float]:
    """Mean and least SSIM over two hundred pictures."""
    paths = sorted(left.rglob("*.jpg"))[:: max(1, len(list(left.rglob("*.jpg"))) // 200)]
    found = [
        ops.ssim(codecs.decode(path.read_bytes()), codecs.decode((right / path.relative_to(left)).read_bytes()))
        for path in paths
    ]
    return {"n": len(found), "mean": round(statistics.mean(found), 5), "least": round(min(found), 5)}


def killed(n: int, source: Path, place: Path) -> bool:
    """Kill a run when it has done about half, run it again; is every byte that of the undisturbed run?"""
    cut, whole = place / "cut", place / "ours"
    run = subprocess.Popen(ours(source, cut, 2), stdout=subprocess.DEVNULL)
    while len(list(cut.rglob("*.jpg"))) < n // 2 and run.poll() is None:
        time.sleep(0.2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert 0 < len(list(cut.rglob("*.jpg"))) < n, "the run was over before it was killed"
    subprocess.run(ours(source, cut, 2), check=True, stdout=subprocess.DEVNULL)
    files = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    return files == {path.relative_to(cut) for path in cut.rglob("*") if path.is_file()} and all(
        (whole / file).read_bytes() == (cut / file).read_bytes() for file in files
    )


# Budgets -------------------------------------------------------------------------------------------------------------


def budget(arguments: argparse.Namespace) -> dict[str, object]:
    """For each format: what share of a budget is used.

    Budgets lie, on a logarithmic scale, at 0.2, 0.4, 0.6, 0.8 in turn between the sizes at quality 5 and 95.
    """
    store, keys, _ = sources.pictures(arguments.data or CLOTHING)
    chosen = keys[:: max(1, len(keys) // arguments.n)][: arguments.n]
    found: dict[str, object] = {}
    for name, encode in (("jpeg", ops.jpeg), ("webp", ops.webp), ("avif", ops.avif)):
        shares, seconds = [], 0.0
        for number, key in enumerate(chosen):
            picture = codecs.decode(store.read(key))
            low, high = (len(encode(picture, quality=quality)) for quality in (5, 95))
            wanted = int(low * (high / low) ** (0.2, 0.4, 0.6, 0.8)[number % 4])
            start = time.process_time()
            shares.append(len(encode(picture, budget=wanted)) / wanted)
            seconds += time.process_time() - start
        found[name] = {
            "pictures": len(shares),
            "least": round(min(shares), 4),
            "median": round(statistics.median(shares), 4),
            "most": round(max(shares), 4),
            "within_2_percent_from_below": sum(0.98 <= share <= 1 for share in shares),
            "cpu_s_a_picture": round(seconds / len(shares), 3),
        }
    return found


def conditions() -> dict[str, object]:
    import cv2
    import PIL
    import torch

    return {
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, "opencv": cv2.__version__, "pillow": PIL.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": [round(load, 1) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, n in (("speed", 5000), ("budget", 100)):
        each = verbs.add_parser(verb)
        each.add_argument("--n", type=int, default=n)
        each.add_argument("--data", type=Path)
        each.add_argument("--rounds", type=int, default=3)
    peer = verbs.add_parser("pillow")
    peer.add_argument("source", type=Path)
    peer.add_argument("target", type=Path)
    peer.add_argument("--draft", action="store_true")
    arguments = parser.parse_args()
    if arguments.verb == "pillow":
        pillow(arguments.source, arguments.target, arguments.draft)
        return
    before = conditions()
    with tempfile.TemporaryDirectory() as place:
        found = speed(arguments, Path(place)) if arguments.verb == "speed" else budget(arguments)
    print(json.dumps({"conditions": before, arguments.verb: found}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

"""`opsin process` against a Pillow loop in a process pool, and how full byte budgets get: `python bench/process.py`.

    speed    N JPEGs, `resize:side=512` + `jpeg:quality=85`: whole commands, start-up included, in turn; and whether
             a run that is killed in the middle and taken up again leaves the bytes of an undisturbed one
    budget   how much of a byte budget is used on each of N pictures

The pictures are those of --data (a folder or zip of pictures); by default squares of four pictures of
shared/data/clothing.zip, 800 × 1,066, JPEG of quality 90.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import conditions, spread, write

from opsin import codecs, encoding, ops, sources

CLOTHING = Path(__file__).parent.parent.parent / "shared" / "data" / "clothing.zip"
PEER = Path(__file__).parent / "peers" / "pillow_loop.py"  # a script of its own, which loads Pillow only
STEPS = ("resize:side=512", "jpeg:quality=85")
OURS, PILLOW, DRAFT = "opsin process", "Pillow", "Pillow with draft"
# Who installs a package has its modules compiled; a checkout where Python may not write them is slower to start.
INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


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
    return [sys.executable, str(PEER), str(source), str(target), *(["--draft"] if draft else [])]


def timed(command: list[str], target: Path) -> tuple[float, float]:
    """(wall, CPU) seconds of a command, whose output folder is removed before."""
    shutil.rmtree(target, ignore_errors=True)
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=INSTALLED)
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def speed(arguments: argparse.Namespace, place: Path) -> None:
    source, n = place / "in", arguments.n
    known = {**conditions("torch", "pillow", "simplejpeg", "opencv-python-headless"), "n": n}
    kilopixels, kilobytes = write_pictures(arguments.data, source, n)
    commands = {
        OURS: ours(source, place / OURS, 2),
        PILLOW: theirs(source, place / PILLOW, False),
        DRAFT: theirs(source, place / DRAFT, True),
    }
    first = place / "first"
    shutil.copytree(next(source.iterdir()), first)
    timed(ours(first, place / "warm", 2), place / "warm")  # compiles the modules, as installing does
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            runs[name].append(timed(command, place / name))
    wall, cpu = ({name: [run[i] for run in times] for name, times in runs.items()} for i in (0, 1))
    rows = [(name, spread(wall[name], 2), spread(cpu[name], 2), *rates(n, wall, cpu, name)) for name in commands]
    write(
        "process",
        f"`opsin process` and a Pillow loop in a pool of two: {n:,} JPEGs, {' and '.join(STEPS)}, whole commands",
        ("side", "wall s", "CPU s", "pictures/s", "times Pillow by the clock", "by CPU time"),
        rows,
        conditions=known,
        notes=[
            f"pictures of {kilopixels:,} thousand pixels and {kilobytes:,} kB on average; "
            f"median of {arguments.rounds} runs in turn, with the smallest and the largest",
            *(
                f"SSIM of opsin's pictures to {name}'s: {likeness(place / OURS, place / name)}"
                for name in (PILLOW, DRAFT)
            ),
            f"killed in the middle and taken up again: {killed(n, source, place)}",
        ],
    )


def rates(n: int, wall: dict[str, list[float]], cpu: dict[str, list[float]], name: str) -> tuple[str, ...]:
    """Pictures a second, and how many times as fast as Pillow: by the clock, and by CPU time; of medians."""
    times = (statistics.median(each[PILLOW]) / statistics.median(each[name]) for each in (wall, cpu))
    return (f"{n / statistics.median(wall[name]):,.0f}", *(f"{each:.2f}" for each in times))


def likeness(left: Path, right: Path) -> str:
    """Mean and least SSIM over two hundred pictures."""
    paths = sorted(left.rglob("*.jpg"))[:: max(1, len(list(left.rglob("*.jpg"))) // 200)]
    found = [
        ops.ssim(codecs.decode(path.read_bytes()), codecs.decode((right / path.relative_to(left)).read_bytes()))
        for path in paths
    ]
    return f"{statistics.mean(found):.4f} on average, {min(found):.4f} at least (n = {len(found)})"


def killed(n: int, source: Path, place: Path) -> str:
    """Kill a run when it has done about half, run it again; is every byte that of the undisturbed run?"""
    cut, whole = place / "cut", place / OURS
    run = subprocess.Popen(ours(source, cut, 2), stdout=subprocess.DEVNULL, env=INSTALLED)
    while len(list(cut.rglob("*.jpg"))) < n // 2 and run.poll() is None:
        time.sleep(0.2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert 0 < len(list(cut.rglob("*.jpg"))) < n, "the run was over before it was killed"
    subprocess.run(ours(source, cut, 2), check=True, stdout=subprocess.DEVNULL, env=INSTALLED)
    files = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    equal = files == {path.relative_to(cut) for path in cut.rglob("*") if path.is_file()} and all(
        (whole / file).read_bytes() == (cut / file).read_bytes() for file in files
    )
    return "equal to the byte" if equal else "NOT equal"


# Budgets -------------------------------------------------------------------------------------------------------------


def budget(arguments: argparse.Namespace) -> None:
    """For each format: what share of a budget is used.

    Budgets lie, on a logarithmic scale, at 0.2, 0.4, 0.6, 0.8 in turn between the sizes at quality 5 and 95.
    """
    known = {**conditions("pillow"), "n": arguments.n}
    store, keys, _ = sources.pictures(arguments.data or CLOTHING)
    chosen = keys[:: max(1, len(keys) // arguments.n)][: arguments.n]
    rows = []
    for name, encode in (("jpeg", ops.jpeg), ("webp", ops.webp), ("avif", ops.avif)):
        shares, seconds = [], []
        for number, key in enumerate(chosen):
            picture = codecs.decode(store.read(key))
            low, high = (len(encode(picture, quality=quality)) for quality in (5, 95))
            wanted = int(low * (high / low) ** (0.2, 0.4, 0.6, 0.8)[number % 4])
            start = time.process_time()
            shares.append(len(encode(picture, budget=wanted)) / wanted)
            seconds.append(time.process_time() - start)
        within = f"{sum(0.98 <= share <= 1 for share in shares)} of {len(shares)}"
        rows.append((name, spread(shares, 4), within, f"{statistics.mean(seconds):.3f}"))
    write(
        "process-budget",
        "Byte budgets: the share that is used",
        ("format", "share used", "within 2 % from below", "CPU s a picture"),
        rows,
        conditions=known,
        notes=["shares: the median with the smallest and the largest; none above 1 means that no budget is exceeded"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, n in (("speed", 5000), ("budget", 100)):
        each = verbs.add_parser(verb)
        each.add_argument("--n", type=int, default=n)
        each.add_argument("--data", type=Path)
        each.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.verb == "budget":
        budget(arguments)
        return
    with tempfile.TemporaryDirectory() as place:
        speed(arguments, Path(place))


if __name__ == "__main__":
    main()

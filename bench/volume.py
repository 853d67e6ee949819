"""Prediction at volume: pictures by the ten thousand, killed twice and gone on with: memory, rate, the file.

    python bench/volume.py MODEL ZIP [--pictures 20000] [--fast]

MODEL is a run's or a model's folder; ZIP an archive of pictures, which are linked as often as it takes. POSIX only.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from record import conditions, write

OPSIN = [sys.executable, "-c", "from opsin.app.cli import main; main()"]
PARTS = 10  # the work whose memory the whole work's is compared with is so many times smaller
FOLDERS = 20


@dataclass(frozen=True)
class Ended:
    """One process: how long it ran, and the most memory that it held."""

    seconds: float
    mib: float


def called(arguments: list[str], *, until: int = 0, part: Path | None = None) -> Ended:
    """`opsin` with these arguments, to its end; killed once `part` has `until` lines, where that is given."""
    began = time.perf_counter()
    process = subprocess.Popen([*OPSIN, *arguments], stderr=subprocess.DEVNULL)
    while part and lines(part) < until:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    if part:
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == (-signal.SIGKILL if part else 0), f"exit code {process.returncode}"
    return Ended(time.perf_counter() - began, usage.ru_maxrss / 1024)


def lines(out: Path) -> int:
    """How many predictions the part of `out` has; its name holds a digest of the work."""
    return sum(file.read_bytes().count(b"\n") for file in out.parent.glob(f"{out.name}.*.part"))


def linked(archive: Path, folder: Path, n: int) -> None:
    """`n` pictures in folders of `folder`: hard links to those of `archive`, over and over."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder / "from")
    sources = sorted(file for file in (folder / "from").rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number in range(n):
        source = sources[number % len(sources)]
        place = folder / "pictures" / f"{number % FOLDERS:02}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(source, place / f"{number:06}{source.suffix.lower()}")


def rows(file: Path) -> dict[str, str]:
    """path → label or error, of a CSV file in which no path stands twice."""
    with file.open(newline="", encoding="utf-8") as opened:
        read = [(row["path"], row["label"] or row["error"]) for row in csv.DictReader(opened)]
    assert len(dict(read)) == len(read), "a row is there twice"
    return dict(read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("archive", type=Path)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--fast", action="store_true")
    given = parser.parse_args()
    state = conditions("torch", "onnxruntime", "openvino")
    with tempfile.TemporaryDirectory(prefix="opsin-volume-") as name:
        folder = Path(name)
        linked(given.archive, folder, given.pictures)
        linked(given.archive, folder / "few", given.pictures // PARTS)
        table = measured(given.model, folder, given.pictures, ["--fast"] if given.fast else [])
    write(
        "volume",
        "Prediction at volume, whole processes (`opsin predict --out`)",
        ["work", "rows in the file", "images/s", "peak memory, MiB"],
        table,
        conditions={"model": given.model, "fast": given.fast, **state},
        notes=[
            "images/s counts the start of the process, and the measuring of engines where it took place",
            "killed: SIGKILL at a third and at two thirds, then run to its end; every path stands there once, with the "
            "same answer as in the file that was not interrupted but for the share of labels given",
        ],
    )


def measured(model: str, folder: Path, n: int, options: list[str]) -> list[list[object]]:
    pictures, few = str(folder / "pictures"), str(folder / "few" / "pictures")
    small = called(["predict", model, few, "--out", str(folder / "few.csv"), *options])
    whole = called(["predict", model, pictures, "--out", str(folder / "whole.csv"), *options])
    expected = rows(folder / "whole.csv")
    assert len(expected) == n, f"{n} pictures and {len(expected)} rows"
    call, out = ["predict", model, pictures, "--out", str(folder / "out.csv"), *options], folder / "out.csv"
    killed = [called(call, until=n * third // 3, part=out) for third in (1, 2)]
    assert not out.exists(), "the file is there before it is whole"
    last = called(call)
    found = rows(out)
    assert set(found) == set(expected), "paths are missing"
    alike = sum(found[path] == expected[path] for path in expected) / n
    return [
        row(f"{n // PARTS:,} pictures", len(rows(folder / "few.csv")), n // PARTS, small),
        row(f"{n:,} pictures", len(expected), n, whole),
        [
            f"{n:,} pictures, killed twice, {100 * alike:.2f} % of labels as before",
            f"{len(found):,}",
            f"{n / sum(each.seconds for each in (*killed, last)):,.0f}",
            f"{max(each.mib for each in (*killed, last)):,.0f}",
        ],
    ]


def row(work: str, there: int, pictures: int, ended: Ended) -> list[object]:
    return [work, f"{there:,}", f"{pictures / ended.seconds:,.0f}", f"{ended.mib:,.0f}"]


if __name__ == "__main__":
    main()

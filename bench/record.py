"""What every benchmark writes: one JSON file in bench/results/, from which `publish.py` makes docs/benchmarks.md."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def conditions(*packages: str) -> dict[str, object]:
    """The machine, how busy it was, and the versions of what was compared."""
    found: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else "unknown",
        "python": platform.python_version(),
        "opsin": _revision(),
    }
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _revision() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or version("opsin")


def alternating(sides: Mapping[str, Callable[[], object]], *, rounds: int = 5) -> dict[str, list[float]]:
    """Seconds of every side, `rounds` times in turn after one call to warm up: a disturbance hits all sides alike."""
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def apart(make: Callable[..., Callable[[], object]], *args: object) -> Callable[[], object]:
    """The side that `make(*args)` gives, in a process of its own: what opsin sets for its process does not reach it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs, make, args)).start()  # no daemon: it may start workers of its own
    theirs.close()
    atexit.register(ours.close)  # which ends it

    def turn() -> object:
        ours.send("go")
        return ours.recv()

    return turn


def _serve(calls: Connection, make: Callable[..., Callable[[], object]], args: tuple[object, ...]) -> None:
    side = make(*args)
    with suppress(EOFError):  # when the benchmark is over
        while calls.recv():
            side()
            calls.send("done")


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median with smallest and largest: `1,208 (1,180 to 1,230)`."""
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def write(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    conditions: Mapping[str, object],
    notes: Sequence[str] = (),
) -> None:
    """Keep one table, and print it."""
    RESULTS.mkdir(exist_ok=True)
    table = {"title": title, "columns": columns, "rows": rows, "conditions": conditions, "notes": notes}
    (RESULTS / f"{name}.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(markdown(table))


def markdown(table: Mapping) -> str:
    """One table as a section of docs/benchmarks.md."""
    lines = [
        f"## {table['title']}",
        "",
        "| " + " | ".join(table["columns"]) + " |",
        "|---" * len(table["columns"]) + "|",
    ]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table["rows"]]
    lines += ["", *(f"- {note}" for note in table["notes"])]
    lines += ["- " + " · ".join(f"{key} {value}" for key, value in table["conditions"].items()), ""]
    return "\n".join(lines)

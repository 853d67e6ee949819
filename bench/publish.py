"""docs/benchmarks.md from bench/results/*.json: `python bench/publish.py`."""

from __future__ import annotations

import json
from pathlib import Path

from record import RESULTS, markdown

HEAD = """# Benchmarks

Made by `python bench/publish.py` from `bench/results/`, which the scripts in `bench/` wrote; do not edit.
Where nothing else is said, a figure is the median of five runs in which both sides took turns, with the smallest
and the largest. Losses are here too.
"""


def main() -> None:
    """Write the page."""
    tables = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    page = "\n".join([HEAD, *(markdown(table) for table in tables)])
    (Path(__file__).parent.parent / "docs" / "benchmarks.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

"""A finished run's accuracy on all its test pictures, and on those with and without a near-duplicate in training.

    python bench/leaked.py RUN DATA [FILE]

DATA is what RUN was trained on (cifar10-jpg.zip). The keys of the test pictures that train or val has too are read from
FILE, one a line; where it is not there they are looked for, which takes minutes for 60,000 pictures, and written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import record

from opsin import duplicates, sources, splits
from opsin.checks.splits import leaks
from opsin.checks.subject import Subject
from opsin.metrics.intervals import wilson
from opsin.vocabulary import Dataset, finished


def leaked(data: Dataset) -> set[str]:
    images = finished(duplicates.thumbnails(data))
    pairs = finished(duplicates.near([r.key for r in data.records], images)) + duplicates.same_bytes(data)
    return leaks(Subject(data), pairs)


def main() -> None:
    run, source, *rest = sys.argv[1:]
    file = Path(rest[0]) if rest else None
    if file and file.is_file():
        copies = set(file.read_text(encoding="utf-8").split("\n"))
    else:
        copies = leaked(splits.read(sources.read(source), Path(run) / "split.csv"))
        if file:
            file.write_text("\n".join(sorted(copies)), encoding="utf-8")
    with np.load(Path(run) / "logits" / "test.npz", allow_pickle=False) as saved:
        right = saved["logits"].argmax(axis=1) == saved["targets"]
        twice = np.isin(saved["keys"], sorted(copies))
    parts = {"all": np.ones(len(right), bool), "without near-duplicates": ~twice, "near-duplicates only": twice}
    rows = [
        [name, int(part.sum()), str(wilson(int(right[part].sum()), int(part.sum())))] for name, part in parts.items()
    ]
    record.write(
        f"leaked-{Path(source).stem}",
        f"Test pictures of {Path(source).name} that training has too",
        ["test pictures", "n", "accuracy [95 %]"],
        rows,
        conditions=record.conditions("numpy"),
        notes=[f"run {Path(run).name}; near-duplicates as opsin check finds them, in train or val"],
    )


if __name__ == "__main__":
    main()

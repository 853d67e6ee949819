"""What `opsin study` finds on a clothing classifier: `python bench/study.py jpeg | clahe | corruptions`, then `page`.

The classifier is that of `opsin train shared/data/clothing.zip --recipe probe`; the run is made where it is not there
yet. Answers are to the test part, or to every n-th of it (--every n). The page is written beside the run. `page`
puts the tables that were found into docs/study.md.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import record

import opsin
from opsin import studies
from opsin.runs import scoring
from opsin.studies import conclusions, page
from opsin.vocabulary import finished

PAGE = Path(__file__).parent.parent / "docs" / "study.md"
CLOTHING = Path(__file__).parent.parent.parent / "shared" / "data" / "clothing.zip"
STUDIES = {
    "jpeg": {"ops": ("jpeg:quality=1,2,5,10,20,30,50,70,85,95",)},
    "clahe": {"ops": ("clahe:clip=1,2,4,8",)},
    "corruptions": {"ops": (), "corruptions": True},
}


def table(found: studies.Study) -> tuple[list[str], list[list[object]]]:
    """Columns and rows: of what moves, or of corruptions by severity."""
    if found.corruptions:
        rows = [
            [
                name,
                *(f"{row.accuracy.value:.3f}{'*' if row.shown else ''}" for row in each),
                f"{conclusions.mean(each):.3f}",
            ]
            for name, each in conclusions.kinds(found).items()
        ]
        return ["accuracy at severity", "1", "2", "3", "4", "5", "mean"], rows
    columns = [found.moving, "accuracy", "difference, points", "p", "confidence", "same answer", "kB"]
    return columns, [line(row) for row in (found.original, *found.rows)]


def line(row: studies.Row) -> list[object]:
    between = ""
    if row.difference:
        low, high = (f"{100 * bound:+.1f}" for bound in (row.difference.low, row.difference.high))
        between = f"{100 * row.difference.value:+.1f} [{low}, {high}]{'*' if row.shown else ''}"
    name = conclusions.text(row.value) if row.name else "as they are"
    size = "" if row.bytes is None else f"{row.bytes / 1000:,.1f}"
    return [
        name,
        row.accuracy,
        between,
        conclusions.chance(row.p),
        f"{row.confidence:.3f}",
        f"{row.agreement:.3f}",
        size,
    ]


def write_page() -> None:
    """Put each table into its place in docs/study.md."""
    text = PAGE.read_text(encoding="utf-8")
    for name in STUDIES:
        file = record.RESULTS / f"study-{name}.json"
        if not file.exists():
            continue
        kept = json.loads(file.read_text(encoding="utf-8"))
        table = record.markdown(kept).partition("\n\n")[2].strip()
        begin, end = f"<!-- study-{name} -->", "<!-- end -->"
        written = f"{begin}\n\n{table}\n\n{end}"
        text = re.sub(f"{begin}.*?{end}", lambda _, written=written: written, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*STUDIES, "page"])
    parser.add_argument("--data", type=Path, default=CLOTHING)
    parser.add_argument("--run", type=Path, default=Path("runs/study-clothing"))
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args()
    if asked.study == "page":
        return write_page()
    conditions = record.conditions("torch", "opencv-python-headless", "simplejpeg")
    data = opsin.read(asked.data)
    clf = opsin.load(asked.run) if asked.run.exists() else opsin.train(data, "probe", out=asked.run).classifier
    _, tested = finished(scoring.part_of(clf, data, None))
    keys = {each.key for each in tested.records[:: asked.every]}
    few = tested.where(lambda each: each.key in keys)
    how = STUDIES[asked.study]
    found = finished(studies.studying(clf, few, *how["ops"], corruptions=how.get("corruptions", False), part="all"))
    found = replace(found, part="test")
    columns, rows = table(found)
    part = "every test picture" if asked.every == 1 else f"one test picture in {asked.every}"
    what = found.moving if not found.corruptions else "corruptions"
    record.write(
        f"study-{asked.study}",
        f"A study of {what}: clothing, recipe probe",
        columns,
        [[str(cell) for cell in row] for row in rows],
        conditions={**conditions, "pictures": f"{found.n}, {part}"},
        notes=[*conclusions.sentences(found), "* a difference from the pictures as they are is shown"],
    )
    print(page.write(found, asked.run / f"study-{asked.study}"))
    return None


if __name__ == "__main__":
    main()

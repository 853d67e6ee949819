"""The report as one HTML page: findings with their pictures side by side, and choices that save as fixes.csv."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import codecs
from ..isolation import Decoder
from ..vocabulary import Dataset, Finding
from .looks import small
from .subject import labelled

SHOWN = 200  # pictures of one finding; the JSON has all
TEMPLATE = Path(__file__).with_name("page.html")


def html(data: Dataset, findings: Sequence[Finding]) -> str:
    """The page. Names of files and classes are escaped; it loads nothing, and sends nothing anywhere."""
    from jinja2 import Environment

    classes = {record.key: labelled(data, record) for record in data.records}
    splits = {record.key: record.split or "" for record in data.records}
    shown = [(finding, _shown(finding)) for finding in findings]
    with Decoder() as decoder:
        pictures = {key: _picture(data, key, decoder) for key in _each(shown) if key in classes}
    # What is a text in Python is one in the page: no template is made of data.
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(data=data, classes=classes, splits=splits, findings=shown, pictures=pictures)
    # A file's name need not be UTF-8; the page must.
    return page.encode("utf-8", "replace").decode("utf-8")


def _shown(finding: Finding) -> list[tuple[str, ...]]:
    """The first SHOWN records of a finding, as they belong together."""
    grouped = finding.together or tuple((key,) for key in finding.records)
    rows: list[tuple[str, ...]] = []
    left = SHOWN
    for group in grouped:
        if left <= 0:
            break
        rows.append(group[:left])
        left -= len(group)
    return rows


def _each(shown: Sequence[tuple[Finding, list[tuple[str, ...]]]]) -> list[str]:
    return sorted({key for _, rows in shown for row in rows for key in row})


def _picture(data: Dataset, key: str, decoder: Decoder) -> Any:
    picture = small(data, key, decoder)
    if picture is None:
        return ""
    return "data:image/png;base64," + base64.b64encode(codecs.encode_png(picture)).decode()

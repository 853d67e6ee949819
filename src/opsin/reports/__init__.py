"""What was found, in forms that leave the program; predictions do in `tables`.

    a run, a test ─> contents ─┬─> report.html, one page with nothing outside of it
                               ├─> report.json, the same
                               └─> sections of the model card

All three hold the same.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import errors
from ..vocabulary import Store
from . import page
from .card import markdown
from .contents import Answers, of_classifier, of_run

__all__ = ["Answers", "framed", "markdown", "of_classifier", "of_run", "write"]


def write(contents: Mapping[str, Any], folder: Path, *, store: Store | None = None, pictures: bool = True) -> Path:
    """Write report.html and report.json into `folder`; the page's path.

    Args:
        contents: as `of_run` or `of_classifier` gave them.
        store: where the pictures of mistakes are.
        pictures: whether the page may hold small copies of them; not for data that must not leave.

    Raises:
        MachineError: when they cannot be written.
    """
    thumbnails = page.thumbnails(store, page.shown(contents)) if store is not None and pictures else {}
    plain = json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _write(folder / "report.json", plain.encode(errors="surrogateescape"))
    _write(folder / "report.html", page.render(contents, thumbnails).encode())
    return folder / "report.html"


def framed(page: str) -> str:
    """A page as a frame for a notebook: its styles stay inside, and nothing in it may run."""
    quoted = html.escape(page, quote=True)
    return f'<iframe srcdoc="{quoted}" sandbox title="report" style="width:100%;height:40rem;border:0"></iframe>'


def _write(file: Path, data: bytes) -> None:
    with errors.replacing(file) as part:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)

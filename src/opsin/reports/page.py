"""The report as one HTML page: no script, no request, nothing that is not in it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import numpy as np
import torch

from .. import codecs, errors
from ..vocabulary import Store
from . import contents as reporting
from . import tasks

THUMBNAIL = 112  # pixels of the longer side
HEAT = 25  # the most classes whose confusion matrix is drawn
ROWS = 20  # of a table; the rest is folded away


def render(contents: Mapping[str, Any], pictures: Mapping[str, str] | None = None) -> str:
    """The page as text. All names are escaped: they come from files of strangers.

    Args:
        contents: what `contents.of_run` or `contents.of_classifier` gave.
        pictures: key → data URL, as `thumbnails` gives them; none are shown by default.
    """
    from jinja2 import Environment, StrictUndefined

    text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "score": score, "points": points, "number": number}
    page = environment.from_string(text).render(
        c=contents,
        pictures=pictures or {},
        splits=reporting.splits_of(contents),
        classes=by_f1(contents["scores"]),
        columns=tasks.rows(contents["scores"]["per_class"]),
        curves=curves(contents["learning"]),
        heat=HEAT,
        rows=ROWS,
        few=reporting.FEW,
    )
    return page.encode(errors="surrogateescape").decode(errors="replace")  # names whose bytes are no UTF-8


def style() -> str:
    """The style sheet of the report, light and dark, for other pages of one look."""
    text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return text.partition("<style>")[2].partition("</style>")[0]


def thumbnails(store: Store, keys: Iterable[str]) -> dict[str, str]:
    """Small copies of pictures as data URLs, by key; what cannot be read is left out."""
    found = {}
    for key in dict.fromkeys(keys):
        try:
            png = codecs.encode_png(smaller(codecs.decode(store.read(key))))
        except errors.PictureError:
            continue
        found[key] = "data:image/png;base64," + base64.b64encode(png).decode()
    return found


def smaller(picture: np.ndarray) -> np.ndarray:
    """The picture, uint8 `(H, W, 3)`, with a longer side of at most THUMBNAIL."""
    scale = THUMBNAIL / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = [max(1, round(side * scale)) for side in picture.shape[:2]]
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def shown(contents: Mapping[str, Any]) -> list[str]:
    """The keys of the pictures that the page shows."""
    return [
        *(key for pair in contents["confusions"] for key in pair["keys"]),
        *(mistake["key"] for mistake in contents["mistakes"]),
    ]


# ---- how values are written


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage; "–" where there is none."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def score(found: Mapping[str, Any]) -> str:
    """A score with its interval, in percent."""
    if found["value"] is None:
        return "–"
    return f"{100 * found['value']:.1f} % [{100 * found['low']:.1f} – {100 * found['high']:.1f}]"


def number(found: Mapping[str, Any]) -> str:
    """A score with its interval, as a number of its own unit."""
    if found["value"] is None:
        return "–"
    between = "no interval" if found["low"] is None else f"{found['low']:.4g} – {found['high']:.4g}"
    return f"{found['value']:.4g} [{between}]"


def points(share: float) -> str:
    """A share as a number of hundred, without a sign: for coordinates."""
    return f"{100 * share:.2f}"


def by_f1(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The tested classes with their scores, the worst F1 first; quantities as they come."""
    if scores.get("task") == "regression":
        return [*scores["per_class"].items()]
    return sorted(scores["per_class"].items(), key=lambda pair: (pair[1]["F1"]["value"], pair[0]))


# ---- learning curves


def curves(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two charts, losses and validation scores: their lines as points in a box of 100 × 100, y down."""
    charts = (
        ("Loss (smaller is better)", {"training loss": "training", "loss": "validation"}, False),
        ("Validation scores (larger is better)", {"accuracy": "accuracy", "macro F1": "macro F1"}, True),
        ("Mean average precision on validation (larger is better)", {"mAP": "mAP"}, True),
        ("Mean absolute error on validation (smaller is better)", {"MAE": "MAE"}, False),
    )
    found = []
    for title, names, share in charts:
        lines = {label: [e[name] for e in epochs if name in e] for name, label in names.items()}
        lines = {label: values for label, values in lines.items() if values and all(map(math.isfinite, values))}
        if lines and len(epochs) > 1:
            found.append(_chart(title, lines, share))
    return found


def _chart(title: str, lines: Mapping[str, list[float]], share: bool) -> dict[str, Any]:
    low = 0.0 if share else min(min(values) for values in lines.values())
    high = 1.0 if share else max(max(values) for values in lines.values())
    span = (high - low) or 1.0

    def path(values: list[float]) -> str:
        width = max(len(values) - 1, 1)
        return " ".join(f"{100 * i / width:.2f},{100 - 100 * (v - low) / span:.2f}" for i, v in enumerate(values))

    ends = [100 - 100 * (values[-1] - low) / span for values in lines.values()]
    near = len(ends) == 2 and abs(ends[0] - ends[1]) < 9
    apart = [-8 if end == min(ends) else 8 for end in ends] if near and ends[0] != ends[1] else [-8, 8]
    return {
        "title": title,
        "low": percent(low, 0) if share else f"{low:.2f}",
        "high": percent(high, 0) if share else f"{high:.2f}",
        "epochs": max(len(values) for values in lines.values()),
        "lines": [
            {
                "label": label,
                "path": path(values),
                "end": end,
                "shift": shift if near else 0,
                "last": percent(values[-1]) if share else f"{values[-1]:.3f}",
                "first": percent(values[0]) if share else f"{values[0]:.3f}",
            }
            for (label, values), end, shift in zip(lines.items(), ends, apart)
        ],
    }

"""Writes docs/ops.jpg, every operation on one photograph, and the tables of docs/ops.md: `python docs/ops_page.py`.

And docs/images/corruptions.jpg, every corruption on the same photograph.

The photograph is scikit-image's `astronaut` (NASA, public domain).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage

from opsin import codecs, encoding, ops
from opsin.corruptions import CORRUPTIONS, corrupt, generator
from opsin.ops import OPS, Op
from opsin.params import Parameter

HERE = Path(__file__).parent
SIDE, LINE, COLUMNS = 112, 15, 9  # of a tile, of its caption, pixels; tiles in a row
BEGIN, END = "<!-- written by ops_page.py -->", "<!-- end -->"

# Where the default would show nothing, or something else shows more.
SHOWN: dict[str, dict[str, object]] = {
    "resize": {"side": 24},
    "crop": {"left": 60, "top": 10, "width": 130, "height": 130},
    "centre_crop": {"width": 150, "height": 150},
    "pad": {"border": "reflect", "left": 60, "right": 60, "top": 60, "bottom": 60},
    "letterbox": {"width": 256, "height": 150},
    "rotate": {"angle": 30.0},
    "perspective": {"corners": "0.2 0.15 0.85 0 1 1 0 0.8"},
    "clahe": {"clip": 4.0},
    "non_local_means": {"strength": 0.08},
    "median": {"radius": 3},
    "total_variation": {"weight": 0.2},
    "bilateral": {"sigma": 5.0, "tolerance": 0.3},
    "jpeg": {"quality": 6.0},
    "webp": {"quality": 1.0},
    "avif": {"quality": 8.0},
    "png": {"colours": 6},
    "slic": {"segments": 80},
    "grabcut": {"left": 0.12, "top": 0.0, "right": 0.92, "bottom": 1.0},
    "adaptive": {"radius": 20},
    "components": {"smallest": 60},
    "kmeans": {"classes": 5},
}


def photograph() -> np.ndarray:
    """uint8 (256, 256, 3)."""
    return ops.resize(np.ascontiguousarray(skimage.data.astronaut()[:400, 30:430]), side=256)


def shown(op: Op, photo: np.ndarray) -> tuple[np.ndarray, str]:
    """The operation's result as a picture, and what is written below it."""
    settings = SHOWN.get(op.name, {})
    if op.reference and op.kind == "image":
        return op.function(photo, skimage.data.coffee()), op.name
    other = (ops.jpeg(photo, quality=20),) if op.reference else ()
    result = op.function(photo, *(codecs.decode(data) for data in other), **settings)
    if op.kind == "bytes":
        return codecs.decode(result), f"{op.name} {len(result) / 1000:.1f} kB"
    if op.kind == "map":
        return ops.overlay(photo, result, strength=0.6), op.name
    if op.kind == "number":
        return codecs.decode(other[0]) if other else photo, f"{op.name} {result:.4g}"
    return result, op.name


def tile(picture: np.ndarray, caption: str) -> np.ndarray:
    """uint8 (SIDE + LINE, SIDE, 3): the picture in a square, with its caption."""
    small = min(picture.shape[:2]) < 64
    scale = SIDE / max(picture.shape[:2])
    width, height = (max(1, round(length * scale)) for length in picture.shape[1::-1])
    fitted = ops.resize(picture, width=width, height=height, mode="nearest" if small else "bilinear")
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    square = ops.pad(fitted, left=left, right=SIDE - width - left, top=top, bottom=SIDE - height - top, fill=1.0)
    text = np.full((LINE, SIDE, 3), 255, np.uint8)
    cv2.putText(text, caption, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.37, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([square, text])


def sheet() -> np.ndarray:
    """uint8 (H, W, 3): the photograph, then every operation of the table."""
    photo = photograph()
    return joined([tile(photo, "the photograph"), *(tile(*shown(op, photo)) for op in OPS.values())])


def corrupted() -> np.ndarray:
    """uint8 (H, W, 3): each corruption at severities 1, 3 and 5."""
    photo = ops.resize(photograph(), side=224)
    return joined(
        [
            tile(corrupt(photo, name, severity, generator(0, "astronaut", name)), f"{name} {severity}")
            for name in CORRUPTIONS
            for severity in (1, 3, 5)
        ]
    )


def joined(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles in rows of COLUMNS."""
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    grown = [np.pad(each, ((4, 2), (4, 4), (0, 0)), constant_values=255) for each in tiles]
    rows = [np.concatenate(grown[start : start + COLUMNS], axis=1) for start in range(0, len(grown), COLUMNS)]
    return np.concatenate(rows)


def tables() -> Iterator[str]:
    """A table for each family: operation, what it makes, parameters with their defaults and bounds, what it does."""
    for family in ops.FAMILIES:
        name = family.__name__.rpartition(".")[2]
        yield f"## {name.capitalize()}\n"
        yield (family.__doc__ or "").strip().replace("\n\n", "\n").replace("\n", " ") + "\n"
        yield "| operation | makes | parameters | what it does |\n|---|---|---|---|"
        yield from (row(OPS[function.op.name]) for function in family.FAMILY)
        yield ""


def row(op: Op) -> str:
    told = "<br>".join(map(parameter, op.parameters)) or "none"
    return f"| `{op.name}` | {op.kind} | {told} | {op.summary.replace('|', chr(92) + '|')} |"


def parameter(declared: Parameter) -> str:
    allowed = ", ".join(declared.choices) or declared.bounds
    return f"`{declared.name}={declared.default}` {declared.doc}" + (f" ({allowed})" if allowed else "")


def page(text: str) -> str:
    """docs/ops.md with its tables as they are now."""
    written = "\n".join([BEGIN, "", *tables(), END])
    return re.sub(f"{BEGIN}.*{END}", lambda _: written, text, flags=re.DOTALL)


if __name__ == "__main__":
    for name, picture in (("ops.jpg", sheet()), ("images/corruptions.jpg", corrupted())):
        data = encoding.jpeg(picture, quality=90, subsampling="4:4:4")  # a palette would change the colours
        (HERE / name).write_bytes(data)
        print(f"{name} {len(data):,} bytes")
    file = HERE / "ops.md"
    file.write_text(page(file.read_text(encoding="utf-8")), encoding="utf-8")

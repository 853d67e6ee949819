"""What `opsin check` finds of what is known to be there.

    python bench/duplicates.py planted | cifar10 | labels | shortcut     (data: ../shared/data)

`planted`: the thresholds of `duplicates` were set on clothing.zip; sign-digits and trashnet-small only measure them.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record
from PIL import Image, ImageEnhance, ImageOps

from opsin import checks, codecs, duplicates, sources
from opsin.checks import labels, looks, shortcuts
from opsin.checks.subject import Subject
from opsin.vocabulary import Dataset, finished

DATA = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[2] / "shared" / "data"
EACH = 30  # leaks of a kind
SHEET = Path(__file__).parents[1] / "docs" / "pictures" / "cifar10-near-duplicates.png"


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def cropped(image: Image.Image, keep: float, rng: np.random.Generator) -> Image.Image:
    """`keep` of each side, anywhere."""
    left, top = rng.uniform(0, 1 - keep, 2)
    width, height = image.size
    return image.crop(
        (round(width * left), round(height * top), round(width * (left + keep)), round(height * (top + keep)))
    )


def inner(image: Image.Image) -> Image.Image:
    """Without 5 % on each side."""
    left, top = round(image.width * 0.05), round(image.height * 0.05)
    return image.crop((left, top, image.width - left, image.height - top))


def leaks(rng: np.random.Generator) -> dict[str, Callable[[Image.Image], bytes]]:
    def smaller(image: Image.Image) -> Image.Image:
        return image.resize(
            (max(1, round(image.width * 0.7)), max(1, round(image.height * 0.7))), Image.Resampling.BICUBIC
        )

    return {
        "encoded anew at quality 60": lambda image: jpeg(image, 60),
        "resized to 70 %": lambda image: jpeg(smaller(image)),
        "mirrored": lambda image: jpeg(ImageOps.mirror(image)),
        "cropped to 95 % of each side": lambda image: jpeg(cropped(image, 0.95, rng)),
        "cropped to 90 %, 5 % from each side": lambda image: jpeg(inner(image)),
        "brightness 1.2": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.2)),
        "brightness 0.7": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.7)),
    }


def thumbnails(data: Dataset) -> np.ndarray:
    """As the quick pass makes them."""
    return np.stack([quick(data.store.read(r.key)) for r in data.records])


def quick(content: bytes) -> np.ndarray:
    return duplicates.thumbnail(codecs.decode(content, reduced=duplicates.reduction(content, duplicates.ENOUGH)))


def planted() -> None:
    rows = []
    for name in ("clothing", "sign-digits", "trashnet-small"):
        data, rng = sources.read(DATA / f"{name}.zip"), np.random.default_rng(0)
        clean = thumbnails(data)
        keys = [record.key for record in data.records]
        accused = {key for pair in finished(duplicates.near(keys, clean)) for key in (pair.first, pair.second)}
        row: list[object] = [name, len(data), f"{len(accused)} ({len(accused) / len(data):.2%})"]
        for kind, make in leaks(rng).items():
            chosen = rng.choice(len(data), EACH, replace=False)
            made = []
            for at in chosen:
                upright = Image.fromarray(codecs.decode(data.store.read(keys[at])))
                made.append(quick(make(upright)))
            names = [*keys, *(f"leak {keys[at]}" for at in chosen)]
            pairs = finished(duplicates.near(names, np.concatenate([clean, np.stack(made)])))
            caught = {frozenset((pair.first, pair.second)) for pair in pairs}
            found = sum(frozenset((keys[at], f"leak {keys[at]}")) in caught for at in chosen)
            row.append(f"{found}/{EACH}")
            print(name, kind, found, flush=True)
        rows.append(row)
    columns = ["data", "pictures", "of them accused as they come", *leaks(np.random.default_rng(0))]
    record.write(
        "near-duplicates",
        "Near-duplicates that were planted",
        columns,
        rows,
        conditions=record.conditions("numpy", "pillow"),
        notes=[
            "thresholds set on clothing; accused pictures may well be duplicates that the set has",
            f"NEAR {duplicates.NEAR}, SURE {duplicates.SURE}, {duplicates.NEIGHBOURS} neighbours",
        ],
    )


def cifar10() -> None:
    data = sources.read(DATA / "cifar10-jpg.zip")
    start = time.perf_counter()
    images = thumbnails(data)
    seen = time.perf_counter()
    pairs = finished(duplicates.near([r.key for r in data.records], images))
    done = time.perf_counter()
    subject = Subject(data)
    across = [p for p in pairs if subject.split_of[p.first] != subject.split_of[p.second]]
    leaked = checks.splits.leaks(subject, pairs)
    other = sum(subject.class_of[p.first] != subject.class_of[p.second] for p in across)
    sheet(data, [across[at] for at in np.random.default_rng(0).permutation(len(across))[:50]])
    rows = [
        [
            len(data),
            len(leaked),
            f"{len(leaked) / 10_000:.2%}",
            len(across),
            other,
            round(seen - start),
            round(done - seen),
        ]
    ]
    columns = [
        "pictures",
        "test pictures that train has too",
        "of the test",
        "pairs across",
        "of two classes",
        "s to decode",
        "s for all pairs",
    ]
    record.write(
        "cifar10-near-duplicates",
        "Near-duplicates across train and test of CIFAR-10 (as JPEG)",
        columns,
        rows,
        conditions=record.conditions("numpy"),
        notes=["ciFAIR (Barz and Denzler 2020) counts 3.25 % by hand"],
    )
    for part in np.array_split(sorted(p.similarity for p in across), 4):
        print("quartile", part.min(), part.max(), len(part))


def sheet(data: Dataset, pairs: list[duplicates.Pair]) -> None:
    """The pairs, ten a row, the first above the second."""
    page = Image.new("RGB", (10 * 72, 5 * 140), "white")
    for number, pair in enumerate(pairs):
        for place, key in enumerate((pair.first, pair.second)):
            image = Image.fromarray(codecs.decode(data.store.read(key))).resize((64, 64), Image.Resampling.NEAREST)
            page.paste(image, (number % 10 * 72 + 4, number // 10 * 140 + 4 + place * 66))
    SHEET.parent.mkdir(exist_ok=True)
    page.save(SHEET, optimize=True)


def probed(name: str) -> looks.Looks:
    from opsin.checks import probes

    return finished(looks.look(sources.read(DATA / f"{name}.zip"), probe=probes.pretrained()))


def wrong_labels() -> None:
    rows = []
    for name in ("sign-digits", "clothing"):
        seen = probed(name)
        true = np.array([r.target for r in seen.data.records])
        k, rng = len(seen.data.classes), np.random.default_rng(0)
        changed = rng.choice(len(true), len(true) // 20, replace=False)
        given = true.copy()
        given[changed] = (true[changed] + rng.integers(1, k, len(changed))) % k
        rows_, _ = labels.suspect_rows(labels.out_of_fold(seen.vectors, given, k), given)
        first = set(rows_[: len(changed)].tolist())
        hit, hit_all = len(first & set(changed.tolist())), len(set(rows_.tolist()) & set(changed.tolist()))
        clean, _ = labels.suspect_rows(labels.out_of_fold(seen.vectors, true, k), true)
        rows.append(
            [
                name,
                len(true),
                len(changed),
                f"{hit / max(len(first), 1):.1%}",
                f"{hit / len(changed):.1%}",
                len(rows_),
                f"{hit_all / len(changed):.1%}",
                f"{len(clean)} ({len(clean) / len(true):.1%})",
            ]
        )
    columns = [
        "data",
        "pictures",
        "labels changed",
        "precision of that many",
        "recall of that many",
        "all suspects",
        "their recall",
        "suspects before any change",
    ]
    record.write(
        "wrong-labels",
        "Labels that were changed on purpose",
        columns,
        rows,
        conditions=record.conditions("scikit-learn", "torch"),
        notes=["EfficientNet-Lite0 at 160 px, frozen; 5 folds"],
    )


def shortcut() -> None:
    """Findings on sign-digits and trashnet as they come, and with a grey border around one class."""
    for name in ("sign-digits", "trashnet-small"):
        data = sources.read(DATA / f"{name}.zip")
        pictures = {r.key: codecs.decode(data.store.read(r.key)) for r in data.records}
        for planted_ in (False, True):
            facts = []
            for r in data.records:
                picture = pictures[r.key].copy()
                if planted_ and r.target == 3:
                    for side in (np.s_[:3], np.s_[-3:], np.s_[:, :3], np.s_[:, -3:]):
                        picture[side] = 128
                facts.append(looks.facts(picture, r.size))
            blank = np.zeros((len(facts), duplicates.SIDE, duplicates.SIDE), np.uint8)
            seen = looks.Looks(data, blank, np.array(facts, np.float32), ("JPEG",) * len(facts))
            for finding in shortcuts.shortcuts(Subject(data, seen)):
                print(name, "planted" if planted_ else "as it comes", "|", finding.severity, finding.text)


PARTS = {"planted": planted, "cifar10": cifar10, "labels": wrong_labels, "shortcut": shortcut}

if __name__ == "__main__":
    PARTS[sys.argv[1]]()

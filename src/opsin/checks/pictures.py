"""Files that give no picture, and pictures that are unlike pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from ..vocabulary import Finding
from .looks import Looks
from .subject import Subject, share

# What is in the way on purpose, or belongs to the system: told in passing, not as damage.
HARMLESS = frozenset({"hidden", "not-a-picture", "no-class", "duplicate-row", "same-picture", "mask"})
UNEVEN_GRAY = 0.05  # of the pictures that may be gray among coloured ones to count as odd

ODD: dict[str, tuple[str, Callable[[Looks], np.ndarray]]] = {
    "dark": ("mean below 20 of 255", lambda looks: _mean(looks) < 20),
    "bright": ("mean above 243 of 255", lambda looks: _mean(looks) > 243),
    "flat": ("contrast below 5 of 255", lambda looks: looks.fact("contrast") < 5),
    "blurred": ("far less sharp than the others", lambda looks: _blurred(looks)),
    "tiny": ("a side under 16 pixels, or under a quarter of the others'", lambda looks: _tiny(looks)),
    "narrow": ("over four times as long as wide", lambda looks: _aspect(looks) > 4),
    "gray": ("gray among coloured pictures", lambda looks: _gray(looks)),
}


def unreadable(subject: Subject) -> list[Finding]:
    """Files that were refused, with their codes."""
    refused = (subject.looks.data if subject.looks else subject.data).refused
    found = []
    for harmless in (False, True):
        some = [refusal for refusal in refused if (refusal.code in HARMLESS) == harmless]
        if not some:
            continue
        codes = ", ".join(f"{n:,} {code}" for code, n in Counter(r.code for r in some).most_common())
        found.append(
            Finding(
                "unreadable",
                "note" if harmless else "warning",
                f"{len(some):,} {'entries that are no pictures of a class' if harmless else 'refused files'}: {codes}",
                "they are left out, and nothing stands in their place",
                "nothing, if that is meant so" if harmless else "copy them again from where they came, or delete them",
                tuple(refusal.key for refusal in some),
                details={refusal.key: f"{refusal.code}: {refusal.reason}" for refusal in some},
            )
        )
    return found


def odd(subject: Subject) -> list[Finding]:
    """Dark, bright, flat, blurred, tiny, narrow pictures, and gray ones among coloured."""
    looks = subject.looks
    if looks is None or not len(looks.data):
        return []
    said: dict[str, list[str]] = {}
    counts = Counter[str]()
    for name, (why, is_odd) in ODD.items():
        for row in np.flatnonzero(is_odd(looks)):
            said.setdefault(looks.data.records[row].key, []).append(f"{name}: {why}")
            counts[name] += 1
    if not said:
        return []
    listed = ", ".join(f"{n:,} {name}" for name, n in counts.most_common())
    return [
        Finding(
            "odd",
            "note",
            f"{share(len(said), len(looks.data))} pictures are odd: {listed}",
            "little can be learned from some of them; others are how your camera is",
            "look at them; exclude what shows nothing",
            tuple(said),
            details={key: "; ".join(why) for key, why in said.items()},
        )
    ]


def _mean(looks: Looks) -> np.ndarray:
    means: np.ndarray = (looks.fact("red") + looks.fact("green") + looks.fact("blue")) / 3
    return means


def _blurred(looks: Looks) -> np.ndarray:
    """Steps between neighbours, of the contrast that there is, under a quarter of what one in ten has."""
    relative = looks.fact("sharpness") / (looks.fact("contrast") + 1)
    result: np.ndarray = (relative < np.quantile(relative, 0.1) / 4) & (looks.fact("contrast") >= 5)
    return result


def _tiny(looks: Looks) -> np.ndarray:
    shorter = np.minimum(looks.fact("width"), looks.fact("height"))
    usual = np.median(shorter)
    result: np.ndarray = (shorter < min(16, usual)) | (shorter < usual / 4)
    return result


def _aspect(looks: Looks) -> np.ndarray:
    width, height = looks.fact("width"), looks.fact("height")
    longer: np.ndarray = np.maximum(width, height) / np.minimum(width, height)
    return longer


def _gray(looks: Looks) -> np.ndarray:
    spread = np.abs(looks.fact("red") - looks.fact("green")) + np.abs(looks.fact("green") - looks.fact("blue"))
    gray: np.ndarray = (spread < 0.1) & (np.abs(looks.fact("border red") - looks.fact("border blue")) < 0.1)
    return gray if gray.mean() < UNEVEN_GRAY else np.zeros_like(gray)

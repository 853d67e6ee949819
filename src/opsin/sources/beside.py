"""What lies beside pictures and is none to learn from: masks, and annotations of other tools.

Careful on purpose: a class that is left out silently is worse than a mask that is seen in `opsin check`. A mask is left
out only where its picture is there too, and whatever is left out is counted in a note and listed with its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ..vocabulary import Refusal
from .listing import Entry, Listing

MASK = re.compile(r"(.+?)[ _.-](?:masks?|seg|segmentation)(?:[ _-]?\d+)?")
LOSSLESS = (".png", ".bmp", ".gif", ".tif", ".tiff")  # a mask is not kept as JPEG; `face_mask.jpg` is a photograph
PICTURES = {"images", "image", "imgs", "img", "pictures", "photos"}  # the folder beside which …
MASKS = {"masks", "mask", "segmentation", "segmentations", "ground_truth", "gt"}  # … this one is no class
ANNOTATIONS = (".txt", ".json", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".mat", ".npy", ".npz", ".h5", ".geojson")


def set_aside(listing: Listing) -> list[str]:
    """Take masks out of a listing, into its refused ones; what there is to tell of them and of annotations."""
    masks = {entry.key: reason for entry, reason in (*_named(listing.entries), *_in_folders(listing.entries))}
    listing.entries = [entry for entry in listing.entries if entry.key not in masks]
    listing.refused += [Refusal(key, "mask", reason) for key, reason in sorted(masks.items())]
    _close_empty(listing, {key.rpartition("/")[0] for key in masks})
    notes = [f"{len(masks):,} masks left out, such as {min(masks)!r}: {masks[min(masks)]}"] if masks else []
    return notes + _annotations(listing)


def _parts(key: str) -> tuple[str, str, str]:
    """Folder, stem and ending, both in small letters but for the folder."""
    folder, _, name = key.rpartition("/")
    stem, dot, ending = name.lower().rpartition(".")
    return (folder, stem, dot + ending) if dot else (folder, name.lower(), "")


def _named(entries: list[Entry]) -> Iterator[tuple[Entry, str]]:
    """`a_mask.png` beside `a.jpg`."""
    there = {(folder, stem) for folder, stem, _ in (_parts(entry.key) for entry in entries)}
    for entry in entries:
        folder, stem, ending = _parts(entry.key)
        found = MASK.fullmatch(stem) if ending in LOSSLESS else None
        if found and (folder, found[1]) in there:
            yield entry, "it is named after the picture beside it"


def _in_folders(entries: list[Entry]) -> Iterator[tuple[Entry, str]]:
    """`masks/a.png` where there is `images/a.jpg`, at any depth; all of such a folder or nothing of it."""
    pictures: set[str] = set()
    folders: dict[str, list[tuple[Entry, str]]] = {}
    for entry in entries:
        folder, stem, _ = _parts(entry.key)
        parts = folder.split("/")
        for depth, part in enumerate(parts):
            place = "/".join((*parts[:depth], "*", *parts[depth + 1 :]))
            if part.lower() in PICTURES:
                pictures.add(f"{place}/{stem}")
            elif part.lower() in MASKS:
                found = MASK.fullmatch(stem)
                masks = folders.setdefault("/".join(parts[: depth + 1]), [])
                masks.append((entry, f"{place}/{found[1] if found else stem}"))
    for folder, masks in folders.items():
        if all(picture in pictures for _, picture in masks):
            reason = f"everything in {folder!r} is named like a picture in the folder of pictures beside it"
            yield from ((entry, reason) for entry, _ in masks)


def _close_empty(listing: Listing, left: set[str]) -> None:
    """Forget the folders that held masks and hold no picture now: they are no classes, and wrap nothing."""
    used = {"/".join(parts[:n]) for e in listing.entries for parts in [e.key.split("/")] for n in range(1, len(parts))}
    above = {"/".join(parts[:n]) for f in left for parts in [f.split("/")] for n in range(1, len(parts) + 1)}
    listing.folders -= above - used


def _annotations(listing: Listing) -> list[str]:
    """How many files of other tools lie there, by their endings: named after a picture, or called annotations."""
    stems = {_parts(entry.key)[1] for entry in listing.entries}
    others = [_parts(refusal.key) for refusal in listing.refused if refusal.code in ("not-a-picture", "empty")]
    counted = Counter(
        ending
        for _, stem, ending in others
        if ending in ANNOTATIONS and (stem in stems or "annotation" in stem or "label" in stem)
    )
    if not counted:
        return []
    listed = ", ".join(f"{n:,} {ending}" for ending, n in counted.most_common())
    return [
        f"{counted.total():,} side files left out ({listed}): classes come from folders, or from a table given as DATA"
    ]

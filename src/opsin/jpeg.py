"""The header of a JPEG file (ITU-T T.81, annex B): all that comes before its first scan, and no pixel.

Segments are walked by the steps of Pillow, which would take any number of them and jumps over what should not be there.
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import PictureError

# Pillow takes 0.5 µs for a fill byte, and copies all Exif segments for each further one: 2 s for 24 MiB, a minute for
# 128. Colour profiles have at most 16 MiB.
MOST_STEPS = 4096
MOST_BEFORE = 24 * 2**20

_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_HUFFMAN = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_SEGMENTS = frozenset({*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xF0), 0xFE})  # those with a length
# Exif and XMP, which may turn a picture, and profiles, which may colour it; and what belongs to hierarchical files.
_TELLING = frozenset({0xE1, 0xE2, 0xDC, 0xDE, 0xDF})


class Header(NamedTuple):
    """What a header tells. Its frame is the last, as it is for Pillow; without one, height and width are 0."""

    scan: int  # where the first scan begins
    height: int
    width: int
    components: int
    plain: bool  # eight bits, one or three components, Huffman codes, no metadata that bears on the pixels, no oddity


def header(data: bytes) -> Header:
    """The header of `data`, which begins as JPEGs do.

    Raises:
        PictureError: `corrupt`: over 4,096 segments and fill bytes, or 24 MiB, before the first scan.
    """
    at, height, width, components, plain, frames = 2, 0, 0, 0, True, 0
    for _ in range(MOST_STEPS):
        mark = data[at : at + 2]
        if mark in (b"\xff\xda", b""):
            return Header(at, height, width, components, plain and frames == 1 and min(height, width) > 0)
        if at > MOST_BEFORE:
            break
        code = mark[1] if len(mark) == 2 and mark[0] == 0xFF else 0
        if code not in _SEGMENTS:  # a fill byte, a marker that is all of its segment, or what should not be there
            at, plain = data.find(b"\xff", at + 1) % (len(data) + 1), False  # -1 becomes the end
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        plain = plain and code not in _TELLING and length >= 2
        if code in _FRAMES and len(frame := data[at + 4 : at + 10]) == 6:
            height, width = frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]
            components, frames = frame[5], frames + 1
            plain = plain and code in _HUFFMAN and frame[0] == 8 and components in (1, 3)
        at += 2 + max(2, length)
    limits = f"{MOST_STEPS:,} segments and fill bytes or {MOST_BEFORE:,} bytes"
    raise PictureError("corrupt", f"a JPEG of over {limits} before its first scan")


def ends(data: bytes, scan: int) -> bool:
    """Does an end marker follow the first scan? A thumbnail in a segment before it has its own."""
    return data.rfind(b"\xff\xd9", scan) >= 0

"""The memory of the process: what a layer frees is kept for the next one, and not given back to the system.

glibc maps large blocks anew each time, so every layer's output costs a page fault for each 4 KiB that it writes, and on
virtual machines those are dear: the reference of EfficientNet-Lite0 at 224, 32 pictures at a time, answered 54 pictures
a second with them and 99 without.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import cache

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1


@cache
def keep() -> bool:
    """From now on freed memory is kept; whether it could be arranged (glibc, that is Linux, only)."""
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        # All from the heap, and its end never given back.
        return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
    return False

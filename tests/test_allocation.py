"""Freed memory is kept, where the system's allocator can."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from opsin import allocation
import numpy as np
kept = allocation.keep() if sys.argv[1] == "keep" else False
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.empty(64 * 2**20, np.uint8).fill(1)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def asked(how: str) -> tuple[bool, int]:
    """Whether memory is kept, and the page faults of writing 64 MiB twenty times."""
    told = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
    ).stdout.split()
    return told[0] == "True", int(told[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator only")
def test_freed_memory_is_written_to_again_without_page_faults() -> None:
    (_, given_back), (kept, once) = asked("give back"), asked("keep")
    if not kept:
        pytest.skip("no glibc here")
    assert once < given_back / 5


def test_asking_twice_is_no_harm() -> None:
    from opsin import allocation

    assert allocation.keep() == allocation.keep()

"""Row 8: files to hashes, opsin's quick pass against imagededup's perceptual hash, both with all processors.

    python bench/hashing.py --peer PYTHON [--pictures 10000] [--distinct 2000] [--rounds 3]

PYTHON is that of an environment with bench/requirements-peers-dedup.txt. imagededup answers from a process that stays,
so that its imports are not counted, and hashes in as many processes as there are processors, its default.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import loader
import record

from opsin import duplicates, isolation, sources
from opsin.vocabulary import finished


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--peer", required=True)
    asked.add_argument("--pictures", type=int, default=10_000)
    asked.add_argument("--distinct", type=int, default=2_000)
    asked.add_argument("--rounds", type=int, default=3)
    chosen = asked.parse_args()
    with tempfile.TemporaryDirectory() as place:
        originals = loader.pictures(Path(place) / "originals", chosen.distinct, 500, 375)
        folder = loader.repeated(Path(place) / "all", originals, chosen.pictures)
        data = sources.read(folder)
        script = Path(__file__).parent / "peers" / "imagededup_phash.py"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with isolation.Decoders() as children, subprocess.Popen([chosen.peer, script, folder], **pipes) as peer:

            def hashed() -> int:
                return len(duplicates.describe(finished(duplicates.thumbnails(data))))

            def isolated() -> int:
                return len(duplicates.describe(finished(duplicates.thumbnails(data, decode=children.decode))))

            def imagededup() -> int:
                peer.stdin.write("\n")
                peer.stdin.flush()
                return int(peer.stdout.readline().split()[1])

            sides = {"opsin train": hashed, "opsin check (child processes)": isolated, "imagededup PHash": imagededup}
            for name, side in sides.items():
                assert side() == chosen.pictures, name
            seconds = record.alternating(sides, rounds=chosen.rounds)
            peer.stdin.close()
    best = {name: min(values) for name, values in seconds.items()}
    rows = [
        [name, record.spread([chosen.pictures / s for s in values]), f"{best['imagededup PHash'] / best[name]:.1f}"]
        for name, values in seconds.items()
    ]
    record.write(
        "hashing",
        f"Row 8: {chosen.pictures:,} JPEGs of 500×375 to hashes, decoding included (goal: 5 times imagededup)",
        ["by", "pictures a second", "times imagededup (best rounds)"],
        rows,
        conditions=record.conditions("pillow", "simplejpeg", "numpy"),
        notes=[f"{chosen.distinct:,} distinct pictures, the others are links"],
    )


if __name__ == "__main__":
    main()

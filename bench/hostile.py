"""Every file of hostile-images.zip through the isolated decoder, and what Pillow alone makes of it.

python bench/hostile.py [folder of shared data]
"""

from __future__ import annotations

import io
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import record
from PIL import Image

from opsin import isolation
from opsin.errors import PictureError

DATA = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data"
PILLOW_MOST = 100_000_000  # bytes of pixels that this process is willing to let Pillow decode


def by_pillow(data: bytes) -> bool:
    """Whether Pillow decodes all of it, in this process."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height * 4 > PILLOW_MOST:
                return False
            image.load()
            np.asarray(image.convert("RGB"))
        return True
    except Exception:
        return False


def main() -> None:
    codes, refused, slowest, memory = Counter[str](), [], 0.0, 0
    with zipfile.ZipFile(DATA / "hostile-images.zip") as archive, isolation.Decoder() as decoder:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        for name in names:
            data, start = archive.read(name), time.perf_counter()
            try:
                decoder.decode(data)
                code = "picture"
            except PictureError as error:
                code = error.code
                if by_pillow(data):
                    refused.append((name, code, str(error)[:90]))
            slowest = max(slowest, time.perf_counter() - start if code == "picture" else 0)
            codes[code] += 1
            status = Path(f"/proc/{decoder._child.pid}/status") if decoder._child else None
            if status and status.exists():
                memory = max(memory, int(status.read_text().partition("VmHWM:")[2].split()[0]) >> 10)
        children = decoder.started
    rows = [[code, n] for code, n in codes.most_common()]
    notes = [
        f"{children} child process, at most {memory} MiB of 512; slowest picture {slowest:.2f} s",
        "refused although Pillow decodes them: " + "; ".join(f"{n} ({c})" for n, c, _ in refused),
    ]
    record.write(
        "hostile-images",
        f"{len(names)} hostile files",
        ["answer", "files"],
        rows,
        conditions=record.conditions("pillow"),
        notes=notes,
    )
    for row in refused:
        print(*row, sep=" | ")


if __name__ == "__main__":
    main()

"""What `opsin process` is compared with: a Pillow loop in a pool of two processes, as one writes it."""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image


def one(job: tuple[str, str, bool]) -> None:
    source, target, draft = job
    with Image.open(source) as image:
        scale = 512 / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        if draft:  # lets libjpeg decode at a half, a quarter …
            image.draft("RGB", size)
        image.convert("RGB").resize(size, Image.Resampling.BILINEAR).save(target, "JPEG", quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--draft", action="store_true")
    arguments = parser.parse_args()
    jobs = []
    for path in sorted(arguments.source.rglob("*.jpg")):
        place = arguments.target / path.relative_to(arguments.source)
        place.parent.mkdir(parents=True, exist_ok=True)
        jobs.append((str(path), str(place), arguments.draft))
    with ProcessPoolExecutor(2) as pool:
        for _ in pool.map(one, jobs, chunksize=16):
            pass


if __name__ == "__main__":
    main()

"""Rows 5 to 8: features of EfficientNet-Lite0 at 224 from JPEG files, and the whole command that fits a head on them.

    python bench/features.py rate ZIP                             row 5: against timm, eager and channels-last
    python bench/features.py memory ZIP                           row 8: peak memory of row 5
    python bench/features.py probe ZIP                            row 6: against timm + scikit-learn, whole processes
    python bench/features.py fastai ZIP --peers PEERS/bin/python  row 7: against fastai's fine_tune(1), whole processes

ZIP is an archive of class folders of JPEG files, such as clothing.zip; it is unpacked for the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from loader import most_memory
from record import alternating, apart, conditions, spread, write

PEERS = Path(__file__).parent / "peers"
OPSIN = [sys.executable, "-c", "from opsin.app.cli import main; main()"]
NETWORK = "tf_efficientnet_lite0"
SLICE = 512  # pictures that opsin's side decodes before it computes their features: what bounds its memory
BATCH = 32  # the peer's


# ── row 5 ──


def rate(files: list[Path], rounds: int) -> None:
    """All sides in turn, the peer's in processes of their own; each has built its network before."""
    sides = {"opsin": opsin_side(files), **{f"timm, {n} workers": apart(timm_side, files, n) for n in (0, 2)}}
    state = conditions("torch", "timm", "openvino", "onnxruntime")
    seconds = alternating(sides, rounds=rounds)
    own = statistics.median(seconds["opsin"])
    rows = [
        [name, spread([len(files) / s for s in times]), f"{statistics.median(times) / own:.2f}"]
        for name, times in seconds.items()
    ]
    write(
        "features",
        "Features of EfficientNet-Lite0 at 224 from JPEG files (row 5)",
        ["side", "images/s", "opsin is faster by"],
        rows,
        conditions=state,
        notes=[
            f"{len(files)} files, {rounds} runs in turn; the network, and opsin's engine, are built before",
            "timm: eager, channels-last, fp32, its own transforms, torch's DataLoader, batches of 32",
        ],
    )


def opsin_side(files: list[Path]) -> Callable[[], np.ndarray]:
    """Decode and prepare, compute: in slices, through the engine that is fastest here."""
    from opsin import cache, features, models, plans, sources
    from opsin.models import weights
    from opsin.preprocessing import Preprocessing
    from opsin.vocabulary import Dataset, Record, finished

    network, origin = weights.load(models.spec_for(NETWORK, 10, 224, pretrained=True))
    road = Preprocessing(origin.size, "squash", origin.mean, origin.std, origin.interpolation)
    folder = Path(os.path.commonpath(files))
    names = sorted({file.parent.name for file in files})
    records = tuple(Record(file.relative_to(folder).as_posix(), names.index(file.parent.name)) for file in files)
    data = Dataset("bench", records, tuple(names), sources.FolderStore(folder), "")

    def decoded(some: tuple[Record, ...]):
        keys = {record.key for record in some}
        return finished(cache.build(data.where(lambda record: record.key in keys), [road]))[1][0]

    sample = decoded(records[:: max(1, len(records) // plans.ENOUGH)])
    choice = features.settle(network, sample, road, plans.inference_candidates(), pictures=10**6)
    print("\n".join([*choice.notes, f"plan: {choice.plan}, {choice.plan.threads} threads"]))

    def run() -> np.ndarray:
        slices = [records[start : start + SLICE] for start in range(0, len(records), SLICE)]
        return np.concatenate(
            [
                finished(features.extract(network, decoded(some), road, choice.plan, ready=choice.engine))
                for some in slices
            ]
        )

    run.plan = choice.plan
    return run


class Pictures(torch.utils.data.Dataset):
    """What a timm user writes."""

    def __init__(self, files: list[Path], transform: Callable) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        from PIL import Image

        return self.transform(Image.open(self.files[i]).convert("RGB"))


def timm_side(files: list[Path], workers: int) -> Callable[[], np.ndarray]:
    import timm

    sys.path.insert(0, str(PEERS))
    from weights import lite0

    model = lite0(timm.create_model(NETWORK, num_classes=0)).eval().to(memory_format=torch.channels_last)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    def run() -> np.ndarray:
        loader = torch.utils.data.DataLoader(Pictures(files, transform), batch_size=BATCH, num_workers=workers)
        with torch.no_grad():
            found = [model(images.to(memory_format=torch.channels_last)) for images in loader]
        return torch.cat(found).numpy()

    return run


# ── row 8 ──


def memory(files: list[Path], folder: Path) -> None:
    """The peak of processes that do nothing but row 5, on links to the same files."""
    rows = []
    for n in (1_000, 10_000):
        for number in range(n):
            place = folder / str(n) / files[number % len(files)].parent.name / f"{number:06d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(files[number % len(files)], place)
        _, said = timed([sys.executable, __file__, "peak", str(folder / str(n))])
        found = json.loads(said.splitlines()[-1])
        rows.append([n, f"{found['MiB']:,.0f}", f"{found['ready MiB']:,.0f}", found["plan"]])
    write(
        "features-memory",
        "Memory of features from JPEG files (row 8, of row 5)",
        ["pictures", "peak, MiB", "of that before the work, MiB", "plan"],
        rows,
        conditions=conditions("torch", "openvino", "onnxruntime"),
        notes=[f"slices of {SLICE} pictures; the network and its engine are built, and engines compared, before"],
    )


def peak(folder: Path) -> None:
    run = opsin_side(sorted(folder.rglob("*.jpg")))
    before = most_memory()
    run()
    print(json.dumps({"MiB": most_memory(), "ready MiB": before, "plan": str(run.plan)}))


# ── rows 6 and 7 ──


def probe(archive: Path, folder: Path, rounds: int, peer: list[str], name: str, title: str) -> None:
    """Whole commands, in turn; the peer gets the split that opsin made, and the same training pictures."""
    state = conditions("torch", "timm", "scikit-learn", "openvino", "onnxruntime")
    found: dict[str, list[tuple[float, float]]] = {"opsin": [], name: []}
    for number in range(rounds):
        out = folder / f"run-{number}"
        cold = os.environ | {"OPSIN_CACHE": str(folder / f"cache-{number}")}  # nothing kept of the round before
        seconds, _ = timed([*OPSIN, "train", str(archive), "--recipe", "probe", "--out", str(out)], cold)
        scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
        found["opsin"].append((seconds, scores["test"]["overall"]["accuracy"]["value"]))
        seconds, text = timed([*peer, str(folder / "pictures"), str(out / "split.csv")])
        found[name].append((seconds, float(re.search(r"accuracy ([\d.]+)", text)[1])))
    own = statistics.median(seconds for seconds, _ in found["opsin"])
    rows = [
        [
            side,
            spread([s for s, _ in results], 1),
            f"{statistics.median(a for _, a in results):.4f}",
            f"{statistics.median(s for s, _ in results) / own:.2f}",
        ]
        for side, results in found.items()
    ]
    columns = ["side", "seconds, whole process", "test accuracy", "opsin is faster by"]
    write(
        f"probe-{re.sub(r'[^a-z]+', '-', name.lower()).strip('-')}",
        title,
        columns,
        rows,
        conditions=state,
        notes=[f"{rounds} runs in turn; opsin begins with an empty cache and an unmeasured machine each time"],
    )


def timed(command: list[str], environment: Mapping[str, str] = os.environ) -> tuple[float, str]:
    """Seconds of a whole process, and what it said."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environment))
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


# ──


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=["rate", "memory", "probe", "fastai", "peak"])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=320, help="of row 5")
    parser.add_argument("--peers", default=sys.executable, help="the Python of the peers' environment")
    asked = parser.parse_args()
    if asked.row == "peak":  # a process of `memory`
        return peak(asked.archive)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        zipfile.ZipFile(asked.archive).extractall(folder / "pictures")
        if asked.row == "rate":
            files = sorted((folder / "pictures").rglob("*.jpg"))
            step = max(1, len(files) // asked.pictures)
            rate(files[::step][: asked.pictures], asked.rounds)
        elif asked.row == "memory":
            memory(sorted((folder / "pictures").rglob("*.jpg")), folder)
        elif asked.row == "probe":
            peer = [sys.executable, str(PEERS / "timm_logreg.py")]
            title = f"opsin train {asked.archive.name} --recipe probe (row 6)"
            probe(asked.archive, folder, asked.rounds, peer, "timm + scikit-learn", title)
        else:
            peer = [asked.peers, str(PEERS / "fastai_finetune.py")]
            title = f"opsin train {asked.archive.name} --recipe probe (row 7)"
            probe(asked.archive, folder, asked.rounds, peer, "fastai fine_tune(1)", title)
    return None


if __name__ == "__main__":
    main()

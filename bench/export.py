"""Exported files: whether they answer alike, alone and with others' tools, and how fast pictures become labels.

    python bench/export.py parity ZIP RUNS    four networks × every engine, precision and form; eight bits
    python bench/export.py alone ZIP RUNS --python FRESH/bin/python --node FOLDER    README.md's lines, as they stand
    python bench/export.py speed ZIP          JPEG bytes → label, batches of 32 and single pictures
    python bench/export.py cold ZIP RUNS      whole processes, up to the first answer

ZIP is an archive of class folders of JPEG files, such as clothing.zip. RUNS is a folder that a run is made in where it
is not there yet. FRESH is an environment with onnxruntime, numpy and Pillow alone; FOLDER is
one where `npm install onnxruntime-node @imagemagick/magick-wasm` was run.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from record import alternating, conditions, spread, write

import opsin
from opsin import (
    answers,
    cache,
    classifier,
    comparison,
    engines,
    exporting,
    extras,
    features,
    models,
    plans,
    preprocessing,
    runs,
)
from opsin.classifier import Classifier
from opsin.errors import MachineError
from opsin.exporting.readme import MAGICK
from opsin.plans import Plan
from opsin.preprocessing import Preprocessing
from opsin.vocabulary import Dataset, finished

VERSIONS = ("torch", "timm", "onnxruntime", "openvino", "onnx", "numpy", "pillow")
OPSIN = [sys.executable, "-c", "from opsin.app.cli import main; main()"]
TRAINED = "tf_efficientnet_lite0"  # the one with published weights: a run
NETWORKS = {"textbook": 64, "resnet18": 128, TRAINED: 224, "vit_tiny_patch16_224": 224}  # name → side
BATCH = 32


def trained(archive: Path, folder: Path) -> tuple[Path, Dataset]:
    """The run of TRAINED, made where it is not there yet, and its data, divided as it was."""
    run = folder / TRAINED
    if not (run / "scores.json").is_file():
        call = [*OPSIN, "train", str(archive), "--recipe", "probe", "--out", str(run)]
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return run, runs.reopen(run)[0]


def networks(run: Path, data: Dataset) -> Iterator[tuple[str, Classifier]]:
    """The four; those without published weights have random ones, and a head fitted on what these make of pictures."""
    for name, side in NETWORKS.items():
        if name == TRAINED:
            yield name, opsin.load(run)
            continue
        yield name, with_head(name, side, data)


def with_head(name: str, side: int, data: Dataset) -> Classifier:
    """Random weights, and a head fitted on what they make of training pictures: answers as a trained one's."""
    torch.manual_seed(0)
    spec, road = models.spec_for(name, len(data.classes), side), Preprocessing(side)
    clf = Classifier(models.build(spec), spec, road, data.classes, temperature=1.5)
    _, (pixels,) = finished(cache.build(data.train, [road]))
    vectors = finished(features.extract(clf.network, pixels, road, Plan(threads=torch.get_num_threads())))
    targets = np.array([record.target for record in pixels.data.records])
    head = models.head(clf.network)
    for parameter, found in zip(head.parameters(), features.fit_head(vectors, targets, len(data.classes))):
        parameter.copy_(torch.from_numpy(found))
    return clf


# ── parity ──


def parity(archive: Path, folder: Path) -> None:
    rows: list[list[object]] = []
    bits: list[list[object]] = []
    run, data = trained(archive, folder)
    for name, clf in networks(run, data):
        rows += [[name, *row] for row in engine_rows(clf, data.val)]
        with tempfile.TemporaryDirectory() as temporary:
            rows += [[name, *row] for row in file_rows(clf, data.val, Path(temporary))]
            found = exporting.quantise(clf, Path(temporary) / "onnx" / "model.onnx", data.train, data.val)
        rows.append([name, "file", "onnx, int8", *shown(found.agreement, found.difference), found.why or "written"])
        low, high = comparison.paired_shares(found.lost, found.won, found.accuracy.n)
        change = f"{found.accuracy.value - found.before.value:+.3f} [{low:+.3f}, {high:+.3f}]"
        bits.append([name, str(found.before), str(found.accuracy), change, f"{found.speed:.2f}", found.why or "kept"])
    state = conditions(*VERSIONS)
    write(
        "export-parity",
        "Exported files and engines beside torch in fp32, on clothing's validation pictures",
        ["network", "kind", "what", "labels alike, %", "largest difference of a probability", "what is done with it"],
        rows,
        conditions={"pictures": len(data.val), **state},
        notes=[
            f"{TRAINED} has published weights, the others random ones; heads are fitted on training pictures",
            f"limits of a file: {exporting.LIMITS}",
            f"an engine predicts where all are within {classifier.CLOSE}; with --fast, where {100 * plans.AGREE} % of "
            "labels are alike",
        ],
    )
    write(
        "export-int8",
        "Eight bits, calibrated on training pictures, on clothing's validation pictures",
        ["network", "accuracy, fp32", "accuracy, int8", "change, paired", "times as fast", "what is done with it"],
        bits,
        conditions={"pictures a timed call": exporting.int8.TIMED, **state},
    )


def engine_rows(clf: Classifier, data: Dataset) -> list[list[object]]:
    """Every engine and precision that `predict` may choose from."""
    images = np.concatenate([prepared for prepared, _ in exporting.asked(clf, data)])
    expected = answered(clf, lambda batch: classifier.logits(clf, torch.from_numpy(batch)), images)
    rows: list[list[object]] = []
    for plan in plans.inference_candidates(device="cpu"):
        how = engines.How(plan.precision, plan.threads, plan.device)
        try:
            engine = engines.build(engines.Logits(clf.network, clf.preprocessing), plan.engine, how)
        except MachineError as error:
            rows.append(["engine", str(plan), "", "", error.message])
            continue
        found = answered(clf, engine, images)
        alike = found.argmax(1) == expected.argmax(1)
        apart = np.abs(found - expected).max(1)
        close = bool((alike & (apart <= classifier.CLOSE)).all())
        verdict = "predicts" if close else "with --fast" if alike.mean() >= plans.AGREE else "refused"
        rows.append(["engine", str(plan), *shown(alike.mean(), apart.max()), verdict])
    return rows


def answered(clf: Classifier, engine: engines.Engine, images: np.ndarray) -> np.ndarray:
    found = [engine(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return answers.probabilities(clf, np.concatenate(found))


def file_rows(clf: Classifier, data: Dataset, folder: Path) -> list[list[object]]:
    rows: list[list[object]] = []
    for to, resize in [*((to, False) for to in exporting.FORMS), ("onnx", True)]:
        file = folder / f"{to}{'-resize' * resize}" / f"model{exporting.FORMS[to].endings[0]}"
        found = exporting.export(clf, file, data, to=to, resize=resize)
        name = f"{to}{', resizing inside' * resize}"
        rows.append(["file", name, *shown(found.agreement, found.difference), "written"])
    return rows


def shown(agreement: float, difference: float) -> list[object]:
    return [f"{100 * agreement:.2f}", f"{difference:.1e}"]


# ── README.md's lines ──


def alone(archive: Path, folder: Path, python: str, node: Path | None) -> None:
    rows: list[list[object]] = []
    run, data = trained(archive, folder)
    for name, clf in networks(run, data):
        for resize in (False, True):
            with tempfile.TemporaryDirectory() as temporary:
                place = Path(temporary)
                exporting.export(clf, place / "model.onnx", data.val, resize=resize)
                expected = unpacked(clf, data.test, place)
                for language, call in calls(place, python, node).items():
                    found = said(call, place, list(expected))
                    rows.append([name, "inside" if resize else "outside", language, *agreement(expected, found)])
    write(
        "export-alone",
        "The lines of README.md, run as they stand on clothing's test pictures, beside opsin",
        ["network", "resizing", "lines", "pictures", "labels alike, %", "largest difference of the probability named"],
        rows,
        conditions={"python": python, **of_node(node), **conditions(*VERSIONS)},
        notes=[
            "Python: an environment with onnxruntime, numpy and Pillow alone; "
            f"JavaScript: one with onnxruntime-node and {MAGICK} alone"
        ],
    )


def of_node(node: Path | None) -> dict[str, str]:
    """The versions on JavaScript's side."""
    if not node:
        return {"node": "not asked"}
    asked = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    files = {name: node / "node_modules" / name / "package.json" for name in ("onnxruntime-node", MAGICK)}
    told = {name: json.loads(file.read_text(encoding="utf-8"))["version"] for name, file in files.items()}
    return {"node": asked.stdout.strip(), **told}


def unpacked(clf: Classifier, data: Dataset, place: Path) -> dict[str, opsin.Prediction]:
    """The pictures of `data` as files in `place`: name → what opsin says of it."""
    keys = {f"{number:04}.jpg": record.key for number, record in enumerate(data.records)}
    for file, key in keys.items():
        (place / file).write_bytes(data.store.read(key))
    found = answers.predict_store(clf, data.store, keys.values())
    return dict(zip(keys, found))


def calls(place: Path, python: str, node: Path | None) -> dict[str, list[str]]:
    """What runs the lines of each language, which are taken from README.md without a change."""
    text = (place / "README.md").read_text(encoding="utf-8")
    for language, file in (("python", "run.py"), ("js", "run.mjs")):
        block = re.search(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert block, f"README.md has no lines of {language}"
        (place / file).write_text(block[1], encoding="utf-8")
    if not node:
        return {"Python": [python, "run.py"]}
    (place / "node_modules").symlink_to(node.resolve() / "node_modules")
    return {"Python": [python, "run.py"], "JavaScript": ["node", "run.mjs"]}


def said(call: Sequence[str], place: Path, files: Sequence[str]) -> dict[str, tuple[str, float]]:
    done = subprocess.run([*call, *files], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return {file: (label, float(probability)) for file, label, probability in rows}


def agreement(expected: dict[str, opsin.Prediction], found: dict[str, tuple[str, float]]) -> list[object]:
    assert set(found) == set(expected), "not every picture has its line"
    alike = sum(found[file][0] == expected[file].label for file in expected)
    apart = max(
        abs(found[file][1] - dict(zip(each.classes, each.probabilities or ()))[found[file][0]])
        for file, each in expected.items()
    )
    return [len(expected), *shown(alike / len(expected), apart)]


# ── speed ──

Side = Callable[[Sequence[bytes]], Sequence[object]]  # JPEGs → their classes


def speed(archive: Path, rounds: int, most: int) -> None:
    files = jpegs(archive, most)
    rows: list[list[object]] = []
    state = conditions(*VERSIONS, "torchvision")
    data = opsin.read(archive)
    resnet50 = with_head("resnet50", 224, data)
    for name, clf in {"EfficientNet-Lite0": classifier.imagenet(), "ResNet-50": resnet50}.items():
        sides = {**own_sides(clf, files), "torch, eager": eager(clf), **openvino_sides(clf)}
        if clf is resnet50:
            sides["opsin, int8 file"] = int8_side(clf, data)
        for work, step, given in (("batches of 32", BATCH, files), ("single", 1, files[: most // 8])):
            timed = alternating(
                {
                    each: lambda side=side, given=given, step=step: (
                        [side(given[start : start + step]) for start in range(0, len(given), step)]
                        if step == 1
                        else side(given)
                    )
                    for each, side in sides.items()
                },
                rounds=rounds,
            )
            medians = {each: statistics.median(seconds) for each, seconds in timed.items()}
            for each, seconds in timed.items():
                ratios = [f"{medians[other] / medians[each]:.2f}" for other in ("torch, eager", HAND[each])]
                rows.append([name, work, each, spread([len(given) / s for s in seconds]), *ratios])
    write(
        "export-speed",
        "From JPEG bytes to labels, pictures of clothing",
        ["network", "work", "side", "images/s", "times torch, eager", "times OpenVINO by hand"],
        rows,
        conditions={"pictures": len(files), "rounds": rounds, "threads": torch.get_num_threads(), **state},
        notes=[
            "torch, eager: Pillow, torchvision's transforms, channels first, fp32, as its documentation has it",
            "OpenVINO by hand: the same preprocessing as opsin's, on as many threads, then a batch's answers",
            "opsin in fp32 is compared with it in fp32, --fast and int8 with what OpenVINO takes by itself",
            "ResNet-50 has random weights and a head fitted on training pictures; pictures are squashed to a square",
        ],
    )


HAND = {
    "opsin": "OpenVINO by hand, fp32",
    "opsin, int8 file": "OpenVINO by hand, its own precision",
    "opsin --fast": "OpenVINO by hand, its own precision",
    "torch, eager": "OpenVINO by hand, fp32",
    "OpenVINO by hand, fp32": "OpenVINO by hand, fp32",
    "OpenVINO by hand, its own precision": "OpenVINO by hand, its own precision",
}


def jpegs(archive: Path, most: int) -> list[bytes]:
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.lower().endswith((".jpg", ".jpeg")))
        chosen = np.linspace(0, len(names) - 1, min(most, len(names))).astype(int)
        return [opened.read(names[number]) for number in chosen]


class Held:
    """Encoded pictures in memory."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files, self.keys = files, [str(number) for number in range(len(files))]

    def read(self, key: str) -> bytes:
        return self.files[int(key)]


def own_sides(clf: Classifier, files: Sequence[bytes]) -> dict[str, Side]:
    """The road of `opsin predict`, on the engines that it settles for when there is much to do."""
    store, sides = Held(files), {}
    for name, fast in (("opsin", False), ("opsin --fast", True)):
        choice = classifier.settle(clf, store, list(store.keys) * 100, fast=fast)
        print(name, choice.plan, *choice.notes, sep=" · ")
        sides[name] = lambda data, run=choice.engine: own(clf, data, run)
    return sides


def int8_side(clf: Classifier, data: Dataset) -> Side:
    """The road of `opsin predict`, on the file that `opsin export --int8` writes."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.onnx"
        exporting.export(clf, file, data.val)
        found = exporting.quantise(clf, file, data.train, data.val)
        print(f"int8: {found}; {found.why or 'kept'}")
        assert not found.why, found.why
        opened = exporting.FORMS["onnx"].open(found.file)
    return lambda given: own(clf, given, lambda images: np.log(opened.run(images)[-1]) * clf.temperature)


def own(clf: Classifier, data: Sequence[bytes], run: engines.Engine) -> list[str | None]:
    store = Held(data)
    return [each.label for each in answers.predict_store(clf, store, store.keys, run=run)]


def eager(clf: Classifier) -> Side:
    from PIL import Image
    from torchvision.transforms import v2

    network = models.build(clf.spec).eval() if clf.spec else clf.network
    network.load_state_dict(clf.network.state_dict())
    network.to(memory_format=torch.contiguous_format)
    road = clf.preprocessing
    mode = v2.InterpolationMode[road.interpolation.upper()]
    whole = round(road.size / road.crop_fraction)
    crop = [v2.Resize(whole, interpolation=mode), v2.CenterCrop(road.size)]
    geometry = crop if road.fit == "crop" else [v2.Resize((road.size, road.size), interpolation=mode)]
    transform = v2.Compose(
        [
            *geometry,
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(road.mean, road.std),
        ]
    )

    @torch.no_grad()
    def run(data: Sequence[bytes]) -> list[int]:
        labels: list[int] = []
        for start in range(0, len(data), BATCH):
            images = [transform(Image.open(BytesIO(each)).convert("RGB")) for each in data[start : start + BATCH]]
            labels += network(torch.stack(images)).argmax(1).tolist()
        return labels

    return run


def openvino_sides(clf: Classifier) -> dict[str, Side]:
    """What somebody writes who knows OpenVINO: normalisation in the graph, threads for decoding, whole batches."""
    openvino = extras.optional("openvino")
    module, side = engines.Logits(clf.network, clf.preprocessing), clf.preprocessing.size
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        model = openvino.convert_model(program)
    pool = ThreadPoolExecutor(torch.get_num_threads())

    def made(hints: dict[str, str]) -> Side:
        compiled = openvino.Core().compile_model(model, "CPU", hints)

        def run(data: Sequence[bytes]) -> list[int]:
            labels: list[int] = []
            for start in range(0, len(data), BATCH):
                chunk = data[start : start + BATCH]
                images = [each.numpy() for each in pool.map(lambda d: preprocessing.load(clf.preprocessing, d), chunk)]
                labels += compiled(np.stack(images))[0].argmax(1).tolist()
            return labels

        return run

    return {
        "OpenVINO by hand, fp32": made({"INFERENCE_PRECISION_HINT": "f32"}),
        "OpenVINO by hand, its own precision": made({}),
    }


# ── cold ──

EAGER = """
import sys
import timm, torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import v2
network = timm.create_model("tf_efficientnet_lite0", num_classes=int(sys.argv[3])).eval()
network.load_state_dict(load_file(sys.argv[1]))
transform = v2.Compose([v2.Resize((224, 224)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
                        v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
with torch.no_grad():
    print(network(transform(Image.open(sys.argv[2]).convert("RGB"))[None]).softmax(1).max(1))
"""


def cold(archive: Path, folder: Path, rounds: int) -> None:
    run, data = trained(archive, folder.resolve())
    clf = opsin.load(run)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (picture := place / "a.jpg").write_bytes(data.store.read(data.test.records[0].key))  # type: ignore[arg-type]
        exporting.export(clf, place / "model.onnx", data.val)
        calls(place, sys.executable, None)  # writes run.py
        weights = str(run / "model" / "model.safetensors")
        commands = {
            "torch, eager: a script": [sys.executable, "-c", EAGER, weights, str(picture), str(len(clf.classes))],
            "opsin predict RUN a.jpg": [*OPSIN, "predict", str(run), str(picture)],
            "opsin predict model.onnx a.jpg": [*OPSIN, "predict", "model.onnx", str(picture)],
            "README's lines of model.onnx": [sys.executable, "run.py", str(picture)],
        }
        state = conditions(*VERSIONS)
        timed = alternating(
            {each: lambda call=call: silent(call, place) for each, call in commands.items()}, rounds=rounds
        )
    first = statistics.median(timed["torch, eager: a script"])
    rows = [[each, spread(s, 2), f"{statistics.median(s) / first:.2f}"] for each, s in timed.items()]
    write(
        "export-cold",
        "From a cold process to the first answer, EfficientNet-Lite0",
        ["side", "seconds", "of torch's"],
        rows,
        conditions={"rounds": rounds, **state},
        notes=["whole processes, files in the system's cache; the script builds timm's network and loads the weights"],
    )


def silent(call: Sequence[str], place: Path) -> None:
    done = subprocess.run(call, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("parity", "alone", "speed", "cold"):
        command = commands.add_parser(name)
        command.add_argument("archive", type=Path)
        if name != "speed":
            command.add_argument("runs", type=Path)
        if name == "alone":
            command.add_argument("--python", required=True)
            command.add_argument("--node", type=Path)
        if name in ("speed", "cold"):
            command.add_argument("--rounds", type=int, default=5)
        if name == "speed":
            command.add_argument("--most", type=int, default=128, help="pictures")
    given = vars(parser.parse_args())
    {"parity": parity, "alone": alone, "speed": speed, "cold": cold}[given.pop("what")](*given.values())


if __name__ == "__main__":
    main()

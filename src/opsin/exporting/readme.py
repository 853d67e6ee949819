"""The README.md beside an exported file: how to run it with what others have, in lines that are tested as they are."""

from __future__ import annotations

import json
import math

from .. import classifier, preprocessing
from ..classifier import Classifier
from ..preprocessing import Preprocessing

NAME = "README.md"
MARK = "<!-- written by opsin export -->"


def text(clf: Classifier, file: str, to: str, resize: bool, parity: str) -> str:
    """The page as Markdown."""
    road = clf.preprocessing
    given = "RGB pictures of one size, any size" if resize else f"prepared RGB pictures, {road.size} × {road.size}"
    lines = [
        MARK,
        f"# {file}",
        "",
        f"Tells {len(clf.classes)} classes apart. In: {given}, uint8 `(batch, 3, height, width)`. Out: probabilities,",
        "float32 `(batch, classes)`. Normalisation and softmax are inside"
        f"{', and so is resizing' if resize else ''}; class names and all else are in the file, and in",
        f"`{file.rpartition('.')[0]}.json`.",
        "",
        f"Measured when it was written, beside torch in fp32: {parity}.",
        "",
        *_first(road),
        "## Python",
        "",
        f"`pip install {PIP[to]} numpy Pillow`, then `python` these lines with pictures' paths:",
        "",
        "```python",
        *_python(clf, file, to, resize),
        "```",
        "",
    ]
    if to == "onnx":
        lines += ["## JavaScript", "", "`npm install onnxruntime-node sharp`, then in a `.mjs` file:", "", "```js"]
        lines += [*_javascript(clf, file, resize), "```", ""]
        if not resize:
            lines += [
                "sharp resizes a little otherwise than Pillow does: probabilities differ in the second digit.",
                "",
            ]
    return "\n".join([*lines, *CAVEATS, ""])


def _first(road: Preprocessing) -> list[str]:
    """How to do what no graph holds."""
    if not road.pipeline:
        return []
    steps = " ".join(f"--op {step.told(step.settings)}" for step in road.pipeline.steps)
    return [
        "Pictures first go through operations that are not inside. The lines below take the PNGs that this writes:",
        "",
        "```sh",
        f"opsin process IN OUT {steps}",
        "```",
        "",
    ]


PIP = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}

CAVEATS = [
    "These lines take gray and RGB pictures in sRGB. opsin itself also follows colour profiles, composites alpha on",
    "white, and refuses files that are cut off.",
]

# How a form is opened: the lines that make `classes` and `run`, uint8 (1, 3, H, W) → (K,).
OPEN = {
    "onnx": [
        'session = onnxruntime.InferenceSession("{file}")',
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["opsin"])["classes"]',
        "run = lambda images: session.run(None, {{session.get_inputs()[0].name: images}})[0][0]",
    ],
    "openvino": [
        'model = openvino.Core().read_model("{file}")',
        'classes = json.loads(model.get_rt_info(["opsin"]).astype(str))["classes"]',
        'compiled = openvino.Core().compile_model(model, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})',
        "run = lambda images: compiled(images)[0][0]",
    ],
    "torch": [
        'program = torch.export.load("{file}", extra_files=(told := {{"opsin": ""}})).module()',
        'classes = json.loads(told["opsin"])["classes"]',
        "run = lambda images: program(torch.from_numpy(images))[0].numpy()",
    ],
}


def _python(clf: Classifier, file: str, to: str, resize: bool) -> list[str]:
    road = clf.preprocessing
    label = "label" if classifier.decides(clf) else "classes[answer.argmax()]"
    return [
        "import json, sys",
        f"import numpy as np, {PIP[to]}",
        "from PIL import Image, ImageOps",
        "",
        *(line.format(file=file) for line in OPEN[to]),
        "for path in sys.argv[1:]:",
        "    image = Image.open(path)",
        *(f"    {line}" for line in _reduced(road)),
        '    image = ImageOps.exif_transpose(image).convert("RGB")',
        *(f"    {line}" for line in ([] if resize else GEOMETRY[road.fit](road))),
        "    answer = run(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)[None]))",
        *(f"    {line}" for line in (_decided(clf) if classifier.decides(clf) else [])),
        f"    print(path, {label}, answer.max(), sep='\\t')",
    ]


def _decided(clf: Classifier) -> list[str]:
    """The rule of `metrics.named`."""
    return [
        f"least = {dict(clf.thresholds)!r}",
        "reached = {name: answer[classes.index(name)] / share for name, share in least.items()}",
        "first = max(reached, key=reached.get, default=None)",
        "label = classes[answer.argmax()]",
        f'label = label if label not in least and answer.max() >= {clf.unsure_below!r} else "unsure"',
        "label = first if first is not None and reached[first] >= 1 else label",
    ]


def _reduced(road: Preprocessing) -> list[str]:
    """A JPEG far larger than the input is decoded at 1/2, 1/4 or 1/8, as `preprocessing.load` does it."""
    target = road.size / (road.crop_fraction if road.fit == "crop" else 1)
    least = math.ceil(preprocessing.ROOM * target)
    side = "max" if road.fit == "letterbox" else "min"
    return [
        *([] if road.fit == "squash" else ["full = sorted(image.size)"]),
        f'most = {side}(image.size) if image.format == "JPEG" else 0',
        f"by = next(by for by in (8, 4, 2, 1) if by == 1 or most // by >= {least})",
        "sides = [max(1, (side + (by - 1) // 2) // by) for side in image.size]",
        'image.draft("RGB", [max(1, side // by) for side in image.size])',
        "image = image.crop((0, 0, *sides))",
    ]


def _resample(road: Preprocessing) -> str:
    return f"Image.Resampling.{road.interpolation.upper()}"


# The sides that a picture had before it was decoded smaller.
UPRIGHT = ["sides = full[::-1] if image.height <= image.width else full"]


def _squash(road: Preprocessing) -> list[str]:
    return [f"image = image.resize(({road.size}, {road.size}), {_resample(road)})"]


def _letterbox(road: Preprocessing) -> list[str]:
    colour = tuple(round(m * 255) for m in road.mean)
    return [
        *UPRIGHT,
        f"sides = [max(1, round(side * ({road.size} / full[1]))) for side in sides]",
        f'square = Image.new("RGB", ({road.size}, {road.size}), {colour})',
        f"square.paste(image.resize(sides, {_resample(road)}), [({road.size} - side) // 2 for side in sides])",
        "image = square",
    ]


def _crop(road: Preprocessing) -> list[str]:
    size, shorter = road.size, max(road.size, round(road.size / road.crop_fraction))
    return [
        *UPRIGHT,
        f"sides = [max({size}, round(side * ({shorter} / full[0]))) for side in sides]",
        f"left, top = [(side - {size}) // 2 for side in sides]",
        f"image = image.resize(sides, {_resample(road)}).crop((left, top, left + {size}, top + {size}))",
    ]


GEOMETRY = {"squash": _squash, "letterbox": _letterbox, "crop": _crop}


# ── JavaScript ──


def _javascript(clf: Classifier, file: str, resize: bool) -> list[str]:
    geometry = "" if resize else _sharp(clf.preprocessing)
    decides = classifier.decides(clf)
    return [
        'import { readFileSync } from "node:fs";',
        'import ort from "onnxruntime-node";',
        'import sharp from "sharp";',
        "",
        f'const {{ classes }} = JSON.parse(readFileSync("{file.rpartition(".")[0]}.json"));',
        f'const session = await ort.InferenceSession.create("{file}");',
        "for (const path of process.argv.slice(2)) {",
        '  const picture = sharp(path).rotate().removeAlpha().toColourspace("srgb")' + geometry + ";",
        "  const { data, info } = await picture.raw().toBuffer({ resolveWithObject: true });",
        "  const area = info.width * info.height, images = new Uint8Array(3 * area);",
        "  data.forEach((value, i) => { images[(i % 3) * area + Math.floor(i / 3)] = value; });",
        '  const fed = new ort.Tensor("uint8", images, [1, 3, info.height, info.width]);',
        "  const answer = (await session.run({ [session.inputNames[0]]: fed })).probabilities.data;",
        "  const best = answer.indexOf(Math.max(...answer));",
        *(f"  {line}" for line in (_decided_in_javascript(clf) if decides else [])),
        f"  console.log([path, {'label' if decides else 'classes[best]'}, answer[best]].join('\\t'));",
        "}",
    ]


def _decided_in_javascript(clf: Classifier) -> list[str]:
    """The rule of `metrics.named`."""
    return [
        f"const least = {json.dumps(dict(clf.thresholds), ensure_ascii=False)};",
        "const ratio = (name) => answer[classes.indexOf(name)] / least[name];",
        "const first = Object.keys(least).sort((a, b) => ratio(b) - ratio(a))[0];",
        f'const plain = classes[best] in least || answer[best] < {clf.unsure_below!r} ? "unsure" : classes[best];',
        "const label = first !== undefined && ratio(first) >= 1 ? first : plain;",
    ]


def _sharp(road: Preprocessing) -> str:
    kernel = {"bilinear": "linear", "bicubic": "cubic"}[road.interpolation]
    options = f'kernel: "{kernel}", fastShrinkOnLoad: false'
    if road.fit == "squash":
        return f'.resize({road.size}, {road.size}, {{ fit: "fill", {options} }})'
    if road.fit == "letterbox":
        red, green, blue = (round(m * 255) for m in road.mean)
        background = f"background: {{ r: {red}, g: {green}, b: {blue} }}"
        return f'.resize({road.size}, {road.size}, {{ fit: "contain", {background}, {options} }})'
    whole = max(road.size, round(road.size / road.crop_fraction))
    edge = (whole - road.size) // 2
    area = f"{{ left: {edge}, top: {edge}, width: {road.size}, height: {road.size} }}"
    return f'.resize({whole}, {whole}, {{ fit: "cover", {options} }}).extract({area})'

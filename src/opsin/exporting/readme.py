"""The README.md beside an exported file: how to run it with what others have, in lines that are tested as they are."""

from __future__ import annotations

import json
import math

from .. import answers, preprocessing
from ..classifier import Classifier
from ..preprocessing import Preprocessing
from . import resizing
from .graphs import ANSWERS

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
        f"{DOES[clf.task].format(len(clf.classes))}. In: {given}, uint8 `(batch, 3, height, width)`.",
        f"Out: {ANSWERS[clf.task]}, float32 `(batch, {len(clf.classes)})`. "
        f"{'Resizing, normalisation' if resize else 'Normalisation'} and all that follows are inside;",
        f"names and all else are in the file and in `{file.rpartition('.')[0]}.json`.",
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
        lines += ["## JavaScript", "", f"`npm install onnxruntime-node {MAGICK}`, then in a `.mjs` file:", ""]
        lines += ["```js", *_javascript(clf, file, resize), "```", ""]
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


DOES = {
    "single-label": "Tells {} classes apart",
    "multi-label": "Finds {} labels, any number of them in a picture",
    "regression": "Estimates {} quantities",
}
PIP = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
MAGICK = "@imagemagick/magick-wasm"  # of JavaScript's readers the one that decodes JPEGs at 1/2, 1/4 and 1/8

CAVEATS = [
    "These lines take gray and RGB pictures of eight bits in sRGB, and composite alpha on white. opsin itself also",
    "follows colour profiles, scales deeper gray, and refuses files that are cut off.",
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
    return [
        "import json, sys",
        f"import numpy as np, {PIP[to]}",
        "from PIL import Image, ImageOps",
        "",
        *([] if resize else [*resizing.python(road.interpolation), ""]),
        *(line.format(file=file) for line in OPEN[to]),
        "for path in sys.argv[1:]:",
        "    image = Image.open(path)",
        *(f"    {line}" for line in _reduced(road)),
        '    image = ImageOps.exif_transpose(image).convert("RGBA")',
        '    white = Image.new("RGBA", image.size, "white")',
        '    pixels = np.asarray(Image.composite(image, white, image).convert("RGB"))',
        *(f"    {line}" for line in ([] if resize else GEOMETRY[road.fit](road))),
        "    answer = run(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))",
        *(f"    {line}" for line in _said(clf)),
    ]


def _said(clf: Classifier) -> list[str]:
    """What is printed of `answer`, `(K,)`."""
    if clf.task == "regression":
        return ["print(path, *answer, sep='\\t')"]
    if clf.task == "multi-label":
        return [
            f"least = {list(answers.blank(clf).thresholds)}",
            "reached = [name for name, share, enough in zip(classes, answer, least) if share >= enough]",
            "print(path, ';'.join(reached), sep='\\t')",
        ]
    if not answers.decides(clf):
        return ["print(path, classes[answer.argmax()], answer.max(), sep='\\t')"]
    return [*_decided(clf), "print(path, label, answer.max(), sep='\\t')"]


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
    side = "max" if road.fit == "letterbox" else "min"
    return [
        *([] if road.fit == "squash" else ["full = sorted(image.size)"]),
        f'most = {side}(image.size) if image.format in ("JPEG", "MPO") else 0',
        f"by = next(by for by in (8, 4, 2, 1) if by == 1 or most // by >= {_least(road)})",
        "sides = [max(1, (side + (by - 1) // 2) // by) for side in image.size]",
        'image.draft("RGB", [max(1, side // by) for side in image.size])',
        "image = image.crop((0, 0, *sides))",
    ]


def _least(road: Preprocessing) -> int:
    """Pixels that the side of a reduced JPEG still has: the shorter, with bars the longer."""
    return math.ceil(preprocessing.ROOM * road.size / (road.crop_fraction if road.fit == "crop" else 1))


# The sides that a picture had before it was decoded smaller.
UPRIGHT = ["sides = full[::-1] if image.height <= image.width else full"]


def _squash(road: Preprocessing) -> list[str]:
    return [f"pixels = resize(resize(pixels, 1, {road.size}), 0, {road.size})"]


def _letterbox(road: Preprocessing) -> list[str]:
    size, colour = road.size, tuple(round(m * 255) for m in road.mean)
    return [
        *UPRIGHT,
        f"width, height = (max(1, round(side * ({size} / full[1]))) for side in sides)",
        f"left, top = ({size} - width) // 2, ({size} - height) // 2",
        f"square = np.full(({size}, {size}, 3), {colour}, np.uint8)",
        "square[top : top + height, left : left + width] = resize(resize(pixels, 1, width), 0, height)",
        "pixels = square",
    ]


def _crop(road: Preprocessing) -> list[str]:
    size, shorter = road.size, max(road.size, round(road.size / road.crop_fraction))
    return [
        *UPRIGHT,
        f"width, height = (max({size}, round(side * ({shorter} / full[0]))) for side in sides)",
        f"left, top = (width - {size}) // 2, (height - {size}) // 2",
        "pixels = resize(resize(pixels, 1, width), 0, height)",
        f"pixels = pixels[top : top + {size}, left : left + {size}]",
    ]


GEOMETRY = {"squash": _squash, "letterbox": _letterbox, "crop": _crop}


# ── JavaScript ──


def _javascript(clf: Classifier, file: str, resize: bool) -> list[str]:
    road = clf.preprocessing
    geometry = [] if resize else IN_JAVASCRIPT[road.fit](road)
    pixels, height, width = ("data", "height", "width") if resize else ("small", road.size, road.size)
    return [
        'import { readFileSync } from "node:fs";',
        f'import * as magick from "{MAGICK}";',
        'import ort from "onnxruntime-node";',
        "",
        *([] if resize else [*resizing.javascript(road.interpolation), ""]),
        f'await magick.initializeImageMagick(readFileSync(new URL(import.meta.resolve("{MAGICK}/magick.wasm"))));',
        f'const {{ classes }} = JSON.parse(readFileSync("{file.rpartition(".")[0]}.json"));',
        f'const session = await ort.InferenceSession.create("{file}");',
        "for (const path of process.argv.slice(2)) {",
        *(f"  {line}" for line in _reduced_in_javascript(road)),
        *(f"  {line}" for line in geometry),
        f"  const area = {pixels}.length / 3, images = new Uint8Array(3 * area);",
        f"  {pixels}.forEach((value, i) => {{ images[(i % 3) * area + Math.floor(i / 3)] = value; }});",
        f'  const fed = new ort.Tensor("uint8", images, [1, 3, {height}, {width}]);',
        f"  const answer = (await session.run({{ [session.inputNames[0]]: fed }})).{ANSWERS[clf.task]}.data;",
        *(f"  {line}" for line in _said_in_javascript(clf)),
        "}",
    ]


def _reduced_in_javascript(road: Preprocessing) -> list[str]:
    """The same in JavaScript as `_reduced` and what follows it: `data`, `(height, width, 3)`, of a picture upright."""
    side = "max" if road.fit == "letterbox" else "min"
    return [
        "const bytes = readFileSync(path), full = magick.MagickImageInfo.create(bytes);",
        f'const most = full.format === "JPEG" ? Math.{side}(full.width, full.height) : 0;',
        f"const by = [8, 4, 2].find((by) => Math.floor(most / by) >= {_least(road)}) ?? 1;",
        "const reading = new magick.MagickReadSettings();",
        'reading.setDefine("JPEG", "size", `${full.width / by}x${full.height / by}`); // decoded at 1 / by, rounded up',
        "const image = magick.MagickImage.create(bytes, reading);",
        "const divided = (side) => Math.max(1, Math.floor((side + by / 2 - 1) / by));",
        "if (by > 1) image.crop(divided(full.width), divided(full.height));",
        "image.autoOrient();",
        "image.backgroundColor = magick.MagickColors.White;",
        "image.alpha(magick.AlphaAction.Remove);",
        "const { width, height } = image;",
        'const data = image.getPixels((all) => all.toByteArray(0, 0, width, height, "RGB"));',
        "image.dispose();",
    ]


def _said_in_javascript(clf: Classifier) -> list[str]:
    """What is printed of `answer`, `(K,)`."""
    if clf.task == "regression":
        return ["console.log([path, ...answer].join('\\t'));"]
    if clf.task == "multi-label":
        return [
            f"const least = {list(answers.blank(clf).thresholds)};",
            "console.log([path, classes.filter((_, i) => answer[i] >= least[i]).join(';')].join('\\t'));",
        ]
    best, decides = "const best = answer.indexOf(Math.max(...answer));", answers.decides(clf)
    label = "label" if decides else "classes[best]"
    told = f"console.log([path, {label}, answer[best]].join('\\t'));"
    return [best, *(_decided_in_javascript(clf) if decides else []), told]


def _decided_in_javascript(clf: Classifier) -> list[str]:
    """The rule of `metrics.named`."""
    return [
        f"const least = {json.dumps(dict(clf.thresholds), ensure_ascii=False)};",
        "const ratio = (name) => answer[classes.indexOf(name)] / least[name];",
        "const first = Object.keys(least).sort((a, b) => ratio(b) - ratio(a))[0];",
        f'const plain = classes[best] in least || answer[best] < {clf.unsure_below!r} ? "unsure" : classes[best];',
        "const label = first !== undefined && ratio(first) >= 1 ? first : plain;",
    ]


def _squashed(road: Preprocessing) -> list[str]:
    size = road.size
    return [f"const small = resize(resize(data, width, {size}, 3), height, {size}, {3 * size});"]


def _letterboxed(road: Preprocessing) -> list[str]:
    colour = [round(m * 255) for m in road.mean]
    return _placed(road.size, f"{road.size} / Math.max(full.width, full.height)", 1, f"{colour}[i % 3]")


def _cropped(road: Preprocessing) -> list[str]:
    shorter = max(road.size, round(road.size / road.crop_fraction))
    return _placed(road.size, f"{shorter} / Math.min(full.width, full.height)", road.size, "0")


def _placed(size: int, scale: str, least: int, outside: str) -> list[str]:
    """A picture of another shape in the middle of a square, which it fills or overlaps."""
    return [
        f"const scale = {scale};",
        "const sides = [full.width, full.height].sort((a, b) => (height <= width ? b - a : a - b));",
        "const even = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)); // as Python rounds",
        f"const [w, h] = sides.map((side) => Math.max({least}, even(side * scale)));",
        "const whole = resize(resize(data, width, w, 3), height, h, 3 * w);",
        f"const [left, top] = [w, h].map((side) => Math.trunc(({size} - side) / 2));",
        f"const small = Uint8Array.from({{ length: {3 * size * size} }}, (_, i) => {{",
        f"  const x = (Math.floor(i / 3) % {size}) - left, y = Math.floor(i / {3 * size}) - top;",
        f"  return x >= 0 && x < w && y >= 0 && y < h ? whole[3 * (y * w + x) + (i % 3)] : {outside};",
        "});",
    ]


IN_JAVASCRIPT = {"squash": _squashed, "letterbox": _letterboxed, "crop": _cropped}

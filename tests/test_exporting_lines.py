"""The lines of README.md beside an exported file, and the resizing that they and the graph do as torch does it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import opsin
from exported import NEEDS, RESIZING, TASKS, data, made, name_of, needed, of_task, soft
from opsin import exporting
from opsin.classifier import Classifier
from opsin.exporting import readme, resizing
from opsin.preprocessing import Preprocessing

# ── resizing ──


def torch_resized(pictures: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """(B, H, W, 3) → (B, height, width, 3)"""
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(batch, size=(height, width), mode=interpolation, antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()


SHAPES = [(50, 31), (31, 50), (24, 24), (7, 90), (1, 1), (300, 25), (23, 48)]


def hard(height: int, width: int) -> np.ndarray:
    """Noise and black beside white, for what overshoots."""
    picture = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    picture[:, : height // 2] = 255 * (picture[:, : height // 2] > 127)
    return picture


@RESIZING
@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_resizes_as_torch_does_to_the_level(shape: tuple[int, int], interpolation: str) -> None:
    needed("onnxruntime")
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    ends = "(uint8[batch,3,24,24] images) => (uint8[batch,3,24,24] same)"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> network {ends} {{ same = Identity (images) }}'
    )
    content = resizing.before(onnx, model, 24, interpolation).SerializeToString()
    pictures = hard(*shape)
    (found,) = runtime.InferenceSession(content).run(None, {"pictures": pictures.transpose(0, 3, 1, 2)})
    assert np.array_equal(found.transpose(0, 2, 3, 1), torch_resized(pictures, 24, 24, interpolation))


@RESIZING
@pytest.mark.parametrize("shape", SHAPES)
def test_the_lines_of_python_resize_as_torch_does_to_the_level(shape: tuple[int, int], interpolation: str) -> None:
    exec("\n".join(resizing.python(interpolation)), scope := {"np": np})
    (first, _), (expected, _) = (pictures := hard(*shape)), torch_resized(pictures, 20, 24, interpolation)
    assert np.array_equal(scope["resize"](scope["resize"](first, 1, 24), 0, 20), expected)


@RESIZING
def test_the_lines_of_javascript_resize_as_torch_does_to_the_level(interpolation: str, tmp_path: Path) -> None:
    if not shutil.which("node"):
        pytest.skip("needs node")
    pictures = {shape: hard(*shape)[:1] for shape in SHAPES}
    asked = [[*shape, picture.ravel().tolist()] for shape, picture in pictures.items()]
    lines = [
        *resizing.javascript(interpolation),
        f"const made = {json.dumps(asked)}.map(([height, width, pixels]) =>",
        "  Array.from(resize(resize(pixels, width, 24, 3), height, 20, 3 * 24)));",
        "console.log(JSON.stringify(made));",
    ]
    (tmp_path / "run.mjs").write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for picture, found in zip(pictures.values(), json.loads(done.stdout), strict=True):
        assert found == torch_resized(picture, 20, 24, interpolation).ravel().tolist()


# ── the lines of README.md ──


def photographs(folder: Path) -> list[Path]:
    """JPEGs and PNGs: large ones, which are decoded smaller, odd sides, gray, with alpha, turned by their Exif."""
    folder.mkdir()
    files = []
    for number, picture in enumerate(soft(24, least=20, most=300).values()):
        file = folder / f"{number:02}.{'png' if number % 4 == 3 else 'jpg'}"
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        image = Image.fromarray(picture).convert("L" if number % 5 == 4 else "RGB")
        if number % 8 == 7:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        if file.suffix == ".png":
            image.save(file, exif=exif)
        elif number % 4 == 2:  # a phone's, with a second picture
            image.save(file, "MPO", save_all=True, append_images=[image.resize((16, 16))], exif=exif, quality=92)
        else:
            image.save(file, exif=exif, quality=92)
        files.append(file)
    return files


def block(folder: Path, language: str) -> str:
    text = (folder / "README.md").read_text(encoding="utf-8")
    return re.search(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]


def answers(said: str) -> dict[str, tuple[str, float]]:
    rows = [line.split("\t") for line in said.splitlines()]
    return {path: (label, float(probability)) for path, label, probability in rows}


def agreeing(clf: Classifier, found: dict[str, tuple[str, float]], files: list[Path], close: float) -> float:
    """The share of equal labels; what was said of each is close."""
    assert list(found) == [str(file) for file in files]
    same = 0
    for file in files:
        expected = opsin.predict(clf, file)
        label, probability = found[str(file)]
        assert probability == pytest.approx(max(expected.probabilities), abs=close)
        same += label == (expected.label or "unsure")
    return same / len(files)


@pytest.mark.parametrize(
    ("form", "fit", "interpolation", "resize"),
    [
        ("onnx", "squash", "bilinear", False),
        ("onnx", "squash", "bicubic", True),
        ("onnx", "letterbox", "bicubic", False),
        ("onnx", "crop", "bilinear", False),
        ("openvino", "squash", "bicubic", False),
        ("torch", "squash", "bilinear", False),
    ],
)
def test_the_python_lines_answer_as_opsin_does(
    form: str, fit: str, interpolation: str, resize: bool, tmp_path: Path
) -> None:
    needed(NEEDS[form])
    clf = made(Preprocessing(8, fit, interpolation=interpolation))
    exporting.export(clf, tmp_path / name_of(form), data(24), to=form, resize=resize)
    files = photographs(tmp_path / "photos")
    lines = block(tmp_path, "python")
    assert len(lines.splitlines()) <= 45  # ten without resizing, bars, thresholds
    others = {"torch", "opsin", "onnxruntime", "openvino", "cv2", "scipy"} - {readme.PIP[form]}
    alone = "".join(f"import sys; sys.modules[{name!r}] = None\n" for name in sorted(others))
    done = subprocess.run(
        [sys.executable, "-c", alone + lines, *files], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert agreeing(clf, answers(done.stdout), files, 1e-4) == 1.0


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages that the JavaScript lines ask for."""
    folder = tmp_path_factory.mktemp("node")
    if not shutil.which("npm"):
        pytest.skip("needs node and npm")
    call = ["npm", "install", "--no-audit", "--no-fund", "onnxruntime-node", readme.MAGICK]
    plain = os.environ | {"ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}  # or it asks another host for CUDA's part
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False, env=plain)
    if done.returncode:
        pytest.skip(f"npm could not install: {done.stderr[-200:]}")
    return folder


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    ("fit", "resize"), [("squash", True), ("squash", False), ("letterbox", False), ("crop", False)]
)
def test_the_javascript_lines_answer_as_opsin_does(packages: Path, fit: str, resize: bool, tmp_path: Path) -> None:
    needed("onnxruntime")
    clf = made(Preprocessing(8, fit, interpolation="bicubic" if fit == "crop" else "bilinear"))
    exporting.export(clf, tmp_path / "model.onnx", data(24), resize=resize)
    files = photographs(tmp_path / "photos")
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    (tmp_path / "run.mjs").write_text(block(tmp_path, "js"), encoding="utf-8")
    done = subprocess.run(["node", "run.mjs", *files], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert agreeing(clf, answers(done.stdout), files, 1e-4) == 1.0


@TASKS
def test_the_lines_for_other_tasks_answer_as_opsin_does(task: str, tmp_path: Path) -> None:
    needed("onnxruntime")
    clf = of_task(task, Preprocessing(8))
    exporting.export(clf, tmp_path / "model.onnx", data(24))
    files = photographs(tmp_path / "photos")
    call = [sys.executable, "-c", block(tmp_path, "python"), *map(str, files)]
    said = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=True).stdout.splitlines()
    assert len(said) == len(files)
    for line, file in zip(said, files):
        path, *found = line.split("\t")
        expected = opsin.predict(clf, file)
        assert path == str(file)
        if task == "regression":
            np.testing.assert_allclose(np.array(found, float), expected.values, rtol=1e-4, atol=1e-5)
        else:
            assert set(filter(None, found[0].split(";"))) == {name for name, _ in expected.labels}

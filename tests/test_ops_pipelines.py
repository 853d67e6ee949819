"""Pipelines: read from texts and tables, written as TOML, applied in order; what cannot follow is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from opsin import codecs, ops
from opsin.errors import CallError

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def test_a_text_is_read_with_its_parameters() -> None:
    made = ops.pipeline("rotate:angle=30,expand=yes,mode=nearest", "gray")
    assert made.steps[0].name == "rotate"
    assert made.steps[0].settings == {"angle": 30.0, "expand": True, "mode": "nearest", "fill": 0.0}
    assert str(made) == "rotate:angle=30,expand=yes,mode=nearest gray"


def test_steps_are_applied_in_their_order() -> None:
    made = ops.pipeline("crop:left=10,width=20", "invert", "resize:side=10")
    assert np.array_equal(made(PICTURE), ops.resize(ops.invert(ops.crop(PICTURE, left=10, width=20)), side=10))
    other = ops.pipeline("resize:side=10", "crop:width=5")
    assert other(PICTURE).shape == (8, 5, 3)


def test_toml_brings_it_back(tmp_path: Path) -> None:
    made = ops.pipeline("clahe:clip=3", "perspective", "jpeg:quality=70,progressive=yes")
    file = tmp_path / "p.toml"
    file.write_text(made.to_toml(), encoding="utf-8")
    assert ops.load(file) == made
    assert ops.pipeline(*made.to_list()) == made
    assert ops.load(file).digest == made.digest
    assert 'op = "clahe"\nclip = 3.0\ntiles = 8\n' in file.read_text(encoding="utf-8")


def test_the_digest_tells_pipelines_apart_and_spellings_not() -> None:
    assert ops.pipeline("clahe").digest == ops.pipeline("clahe:tiles=8,clip=2.0").digest
    assert ops.pipeline("clahe").digest != ops.pipeline("clahe:clip=3").digest
    assert ops.pipeline("gray", "invert").digest != ops.pipeline("invert", "gray").digest


@pytest.mark.parametrize("image", [PICTURE, PICTURE[..., 0], torch.rand(1, 9, 9), torch.rand(2, 3, 9, 9)])
def test_bytes_in_between_are_opened_again_in_the_same_form(image) -> None:
    found = ops.pipeline("png", "invert")(image)
    assert type(found) is type(image)
    assert found.dtype == image.dtype
    back = ops.invert(found)
    assert abs(back - image.astype(back.dtype) if isinstance(image, np.ndarray) else back - image).max() <= 1 / 255


def test_the_last_step_may_give_bytes_or_a_map() -> None:
    assert codecs.sniff(ops.pipeline("gray", "webp")(PICTURE)) == "WEBP"
    assert ops.pipeline("gaussian", "otsu")(PICTURE).dtype == np.int32


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((), "without a step"),
        (("resise",), r"unknown operation 'resise'.*Did you mean 'resize'"),
        (("resize:sid=3",), r"unknown parameter of resize 'sid'.*Did you mean 'side'"),
        (("resize:side",), "expected NAME or NAME:parameter=value"),
        (("resize:side=big",), "setting side: expected a value of type int, received 'big'"),
        (("resize:side=0",), r"resize: setting side: expected greater than or equal to 1, received 0"),
        (("ssim",), "ssim needs a second picture"),
        (("match_histogram",), "Call opsin.ops.match_histogram from Python"),
        (("sharpness",), "makes a number of a picture"),
        (("otsu", "resize"), "Make it the last step"),
        (({"op": "resize", "sise": 3},), "unknown parameter of resize 'sise'"),
        (({"side": 3},), "unknown operation ''"),
    ],
)
def test_what_is_no_pipeline_is_refused(steps, told: str) -> None:
    with pytest.raises(CallError, match=told):
        ops.pipeline(*steps)


@pytest.mark.parametrize(
    "text", ["step = 3", "[[step]]\nop = 'gray'\n[other]\n", "", "[[step]", "step = [1]", "[[step]]\nop = 3\n"]
)
def test_toml_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(CallError):
        ops.from_toml(text)


def test_a_missing_pipeline_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="cannot be read"):
        ops.load(tmp_path / "none.toml")

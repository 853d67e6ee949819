"""The one deterministic path, picture → network input, of validation, evaluation, prediction, export: of everything.

    bytes ─ load (decode, pipeline, prepare) ─> uint8 (3, S, S) ─ batch, normalise ─> float32 (B, 3, S, S)

A pipeline of operations, where the model has one, is done to the whole picture before anything else. Where it has
none, a JPEG far larger than the input is decoded at 1/2, 1/4 or 1/8, wherever bytes become an input.

By default the whole picture is squashed to a square. Cropping loses what stands at the border, and bars (letterbox)
draw the picture's shape into its pixels, where a network can learn it as a shortcut to the class.

Importing this file imports no torch, and `pixels` needs none: an exported file answers without.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import codecs, resizing
from .errors import CallError, ModelError, PictureError
from .resizing import Resize

if TYPE_CHECKING:
    from torch import Tensor

    from .ops import Pipeline

Decode = Callable[..., np.ndarray]  # what `codecs.decode` is

THREADS = min(16, os.cpu_count() or 2)  # that decode at a time
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# A reduced JPEG is still at least this many times as large as what it is resized to. There, twelve photographs differed
# from those decoded whole by 42, 40 and 39 dB (at 1/2, 1/4, 1/8; mean PSNR, the worst 35), with an SSIM above 0.98.
# At 1.5 it is 44, 42 and 41 dB, at 1 it is 40, 39 and 38.
ROOM = 1.25


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every picture; stored in the model.

    Attributes:
        size: side S of the network's input, pixels.
        fit: `squash` the whole picture; `letterbox` it with bars of the mean colour; `crop`: the shorter side becomes
            S / crop_fraction, then the centre S × S.
        mean, std: a channel each, of values in 0…1.
        interpolation: always antialiased.
        crop_fraction: used by `crop` only.
        pipeline: what is done to every picture first; only operations that make an image of an image.
    """

    size: int
    fit: Literal["squash", "letterbox", "crop"] = "squash"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_fraction: float = 0.875
    pipeline: Pipeline | None = None

    def __post_init__(self) -> None:
        """Raises CallError for a pipeline that has no place here."""
        for step in self.pipeline.steps if self.pipeline else ():
            if step.op.kind != "image":
                raise CallError(
                    f"{step.name} makes {step.op.kind} of a picture, so it cannot be part of a model's preprocessing",
                    expected="operations that make an image of an image",
                    do="See: opsin list ops",
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values; without a pipeline nothing is said of one, so that models without one stay as they were."""
        values = dataclasses.asdict(dataclasses.replace(self, pipeline=None))
        del values["pipeline"]
        return values | ({"pipeline": self.pipeline.to_list()} if self.pipeline else {})


def from_dict(values: dict[str, Any]) -> Preprocessing:
    """The Preprocessing that `to_dict` wrote.

    Raises:
        ModelError: for unknown or missing values, and for those that no Preprocessing can have.
    """
    try:
        steps = _pipeline(values["pipeline"]) if "pipeline" in values else None
        made = Preprocessing(
            **{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"]), "pipeline": steps}
        )
        sound = _is_sound(made)
    except (TypeError, KeyError, CallError) as error:
        raise ModelError("preprocessing", expected="what opsin wrote", received=str(error)) from error
    if not sound:
        raise ModelError("preprocessing", expected="what opsin wrote", received=values)
    return made


def _pipeline(steps: Sequence[Any]) -> Pipeline:
    from . import ops

    return ops.pipeline(*steps)


def _is_sound(preprocessing: Preprocessing) -> bool:
    return (
        type(preprocessing.size) is int
        and preprocessing.size > 0
        and preprocessing.fit in ("squash", "letterbox", "crop")
        and preprocessing.interpolation in ("bilinear", "bicubic")
        and len(preprocessing.mean) == len(preprocessing.std) == 3
        and all(math.isfinite(m) and s > 0 for m, s in zip(preprocessing.mean, preprocessing.std))
        and 0 < preprocessing.crop_fraction <= 1
    )


def load(preprocessing: Preprocessing, data: bytes | np.ndarray, *, decode: Decode = codecs.decode) -> Tensor:
    """The encoded picture (or array) `data` to uint8 `(3, S, S)`, channels last in memory.

    Args:
        decode: `codecs.decode`, or what does the same in a child process: `isolation.Decoders.decode`.

    Raises:
        PictureError: when it is refused, with a code of `codecs.CODES`.
    """
    return load_each([preprocessing], data, decode=decode)[0]


def load_each(
    roads: Sequence[Preprocessing], data: bytes | np.ndarray, *, decode: Decode = codecs.decode
) -> list[Tensor]:
    """What `load` gives by each of `roads`; decoded once where they take the same reduction. Raises what it does."""
    return [_tensor(found) for found in _each(roads, data, decode, resizing.by_torch)]


def pixels(
    preprocessing: Preprocessing,
    data: bytes | np.ndarray,
    *,
    decode: Decode = codecs.decode,
    resize: Resize = resizing.by_torch,
) -> np.ndarray:
    """What `load` gives, as an array, uint8 `(3, S, S)`, by any `resize` of `resizing`: they give the same."""
    return _each([preprocessing], data, decode, resize)[0].transpose(2, 0, 1)


def _each(roads: Sequence[Preprocessing], data: bytes | np.ndarray, decode: Decode, resize: Resize) -> list[np.ndarray]:
    """uint8 `(S, S, 3)` by each road."""
    decoded: dict[int, np.ndarray] = {}
    processed: dict[str, np.ndarray] = {}
    prepared = []
    sides = codecs.sides(data)
    for road in roads:
        by = _reduction(road, *sides) if sides and not road.pipeline else 1
        if by not in decoded:
            decoded[by] = decode(data, reduced=by)
        if not road.pipeline:
            prepared.append(_fitted(road, decoded[by], sides, resize))
            continue
        if (steps := repr(road.pipeline)) not in processed:
            processed[steps] = _processed(road.pipeline, decoded[by])
        prepared.append(_fitted(road, processed[steps], None, resize))
    return prepared


def _processed(pipeline: Pipeline, picture: np.ndarray) -> np.ndarray:
    try:
        return pipeline(picture)  # type: ignore[no-any-return]
    except CallError as error:  # not of this picture: a crop that is larger than it, say
        raise PictureError("not-possible", str(error)) from error


def _reduction(preprocessing: Preprocessing, shorter: int, longer: int) -> int:
    """By how much a picture of these sides may be reduced: 8, 4, 2 or 1."""
    side = longer if preprocessing.fit == "letterbox" else shorter
    target = preprocessing.size / (preprocessing.crop_fraction if preprocessing.fit == "crop" else 1)
    return next((by for by in (8, 4, 2) if side // by >= ROOM * target), 1)


def prepare(preprocessing: Preprocessing, picture: np.ndarray, *, sides: tuple[int, int] | None = None) -> Tensor:
    """One picture, uint8 `(H, W, 3)`, to uint8 `(3, S, S)`: pipeline and all of the geometry, no normalisation.

    Args:
        sides: the shorter and the longer side that `picture` had before it was reduced, which rounded them.

    The result's memory is channels last, and its own. Raises PictureError where the pipeline cannot be done.
    """
    if preprocessing.pipeline:
        picture, sides = _processed(preprocessing.pipeline, picture), None
    return _tensor(_fitted(preprocessing, picture, sides, resizing.by_torch))


def _tensor(prepared: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(prepared).permute(2, 0, 1)


def _fitted(
    preprocessing: Preprocessing, picture: np.ndarray, sides: tuple[int, int] | None, resize: Resize
) -> np.ndarray:
    """uint8 `(H, W, 3)` → uint8 `(S, S, 3)`, its own memory."""
    size, how = preprocessing.size, preprocessing.interpolation
    if preprocessing.fit == "squash":
        return _resized(picture, size, size, how, resize)
    shorter, longer = sides or sorted(picture.shape[:2])
    height, width = (shorter, longer) if picture.shape[0] <= picture.shape[1] else (longer, shorter)
    if preprocessing.fit == "letterbox":
        height, width = (max(1, round(length * (size / longer))) for length in (height, width))
        return _in_bars(preprocessing, _resized(picture, height, width, how, resize))
    scale = max(size, round(size / preprocessing.crop_fraction)) / shorter
    height, width = (max(size, round(length * scale)) for length in (height, width))
    top, left = (height - size) // 2, (width - size) // 2
    return _resized(picture, height, width, how, resize)[top : top + size, left : left + size].copy()


def _resized(picture: np.ndarray, height: int, width: int, interpolation: str, resize: Resize) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture.copy()
    return resize(picture, height, width, interpolation)


def _in_bars(preprocessing: Preprocessing, picture: np.ndarray) -> np.ndarray:
    size, (height, width) = preprocessing.size, picture.shape[:2]
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = [round(m * 255) for m in preprocessing.mean]
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = picture
    return canvas


def normalise(preprocessing: Preprocessing, images: Tensor) -> Tensor:
    """uint8 `(B, 3, S, S)` in 0…255 → float32 `(B, 3, S, S)`, channels last: (v / 255 - mean) / std."""
    import torch

    def along(channels: Tensor) -> Tensor:
        """`(1, 3, 1, S)`: torch is three times as quick with a row's numbers as with a pixel's."""
        row = channels.view(1, -1, 1, 1).expand(1, -1, 1, images.shape[3])
        return row.contiguous(memory_format=torch.channels_last)

    scale = torch.tensor(preprocessing.std, device=images.device).mul(255).reciprocal()
    shift = torch.tensor([-m / s for m, s in zip(preprocessing.mean, preprocessing.std)], device=images.device)
    floats = images.to(torch.float32, memory_format=torch.channels_last)
    return floats.mul_(along(scale)).add_(along(shift))


def enlarged(preprocessing: Preprocessing, margin: float) -> Preprocessing:
    """The same geometry on a side `margin` times as long: what the training cache keeps, for augmentation only."""
    return dataclasses.replace(preprocessing, size=round(preprocessing.size * margin))

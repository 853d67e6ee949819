"""What all operations share: what they take, what they give back, and how they are declared.

An operation is written for one form of pictures (`FORMS`) and wrapped to take all of them. The wrapper checks the
picture and the parameters, brings the picture into the form, and the result back into the form it came in.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import params
from ..errors import CallError, MissingExtra

Form = Literal["tensors", "floats", "pictures", "8 bits", "gray", "gray 8 bits"]
Kind = Literal["image", "map", "number", "bytes"]

P = ParamSpec("P")
Image = TypeVar("Image", np.ndarray, Tensor)  # what the caller gives and gets back
Inner = TypeVar("Inner", np.ndarray, Tensor)  # what the operation's body sees

DTYPES = (np.dtype(np.uint8), np.dtype(np.float32), torch.uint8, torch.float32)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: weights of red, green and blue in the gray of a picture


@dataclass(frozen=True)
class Op:
    """One line of the table: what an operation is, as far as others must know.

    Attributes:
        name: the function's own.
        function: `function(image, **parameters)`; with `reference` it takes a second picture after the first.
        run: the same for settings that were checked before, all of them given: that costs half a millisecond.
        kind: what becomes of an image: an `image`, a `map` of labels, a `number`, or `bytes` of a file.
        channels: how many it takes.
        reference: whether a second picture is needed.
        choice: a frozen dataclass, a field for each parameter, made from the function's signature.
    """

    name: str
    function: Callable[..., Any]
    run: Callable[..., Any]
    kind: Kind
    channels: tuple[int, ...]
    reference: bool
    choice: type

    @property
    def family(self) -> str:
        """The file it stands in: geometry, colour, …"""
        return self.function.__module__.rpartition(".")[2]

    @property
    def parameters(self) -> tuple[params.Parameter, ...]:
        return params.parameters(self.choice)

    @property
    def summary(self) -> str:
        """The first line of its explanation."""
        return (self.function.__doc__ or "").partition("\n")[0]

    @property
    def explanation(self) -> str:
        return inspect.getdoc(self.function) or ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values: all that a form needs."""
        facts = {"name": self.name, "family": self.family, "kind": self.kind, "channels": list(self.channels)}
        parameters = [
            {"name": p.name, "type": p.type.__name__, "default": p.default, "choices": list(p.choices)}
            | {"bounds": p.bounds, "doc": p.doc}
            for p in self.parameters
        ]
        return {**facts, "reference": self.reference, "explanation": self.explanation, "parameters": parameters}

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter's value: those that are given, checked, and the defaults of the others.

        Raises:
            CallError: for an unknown name, a wrong type or a value out of bounds.
        """
        return dataclasses.asdict(_validated(self.choice, given))


def op(function: Callable[..., Any]) -> Op:
    """The Op that a decorated function is."""
    return function.op  # type: ignore[attr-defined]


# --- declaring --------------------------------------------------------------------------------------------------------


def image_op(
    form: Form, *, channels: tuple[int, ...] = (1, 3)
) -> Callable[[Callable[Concatenate[Inner, P], Inner]], Callable[Concatenate[Image, P], Image]]:
    """Declare an image → image operation: dtype, range and number of channels are kept."""
    return lambda body: _declared(body, form, "image", channels)


def map_op(
    form: Form, *, channels: tuple[int, ...] = (1, 3)
) -> Callable[[Callable[Concatenate[Inner, P], np.ndarray]], Callable[Concatenate[Image, P], Image]]:
    """Declare an image → map operation: the body gives int32 `(H, W)`, the function also `(B, H, W)` for a batch."""
    return lambda body: _declared(body, form, "map", channels)


def number_op(
    form: Form, *, channels: tuple[int, ...] = (1, 3)
) -> Callable[[Callable[Concatenate[Inner, P], float]], Callable[Concatenate[Image, P], Any]]:
    """Declare an image → number operation: a float, or float64 `(B,)` for a batch."""
    return lambda body: _declared(body, form, "number", channels)


def bytes_op(
    body: Callable[Concatenate[np.ndarray, P], bytes],
) -> Callable[Concatenate[np.ndarray | Tensor, P], Any]:
    """Declare an image → bytes operation: bytes, or a list of them for a batch. Floats are rounded to 8 bits."""
    return _declared(body, "8 bits", "bytes", (1, 3))


def _declared(body: Callable[..., Any], form: Form, kind: Kind, channels: tuple[int, ...]) -> Callable[..., Any]:
    choice, reference = _choice(body), "reference" in inspect.signature(body).parameters

    def run(*given: Any, **settings: Any) -> Any:
        images = [Given(item, channels, declared.name) for item in given]
        if len(images) != 1 + reference:
            raise CallError(declared.name, expected=f"{1 + reference} pictures", received=len(images))
        _check_pair(images, declared)
        return images[0].returned([body(*forms, **settings) for forms in zip(*(i.items(form) for i in images))], kind)

    @functools.wraps(body)
    def function(*given: Any, **settings: Any) -> Any:
        extra = {"exif": settings.pop("exif")} if kind == "bytes" and "exif" in settings else {}
        return run(*given, **declared.settings(settings), **extra)

    declared = Op(body.__name__, function, run, kind, channels, reference, choice)
    function.op = declared  # type: ignore[attr-defined]
    return function


def _choice(body: Callable[..., Any]) -> type:
    """A dataclass with a field for each keyword-only parameter that is declared with its bounds or its meaning."""
    hints = typing.get_type_hints(body, include_extras=True)
    fields = [
        (name, hints[name], dataclasses.field(default=parameter.default))
        for name, parameter in inspect.signature(body).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and typing.get_origin(hints[name]) is Annotated
    ]
    return dataclasses.make_dataclass(body.__name__, fields, frozen=True)


def _validated(choice: type, given: Mapping[str, Any]) -> Any:
    try:
        return params.validate(choice, given)
    except CallError as error:
        name = f"{choice.__name__}: {error.message}"
        do = error.do or f"See: opsin list ops {choice.__name__}"
        raise CallError(name, expected=error.expected, received=error.received, do=do) from None


# --- what is given ----------------------------------------------------------------------------------------------------


class Given:
    """A picture or a batch as the caller gave it, checked; it is never written to.

    Raises:
        CallError: for anything that is not a picture as `ops` describes it.
    """

    def __init__(self, image: Any, channels: tuple[int, ...], name: str) -> None:
        self.image, self.name = image, name
        self.tensor = self._as_tensor(image)  # (B, C, H, W)
        if not self.tensor.numel():
            raise self._wrong("at least one pixel", tuple(image.shape))
        if self.tensor.shape[1] not in channels:
            raise self._wrong(
                f"{' or '.join(map(str, channels))} channels",
                f"{self.tensor.shape[1]}",
                "Torch tensors are (C, H, W), numpy pictures (H, W, 3)",
            )
        self._check_values()

    def _as_tensor(self, image: Any) -> Tensor:
        if isinstance(image, np.ndarray | Tensor) and image.dtype not in DTYPES:
            do = "Convert it: 8-bit values as they are, others divided by their largest possible value"
            raise self._wrong("uint8, or float32 in 0…1", str(image.dtype), do)
        if isinstance(image, Tensor) and image.ndim in (3, 4):
            return image.detach()[None] if image.ndim == 3 else image.detach()
        if isinstance(image, np.ndarray) and image.ndim in (2, 3):
            return _viewed(image)
        shape = f"{type(image).__name__} {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
        do = "Give np.asarray(image)" if hasattr(image, "mode") and hasattr(image, "tobytes") else ""  # Pillow's
        raise self._wrong("a tensor (C, H, W) or (B, C, H, W), or a numpy picture (H, W) or (H, W, 3)", shape, do)

    def _check_values(self) -> None:
        if self.tensor.dtype == torch.uint8:
            return
        low, high = (float(value) for value in self.tensor.aminmax())
        if not (low >= 0 and high <= 1):
            nan = low != low or high != high
            do = "Look for a division by zero before" if nan else "Divide by the largest possible value, such as 255"
            raise self._wrong("float32 in 0…1", "NaN" if nan else f"{low:g}…{high:g}", do)

    def _wrong(self, expected: str, received: object, do: str = "") -> CallError:
        return CallError(f"{self.name}: this is not a picture", expected=expected, received=received, do=do)

    def items(self, form: Form) -> Iterator[Any]:
        """The whole batch at once where the form is one of tensors, else picture by picture."""
        return iter([FORMS[form](self.tensor)] if form in ("tensors", "floats") else map(FORMS[form], self.tensor))

    def returned(self, results: list[Any], kind: Kind) -> Any:
        """The body's results in the form in which the picture came."""
        if kind == "image":
            return self._image(results)
        if kind == "map":
            maps = np.stack(results).astype(np.int32)
            return maps[0] if isinstance(self.image, np.ndarray) else self._shaped(torch.from_numpy(maps))
        if isinstance(self.image, np.ndarray) or self.image.ndim == 3:
            return results[0]
        return torch.tensor(results, dtype=torch.float64) if kind == "number" else results

    def _image(self, results: list[Any]) -> Any:
        done = results[0] if isinstance(results[0], Tensor) else torch.stack([_planes(result) for result in results])
        done = _converted(done, self.tensor.dtype)
        if done.shape[1] < self.tensor.shape[1]:  # gray, in every channel
            done = done.repeat(1, self.tensor.shape[1], 1, 1)
        if isinstance(self.image, np.ndarray):
            picture = done[0].permute(1, 2, 0).numpy()
            picture = picture if self.image.ndim == 3 else picture[..., 0]
            apart = done.untyped_storage().data_ptr() != self.tensor.untyped_storage().data_ptr()
            return np.array(picture, order="C", copy=None if apart else True)
        if done.untyped_storage().data_ptr() == self.tensor.untyped_storage().data_ptr():
            done = done.clone()
        return self._shaped(done)

    def _shaped(self, done: Tensor) -> Tensor:
        return (done if self.image.ndim == 4 else done[0]).to(self.image.device)


def _check_pair(images: Sequence[Given], declared: Op) -> None:
    """Pictures that are measured against each other must be of one size; one that is only a model need not."""
    lengths = 4 if declared.kind == "number" else 2
    facts = [(*given.tensor.shape[:lengths], given.tensor.dtype) for given in images]
    if len(set(facts)) > 1:
        shown = [" × ".join(map(str, fact)) for fact in facts]
        what = f"{declared.name}: the second picture is of another shape or type"
        raise CallError(what, expected=shown[0], received=shown[1], do="Resize or convert one of them")


def _viewed(picture: np.ndarray) -> Tensor:
    """`(1, C, H, W)`: the same memory where torch can read it, with the strides that it takes for channels last."""
    if not (picture.flags.writeable and picture.flags.c_contiguous and min(picture.strides) > 0):
        picture = np.array(picture, order="C")
    return torch.from_numpy(picture if picture.ndim == 3 else picture[..., None])[None].permute(0, 3, 1, 2)


def _planes(picture: np.ndarray) -> Tensor:
    picture = np.ascontiguousarray(picture if picture.ndim == 3 else picture[..., None])  # OpenCV drops a lone channel
    return torch.from_numpy(picture).permute(2, 0, 1)


def _converted(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Into the dtype, rounded to the nearest level and held in range."""
    if image.dtype == dtype:
        return image.clamp(0, 1) if dtype == torch.float32 else image
    if dtype == torch.uint8:
        return image.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return image.to(torch.float32).div_(255)


# --- the forms that bodies are written for ----------------------------------------------------------------------------


def gray(image: Tensor) -> Tensor:
    """`(B, C, H, W)` float32 → `(B, 1, H, W)`: ITU-R BT.601 luma, or the one channel as it is."""
    if image.shape[1] == 1:
        return image
    red, green, blue = image.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def _floats(image: Tensor) -> Tensor:
    return image if image.dtype == torch.float32 else image.to(torch.float32).div_(255)


def _picture(image: Tensor) -> np.ndarray:
    """`(C, H, W)` → `(H, W, C)`, writable only because OpenCV asks for it."""
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def _bytes(image: Tensor) -> Tensor:
    return _converted(image, torch.uint8)


FORMS: dict[Form, Callable[[Tensor], Any]] = {
    "tensors": lambda batch: batch,  # (B, C, H, W), uint8 or float32
    "floats": _floats,  # (B, C, H, W), float32 in 0…1
    "pictures": lambda image: _picture(_floats(image)),  # one at a time from here on: float32 (H, W, C)
    "8 bits": lambda image: _picture(_bytes(image)),  # uint8 (H, W, C); float32 is rounded
    "gray": lambda image: _picture(gray(_floats(image[None]))[0])[..., 0],  # float32 (H, W)
    "gray 8 bits": lambda image: _picture(_bytes(gray(_floats(image[None]))[0]))[..., 0],  # uint8 (H, W)
}


def skimage(part: str) -> Any:
    """A part of scikit-image, which is imported only here and only when it is needed.

    Raises:
        MissingExtra: when it is not installed.
    """
    try:
        return importlib.import_module(f"skimage.{part}")
    except ModuleNotFoundError:
        raise MissingExtra("scikit-image", "ops") from None

"""The battery: every operation of the table, on every kind of picture, and on what is none."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from opsin import ops
from opsin.errors import CallError
from opsin.ops import OPS, Op
from opsin.params import Parameter

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (33, 47, 3), dtype=np.uint8)
PICTURES = {
    "random": NOISE,
    "constant": np.full((16, 20, 3), 100, np.uint8),
    "black": np.zeros((9, 9, 3), np.uint8),
    "1×1": np.array([[[10, 200, 30]]], np.uint8),
    "a row": NOISE[:1, :7],
    "odd": NOISE[:5, :3],
    "gray": NOISE[..., :1],
    "gray 1×1": np.full((1, 1, 1), 77, np.uint8),
}
DTYPES = (np.uint8, np.float32)


def of(picture: np.ndarray, dtype: type) -> np.ndarray:
    """`picture`, uint8, in the dtype and its range."""
    return picture if dtype == np.uint8 else picture.astype(np.float32) / np.float32(255)


def planes(picture: np.ndarray) -> Tensor:
    """`(H, W, C)` as `(C, H, W)`."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def call(op: Op, image: Any, **settings: Any) -> Any:
    """The operation on `image`, and, where it needs another picture, on its mirror image."""
    mirrored = image[..., ::-1, :] if isinstance(image, np.ndarray) else image.flip(-1)
    return op.function(image, mirrored, **settings) if op.reference else op.function(image, **settings)


def same(left: Any, right: Any) -> bool:
    """Equal; float32 up to what the last places of a power or a sum depend on, the place in memory."""
    if isinstance(left, np.ndarray | Tensor):
        alike = (left.dtype, left.shape) == (right.dtype, right.shape)
        near = abs(left - right) <= 1e-6 if left.dtype in (np.float32, torch.float32) else left == right
        return alike and bool(near.all())
    return bool(left == right)


each_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["uint8", "float32"])
CASES = [
    pytest.param(op, picture, id=f"{op.name}-{name}")
    for op in OPS.values()
    for name, picture in PICTURES.items()
    if picture.shape[2] in op.channels
]


# What comes out ------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize(("op", "picture"), CASES)
def test_the_contract_is_kept(op: Op, picture: np.ndarray, dtype: type) -> None:
    given = of(picture, dtype)
    before = given.copy()
    found = call(op, given)
    check_kind(op, given, found)
    assert same(given, before)
    assert same(call(op, given), found)
    if op.kind == "image":
        assert not np.shares_memory(found, given)

    tensor = planes(given)
    kept = tensor.clone()
    from_tensor = call(op, tensor)
    assert same(tensor, kept)
    if op.kind == "image":
        assert same(from_tensor, planes(found))
        assert 0 not in from_tensor.stride(), "a view in which writing to one channel writes to all"
        assert from_tensor.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    elif op.kind == "map":
        assert same(from_tensor, torch.from_numpy(found))
    else:
        assert same(from_tensor, found)

    batch = torch.stack([tensor, tensor.flip(-1)])
    one_by_one = [call(op, image) for image in batch]
    together = call(op, batch)
    if op.kind == "bytes":
        assert together == one_by_one
    elif op.kind == "number":
        assert same(together, torch.tensor(one_by_one, dtype=torch.float64))
    else:
        assert same(together, torch.stack(one_by_one))


def check_kind(op: Op, given: np.ndarray, found: Any) -> None:
    """Is it what the table says?"""
    if op.kind == "image":
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.ndim, found.shape[2]) == (given.dtype, given.ndim, given.shape[2])
        assert found.flags.c_contiguous
        assert found.flags.writeable
        assert found.dtype == np.uint8 or (found.min() >= 0 and found.max() <= 1)
    elif op.kind == "map":
        assert (found.dtype, found.shape) == (np.int32, given.shape[:2])
        assert found.min() >= 0
    elif op.kind == "number":
        assert type(found) is float
        assert not np.isnan(found)
    else:
        assert type(found) is bytes


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("op", [op for op in OPS.values() if op.kind == "image"], ids=lambda op: op.name)
def test_float32_is_as_uint8_is(op: Op, picture: np.ndarray) -> None:
    if picture.shape[2] not in op.channels:
        with pytest.raises(CallError, match="expected 3 channels, received 1"):
            call(op, picture)
        return
    levels = call(op, picture).astype(np.float64)
    floats = call(op, of(picture, np.float32)) * 255.0
    assert np.abs(levels - floats).max() <= 1.001  # resize rounds twice


@each_op
def test_a_gray_picture_of_two_axes_is_one(op: Op) -> None:
    gray = NOISE[..., 0]
    if 1 not in op.channels:
        pytest.skip("colour only")
    found, known = call_flat(op, gray), call(op, gray[..., None])
    if op.kind == "image":
        assert found.ndim == 2
        assert same(found, known[..., 0])
    else:
        assert same(found, known)


def call_flat(op: Op, gray: np.ndarray) -> Any:
    return op.function(gray, gray[:, ::-1]) if op.reference else op.function(gray)


@each_op
def test_a_picture_that_may_not_be_written_or_lies_turned_in_memory_is_taken(op: Op) -> None:
    frozen = NOISE.copy()
    frozen.flags.writeable = False
    turned = np.asfortranarray(NOISE)
    assert same(call(op, frozen), call(op, NOISE))
    assert same(call(op, turned), call(op, NOISE))
    strided = planes(NOISE)[:, ::2, ::3]
    assert same(call(op, strided), call(op, strided.contiguous()))


# Parameters ----------------------------------------------------------------------------------------------------------


PARAMETERS = [
    pytest.param(op, parameter, id=f"{op.name}-{parameter.name}") for op in OPS.values() for parameter in op.parameters
]
NUMBERS = [case for case in PARAMETERS if case.values[1].type in (int, float)]
MANY = 64  # what a length or count is tried at where its bound is higher: pictures of 16,384² fill the memory


def bounds(parameter: Parameter) -> tuple[float, float]:
    """The least and the greatest value, from the declaration."""
    low = re.search(r"[≥>] ([-\d.e+]+)", parameter.bounds)
    high = re.search(r"[≤<] ([-\d.e+]+)", parameter.bounds)
    assert low, f"{parameter} has no lower bound"
    assert high, f"{parameter} has no upper bound"
    return float(low[1]), float(high[1])


@pytest.mark.parametrize(("op", "parameter"), NUMBERS)
def test_a_parameter_at_its_bounds_does_something_or_says_why_not(op: Op, parameter: Parameter) -> None:
    for bound in bounds(parameter):
        open_end = ("<" if bound else ">") in parameter.bounds
        value = bound + (1e-3 if not bound else -1e-3) if open_end else bound
        value = parameter.type(min(value, MANY) if parameter.type is int else value)
        try:
            found = call(op, NOISE, **{parameter.name: value})
        except CallError as error:
            assert error.received is not None  # noqa: PT017
        else:
            check_kind(op, NOISE, found)


@pytest.mark.parametrize(("op", "parameter"), NUMBERS)
def test_a_parameter_out_of_bounds_is_refused(op: Op, parameter: Parameter) -> None:
    low, high = bounds(parameter)
    for value in (low - 1, high + 1, float("nan"), float("inf"), "x"):
        with pytest.raises(
            CallError, match=rf"{op.name}: setting {parameter.name}: expected .*, received .*\. See: opsin list ops"
        ):
            call(op, NOISE, **{parameter.name: value})


@pytest.mark.parametrize(("op", "parameter"), [case for case in PARAMETERS if case.values[1].type in (bool, str)])
def test_every_choice_can_be_made(op: Op, parameter: Parameter) -> None:
    values = parameter.choices or ((True, False) if parameter.type is bool else (parameter.default,))
    for value in values:
        check_kind(op, NOISE, call(op, NOISE, **{parameter.name: value}))
    with pytest.raises(CallError, match="expected"):
        call(op, NOISE, **{parameter.name: "none of them"})


@each_op
def test_an_unknown_parameter_is_refused(op: Op) -> None:
    with pytest.raises(CallError, match="unknown setting 'quallity'"):
        call(op, NOISE, quallity=1)


@each_op
def test_parameters_are_explained_and_their_defaults_are_allowed(op: Op) -> None:
    assert all(parameter.doc for parameter in op.parameters)
    assert op.settings({}) == {parameter.name: parameter.default for parameter in op.parameters}
    assert op.summary.endswith((".", ";", ")"))
    signature = inspect.signature(op.function).parameters
    assert {p.name for p in op.parameters} == {*signature} - {"image", "reference", "exif"}


# What is no picture --------------------------------------------------------------------------------------------------


def with_a_nan() -> np.ndarray:
    picture = of(NOISE, np.float32)
    picture[3, 4, 1] = np.nan
    return picture


BAD = {
    "float64": (NOISE / 255, "expected uint8, or float32 in 0…1, received float64"),
    "int32": (NOISE.astype(np.int32), "received int32"),
    "bool": (torch.ones(3, 5, 5, dtype=torch.bool), "received torch.bool"),
    "NaN": (with_a_nan(), "received NaN"),
    "too bright": (NOISE.astype(np.float32), "expected float32 in 0…1, received 0…255. Divide by"),
    "negative": (of(NOISE, np.float32) - 0.5, "received -0.5…0.5"),
    "two channels": (NOISE[..., :2], "received 2. Torch tensors are"),
    "alpha": (np.dstack([NOISE, NOISE[..., :1]]), "received 4"),
    "channels last": (torch.from_numpy(NOISE), r"\(C, H, W\)"),
    "nothing in it": (NOISE[:0], "expected at least one pixel"),
    "an empty batch": (torch.zeros(0, 3, 4, 4), "expected at least one pixel"),
    "two axes": (torch.zeros(4, 4), r"received Tensor \(4, 4\)"),
    "four axes": (NOISE[None], r"received ndarray \(1, 33, 47, 3\)"),
    "a list": ([[1, 2], [3, 4]], "received list"),
    "Pillow's": (Image.new("RGB", (4, 4)), r"received Image. Give np.asarray\(image\)"),
    "a file": ("picture.jpg", "received str"),
}


@pytest.mark.parametrize("bad", BAD)
@each_op
def test_what_is_no_picture_is_refused(op: Op, bad: str) -> None:
    image, told = BAD[bad]
    with pytest.raises(CallError, match=told) as caught:
        op.function(*[image] * (1 + op.reference))
    assert str(caught.value).startswith(f"{op.name}: this is not a picture: expected ")


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.reference], ids=lambda op: op.name)
def test_two_pictures_must_go_together(op: Op) -> None:
    with pytest.raises(CallError, match="expected 2 pictures, received 1"):
        op.function(NOISE)
    with pytest.raises(CallError, match="of another shape or type"):
        op.function(NOISE, of(NOISE, np.float32))
    with pytest.raises(CallError, match="of another shape or type"):
        op.function(NOISE, NOISE[..., :1])
    if op.kind == "number":
        with pytest.raises(CallError, match=r"expected 1 × 3 × 33 × 47 .*Resize or convert"):
            op.function(NOISE, NOISE[:9])


@pytest.mark.parametrize("op", [op for op in OPS.values() if not op.reference], ids=lambda op: op.name)
def test_a_second_picture_is_refused_where_none_is_needed(op: Op) -> None:
    with pytest.raises(CallError, match="expected 1 pictures, received 2"):
        op.function(NOISE, NOISE)


# The table -----------------------------------------------------------------------------------------------------------


def test_every_function_of_the_families_is_in_the_table_and_can_be_imported() -> None:
    for family in ops.FAMILIES:
        decorated = {name for name, value in vars(family).items() if isinstance(getattr(value, "op", None), Op)}
        own = {name for name in decorated if getattr(family, name).__module__ == family.__name__}
        assert own == {function.op.name for function in family.FAMILY}
    for name, op in OPS.items():
        assert getattr(ops, name) is op.function
        assert name in ops.__all__
    assert len({*ops.__all__}) == len(ops.__all__)
    assert all(hasattr(ops, name) for name in ops.__all__)


def test_the_table_says_what_a_form_needs() -> None:
    facts = OPS["clahe"].to_dict()
    assert facts["family"] == "enhancement"
    assert facts["kind"] == "image"
    assert facts["parameters"][0] == {
        "name": "clip",
        "type": "float",
        "default": 2.0,
        "choices": [],
        "bounds": "≥ 1, ≤ 100",
        "doc": "most pixels of one level, relative to a flat histogram",
    }


def test_the_page_of_the_operations_is_as_the_table_is() -> None:
    docs = Path(__file__).parent.parent / "docs"
    spec = importlib.util.spec_from_file_location("ops_page", docs / "ops_page.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (docs / "ops.md").read_text(encoding="utf-8")
    assert module.page(text) == text, "write it anew: python docs/ops_page.py"


@pytest.mark.gpu
@each_op
def test_a_tensor_on_another_device_comes_back_there(op: Op) -> None:
    here = planes(NOISE)
    found = call(op, here.cuda())
    if op.kind in ("image", "map"):
        assert found.device.type == "cuda"
        assert np.abs(found.cpu().numpy().astype(int) - call(op, here).numpy()).max() <= 1
    else:
        assert found == call(op, here)

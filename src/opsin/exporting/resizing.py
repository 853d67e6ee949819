"""The road's resizing, written for others: inside an ONNX graph, in numpy and in JavaScript, equal to the level.

torch resizes uint8 by whole numbers (aten/native/cpu/UpSampleKernel.cpp, after Pillow's Resample.c): along the width,
then along the height, each output value is a sum of inputs times weights, which are fractions of a power of two, as
fine as 16 bits hold. A convolution with a triangle (bilinear) or Keys' kernel with a = -0.5 (bicubic), as wide as the
input is larger than the output, gives the weights. Whole numbers have one sum, in whatever order they are added.
"""

from __future__ import annotations

from typing import Any

# name → how far the kernel reaches, and its value at a distance x ≥ 0 in ONNX, numpy and JavaScript
KERNELS = {
    "bilinear": {
        "reach": "1.0",
        "onnx": """
  hat = Sub (one, x)
  kernel = Max (zero, hat)""",
        "python": "np.maximum(0, 1 - x)",
        "js": "Math.max(0, 1 - x)",
    },
    "bicubic": {
        "reach": "2.0",
        "onnx": """
  a1 = Constant <value = double {1.5}> ()
  a2 = Constant <value = double {2.5}> ()
  b1 = Mul (a1, x)
  b2 = Sub (b1, a2)
  b3 = Mul (b2, x)
  b4 = Mul (b3, x)
  near = Add (b4, one)
  c1 = Constant <value = double {5.0}> ()
  c2 = Constant <value = double {8.0}> ()
  c3 = Constant <value = double {4.0}> ()
  c4 = Constant <value = double {-0.5}> ()
  d1 = Sub (x, c1)
  d2 = Mul (d1, x)
  d3 = Add (d2, c2)
  d4 = Mul (d3, x)
  d5 = Sub (d4, c3)
  far = Mul (d5, c4)
  is_near = Less (x, one)
  is_far = Less (x, two)
  outer = Where (is_far, far, zero)
  kernel = Where (is_near, near, outer)""",
        "python": "np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, (x < 2) * (((x - 5) * x + 8) * x - 4) * -0.5)",
        "js": "x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0",
    },
}

# pictures of one size, any size → (B, 3, SIDE, SIDE). Weighed takes the last axis of four and puts it first, resized.
# Inputs are gathered where a weight is, for weights that are zero almost everywhere: `taps` of them an output value.
ONNX = """
<ir_version: IR, opset_import: ["" : OPSET, "opsin" : 1]>
resizing (uint8[batch,3,height,width] pictures) => (uint8[batch,3,SIDE,SIDE] images) {
  whole = Cast <to = 6> (pictures)
  narrow = opsin.Weighed (whole)
  small = opsin.Weighed (narrow)
  turned = Transpose <perm = [2, 3, 0, 1]> (small)
  images = Cast <to = 2> (turned)
}
<opset_import: ["" : OPSET], domain: "opsin">
Weighed (values) => (resized) {
  zero = Constant <value = double {0.0}> ()
  half = Constant <value = double {0.5}> ()
  one = Constant <value = double {1.0}> ()
  two = Constant <value = double {2.0}> ()
  side = Constant <value = double {SIDE.0}> ()
  reach = Constant <value = double {REACH}> ()
  across = Constant <value = int64[1] {1}> ()
  shape = Shape <start = 3, end = 4> (values)
  sides = Squeeze (shape)
  length = Cast <to = 11> (sides)
  scale = Div (length, side)
  wide = Max (scale, one)
  support = Mul (wide, reach)
  outputs = Range (zero, side, one)
  middles = Add (outputs, half)
  on_input = Mul (middles, scale)
  centres = Unsqueeze (on_input, across)
  edges = Sub (centres, support)
  from_half = Add (edges, half)
  begins = Floor (from_half)
  whole_support = Ceil (support)
  both_sides = Mul (whole_support, two)
  taps = Add (both_sides, one)
  steps = Range (zero, taps, one)
  at = Add (begins, steps)
  apart = Sub (at, centres)
  apart_middles = Add (apart, half)
  distance = Div (apart_middles, wide)
  x = Abs (distance)KERNEL
  before = Less (at, zero)
  after = GreaterOrEqual (at, length)
  outside = Or (before, after)
  inside = Where (outside, zero, kernel)
  total = ReduceSum (inside, across)
  shares = Div (inside, total)
  largest = ReduceMax <keepdims = 0> (shares)
  limit = Constant <value = double {32767.5}> ()
  room = Div (limit, largest)
  log_room = Log (room)
  log_two = Log (two)
  log2 = Div (log_room, log_two)
  too_many = Ceil (log2)
  enough = Sub (too_many, one)
  most = Constant <value = double {22.0}> ()
  bits = Min (enough, most)
  unit = Pow (two, bits)
  exact = Mul (shares, unit)
  sign = Sign (exact)
  to_round = Mul (sign, half)
  rounded = Add (exact, to_round)
  weights = Cast <to = 6> (rounded)
  deep = Constant <value = int64[3] {2, 3, 4}> ()
  weights_deep = Unsqueeze (weights, deep)
  last = Sub (length, one)
  not_before = Max (at, zero)
  not_after = Min (not_before, last)
  places = Cast <to = 7> (not_after)
  front = Transpose <perm = [3, 0, 1, 2]> (values)
  gathered = Gather <axis = 0> (front, places)
  weighed = Mul (gathered, weights_deep)
  sums = ReduceSum <keepdims = 0> (weighed, across)
  half_unit = Mul (unit, half)
  half_units = Cast <to = 6> (half_unit)
  units = Cast <to = 6> (unit)
  raised = Add (sums, half_units)
  levels = Div (raised, units)
  black = Constant <value = int32 {0}> ()
  white = Constant <value = int32 {255}> ()
  resized = Clip (levels, black, white)
}
"""


def before(onnx: Any, model: Any, side: int, interpolation: str, *, keep: bool = False) -> Any:
    """`model`, of prepared pictures, with the resizing before it; `keep`: what it gives is an output, the first."""
    kernel = KERNELS[interpolation]
    put = {"IR": model.ir_version, "OPSET": _opset(model), "SIDE": side, "REACH": kernel["reach"]}
    text = ONNX
    for name, value in put.items():
        text = text.replace(name, str(value))
    resizing = onnx.parser.parse_model(text.replace("KERNEL", kernel["onnx"]))
    last = [each.name for each in model.graph.output]
    # Values of the two may have the same names.
    resizing = onnx.compose.add_prefix(resizing, "resizing.", rename_inputs=False, rename_outputs=False)
    outputs = ["images", *last] if keep else last
    return onnx.compose.merge_models(resizing, model, [("images", "images")], outputs=outputs)


def _opset(model: Any) -> int:
    return int(next(each.version for each in model.opset_import if not each.domain))


def python(interpolation: str) -> list[str]:
    """`resize(image, axis, length)`: `(H, W, 3)` in 0…255 → the same, one axis of another length."""
    return [
        "def resize(image, axis, length):  # in whole numbers, as torch does it",
        "    n, scale = image.shape[axis], image.shape[axis] / length",
        "    x = np.abs(np.arange(n) - scale * (np.arange(length)[:, None] + 0.5) + 0.5) / max(scale, 1)",
        f"    weights = {KERNELS[interpolation]['python']}",
        "    weights = weights / weights.sum(1, keepdims=True)",
        "    unit = 2.0 ** min(22, np.ceil(np.log2(32767.5 / weights.max())) - 1)",
        "    weights = np.trunc(weights * unit + np.sign(weights) / 2)",
        "    sums = np.moveaxis(np.tensordot(weights, image.astype(float), (1, axis)), 0, axis)",
        "    return np.clip(np.floor(sums / unit + 0.5), 0, 255).astype(np.uint8)",
    ]


def javascript(interpolation: str) -> list[str]:
    """`resize(pixels, n, length, stride)`: values of pixels in rows → the same, n along an axis become `length`."""
    return [
        "function resize(pixels, n, length, stride) { // in whole numbers, as torch does it",
        "  const scale = n / length, wide = Math.max(scale, 1);",
        f"  const kernel = (x) => {KERNELS[interpolation]['js']};",
        "  const rows = Array.from({ length }, (_, i) => {",
        "    const x = (j) => Math.abs(j - scale * (i + 0.5) + 0.5) / wide;",
        "    const all = Array.from({ length: n }, (_, j) => [j * stride, kernel(x(j))]);",
        "    const total = all.reduce((sum, [, weight]) => sum + weight, 0);",
        "    return all.filter(([, weight]) => weight).map(([j, weight]) => [j, weight / total]);",
        "  });",
        "  const largest = rows.flat().reduce((most, [, weight]) => Math.max(most, weight), 0);",
        "  const unit = 2 ** Math.min(22, Math.ceil(Math.log2(32767.5 / largest)) - 1);",
        "  const whole = rows.map((row) => row.map(([j, w]) => [j, Math.trunc(w * unit + Math.sign(w) / 2)]));",
        "  return Uint8ClampedArray.from({ length: (pixels.length / n) * length }, (_, at) => {",
        "    const from = Math.floor(at / stride / length) * n * stride + (at % stride);",
        "    const row = whole[Math.floor(at / stride) % length];",
        "    return Math.floor(row.reduce((sum, [j, w]) => sum + pixels[from + j] * w, 0) / unit + 0.5);",
        "  });",
        "}",
    ]

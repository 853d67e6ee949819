"""Image operations: pure functions with declared parameters, all in one table, `OPS`.

One rule for what goes in and what comes out:

- A numpy picture, `(H, W, 3)` or gray `(H, W)`, gives a numpy picture. (`(H, W, 1)` is gray as well.)
- A torch tensor, `(C, H, W)` or a batch `(B, C, H, W)` with C = 1 or 3, on any device, gives a tensor on that device.
- Values are uint8, or float32 in 0…1. An image operation keeps dtype, range and number of channels.
- A batch is as its pictures one by one; float32 within 1e-6.
- The input is never changed, and the result shares no memory with it.

What an operation makes of an image is its `kind`: an `image`; a `map` of labels, int32 `(H, W)` or `(B, H, W)`; a
`number`, float, or float64 `(B,)`; `bytes`, or a list of them. Pictures that are none, and parameters out of bounds,
are a CallError. OpenCV and scikit-image compute on the CPU, so there a GPU's tensor is copied over and back.
"""

from __future__ import annotations

from .colour import gray, hsv, invert, lab, match_histogram, normalise, posterise, white_balance
from .compression import Rate, avif, jpeg, png, rate_distortion, reopened, webp
from .contract import Op
from .enhancement import (
    autocontrast,
    bilateral,
    brightness,
    clahe,
    contrast,
    equalise,
    gamma,
    median,
    non_local_means,
    sharpen,
    total_variation,
    unsharp_mask,
)
from .filters import box, canny, closing, dilate, erode, gaussian, laplacian, opening, sobel, top_hat
from .geometry import affine, centre_crop, crop, flip, letterbox, pad, perspective, resize, rotate, translate
from .labels import Measures, cut_out, from_rle, measures, overlay, to_rle
from .pipelines import Pipeline, Step, find, from_text, from_toml, load, pipeline, split_text
from .quality import clipped, entropy, exposure, noise, psnr, sharpness, ssim
from .segmentation import adaptive, components, connected, grabcut, kmeans, multi_otsu, otsu, slic, watershed
from .table import FAMILIES, OPS

__all__ = [
    "FAMILIES", "OPS", "Measures", "Op", "Pipeline", "Rate", "Step", "adaptive", "affine", "autocontrast", "avif",
    "bilateral", "box", "brightness", "canny", "centre_crop", "clahe", "clipped", "closing", "components",
    "connected", "contrast", "crop", "cut_out", "dilate", "entropy", "equalise", "erode", "exposure", "find",
    "flip", "from_rle", "from_text", "from_toml", "gamma", "gaussian", "grabcut", "gray", "hsv", "invert", "jpeg",
    "kmeans", "lab", "laplacian", "letterbox", "load", "match_histogram", "measures", "median", "multi_otsu",
    "noise", "non_local_means", "normalise", "opening", "otsu", "overlay", "pad", "perspective", "pipeline", "png",
    "posterise", "psnr", "rate_distortion", "reopened", "resize", "rotate", "sharpen", "sharpness", "slic", "sobel",
    "split_text", "ssim", "to_rle", "top_hat", "total_variation", "translate", "unsharp_mask", "watershed", "webp",
    "white_balance",
]  # fmt: skip

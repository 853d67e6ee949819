"""The table of all operations: what commands, forms, studies and tests walk over."""

from __future__ import annotations

from . import colour, compression, enhancement, filters, geometry, quality, segmentation
from .contract import Op, op

FAMILIES = (geometry, colour, enhancement, filters, compression, segmentation, quality)

OPS: dict[str, Op] = {op(function).name: op(function) for family in FAMILIES for function in family.FAMILY}

"""`uniform`: min-max quantizer with any number of levels (KIVI, arXiv 2402.02750, equation 1).

Each group of values shares `lo` and `step`, both bf16: x ≈ lo + q·step, q in 0 … levels-1. `lo` is rounded down and
`step` up, so no value is clipped and |error| ≤ step / 2 (plus the rounding to the output's dtype). Symmetric: only
`step` is kept, x ≈ (q - (levels-1)//2)·step, and an even number of levels leaves the last one unused
(CacheGen, arXiv 2310.07240, section 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tightwire.kv.block import F32
from tightwire.kv.stages.base import (
    STAGES,
    Layout,
    Place,
    Quantized,
    Quantizer,
    Shape,
    Stage,
    require_choice,
    require_range,
)
from tightwire.kv.stages.quantizers import groups


@STAGES.register("uniform")
@dataclass(frozen=True)
class Uniform(Quantizer):
    """`levels` 2 to 256. `axis`: who shares (lo, step) — `token`: the D values of one token and head; `channel`: one
    channel of a head over the tokens of the block; `group`: `group` neighbours among the D values of one token and
    head (the last group is shorter where `group` does not divide D); `channel_group`: `group` neighbouring tokens of one
    channel of a head; `tensor`: one layer's head."""

    name = "uniform"
    levels: int = 16
    axis: groups.Axis = "group"
    group: int = 64
    form: Literal["asymmetric", "symmetric"] = "asymmetric"

    def __post_init__(self) -> None:
        require_range("uniform: levels", self.levels, 3 if self.form == "symmetric" else 2, 256)
        require_range("uniform: group", self.group, 1, 65536)
        require_choice("uniform: axis", self.axis, groups.AXES)
        require_choice("uniform: form", self.form, ("asymmetric", "symmetric"))

    @classmethod
    def variants(cls) -> list[Stage]:
        levels = (3, 4, 6, 8, 10, 12, 16, 24, 32, 64, 128, 256)
        return [cls(levels=count, axis=axis) for count in levels for axis in ("token", "channel", "group", "tensor")]

    @property
    def cells(self) -> groups.Cells:
        return groups.Cells(self.axis, self.group, self.form == "symmetric")

    def quantize(self, x: F32, place: Place) -> Quantized:
        levels = np.full(x.shape[0] * x.shape[1], self.levels, np.uint16)
        symbols, params = groups.quantize(x, levels, self.cells)
        return Quantized(symbols, levels, params)

    def layout(self, data: memoryview, shape: Shape, place: Place) -> Layout:
        segments = shape[0] * shape[1]
        levels = np.full(segments, self.levels, np.uint16)
        return Layout(levels, shape[2] * shape[3], self.cells.params_bytes(shape))

    def dequantize(self, q: Quantized, shape: Shape, place: Place) -> F32:
        return groups.dequantize(q.symbols, q.levels, q.params, shape, self.cells)

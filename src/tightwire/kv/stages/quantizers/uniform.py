"""`uniform`: min-max quantizer with any number of levels, asymmetric (KIVI, arXiv 2402.02750, equation 1).

Each group of values shares `lo` and `step`, both bf16: x ≈ lo + q·step, q in 0 … levels-1. `lo` is rounded down and
`step` up, so no value is clipped and |error| ≤ step / 2 (plus the rounding to the output's dtype).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Literal, get_args

import numpy as np

from tightwire.errors import ConfigError
from tightwire.kv.block import F32
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import STAGES, NotFiniteError, Quantized, Quantizer, Stage, require_range

Axis = Literal["token", "channel", "group"]


@STAGES.register("uniform")
@dataclass(frozen=True)
class Uniform(Quantizer):
    """`levels` 2 to 256. `axis`: who shares (lo, step) — `token`: the D values of one token and head; `channel`: one
    channel of a head over the tokens of the block; `group`: `group` neighbours among the D values of one token and
    head (the last group is shorter where `group` does not divide D)."""

    name = "uniform"
    levels: int = 16
    axis: Axis = "group"
    group: int = 64

    def __post_init__(self) -> None:
        require_range("uniform: levels", self.levels, 2, 256)
        require_range("uniform: group", self.group, 1, 65536)
        if self.axis not in get_args(Axis):
            raise ConfigError(f"uniform: axis={self.axis!r} is unknown; use one of {', '.join(get_args(Axis))}")

    @classmethod
    def variants(cls) -> list[Stage]:
        levels = (3, 4, 6, 8, 10, 12, 16, 24, 32, 64, 128, 256)
        return [cls(levels=count, axis=axis) for count in levels for axis in get_args(Axis)]

    def group_size(self, dim: int) -> int:
        """Values of one token and head that share (lo, step), for the axes along D."""
        return min(self.group, dim) if self.axis == "group" else dim

    def groups(self, shape: tuple[int, ...]) -> int:
        *lead, tokens, dim = shape
        if self.axis == "channel":
            return prod(lead) * dim if tokens else 0
        return prod(lead) * tokens * ceil(dim / self.group_size(dim))

    def quantize(self, x: F32) -> Quantized:
        if self.axis == "channel":
            q = self._rows(np.swapaxes(x, -1, -2), x.shape[-2])
            return Quantized(np.ascontiguousarray(np.swapaxes(q.symbols, -1, -2)), q.lo, q.step)
        return self._rows(x, self.group_size(x.shape[-1]))

    def _rows(self, x: F32, group: int) -> Quantized:
        symbols, lo, step = reference.quantize(x, max(group, 1), self.levels)
        if ((lo & 0x7F80) == 0x7F80).any() or (step >= 0x7F80).any() or not np.isfinite(x).all():
            raise NotFiniteError("values hold NaN or Inf, or a range that bf16 parameters cannot express")
        return Quantized(symbols, lo, step)

    def dequantize(self, quantized: Quantized) -> F32:
        symbols = quantized.symbols
        if self.axis == "channel":
            turned = np.swapaxes(symbols, -1, -2)
            x = reference.dequantize(turned, quantized.lo, quantized.step, max(turned.shape[-1], 1))
            return np.ascontiguousarray(np.swapaxes(x, -1, -2))
        return reference.dequantize(symbols, quantized.lo, quantized.step, self.group_size(symbols.shape[-1]))

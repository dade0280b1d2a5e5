"""What quantizers of channels along tokens have in common.

A segment is one group of neighbouring channels of a head: S = L·H·G segments of N = T·width symbols, channel after
channel; width is the largest divisor of D up to `channels`. Symbol s of a channel stands for lo + s · step, both bf16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tightwire.kv.block import F32, U16
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import Layout, NotFiniteError, Place, Quantized, Quantizer, Shape, require_bytes


@dataclass(frozen=True, eq=False)
class Parameters:
    """What a payload says before its symbols, which takes `size` bytes. `coded` bool `[S]`: segments that have symbols, at
    least one; in the others all is zero. Of those that have: `levels`; `lo` and `step` of each channel, bf16 bits, finite."""

    coded: npt.NDArray[np.bool_]
    levels: U16
    lo: U16
    step: U16
    size: int


class Channels(Quantizer):
    """Base of `allocate` and `deadzone`. `channels`, a field of theirs: how many a segment may have."""

    channels: int

    def rows_quantized(self, rows: F32, low: F32, high: F32, shape: tuple[int, ...], place: Place) -> Quantized:
        """`quantize` of finite values `shape` as rows `[S, width, T]`, whose minima and maxima `[S, width]` are known; symbols
        and levels of the segments that are coded."""
        raise NotImplementedError

    def parameters(self, data: memoryview, shape: Shape) -> Parameters:
        """Of a payload for values of `shape`; FrameError for what no encoder writes."""
        raise NotImplementedError

    def width(self, dim: int) -> int:
        """Channels of a segment."""
        return next(width for width in range(min(self.channels, dim), 0, -1) if dim % width == 0)

    def segments(self, shape: Shape) -> int:
        return shape[0] * shape[1] * shape[3] // self.width(shape[3])

    def quantize(self, x: F32, place: Place) -> Quantized:
        if not np.isfinite(x).all():
            raise NotFiniteError("values hold NaN or Inf")
        rows = np.ascontiguousarray(x.swapaxes(2, 3)).reshape(-1, self.width(x.shape[3]), x.shape[2])
        return self.rows_quantized(rows, rows.min(axis=-1), rows.max(axis=-1), x.shape, place)

    def layout(self, data: memoryview, shape: Shape, place: Place) -> Layout:
        found = self.parameters(data, shape)
        return Layout(found.levels, self.width(shape[3]) * shape[2], found.size)

    def dequantize(self, q: Quantized, shape: Shape, place: Place) -> F32:
        layers, heads, tokens, dim = shape
        found = self.parameters(memoryview(q.params), shape)
        require_bytes("the parameters", q.params, found.size)
        rows = q.symbols.reshape(len(found.levels), -1, tokens)
        x = np.zeros((len(found.coded), self.width(dim), tokens), np.float32)
        with np.errstate(over="ignore"):
            x[found.coded] = reference.dequantize(rows, found.lo, found.step, tokens, found.levels)
        return np.ascontiguousarray(x.reshape(layers, heads, dim, tokens).swapaxes(2, 3))

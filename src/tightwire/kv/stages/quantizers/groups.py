"""Who shares the parameters (lo, step) of a min-max quantizer, and where they stand in the payload.

The parameters of one tensor: `lo` of all cells, segment by segment, then `step` of all cells; both bf16. Symmetric
quantizers have `step` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tightwire.errors import FrameError
from tightwire.kv.block import F32, U8, U16
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import Buffer, NotFiniteError, Shape, require_bytes

Axis = Literal["token", "channel", "group", "channel_group", "tensor"]
AXES: tuple[str, ...] = get_args(Axis)
_CHANNELS = ("channel", "channel_group")  # cells along tokens


@dataclass(frozen=True)
class Cells:
    """The cells that share parameters, for tensors `[L, H, T, D]`; S = L·H segments."""

    axis: Axis
    group: int
    symmetric: bool = False

    def per_segment(self, shape: Shape) -> int:
        """Cells of one layer's head."""
        _, _, tokens, dim = shape
        if self.axis == "tensor":
            return 1
        if self.axis in _CHANNELS:
            return dim * ceil(tokens / self.along(tokens))
        return tokens * ceil(dim / self.along(dim))

    def along(self, values: int) -> int:
        """How many neighbours of a row of so many values share a cell."""
        return min(self.group, values) if self.axis in ("group", "channel_group") else values

    def params_bytes(self, shape: Shape) -> int:
        return shape[0] * shape[1] * self.per_segment(shape) * (2 if self.symmetric else 4)

    def turn(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`[S, T, D]` → `[S, rows, values]`, whose neighbours along the last axis share a cell."""
        if self.axis in _CHANNELS:
            return np.swapaxes(x, 1, 2)
        return x.reshape(x.shape[0], 1, -1) if self.axis == "tensor" else x

    def size(self, rows: npt.NDArray[Any]) -> int:
        """Values of a cell, for `turn`ed values."""
        return self.along(rows.shape[-1])

    def back(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The inverse of `turn`, up to a reshape; contiguous."""
        return np.ascontiguousarray(np.swapaxes(rows, 1, 2) if self.axis in _CHANNELS else rows)


def quantize(x: F32, levels: U16, cells: Cells) -> tuple[U8, bytes]:
    """x `[L, H, T, D]`, levels `[S]` → symbols `[S, T·D]`, parameters. NotFiniteError where bf16 cannot hold them."""
    count, segments = x.shape[2] * x.shape[3], len(levels)
    rows = cells.turn(x.reshape(segments, *x.shape[2:]))
    symbols, lo, step = reference.quantize(rows, cells.size(rows), levels, cells.symmetric)
    if ((lo & 0x7F80) == 0x7F80).any() or (step >= 0x7F80).any() or not np.isfinite(x).all():
        raise NotFiniteError("values hold NaN or Inf, or a range that bf16 parameters cannot express")
    params = step.tobytes() if cells.symmetric else lo.tobytes() + step.tobytes()
    return cells.back(symbols).reshape(segments, count), params


def dequantize(symbols: U8, levels: U16, params: Buffer, shape: Shape, cells: Cells) -> F32:
    """The inverse of `quantize`; FrameError when the parameters are not finite or too few."""
    rows = cells.turn(symbols.reshape(len(levels), shape[2], shape[3]))
    lo, step = read(params, shape, cells)
    x = reference.dequantize(rows, lo, step, cells.size(rows), levels, cells.symmetric)
    return cells.back(x).reshape(shape)


def read(params: Buffer, shape: Shape, cells: Cells) -> tuple[U16, U16]:
    """lo and step, bf16 bits, flat; lo is empty when symmetric. FrameError for what no encoder writes."""
    require_bytes("the parameters", params, cells.params_bytes(shape))
    both: U16 = np.frombuffer(params, "<u2")
    lo, step = (both[:0], both) if cells.symmetric else (both[: both.size // 2], both[both.size // 2 :])
    if (lo & 0x7FFF).max(initial=0) >= 0x7F80 or step.max(initial=0) >= 0x7F80:
        raise FrameError("payload", "a group's parameters are not finite")
    return lo, step

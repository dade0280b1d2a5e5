"""`nonuniform`: levels that stand where the values are dense, from a fixed book.

x ≈ mean + scale · book[q]; each cell shares (mean, scale), both bf16 and written as `groups` writes lo and step. Who
shares is as in `uniform`. The book is computed in fp64 and rounded to fp16, so it is the same everywhere and for ever.

- `lloyd`: the Lloyd-Max levels of a unit Gaussian (TurboQuant, arXiv 2504.19874, section 3.1; KVQuant's nuq, arXiv
  2401.18079, section 3.3, fits them to data instead); scale is the standard deviation. Least mean squared error for
  Gaussian cells, e.g. 0.1175 · scale² at 4 levels and 0.0095 · scale² at 16. Values within the book are wrong by at most
  half the widest gap · scale. There is no bound for outliers but the cell's size: n values of a cell lie within
  √n · scale of the mean, and what lies beyond the last level loses the distance to it.
- `normal`: NormalFloat (QLoRA, arXiv 2305.14314, section 3): quantiles of a Gaussian, 0 among them, -1 and 1 at the
  ends; scale is the largest distance from the mean, rounded up. Every error is at most half the widest gap · scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import erfc, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from tightwire.kv.block import F32, U16
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import (
    STAGES,
    Layout,
    NotFiniteError,
    Place,
    Quantized,
    Quantizer,
    Shape,
    Stage,
    require_choice,
    require_range,
)
from tightwire.kv.stages.quantizers import groups

F64 = npt.NDArray[np.float64]


@STAGES.register("nonuniform")
@dataclass(frozen=True)
class Nonuniform(Quantizer):
    """`levels` 2 to 256 (`normal`: from 3 on); `axis` and `group` as in `uniform`."""

    name = "nonuniform"
    levels: int = 16
    book: Literal["lloyd", "normal"] = "lloyd"
    axis: groups.Axis = "group"
    group: int = 64

    def __post_init__(self) -> None:
        require_choice("nonuniform: book", self.book, ("lloyd", "normal"))
        require_range("nonuniform: levels", self.levels, 3 if self.book == "normal" else 2, 256)
        require_range("nonuniform: group", self.group, 1, 65536)
        require_choice("nonuniform: axis", self.axis, groups.AXES)

    @classmethod
    def variants(cls) -> list[Stage]:
        axes: tuple[groups.Axis, ...] = ("token", "channel")
        lloyd: list[Stage] = [cls(levels=count, axis=axis) for count in (3, 4, 6, 8, 12, 16) for axis in axes]
        return [*lloyd, *(cls(levels=count, book="normal", axis=axis) for count in (8, 16) for axis in axes)]

    @property
    def cells(self) -> groups.Cells:
        return groups.Cells(self.axis, self.group)

    @property
    def points(self) -> F32:
        """The book, ascending, fp32 `[levels]`."""
        return (lloyd if self.book == "lloyd" else normal)(self.levels)

    def quantize(self, x: F32, place: Place) -> Quantized:
        segments = x.shape[0] * x.shape[1]
        rows = self.cells.turn(x.reshape(segments, *x.shape[2:])).astype(np.float64)
        n, size = rows.shape[-1], self.cells.size(rows)
        starts = np.arange(0, n, size)
        with np.errstate(all="ignore"):  # what overflows or is NaN is seen in mean and scale
            counts = np.diff(starts, append=n)
            mean = nearest_bf16(np.add.reduceat(rows, starts, axis=-1) / counts)
            rows -= _spread(mean, size, n)
            if self.book == "lloyd":
                scale = nearest_bf16(np.sqrt(np.add.reduceat(rows**2, starts, axis=-1) / counts))
            else:
                scale = reference.ceil_bf16(np.maximum.reduceat(np.abs(rows), starts, axis=-1).astype(np.float32))
            if ((mean & 0x7F80) == 0x7F80).any() or (scale >= 0x7F80).any():
                raise NotFiniteError("values hold NaN or Inf, or a range that bf16 parameters cannot express")
            rows /= _spread(np.maximum(scale, 1), size, n)  # a scale of 0: all values equal the mean
        points = self.points.astype(np.float64)
        symbols = np.searchsorted((points[1:] + points[:-1]) / 2, rows).astype(np.uint8)
        straight = self.cells.back(symbols).reshape(segments, -1)
        levels = np.full(segments, self.levels, np.uint16)
        return Quantized(straight, levels, mean.tobytes() + scale.tobytes())

    def layout(self, data: memoryview, shape: Shape, place: Place) -> Layout:
        levels = np.full(shape[0] * shape[1], self.levels, np.uint16)
        return Layout(levels, shape[2] * shape[3], self.cells.params_bytes(shape))

    def dequantize(self, q: Quantized, shape: Shape, place: Place) -> F32:
        rows = self.cells.turn(q.symbols.reshape(-1, *shape[2:]))
        n, size = rows.shape[-1], self.cells.size(rows)
        both = (part.reshape(*rows.shape[:2], -1) for part in groups.read(q.params, shape, self.cells))
        mean, scale = (_spread(part, size, n) for part in both)
        with np.errstate(over="ignore"):
            x = self.points[rows] * scale + mean
        return self.cells.back(x).reshape(shape)


def nearest_bf16(x: F64) -> U16:
    """bf16 bits, rounded to nearest, ties to even; past the range: Inf."""
    bits: U16 = torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16).view(torch.uint16).numpy()
    return bits


def _spread(bits: U16, size: int, n: int) -> F32:
    """A cell's bf16 parameter for each of the `n` values of a row, fp32."""
    return np.repeat(reference.from_bf16(bits), size, axis=-1)[..., :n]


@lru_cache
def lloyd(levels: int) -> F32:
    """Lloyd-Max levels of a unit Gaussian (Max 1960, equations 6 and 7): every level is the mean of the values that
    are nearest to it. Newton's method on that condition, from the asymptotic density φ^(1/3)."""
    inner = NormalDist(sigma=sqrt(3)).inv_cdf
    y = np.array([inner((i + 0.5) / levels) for i in range(levels)])
    for _ in range(50):
        ends = np.concatenate([[-np.inf], (y[1:] + y[:-1]) / 2, [np.inf]])
        density = np.exp(-(ends**2) / 2) / sqrt(2 * np.pi)
        tail = np.array([erfc(abs(end) / sqrt(2)) / 2 for end in ends])  # beyond |end|: exact in both tails
        a, b = slice(None, -1), slice(1, None)
        mass = np.where(ends[a] >= 0, tail[a] - tail[b], np.where(ends[b] <= 0, tail[b] - tail[a], 1 - tail[a] - tail[b]))
        centre = (density[a] - density[b]) / mass
        finite = np.where(np.isfinite(ends), ends, 0)  # where the density is 0
        down = density[a] * (centre - finite[a]) / mass / 2  # d centre / d (the level before, or this one)
        up = density[b] * (finite[b] - centre) / mass / 2
        step = np.linalg.solve(np.diag(1 - down - up) - np.diag(up[:-1], 1) - np.diag(down[1:], -1), y - centre)
        y -= step
        if np.abs(step).max() < 1e-12:
            break
    return _book((y - y[::-1]) / 2)


@lru_cache
def normal(levels: int) -> F32:
    """NormalFloat levels in [-1, 1]: quantiles on both sides of 0, one more above it where `levels` is even."""
    offset = 1 - (1 / (2 * levels) + 1 / (2 * (levels - 1))) / 2  # 0.9677 at 16 levels

    def side(count: int) -> list[float]:
        return [NormalDist().inv_cdf(p) for p in np.linspace(offset, 0.5, count + 1)[:-1]]

    y = np.array(sorted([*side(levels // 2), 0.0, *(-value for value in side((levels - 1) // 2))]))
    return _book(y / y.max())


def _book(y: F64) -> F32:
    points = y.astype(np.float16).astype(np.float32)
    points.setflags(write=False)  # it is cached
    return points

"""`fp8`: 8-bit floating point under a scale for each cell (Micikevicius et al., arXiv 2209.05433, section 3).

x ≈ scale · fp8; symbols are the byte patterns, `[S, T·D]` of 256 levels. Parameters: scale = largest |x| of the cell /
largest fp8 value, bf16, rounded up, so nothing is clipped. |error| ≤ |x| · 2^-4 (e4m3) or |x| · 2^-3 (e5m2), or for
small values half the format's smallest step · scale: 2^-10 or 2^-17. Rounded to nearest, ties to even.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

from tightwire.errors import FrameError
from tightwire.kv.block import F32
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

Form = Literal["e4m3", "e5m2"]
_TYPES: dict[Form, torch.dtype] = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
_SMALLEST = 0x0080  # the smallest normal bf16


@STAGES.register("fp8")
@dataclass(frozen=True)
class Fp8(Quantizer):
    """`form`: `e4m3` (finer) or `e5m2` (wider); `axis` and `group` as in `uniform`."""

    name = "fp8"
    form: Form = "e4m3"
    axis: groups.Axis = "token"
    group: int = 64

    def __post_init__(self) -> None:
        require_choice("fp8: form", self.form, ("e4m3", "e5m2"))
        require_range("fp8: group", self.group, 1, 65536)
        require_choice("fp8: axis", self.axis, groups.AXES)

    @classmethod
    def variants(cls) -> list[Stage]:
        return [cls(), cls(axis="channel"), cls(axis="tensor"), cls(form="e5m2")]

    @property
    def cells(self) -> groups.Cells:
        return groups.Cells(self.axis, self.group, symmetric=True)

    def quantize(self, x: F32, place: Place) -> Quantized:
        segments = x.shape[0] * x.shape[1]
        rows = self.cells.turn(x.reshape(segments, *x.shape[2:]))
        n, size = rows.shape[-1], self.cells.size(rows)
        largest = np.maximum.reduceat(np.abs(rows), np.arange(0, n, size), axis=-1)
        scale = reference.ceil_bf16((largest / torch.finfo(_TYPES[self.form]).max).astype(np.float32))
        scale = np.where(largest > 0, np.maximum(scale, _SMALLEST), 0).astype(np.uint16)
        if (scale >= 0x7F80).any() or not np.isfinite(x).all():
            raise NotFiniteError("values hold NaN or Inf")
        width = np.repeat(reference.from_bf16(np.maximum(scale, _SMALLEST)), size, axis=-1)[..., :n]
        small = torch.from_numpy(rows / width).to(_TYPES[self.form]).view(torch.uint8).numpy()
        symbols = self.cells.back(small)
        levels = np.full(segments, 256, np.uint16)
        return Quantized(symbols.reshape(segments, -1), levels, scale.tobytes())

    def layout(self, data: memoryview, shape: Shape, place: Place) -> Layout:
        levels = np.full(shape[0] * shape[1], 256, np.uint16)
        return Layout(levels, shape[2] * shape[3], self.cells.params_bytes(shape))

    def dequantize(self, q: Quantized, shape: Shape, place: Place) -> F32:
        rows = self.cells.turn(q.symbols.reshape(-1, *shape[2:]))
        n, size = rows.shape[-1], self.cells.size(rows)
        _, scale = groups.read(q.params, shape, self.cells)
        small = _values(self.form)[rows]
        if not np.isfinite(small).all():
            raise FrameError("payload", f"a symbol is not a number in {self.form}")
        with np.errstate(over="ignore"):
            x = small * np.repeat(reference.from_bf16(scale.reshape(*rows.shape[:2], -1)), size, axis=-1)[..., :n]
        return self.cells.back(x).reshape(shape)


@lru_cache
def _values(form: Form) -> F32:
    """What each of the 256 byte patterns stands for."""
    found: F32 = torch.arange(256, dtype=torch.uint8).view(_TYPES[form]).float().numpy()
    return found

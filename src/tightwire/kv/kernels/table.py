"""The one table of kernels: Triton for tensors on a GPU, C++ for those of the host. The bytes are the same.

Where a GPU's kernels do not cover a shape, or Triton is not installed (extra `gpu`), the host's take a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, Protocol

import numpy as np
import torch

from tightwire.kv.block import U8, U16
from tightwire.kv.kernels import native
from tightwire.kv.stages.base import Buffer, Shape
from tightwire.kv.stages.codecs.pack import packed_bytes
from tightwire.kv.stages.quantizers import groups

GPUS = ("cuda",)  # types of devices that Triton's kernels run on
_TRITON = (3, 9)  # before, its arithmetic differs: subnormals become 0, its interpreter rounds fma twice
_CPU = torch.device("cpu")
_PART_VALUES = 2**22  # packed symbols come in parts, so that a frame that is put together lets them go one by one


@dataclass(frozen=True, eq=False)
class Rows:
    """What is done to rows: `levels` `[S]`, what happens before they are quantised, how many neighbours share lo and
    step, and how the symbols stand: a byte each, packed, or entropy-coded with these tables."""

    levels: U16
    weights: native.Weights
    group: int
    form: Literal["bytes", "packed"] | native.Tables


class Kernels(Protocol):
    """Kernels for tensors of one type of device; `[L, H, T, D]`, bf16."""

    def covers(self, dim: int, group: int) -> bool:
        """Whether rows of `dim` values in groups of `group` can be taken."""

    def encode(self, x: torch.Tensor, rows: Rows) -> list[Buffer] | None:
        """lo of all cells, step of all cells, symbols, in parts; the symbols of form `bytes` are the last part. None
        when a value or parameter is not finite."""

    def decode(self, params: memoryview, symbols: U8, rows: Rows, out: torch.Tensor) -> None:
        """The inverse of `encode`; FrameError for what no encoder writes, sizes of params, bytes and packed symbols
        excepted, which must fit."""


class Native:
    """The C++ kernels, for tensors of the host."""

    def covers(self, dim: int, group: int) -> bool:
        return native.covers(dim, group)

    def encode(self, x: torch.Tensor, rows: Rows) -> list[Buffer] | None:
        values = native.segments(x)
        lo, step = np.empty((2, len(values), values[0].size // rows.group), np.uint16)
        if isinstance(rows.form, native.Tables):
            parts = native.encode_rans(values, rows.levels, rows.weights, lo, step, rows.form)
            return None if parts is None else [lo.data.cast("B"), step.data.cast("B"), *parts]
        packed, count = rows.form == "packed", values[0].size
        at_once = max(1, _PART_VALUES // count) if packed else len(values)
        symbols: list[Buffer] = []
        for first in range(0, len(values), at_once):
            part = slice(first, first + at_once)
            levels, weights = rows.levels[part], rows.weights.of(part)
            out = native.pages(packed_bytes(levels, count) if packed else values.size)
            if not native.encode(values[part], levels, weights, lo[part], step[part], out, packed):
                return None
            symbols.append(out.data)
        return [lo.data.cast("B"), step.data.cast("B"), *symbols]

    def decode(self, params: memoryview, symbols: U8, rows: Rows, out: torch.Tensor) -> None:
        shape: Shape = (out.shape[0], out.shape[1], out.shape[2], out.shape[3])
        lo, step = (part.reshape(len(rows.levels), -1) for part in groups.read(params, shape, groups.Cells("group", rows.group)))
        values = native.segments(out)
        if isinstance(rows.form, native.Tables):
            native.decode_rans(symbols, rows.levels, rows.weights, lo, step, values, rows.form)
        else:
            native.decode(symbols, rows.levels, rows.weights, lo, step, values, rows.form == "packed")


def choose(device: torch.device, dim: int, group: int) -> tuple[Kernels, torch.device] | None:
    """Who takes rows of `dim` values in groups of `group` on `device`, and where they must be for that; None: nobody."""
    if on_gpu(device):
        from tightwire.kv.kernels.triton.host import Triton

        if (found := Triton()).covers(dim, group):
            return found, device
    return (_NATIVE, _CPU) if _NATIVE.covers(dim, group) else None


def on_gpu(device: torch.device) -> bool:
    """Whether tensors on `device` can take Triton's kernels."""
    return device.type in GPUS and _has_triton()


@cache
def _has_triton() -> bool:
    try:
        return tuple(map(int, version("triton").split(".")[:2])) >= _TRITON
    except PackageNotFoundError:
        return False


_NATIVE = Native()

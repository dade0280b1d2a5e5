"""The fused C++ kernels: {identity, Hadamard} → uniform → packing, one pass each way, for bf16 along head_dim.

What they do not cover (`covers` says so) is done by the stages themselves on `reference`; the bytes are the same.
"""

from __future__ import annotations

import numpy as np

from tightwire import _kernels  # type: ignore[attr-defined]
from tightwire.kv.block import F32, U8, U16

ISA: str = _kernels.isa
ISAS: list[str] = _kernels.isas
MAX_DIM = 1024
NO_TRANSFORM: F32 = np.empty(0, np.float32)


def covers(dim: int, group: int) -> bool:
    """Whether rows of `dim` values in groups of `group` can take the native path."""
    return 0 < dim <= MAX_DIM and dim % 16 == 0 and group % 16 == 0 and dim % group == 0


def encode(values: U16, weights: F32, group: int, levels: int, bits: int, isa: str = "") -> tuple[U16, U16, U8] | None:
    """values: bf16 bits `[rows, dim]`; weights: those of the rotation `[dim]`, or NO_TRANSFORM;
    → lo, step `[rows, dim / group]`, packed `[rows, dim * bits / 8]`.

    None when a value is not finite or a range is too wide for the parameters."""
    rows, dim = values.shape
    lo, step = np.empty((2, rows, dim // group), np.uint16)
    packed = np.empty((rows, dim * bits // 8), np.uint8)
    return (lo, step, packed) if encode_into(values, weights, levels, bits, lo, step, packed, isa) else None


def encode_into(
    values: U16, weights: F32, levels: int, bits: int, lo: U16, step: U16, packed: U8, isa: str = ""
) -> bool:
    """`encode` into arrays of the caller; False when the result is unusable."""
    return bool(_kernels.fused_encode(values, weights, levels, bits, lo, step, packed, isa))


def decode(lo: U16, step: U16, packed: U8, weights: F32, levels: int, bits: int, dim: int, isa: str = "") -> U16:
    """The inverse of `encode`: bf16 bits `[rows, dim]`."""
    out = np.empty((lo.shape[0], dim), np.uint16)
    decode_into(lo, step, packed, weights, levels, bits, out, isa)
    return out


def decode_into(lo: U16, step: U16, packed: U8, weights: F32, levels: int, bits: int, out: U16, isa: str = "") -> None:
    """`decode` into `out`."""
    _kernels.fused_decode(lo, step, packed, weights, levels, bits, out, isa)

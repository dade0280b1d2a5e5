"""`splitzip`: lossless floats; the 16 most frequent exponents take 4 bits (SplitZip, arXiv 2605.01708).

`exponent.split` cuts every value into a byte that holds the exponent and the rest: for bf16 sign and mantissa, one byte;
so 12 bits of 16 remain. Exact for every bit pattern, NaN included. The 16 exponents are those of the tensor (the paper
takes them from calibration). fp16 hardly gains: its byte holds mantissa bits too.

Payload: a byte 0 and the memory as it is, where coding would not be smaller; or a byte 1, the 16 exponents (most
frequent first), uint32 number of escapes E, a code for each value (4 bits, the first in the lower half; 0 where an
escape stands), the planes of the rest, then the escapes: positions uint32 `[E]`, ascending, and exponents uint8 `[E]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tightwire.errors import FrameError
from tightwire.kv.block import U8, as_bytes
from tightwire.kv.stages.base import STAGES, Buffer, Lossless, Shape, read_array, require_bytes
from tightwire.kv.stages.lossless.exponent import join, split
from tightwire.kv.stages.raw import Raw

_CODES = 16
_HEAD_BYTES = 1 + _CODES + 4
_ESCAPE_BYTES = 5


@STAGES.register("splitzip")
@dataclass(frozen=True)
class SplitZip(Lossless):
    name = "splitzip"

    def encode(self, x: torch.Tensor) -> list[Buffer]:
        exponents, rest = split(x)
        often = np.bincount(exponents, minlength=256)
        known = np.argsort(-often, kind="stable")[:_CODES].astype(np.uint8)
        escapes = exponents.size - int(often[known].sum())
        if _HEAD_BYTES + _size(exponents.size, x.element_size(), escapes) >= 1 + as_bytes(x).size:
            return [b"\0", as_bytes(x).data]
        code = np.full(256, _CODES, np.uint8)
        code[known] = np.arange(_CODES)
        codes = code[exponents]
        where = np.flatnonzero(codes == _CODES).astype("<u4")
        codes[where] = 0
        head = b"\1" + known.tobytes() + escapes.to_bytes(4, "little")
        return [head, _pair(codes), rest.reshape(-1).data, where.tobytes(), exponents[where].tobytes()]

    def decode(self, data: memoryview, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        form = int(read_array("the form", data, "u1", (1,))[0])
        if form == 0:
            return Raw().decode(data[1:], shape, dtype)
        known: U8 = read_array("the exponents", data, "u1", (_CODES,), 1)
        escapes = int(read_array("the number of escapes", data, "u4", (1,), 1 + _CODES)[0])
        values, at = int(np.prod(shape, dtype=np.int64)), _HEAD_BYTES
        require_bytes(f"splitzip {list(shape)} {dtype}", data, at + _size(values, dtype.itemsize, escapes))
        halves = read_array("the codes", data, "u1", ((values + 1) // 2,), at)
        codes = np.stack((halves & 15, halves >> 4), axis=1).reshape(-1)
        at += halves.size
        rest: U8 = read_array("the rest", data, "u1", (dtype.itemsize - 1, values), at)
        at += rest.size
        where = read_array("the positions of escapes", data, "u4", (escapes,), at).astype(np.int64)
        escaped: U8 = read_array("the exponents of escapes", data, "u1", (escapes,), at + 4 * escapes)
        ascending = (np.diff(where, prepend=-1, append=values) > 0).all()
        if form != 1 or len(np.unique(known)) != _CODES or codes[values:].any() or not ascending:
            raise FrameError("payload", "no encoder writes these codes, exponents or positions of escapes")
        if codes[where].any() or np.isin(escaped, known).any():
            raise FrameError("payload", "an escape stands where a code does, or for an exponent that has one")
        exponents = known[codes[:values]]
        exponents[where] = escaped
        return join(exponents, rest, dtype).reshape(shape)


def _size(values: int, itemsize: int, escapes: int) -> int:
    """Bytes after the head."""
    return (values + 1) // 2 + values * (itemsize - 1) + _ESCAPE_BYTES * escapes


def _pair(codes: U8) -> bytes:
    """Two codes of 4 bits a byte."""
    even = np.append(codes, 0).astype(np.uint8) if codes.size % 2 else codes
    return (even[::2] | even[1::2] << 4).astype(np.uint8).tobytes()

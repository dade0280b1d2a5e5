"""`exponent`: lossless floats. The exponents, of which few occur, go through the entropy coder; the rest as it is.

bf16 (the case that matters, and has a kernel): 8 bits of exponent through rANS, sign and mantissa as one byte. fp32:
the exponent likewise, the other 24 bits as three bytes. fp16: sign, exponent and the two highest mantissa bits through
rANS, the other byte as it is. Exact for every bit pattern. Exponent statistics of neural tensors: DFloat11, arXiv
2504.11651, section 2. Payload: the rest, one plane of a byte for each value after the other; then the stream of
`kernels.rans` with 256 levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tightwire.errors import FrameError
from tightwire.kv.block import U8, as_bytes
from tightwire.kv.kernels import native
from tightwire.kv.stages.base import STAGES, Buffer, Lossless, Shape


@STAGES.register("exponent")
@dataclass(frozen=True)
class Exponent(Lossless):
    name = "exponent"

    def encode(self, x: torch.Tensor) -> list[Buffer]:
        if x.dtype is torch.bfloat16:
            rest, parts = native.exponent_encode(native.segments(x))
            return [rest.data, *parts]
        exponents, rest = split(x)
        segments, count = x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]
        levels = np.full(segments, 256, np.uint16)
        return [rest.reshape(-1).data, *native.rans_encode(exponents.reshape(segments, count), levels)]

    def decode(self, data: memoryview, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        values = int(np.prod(shape))
        planes = dtype.itemsize - 1
        if len(data) < planes * values:
            raise FrameError("payload", f"{values} values take {planes * values} bytes without exponents, got {len(data)}")
        rest, stream = (np.frombuffer(part, np.uint8) for part in (data[: planes * values], data[planes * values :]))
        segments, count = shape[0] * shape[1], shape[2] * shape[3]
        if dtype is torch.bfloat16:
            out = torch.empty(shape, dtype=dtype)
            native.exponent_decode(rest, stream, native.segments(out))
            return out
        exponents = native.rans_decode(stream, np.full(segments, 256, np.uint16), count)
        return join(exponents.reshape(-1), rest.reshape(planes, values), dtype).reshape(shape)


def split(x: torch.Tensor) -> tuple[U8, U8]:
    """(what the coder gets, uint8 of x's size; the rest, uint8 `[itemsize - 1, size]`), for fp16, bf16 and fp32."""
    if x.dtype is torch.float16:
        both = as_bytes(x).reshape(-1, 2)
        return np.ascontiguousarray(both[:, 1]), np.ascontiguousarray(both[:, 0])[None]
    bits = as_bytes(x).view(f"<u{x.element_size()}")
    width = 8 * x.element_size()
    exponents = (bits >> (width - 9) & 0xFF).astype(np.uint8)
    rest = bits & ((1 << (width - 9)) - 1) | (bits >> (width - 1)) << (width - 9)  # the sign where the exponent ended
    planes = np.ascontiguousarray(rest).view(np.uint8).reshape(-1, x.element_size())[:, : x.element_size() - 1]
    return exponents, np.ascontiguousarray(planes.T)


def join(exponents: U8, rest: U8, dtype: torch.dtype) -> torch.Tensor:
    """The inverse of `split`, flat."""
    size = dtype.itemsize
    if dtype is torch.float16:
        return torch.from_numpy(np.stack((rest[0], exponents), axis=1).reshape(-1)).view(dtype)
    kind, width = np.dtype(f"<u{size}"), 8 * size
    whole = np.zeros((exponents.size, size), np.uint8)
    whole[:, : size - 1] = rest.T
    bits = whole.reshape(-1).view(kind)
    sign = bits >> (width - 9)
    found = bits & ((1 << (width - 9)) - 1) | exponents.astype(kind) << (width - 9) | sign << (width - 1)
    return torch.from_numpy(found.astype(kind).view(np.uint8)).view(dtype)

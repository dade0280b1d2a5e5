"""`deflate`: the symbols, one per byte, through zlib (DEFLATE, RFC 1951, in the frame of RFC 1950). Exact.

The entropy coder of KVTC (arXiv 2511.01815).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from tightwire.errors import FrameError
from tightwire.kv.block import U8, U16
from tightwire.kv.stages.base import STAGES, Buffer, Codec, check_symbols, require_range

_MOST = 1032  # bytes that one byte of DEFLATE can stand for


@STAGES.register("deflate")
@dataclass(frozen=True)
class Deflate(Codec):
    """`level` 1 (fast) to 9 (small)."""

    name = "deflate"
    level: int = 1

    def __post_init__(self) -> None:
        require_range("deflate: level", self.level, 1, 9)

    def encode(self, symbols: U8, levels: U16) -> Buffer:
        return zlib.compress(np.ascontiguousarray(symbols).data, self.level)

    def decode(self, data: memoryview, levels: U16, count: int) -> U8:
        total, stream = len(levels) * count, zlib.decompressobj()
        if total > _MOST * len(data):
            raise FrameError("payload", f"{len(data)} bytes of DEFLATE cannot hold {total} symbols")
        try:
            plain = stream.decompress(data, total + 1)
        except zlib.error as error:
            raise FrameError("payload", f"zlib refuses it: {error}") from error
        if len(plain) != total or not stream.eof or stream.unused_data:
            raise FrameError("payload", f"the zlib stream does not hold exactly {total} symbols")
        return check_symbols(np.frombuffer(plain, np.uint8).reshape(len(levels), count), levels)

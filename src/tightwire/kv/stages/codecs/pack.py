"""`pack`: every symbol takes ceil(log2 levels) bits. Exact.

Each segment stands by itself, in whole bytes, in the order of `kernels.reference.pack_bits`, which lets a processor
pack 32 symbols with one instruction whatever their width ("vertical" layout: Lemire & Boytsov, arXiv 1209.2137).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tightwire.kv.block import U8, U16
from tightwire.kv.kernels import native, reference
from tightwire.kv.stages.base import STAGES, Buffer, Codec, check_symbols, require_bytes


@STAGES.register("pack")
@dataclass(frozen=True)
class Pack(Codec):
    name = "pack"

    def encode(self, symbols: U8, levels: U16) -> Buffer:
        return b"".join(
            reference.pack_bits(row, native.bits_for(int(count))).tobytes() for row, count in zip(symbols, levels, strict=True)
        )

    def decode(self, data: memoryview, levels: U16, count: int) -> U8:
        self.check_size(data, levels, count)
        widths = [native.bits_for(int(each)) for each in levels]
        symbols, at = np.empty((len(widths), count), np.uint8), 0
        for segment, bits in enumerate(widths):
            size = (count * bits + 7) // 8
            symbols[segment] = reference.unpack_bits(data[at : at + size], count, bits)
            at += size
        return check_symbols(symbols, levels)

    def check_size(self, data: memoryview, levels: U16, count: int) -> None:
        """FrameError unless `data` has the size of these symbols."""
        require_bytes(f"{len(levels)} segments of {count} symbols", data, packed_bytes(levels, count))


def packed_bytes(levels: U16, count: int) -> int:
    """Bytes of segments of `count` symbols with `levels`."""
    distinct, often = np.unique(levels, return_counts=True)
    return sum(
        int(times) * ((count * native.bits_for(int(each)) + 7) // 8) for each, times in zip(distinct, often, strict=True)
    )

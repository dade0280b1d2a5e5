"""`pack`: every symbol takes ceil(log2 levels) bits, first symbol in the lowest bits of the first byte. Exact."""

from __future__ import annotations

from dataclasses import dataclass

from tightwire.errors import FrameError
from tightwire.kv.block import U8
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import STAGES, Codec


@STAGES.register("pack")
@dataclass(frozen=True)
class Pack(Codec):
    name = "pack"

    def encode(self, symbols: U8, levels: int) -> bytes:
        return reference.pack_bits(symbols.reshape(-1), bits_for(levels)).tobytes()

    def decode(self, data: memoryview, count: int, levels: int) -> U8:
        bits = bits_for(levels)
        if len(data) != packed_bytes(count, bits):
            raise FrameError(
                "payload", f"{count} symbols of {bits} bits take {packed_bytes(count, bits)} bytes, got {len(data)}"
            )
        symbols = reference.unpack_bits(data, count, bits)
        if count and int(symbols.max()) >= levels:
            raise FrameError("payload", f"a symbol is {int(symbols.max())}, above the last of {levels} levels")
        return symbols


def bits_for(levels: int) -> int:
    """Bits that hold `levels` values (2 → 1, 5 → 3, 256 → 8)."""
    return max((levels - 1).bit_length(), 1)


def packed_bytes(count: int, bits: int) -> int:
    return (count * bits + 7) // 8

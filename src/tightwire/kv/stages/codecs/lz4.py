"""`lz4`: bit-shuffle, then LZ4 (block format, github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md). Exact.

LZ4 has no entropy stage, so the bits of equal weight are brought together first (bitshuffle: Masui et al., arXiv
1503.00638, section 3; Blosc does the same): bit 0 of all symbols, then bit 1, up to ceil(log2 of the largest level
count). Runs of 2^20 symbols stand by themselves: uint32 sizes of all runs, then the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import lz4.block
import numpy as np

from tightwire.errors import FrameError
from tightwire.kv.block import U8, U16
from tightwire.kv.kernels import native
from tightwire.kv.stages.base import STAGES, Buffer, Codec, check_symbols, read_array, require_bytes

_RUN = 1 << 20
_MOST = 255  # bytes that one byte of LZ4 can stand for


@STAGES.register("lz4")
@dataclass(frozen=True)
class Lz4(Codec):
    name = "lz4"

    def encode(self, symbols: U8, levels: U16) -> Buffer:
        bits = native.bits_for(int(levels.max(initial=2)))
        flat = symbols.reshape(-1)
        runs = [
            lz4.block.compress(_shuffle(flat[start : start + _RUN], bits).data, store_size=False)
            for start in range(0, flat.size, _RUN)
        ]
        return b"".join((np.array([len(run) for run in runs], "<u4").tobytes(), *runs))

    def decode(self, data: memoryview, levels: U16, count: int) -> U8:
        bits, total = native.bits_for(int(levels.max(initial=2))), len(levels) * count
        starts = range(0, total, _RUN)
        sizes = read_array("the sizes of the runs", data, "u4", (len(starts),)).tolist()
        at = 4 * len(starts)
        require_bytes(f"runs of LZ4 for {total} symbols", data, at + sum(sizes))
        if total * bits > 8 * _MOST * (len(data) - at):
            raise FrameError("payload", f"{len(data)} bytes of LZ4 cannot hold {total} symbols")
        flat = np.empty(total, np.uint8)
        for start, size in zip(starts, sizes, strict=True):
            here = flat[start : start + _RUN]
            here[:] = _unshuffle(_plain(data[at : at + size], bits * ((here.size + 7) // 8)), here.size, bits)
            at += size
        return check_symbols(flat.reshape(len(levels), count), levels)


def _plain(data: memoryview, wanted: int) -> bytes:
    try:
        plain = lz4.block.decompress(data, uncompressed_size=wanted)
    except lz4.block.LZ4BlockError as error:
        raise FrameError("payload", f"LZ4 refuses it: {error}") from error
    if len(plain) != wanted:
        raise FrameError("payload", f"LZ4 gave {len(plain)} bytes, the run has {wanted}")
    return bytes(plain)


def _shuffle(symbols: U8, bits: int) -> U8:
    """`[N]` → planes of bits, `[bits, ceil(N / 8)]`; the first symbol in the lowest bit."""
    return np.stack([np.packbits(symbols >> bit & 1, bitorder="little") for bit in range(bits)])


def _unshuffle(planes: bytes, count: int, bits: int) -> U8:
    found = np.unpackbits(np.frombuffer(planes, np.uint8).reshape(bits, -1), axis=1, bitorder="little")
    if found[:, count:].any():
        raise FrameError("payload", "bits stand where no symbol is")
    symbols = np.zeros(count, np.uint8)
    for bit in range(bits):
        symbols |= found[bit, :count] << bit
    return symbols

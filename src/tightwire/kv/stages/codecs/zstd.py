"""`zstd`: the symbols, one per byte, through Zstandard (RFC 8878). Exact; its entropy stage is what pays here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import zstandard

from tightwire.errors import FrameError
from tightwire.kv.block import U8, U16
from tightwire.kv.stages.base import STAGES, Buffer, Codec, check_symbols, require_range


@STAGES.register("zstd")
@dataclass(frozen=True)
class Zstd(Codec):
    """`level` 1 (fast) to 19 (small)."""

    name = "zstd"
    level: int = 1

    def __post_init__(self) -> None:
        require_range("zstd: level", self.level, 1, 19)

    def encode(self, symbols: U8, levels: U16) -> Buffer:
        return zstandard.ZstdCompressor(level=self.level).compress(np.ascontiguousarray(symbols).data)

    def decode(self, data: memoryview, levels: U16, count: int) -> U8:
        total = len(levels) * count
        try:
            # The size stands in the header of the zstd frame: it is compared before any memory is taken.
            stated = zstandard.frame_content_size(data)
            if stated != total:
                raise FrameError("payload", f"the zstd frame says {stated} symbols, the block has {total}")
            plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=max(total, 1), allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FrameError("payload", f"zstd refuses it: {error}") from error
        if len(plain) != total:
            raise FrameError("payload", f"zstd gave {len(plain)} symbols, the block has {total}")
        return check_symbols(np.frombuffer(plain, np.uint8).reshape(len(levels), count), levels)

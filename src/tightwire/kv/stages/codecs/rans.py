"""`rans`: entropy coder, interleaved rANS with 12-bit frequencies (Duda, arXiv 1311.2540; stream: `kernels.rans`).

Exact. `own`: every run of about 2^18 symbols brings the frequencies of its level counts (adaptive); a table from
`calibrate` holds those of the calibration data, every symbol above zero (static).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightwire.errors import ConfigError
from tightwire.kv import tables
from tightwire.kv.block import U8, U16
from tightwire.kv.kernels import native, rans
from tightwire.kv.stages.base import OWN, STAGES, Buffer, Codec


@STAGES.register("rans")
@dataclass(frozen=True)
class Rans(Codec):
    """`table`: `own`, or the name of one of kind `rans`."""

    name = "rans"
    table: str = OWN

    def encode(self, symbols: U8, levels: U16) -> Buffer:
        return b"".join(native.rans_encode(np.ascontiguousarray(symbols), levels, self.frequencies(levels)))

    def decode(self, data: memoryview, levels: U16, count: int) -> U8:
        return native.rans_decode(np.frombuffer(data, np.uint8), levels, count, self.frequencies(levels))

    def frequencies(self, levels: U16) -> native.Tables:
        """The static tables; MissingTableError when they lack one of `levels`."""
        if self.table == OWN:
            return native.OWN
        table = tables.find(self.table, self.name)
        known = np.asarray(table.array("levels"), np.uint16)
        missing = sorted({*map(int, levels)} - {*map(int, known)})
        if missing:
            raise tables.MissingTableError(f"table {self.table!r} has no frequencies for {missing[0]} levels")
        return native.Tables(known, np.asarray(table.array("frequencies"), np.uint16))


def calibrate(quantized: Sequence[tuple[U8, U16]], model: str) -> tables.Table:
    """A static table from (symbols `[S, N]`, levels `[S]`) as they arrive at the coder: arrays `levels` `[C]` and
    `frequencies` `[C, 256]`. Every symbol counts once more than it occurs, so that none is impossible."""
    counts: dict[int, np.ndarray] = {}
    for symbols, levels in quantized:
        for each in map(int, np.unique(levels)):
            seen = np.bincount(symbols[levels == each].reshape(-1), minlength=256)
            counts[each] = counts.get(each, (np.arange(256) < each).astype(np.int64)) + seen
    if not counts:
        raise ConfigError("rans: no symbols to calibrate from")
    order = sorted(counts)
    return tables.Table.make(
        "rans",
        model,
        levels=np.array(order, np.uint16),
        frequencies=np.stack([rans.normalise(counts[each]) for each in order]),
    )

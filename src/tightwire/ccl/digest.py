"""What a look at a host comes down to; what the collector merges.

A digest is compact: columns of fixed-size rows, of each rank one of `RANK`, of each group or pair that it is in and in
which something changed lately one of `FRAME`, and of each operation there that it entered or left since the last look, or
is still in, one of `CALL`. Times in calls are microseconds before the digest's. `packing` makes digests, `batch` reads
many at once.
"""

from __future__ import annotations

import msgspec
import numpy as np

from tightwire.ccl.summary import GroupFacts

UNKNOWN = 0xFFFFFFFF  # of a time in a call, or of a rank's place in the order of deaths
RANK = np.dtype(
    [
        ("pid_start", "<u8"), ("written", "<u8"), ("io_bytes", "<u8"), ("starved_s", "<f8"), ("throttled_s", "<f8"),
        ("cpu_s", "<f4"), ("rank", "<u4"), ("world", "<u4"), ("pid", "<u4"), ("died", "<u4"), ("calls", "<u4"),
        ("frames", "<u2"), ("goodbye", "u1"), ("state", "S1"),
    ]
)  # `calls`, `frames`: how many of the rows are its; `state`: the kernel's letter, none when it is gone  # fmt: skip
FRAME = np.dtype(
    [("group", "<u8"), ("entered", "<u4"), ("done", "<u4"), ("waiting", "<u4"), ("op", "<u2"), ("failed", "<u2")]
)
CALL = np.dtype(
    [
        ("sequence", "<u4"), ("entered_us", "<u4"), ("ended_us", "<u4"), ("own_us", "<u4"), ("kind", "<u2"),
        ("frame", "u1"), ("failed", "u1"),
    ]
)  # `kind` and `frame` are indexes: of the digest's kinds, of the rank's frames  # fmt: skip
KIND = np.dtype([("bytes", "<u8"), ("shape", "<u8"), ("op", "<u4"), ("partner", "<u4"), ("dtype", "<u4")])


class Digest(msgspec.Struct, frozen=True):
    """Ranks of one host at `at_s` of its monotonic clock: `ranks`, `frames`, `calls` and `kinds` are rows of `RANK`,
    `FRAME`, `CALL` and `KIND`, rank by rank; the groups that it tells about, and what its ranks do that the probe does
    not see."""

    host: str
    at_s: float
    ranks: bytes
    frames: bytes
    calls: bytes
    kinds: bytes
    groups: list[GroupFacts]
    unseen: list[str] = []

"""What a look at a host comes down to; what the collector merges.

A digest is compact: columns of fixed-size rows, of each rank one of `RANK`, of each group or pair that it is in and in
which something changed lately one of `FRAME`, and of each operation there that it entered or left since the last look, or
is still in, one of `CALL`. Times in calls are microseconds before the digest's. `packing` makes digests, `batch` reads
many at once.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from tightwire.ccl.summary import GroupFacts
from tightwire.errors import LinkError
from tightwire.net import messages

MAX_BYTES = 16 * 2**20
MAX_RANKS = 2**17
MAX_HOST_RANKS, MAX_GROUPS, MAX_UNSEEN = 4096, 2**16, 256
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


_DECODER = msgspec.msgpack.Decoder(Digest)
encode = msgspec.msgpack.encode


def decode(data: bytes | memoryview) -> Digest:
    """Raises LinkError for what is no digest or has more or larger parts than a host's could; whether the rows fit together
    is seen when they are read."""
    digest = messages.decode(_DECODER, data, MAX_BYTES, "a digest")
    if not math.isfinite(digest.at_s):
        raise LinkError(f"not a digest: its time is {digest.at_s}")
    for count, most in (
        (len(digest.ranks) // RANK.itemsize, MAX_HOST_RANKS),
        (len(digest.groups), MAX_GROUPS),
        (len(digest.unseen), MAX_UNSEEN),
    ):
        if count > most:
            raise LinkError(f"not a digest: {count} ranks, groups or texts; the limit is {most}")
    for facts in digest.groups:
        if not 0 <= facts.group < 2**64 or not all(0 <= rank < MAX_RANKS for rank in facts.ranks):
            raise LinkError(f"not a digest: group {facts.group} of {len(facts.ranks)} ranks")
    return digest

"""What a look at a host comes down to; what agents ship and the collector merges.

A digest is compact: columns of fixed-size rows, of each rank one of `RANK`, of each group or pair that it is in and in
which something changed lately one of `FRAME`, and of each operation there that it entered or left since the last look, or
is still in, one of `CALL`. Times in calls are microseconds before the digest's, so that its own time alone says on whose
clock they are. `packing` makes digests, `batch` reads many at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from tightwire import _rounds  # type: ignore[attr-defined]
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
        ("gone_ms", "<u4"), ("frames", "<u2"), ("goodbye", "u1"), ("state", "S1"),
    ]
)  # fmt: skip
"""`calls`, `frames`: how many of the rows are its; `state`: the kernel's letter, none when it is gone, and then `gone_ms`: how
long before the digest it entered its last operation (UNKNOWN: none; 0 of ranks that live)."""
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
_RANK_BYTES, _FRAME_BYTES, _CALL_BYTES, _KIND_BYTES = (row.itemsize for row in (RANK, FRAME, CALL, KIND))


class Digest(msgspec.Struct, frozen=True, array_like=True):
    """Ranks of one host at `at_s` of its monotonic clock: `ranks`, `frames`, `calls` and `kinds` are rows of `RANK`,
    `FRAME`, `CALL` and `KIND`, rank by rank; the groups that it tells about, and what its ranks do that the probe does
    not see. `unknown`: ranks whose state cannot be seen any more, and why; `whole`: all frames are told, also those in
    which nothing changed."""

    host: str
    at_s: float
    ranks: bytes = b""
    frames: bytes = b""
    calls: bytes = b""
    kinds: bytes = b""
    groups: list[GroupFacts] = []
    unseen: list[str] = []
    unknown: dict[int, str] = {}
    whole: bool = False

    @property
    def rows_bytes(self) -> int:
        return len(self.ranks) + len(self.frames) + len(self.calls) + len(self.kinds)

    def without(self, out: npt.NDArray[np.bool_]) -> Digest:
        """The same but for these of its ranks ([ranks])."""
        ranks = np.frombuffer(self.ranks, RANK)
        frames = np.frombuffer(self.frames, FRAME)[~np.repeat(out, ranks["frames"])]
        calls = np.frombuffer(self.calls, CALL)[~np.repeat(out, ranks["calls"])]
        return msgspec.structs.replace(
            self, ranks=ranks[~out].tobytes(), frames=frames.tobytes(), calls=calls.tobytes()
        )


_DECODER = msgspec.msgpack.Decoder(Digest)


def encode(told: Digest) -> bytes:
    """With its calls as differences from what is to be expected of them: what is left for zstd is half as much."""
    return msgspec.msgpack.encode(msgspec.structs.replace(told, calls=_rounds.shrink(told.calls)))


def decode(data: bytes | memoryview) -> Digest:
    """Raises LinkError for what is no digest, has more or larger parts than a host's could, or rows that do not fit
    together: what comes of it may be counted and indexed with."""
    digest = messages.decode(_DECODER, data, MAX_BYTES, "a digest")
    digest = msgspec.structs.replace(digest, calls=_rounds.restore(digest.calls))
    wrong = _out_of_range(digest) or _misfit(digest)
    if wrong:
        raise LinkError(f"not a digest: {wrong}")
    return digest


def check_groups(groups: Sequence[GroupFacts]) -> None:
    """Raises LinkError."""
    if len(groups) > MAX_GROUPS:
        raise LinkError(f"{len(groups)} groups; the limit is {MAX_GROUPS}")
    for facts in groups:
        if not 0 <= facts.group < 2**64 or not all(0 <= rank < MAX_RANKS for rank in facts.ranks):
            raise LinkError(f"group {facts.group} of {len(facts.ranks)} ranks is out of range")


def _out_of_range(digest: Digest) -> str | None:
    if not math.isfinite(digest.at_s):
        return f"its time is {digest.at_s}"
    ranks = len(digest.ranks) // RANK.itemsize
    if max(ranks, len(digest.unknown)) > MAX_HOST_RANKS or len(digest.unseen) > MAX_UNSEEN:
        return f"{ranks} ranks, {len(digest.unknown)} unknown, {len(digest.unseen)} texts, which is above a limit"
    if digest.unknown and not all(0 <= rank < MAX_RANKS for rank in digest.unknown):
        return "an unknown rank that there cannot be"
    check_groups(digest.groups)
    return None


def _misfit(digest: Digest) -> str | None:
    """Called for each host and look: numpy does little, and what is done for each call is native."""
    kinds, rest = divmod(len(digest.kinds), _KIND_BYTES)
    if rest or len(digest.ranks) % _RANK_BYTES or len(digest.frames) % _FRAME_BYTES or len(digest.calls) % _CALL_BYTES:
        return "a part of a row"
    ranks = np.frombuffer(digest.ranks, RANK)
    frames, calls = ranks["frames"].tolist(), ranks["calls"].tolist()
    if sum(frames) * _FRAME_BYTES != len(digest.frames):
        return "another number of frames than it has"
    if len(ranks) and max(ranks["rank"].tolist()) >= MAX_RANKS:
        return f"a rank that is not below {MAX_RANKS}"
    if not _rounds.fit(digest.calls, calls, frames, kinds):
        return "another number of calls than it has, or one of a kind or frame that is not there"
    return None

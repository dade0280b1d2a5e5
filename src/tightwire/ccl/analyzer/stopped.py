"""H3, transfer stopped: all ranks entered the operation, and its bytes do not move.

A connection has stopped when bytes stand in its queue, none of them is acknowledged, and the kernel is about to send them
again (to a receiver that does not read it would send probes instead, and get answers). One such pair is a broken link;
several pairs that share one rank are that rank's device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tightwire.ccl.analyzer.wait_for import Waiting
from tightwire.ccl.collector import RankView
from tightwire.ccl.transport import Connection

STUCK_S = 3.0  # no progress, before the transport is looked at
BETWEEN_S = 1.5  # two looks at it: some retransmissions apart


@dataclass(frozen=True)
class Stopped:
    """`pairs` of ranks between which nothing moves, by `connections`; `device`: the one rank that all of them share."""

    wait: Waiting
    pairs: tuple[tuple[int, int], ...]
    device: int | None
    connections: tuple[Connection, ...]
    since_s: float


def stuck(ranks: Mapping[int, RankView], waiting: Sequence[Waiting], now_s: float) -> list[Waiting]:
    """The waits in operations that everybody has entered, of ranks that have made no progress for `STUCK_S`."""
    return [w for w in waiting if not w.missing and ranks[w.rank].silence_s(now_s) >= STUCK_S]


def find(
    waits: Sequence[Waiting], ranks: Mapping[int, RankView], before: Sequence[Connection], after: Sequence[Connection]
) -> Stopped | None:
    """From two looks at the transport, `BETWEEN_S` apart or more, while `waits` stood. None when everything there moves
    or is idle."""
    earlier = {(c.rank, c.local, c.remote): c for c in before}
    standing = [c for c in after if _stands(earlier.get((c.rank, c.local, c.remote)), c)]
    involved = {wait.rank: wait for wait in waits}
    pairs = sorted({(min(c.rank, c.peer), max(c.rank, c.peer)) for c in standing})
    ends = [rank for pair in pairs for rank in pair if rank in involved]
    if not ends:
        return None
    shared = set(pairs[0]).intersection(*pairs[1:]) if len(pairs) > 1 else set()
    device = shared.pop() if len(shared) == 1 else None
    since_s = min(ranks[rank].progress_s for rank in ends)
    return Stopped(involved[ends[0]], tuple(pairs), device, tuple(standing), since_s)


def _stands(before: Connection | None, after: Connection) -> bool:
    return (
        before is not None
        and before.queued_bytes > 0
        and after.queued_bytes > 0
        and after.acked_bytes == before.acked_bytes
        and before.resending
        and after.resending
        and after.retransmits >= before.retransmits
    )

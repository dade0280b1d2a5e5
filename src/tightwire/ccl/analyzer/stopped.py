"""H3, transfer stopped: all ranks entered the operation, and its bytes do not move.

A connection has stopped when bytes stand in its queue, none of them is acknowledged, and the kernel is about to send them
again (to a receiver that does not read it would send probes instead, and get answers). One such pair is a broken link;
several pairs that share one rank are that rank's device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tightwire.ccl.analyzer.wait_for import Waiting, Waits
from tightwire.ccl.connections import Connections, connection, keys
from tightwire.ccl.slots import Bools
from tightwire.ccl.transport import Connection

STUCK_S = 3.0  # no progress, before the transport is looked at
BETWEEN_S = 1.5  # two looks at it: some retransmissions apart

Pair = tuple[int, int]


@dataclass(frozen=True)
class Stopped:
    """`pairs` of ranks between which nothing moves, by `connections`; `devices`: ranks that several of them share;
    `remarks` on what else was seen."""

    wait: Waiting
    pairs: tuple[Pair, ...]
    devices: tuple[int, ...]
    connections: tuple[Connection, ...]
    since_s: float
    remarks: tuple[str, ...] = ()


def stuck(waiting: Waits, now_s: float) -> Waits:
    """The waits in operations that everybody has entered, of ranks that have made no progress for `STUCK_S`."""
    silence_s = waiting.collector.standing.silence_s(now_s)
    return waiting.only(waiting.whole & (silence_s[waiting.rank] >= STUCK_S))


def find(waits: Waits, before: Connections, after: Connections) -> Stopped | None:
    """From two looks at the transport, `BETWEEN_S` apart or more, while `waits` stood. None when everything there moves
    or is idle. The wait told is one in an operation that everybody has entered, where there is one."""
    standing = stand(before, after)
    ends = np.stack([standing["rank"], standing["peer"]]).astype(np.int64)
    pairs = sorted({(min(pair), max(pair)) for pair in zip(*ends.tolist(), strict=True)})
    order = np.argsort(waits.whole, kind="stable")
    index = dict(zip(waits.rank[order].tolist(), order.tolist(), strict=True))
    involved = [rank for pair in pairs for rank in pair if rank in index]
    if not involved:
        return None
    since_s = min(float(waits.collector.standing.progress_s[rank]) for rank in involved)
    told = tuple(connection(row) for row in standing)
    first = max((index[rank] for rank in involved), key=lambda number: bool(waits.whole[number]))
    return Stopped(waits[first], tuple(pairs), devices(pairs), told, since_s)


def stand(before: Connections, after: Connections) -> Connections:
    """Those of `after` that have stopped since `before`, in the order of rank and peer."""
    _, then, now = np.intersect1d(keys(before), keys(after), return_indices=True)
    standing = after[now[_stands(before[then], after[now])]]
    ordered: Connections = standing[np.lexsort((standing["peer"], standing["rank"]))]
    return ordered


def devices(pairs: list[Pair]) -> tuple[int, ...]:
    """The ranks that several pairs have in common, fewest first to explain them all; who is alone with its pair is none."""
    left, found = list(pairs), []
    while left:
        counts: dict[int, int] = {}
        for pair in left:
            for rank in pair:
                counts[rank] = counts.get(rank, 0) + 1
        rank = max(counts, key=lambda each: (counts[each], -each))
        if counts[rank] < 2:
            break
        found.append(rank)
        left = [pair for pair in left if rank not in pair]
    return tuple(sorted(found))


def _stands(before: Connections, after: Connections) -> Bools:
    same = (after["acked_bytes"] == before["acked_bytes"]) | (
        np.isnan(after["acked_bytes"]) & np.isnan(before["acked_bytes"])
    )
    found: Bools = (
        (before["queued_bytes"] > 0)
        & (after["queued_bytes"] > 0)
        & same
        & before["resending"]
        & after["resending"]
        & (after["retransmits"] >= before["retransmits"])
    )
    return found

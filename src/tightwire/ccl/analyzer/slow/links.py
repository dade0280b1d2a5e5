"""S2, which link bounds: the transport's counters between pairs of ranks, now against when all was well.

A pair is slow when what it sends, while it has something to send, goes at a fraction of its earlier speed and of what
the others' go at, and not because the receiver does not read. Slow pairs with one rank in common are that rank's device.
So is one pair, if what else its sender sends suffers as well, data and acknowledgements: they share its queue.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tightwire.ccl.transport import Connection

BULK = 0.2  # of the bytes of the pair that sent most: the others' speed says nothing
SLOWER = 0.4  # of the earlier speed, and of the median of the others'
RECEIVER = 0.5  # of its busy time limited by the receiver: no fault of the link
STANDING = 0.25  # bytes of a link that bounds stand in its queue; where they do less often than that, it waits for another
SOME = 0.05  # of the slow pair's bytes: less says nothing about a queue
LEAST_BYTES = 20_000  # of a pair in a window, for its figures to say something
ALIKE = 4.0  # times as many bytes at most, to be compared
QUEUE, ROUND_TRIP = 0.3, 2.5  # of the slow pair's round trip, and times that of others: it waits in the same queue

Pair = tuple[int, int]


@dataclass(frozen=True)
class Flow:
    """One direction between two ranks over some looks: bytes, the time that some were under way, how much of that the
    receiver was the reason, the median round trip, the kernel's delivery rate (exceeded at two looks of three), the share of
    looks with a queue."""

    sent_bytes: int
    busy_s: float
    receiver_s: float
    rtt_s: float
    delivery_bytes_per_s: float
    queued: float

    @property
    def speed_bytes_per_s(self) -> float:
        """The faster of what was seen while busy and what the kernel says: a lull is no slow link."""
        return max(self.sent_bytes / self.busy_s if self.busy_s > 0 else math.inf, self.delivery_bytes_per_s)


@dataclass(frozen=True)
class SlowLinks:
    """`pairs` (smaller rank first) that are slow, the one rank whose `device` it is, and the slow flows with what they
    were before (None where that is not known)."""

    pairs: tuple[Pair, ...]
    device: int | None
    flows: Mapping[Pair, tuple[Flow, Flow | None]]

    @property
    def ends(self) -> set[int]:
        return {rank for pair in self.pairs for rank in pair}


def flows(looks: Sequence[Sequence[Connection]]) -> dict[Pair, Flow]:
    """By (sender, receiver), from two looks or more at the same job."""
    seen: dict[tuple[int, int, str, str], list[Connection]] = defaultdict(list)
    for look in looks:
        for each in look:
            if each.acked_bytes is not None and each.rank != each.peer:
                seen[each.rank, each.peer, each.local, each.remote].append(each)
    by_pair: dict[Pair, list[Flow]] = defaultdict(list)
    for (rank, peer, _, _), ends in seen.items():
        if len(ends) > 1:
            by_pair[rank, peer].append(_flow(ends))
    return {pair: _joined(found) for pair, found in by_pair.items()}


def find(before: Mapping[Pair, Flow], now: Mapping[Pair, Flow]) -> SlowLinks | None:
    """None when no link stands out."""
    most = max((flow.sent_bytes for flow in now.values()), default=0)
    bulk = {pair: flow for pair, flow in now.items() if flow.sent_bytes >= max(BULK * most, LEAST_BYTES)}
    if not bulk:
        return None
    usual = statistics.median(flow.speed_bytes_per_s for flow in bulk.values())
    slow = {pair: flow for pair, flow in bulk.items() if _is_slow(flow, before.get(pair), usual, len(bulk))}
    if not slow:
        return None
    standing = max(flow.queued for flow in slow.values())
    slow = {pair: flow for pair, flow in slow.items() if flow.queued >= STANDING * standing}
    pairs = sorted({(min(pair), max(pair)) for pair in slow})
    told = {pair: (flow, before.get(pair)) for pair, flow in slow.items()}
    shared = set(pairs[0]).intersection(*pairs[1:])
    if len(pairs) == 1:
        shared = {pair[0] for pair, flow in slow.items() if _shares_queue(pair[0], pairs[0], flow, now)}
    return SlowLinks(tuple(pairs), shared.pop() if len(shared) == 1 else None, told)


def _is_slow(flow: Flow, earlier: Flow | None, usual: float, pairs: int) -> bool:
    if flow.receiver_s > RECEIVER * flow.busy_s:
        return False
    if earlier is not None and earlier.sent_bytes >= LEAST_BYTES:
        return flow.speed_bytes_per_s < SLOWER * earlier.speed_bytes_per_s and (
            pairs <= 2 or flow.speed_bytes_per_s <= SLOWER * usual or flow.queued >= 0.5
        )
    return pairs > 2 and flow.speed_bytes_per_s < SLOWER**2 * usual


def _shares_queue(sender: int, pair: Pair, slow: Flow, now: Mapping[Pair, Flow]) -> bool:
    """Whether the other packets that `sender` sends suffer as well: data to others, and the answers to what it receives."""
    others = {each: flow for each, flow in now.items() if sender in each and not set(each) <= set(pair)}
    apart = {each: flow for each, flow in now.items() if sender not in each}
    for (source, _), flow in others.items():
        if flow.sent_bytes < max(LEAST_BYTES, SOME * slow.sent_bytes):
            continue
        if source == sender:
            alike = [
                each.delivery_bytes_per_s
                for each in apart.values()
                if flow.sent_bytes / ALIKE < each.sent_bytes < flow.sent_bytes * ALIKE
            ]
            if alike and flow.delivery_bytes_per_s < SLOWER * statistics.median(alike):
                return True
        else:
            usual = [
                each.rtt_s for each in apart.values() if each.sent_bytes >= max(LEAST_BYTES, SOME * slow.sent_bytes)
            ]
            if usual and flow.rtt_s > max(QUEUE * slow.rtt_s, ROUND_TRIP * statistics.median(usual)):
                return True
    return False


def _flow(ends: Sequence[Connection]) -> Flow:
    first, last = ends[0], ends[-1]
    return Flow(
        (last.acked_bytes or 0) - (first.acked_bytes or 0),
        (last.busy_s or 0.0) - (first.busy_s or 0.0),
        (last.receiver_limited_s or 0.0) - (first.receiver_limited_s or 0.0),
        statistics.median(each.rtt_s or 0.0 for each in ends),
        sorted(each.delivery_bytes_per_s or 0.0 for each in ends)[len(ends) // 3],
        statistics.fmean(each.queued_bytes > 0 for each in ends),
    )


def _joined(found: Iterable[Flow]) -> Flow:
    """Several connections of one pair as one, going by the one that sent most."""
    all_of = sorted(found, key=lambda flow: flow.sent_bytes)
    main = all_of[-1]
    return Flow(
        sum(flow.sent_bytes for flow in all_of), sum(flow.busy_s for flow in all_of if flow.sent_bytes >= BULK * main.sent_bytes),
        main.receiver_s, main.rtt_s, main.delivery_bytes_per_s, main.queued,
    )  # fmt: skip

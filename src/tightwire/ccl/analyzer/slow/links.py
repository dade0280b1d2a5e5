"""S2, which link bounds: the transport's counters between pairs of ranks, now against when all was well.

A pair is slow when what it sends, while it has something to send, goes at a fraction of its earlier speed and of what
the others' go at, and not because the receiver does not read. Slow pairs with one rank in common are that rank's device.
So is one pair, if what else its sender sends suffers as well, data and acknowledgements: they share its queue. If that
does not, the same is asked of what its receiver receives: it may receive from one rank only.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tightwire.ccl.analyzer.stopped import Pair, devices
from tightwire.ccl.connections import Connections, keys
from tightwire.ccl.slots import Bools, Floats, Ints
from tightwire.ccl.sources.nccl_plugin import ADDRESS

BULK = 0.2  # of the bytes of the pair that sent most: the others' speed says nothing
SLOWER = 0.4  # of the earlier speed, and of the median of the others'
RECEIVER = 0.5  # of its busy time limited by the receiver: no fault of the link
STANDING = 0.25  # bytes of a link that bounds stand in its queue; where they do less than that, or less often, it waits for another
QUEUED = 0.05  # of the looks at least find bytes in the queue of a link that bounds; where they never do, it is its sender that dawdles
SOME = 0.05  # of the slow pair's bytes: less says nothing about a queue
CARRIED = 0.5  # of what NCCL says it sent went over sockets: all of it does
LEAST_BYTES = 20_000  # of a pair in a window, for its figures to say something
ALIKE = 4.0  # times as many bytes at most, to be compared
AS_LONG = 0.67  # as the slow pair's bytes at least, others were under way whose answers wait in the same queue
QUEUE, ROUND_TRIP = 0.35, 2.0  # of what the slow pair's round trip grew by, and times that of others: it waits in the same queue

_LOOK = np.dtype(
    [
        ("key", "<u8"), ("rank", "<u4"), ("peer", "<u4"), ("acked", "<f8"), ("busy", "<f8"), ("receiver", "<f8"),
        ("rtt", "<f4"), ("delivery", "<f4"), ("queued", "<f4"),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Flow:
    """One direction between two ranks over some looks: bytes, the time that some were under way, how much of that the
    receiver was the reason, the median round trip, the kernel's delivery rate (exceeded at two looks of three), the share of
    looks with a queue; and its speed, the faster of what was seen while busy and what the kernel says: a lull is no slow
    link."""

    sent_bytes: float
    busy_s: float
    receiver_s: float
    rtt_s: float
    delivery_bytes_per_s: float
    queued: float
    speed_bytes_per_s: float


@dataclass(frozen=True)
class Flows:
    """Those of P pairs (`rank` sends, `peer` receives), in the order of pairs; the columns are as in `Flow` [P]."""

    rank: Ints
    peer: Ints
    sent_bytes: Floats
    busy_s: Floats
    receiver_s: Floats
    rtt_s: Floats
    delivery_bytes_per_s: Floats
    queued: Floats

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def speed_bytes_per_s(self) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            seen = np.where(self.busy_s > 0, self.sent_bytes / self.busy_s, np.inf)
        speed: Floats = np.maximum(seen, self.delivery_bytes_per_s)
        return speed

    def only(self, some: Bools | Ints) -> Flows:
        return Flows(*(getattr(self, name)[some] for name in self.__dataclass_fields__))

    def get(self, pair: Pair) -> Flow | None:
        found = np.flatnonzero((self.rank == pair[0]) & (self.peer == pair[1]))
        return self._flow(int(found[0])) if len(found) else None

    def _flow(self, index: int) -> Flow:
        columns = (
            self.sent_bytes, self.busy_s, self.receiver_s, self.rtt_s, self.delivery_bytes_per_s, self.queued,
            self.speed_bytes_per_s,
        )  # fmt: skip
        return Flow(*(float(column[index]) for column in columns))


@dataclass(frozen=True)
class SlowLinks:
    """`pairs` (smaller rank first) that are slow, the ranks whose `devices` they are, and the slow flows with what they
    were before (None where that is not known)."""

    pairs: tuple[Pair, ...]
    devices: tuple[int, ...]
    flows: Mapping[Pair, tuple[Flow, Flow | None]] = field(compare=False)

    @property
    def alone(self) -> tuple[Pair, ...]:
        """The pairs that are no device's."""
        return tuple(pair for pair in self.pairs if not set(pair) & set(self.devices))

    def says_more_than(self, other: SlowLinks) -> bool:
        """Whether all that is guilty in `other` is so here, a link perhaps as its rank's device, and not only that."""
        if (self.devices, self.alone) == (other.devices, other.alone):
            return False
        return set(other.devices) <= set(self.devices) and set(other.alone) <= set(self.pairs)


def look(connections: Connections) -> npt.NDArray[np.void]:
    """What is kept of a look at the transport, without what tells no byte counts and who talks to itself."""
    use = ~np.isnan(connections["acked_bytes"]) & (connections["rank"] != connections["peer"])
    given = connections.take(np.flatnonzero(use))
    given = given.take(np.flatnonzero(~_told_twice(given)))
    found = np.zeros(len(given), _LOOK)
    found["key"], found["rank"], found["peer"] = keys(given), given["rank"], given["peer"]
    found["acked"] = given["acked_bytes"]
    found["queued"] = (given["queued_bytes"] > 0) | _proxies(given)  # what these count is waiting for the network
    for name, column in (
        ("busy", "busy_s"),
        ("receiver", "receiver_limited_s"),
        ("rtt", "rtt_s"),
        ("delivery", "delivery_bytes_per_s"),
    ):
        found[name] = np.nan_to_num(given[column])
    return found.take(np.argsort(found["key"]))


def _told_twice(given: Connections) -> Bools:
    """[connections] which of them NCCL's proxies tell, though sockets carry those bytes: the kernel knows more about them."""
    proxies = _proxies(given)
    if not proxies.any():
        return proxies
    pairs, pair = np.unique(given["rank"].astype(np.int64) << 32 | given["peer"], return_inverse=True)
    by_sockets = np.bincount(pair, np.where(proxies, 0.0, given["acked_bytes"]), len(pairs))
    by_proxies = np.bincount(pair, np.where(proxies, given["acked_bytes"], 0.0), len(pairs))
    found: Bools = proxies & (by_sockets >= CARRIED * by_proxies)[pair]
    return found


def _proxies(given: Connections) -> Bools:
    found: Bools = given["remote"].astype(f"S{len(ADDRESS)}") == ADDRESS.encode()
    return found


def flows(looks: Sequence[npt.NDArray[np.void]]) -> Flows:
    """From looks at the same job; of what was seen twice or more."""
    every = [each["key"] for each in looks]
    known, counts = np.unique(np.concatenate(every), return_counts=True) if every else (np.zeros(0, np.uint64),) * 2
    known = known[counts > 1]
    if not len(known):
        nothing = np.zeros(0)
        return Flows(nothing.astype(np.int64), nothing.astype(np.int64), *(nothing for _ in range(6)))
    rows = np.zeros((len(looks), len(known)), _LOOK)
    there = np.zeros(rows.shape, bool)
    for index, each in enumerate(looks):
        at = np.minimum(np.searchsorted(known, each["key"]), len(known) - 1)
        mine = known[at] == each["key"]
        rows[index, at[mine]], there[index, at[mine]] = each[mine], True
    ends = np.arange(len(known))
    first, last = rows[there.argmax(axis=0), ends], rows[len(looks) - 1 - there[::-1].argmax(axis=0), ends]
    times = there.sum(axis=0)
    rtt = np.sort(np.where(there, rows["rtt"], np.inf), axis=0)
    delivery = np.sort(np.where(there, rows["delivery"], np.inf), axis=0)
    return _joined(
        Flows(
            last["rank"].astype(np.int64), last["peer"].astype(np.int64), last["acked"] - first["acked"],
            last["busy"] - first["busy"], last["receiver"] - first["receiver"],
            (rtt[(times - 1) // 2, ends].astype(np.float64) + rtt[times // 2, ends]) / 2,
            delivery[times // 3, ends].astype(np.float64), rows["queued"].sum(axis=0, dtype=np.float64) / times,
        )
    )  # fmt: skip


def find(before: Flows, now: Flows) -> SlowLinks | None:
    """None when no link stands out."""
    bulk = now.only(now.sent_bytes >= max(BULK * float(now.sent_bytes.max(initial=0.0)), LEAST_BYTES))
    if not len(bulk):
        return None
    slow = bulk.only(_slow(bulk, before) & (bulk.queued >= QUEUED))
    if not len(slow):
        return None
    longest_s = float(_longer_busy(before, bulk).max())
    slow = slow.only(_longer_busy(before, slow) >= STANDING * longest_s)
    if not len(slow):
        return None
    slow = slow.only(_stands(slow.queued) & _stands(_grown(before, slow)))
    senders = list(zip(slow.rank.tolist(), slow.peer.tolist(), strict=True))
    pairs = sorted({(min(pair), max(pair)) for pair in senders})
    shared = devices(pairs)
    told: dict[Pair, tuple[Flow, Flow | None]] = {}
    for pair in senders:
        flow = slow.get(pair)
        assert flow is not None, "the pair is one of these"
        told[pair] = flow, before.get(pair)
    unexplained = now.only(~np.isin(now.rank, shared) & ~np.isin(now.peer, shared))  # a slow device slows what all others have with it
    lone = [rank for pair in pairs if not set(pair) & set(shared) for rank in _device(pair, told, before, unexplained)]
    return SlowLinks(tuple(pairs), tuple(sorted({*shared, *lone})), told)


def _device(pair: Pair, slow: Container[Pair], before: Flows, now: Flows) -> set[int]:
    """The end of a pair whose device is slow, if just one end's other packets suffer; `slow`: in which directions it is."""
    ways = [each for each in (pair, pair[::-1]) if each in slow]
    found = {each[0] for each in ways if _shares_queue(each, 0, before, now)}
    found = found or {each[1] for each in ways if _shares_queue(each, 1, before, now)}
    return found if len(found) == 1 else set()


def _slow(bulk: Flows, before: Flows) -> Bools:
    """[P] whether each of `bulk` is a slow one."""
    speed = bulk.speed_bytes_per_s
    usual = float(np.median(speed))
    at, known = _found(bulk, before)
    earlier = np.full(len(bulk), np.nan)
    if len(before):
        measured = known & (before.sent_bytes[at] >= LEAST_BYTES)
        earlier[measured] = before.speed_bytes_per_s[at][measured]
    fast = np.isnan(earlier)
    slower = np.where(
        fast,
        (len(bulk) > 2) & (speed < SLOWER**2 * usual),
        (speed < SLOWER * earlier) & ((len(bulk) <= 2) | (speed <= SLOWER * usual) | (bulk.queued >= 0.5)),
    )
    found: Bools = slower & (bulk.receiver_s <= RECEIVER * bulk.busy_s)
    return found


def _longer_busy(before: Flows, bulk: Flows) -> Floats:
    """[P] for how much longer than before bytes were under way, for as many bytes, and not because of the receiver (s). A link
    that bounds has cost more of that time than any other: what lost less waited for it, or for a processor."""
    at, known = _found(bulk, before)
    waited_s: Floats = bulk.busy_s - bulk.receiver_s
    if len(before):
        usual_s, sent = before.busy_s[at] - before.receiver_s[at], before.sent_bytes[at]
        waited_s -= np.where(known & (sent >= LEAST_BYTES), usual_s * bulk.sent_bytes / np.maximum(sent, LEAST_BYTES), 0.0)
    return np.maximum(waited_s, 0.0)


def _stands(values: Floats) -> Bools:
    """[P] which of them are not small beside the largest."""
    found: Bools = values >= min(STANDING * float(values.max()), float(values.max()))
    return found


def _shares_queue(pair: Pair, end: int, before: Flows, now: Flows) -> bool:
    """Whether the other packets that the sender sends (`end` 0; 1: that the receiver receives) suffer as well: data to
    others; or, where it sends nobody else as much, the answers to what it receives, whose round trips and time under way grow
    as the pair's own do."""
    rank, (near, far) = pair[end], (now.rank, now.peer)[:: 1 - 2 * end]
    mine = int(np.flatnonzero((now.rank == pair[0]) & (now.peer == pair[1]))[0])
    sent = now.sent_bytes
    large = sent >= max(LEAST_BYTES, SOME * float(sent[mine]))
    apart = (near != rank) & (far != rank)
    beside = large & ~apart & ~(np.isin(near, pair) & np.isin(far, pair))
    data = np.flatnonzero(beside & (near == rank))
    for index in data.tolist():
        alike = apart & (sent[index] / ALIKE < sent) & (sent < sent[index] * ALIKE)
        usual = float(np.median(now.delivery_bytes_per_s[alike])) if alike.any() else 0.0
        if now.delivery_bytes_per_s[index] < SLOWER * usual:
            return True
    if (sent[data] >= BULK * sent[mine]).any():
        return False
    grown_s, longer_s = _grown(before, now), _longer_busy(before, now)
    usual_rtt_s = float(np.median(now.rtt_s[apart & large])) if (apart & large).any() else np.inf
    answers = beside & (far == rank) & (longer_s >= AS_LONG * longer_s[mine])
    return bool((answers & (grown_s > QUEUE * grown_s[mine]) & (now.rtt_s > ROUND_TRIP * usual_rtt_s)).any())


def _grown(before: Flows, now: Flows) -> Floats:
    """[P] by how much each round trip is longer than before (s); all of it where that is not known."""
    at, known = _found(now, before)
    grown: Floats = now.rtt_s - np.where(known, before.rtt_s[at] if len(before) else 0.0, 0.0)
    return grown


def _found(some: Flows, among: Flows) -> tuple[Ints, Bools]:
    """[P] each (where each of `some` is among others, whether it is)."""
    codes, others = _codes(some), _codes(among)
    if not len(others):
        return np.zeros(len(codes), np.int64), np.zeros(len(codes), bool)
    at = np.minimum(np.searchsorted(others, codes), len(others) - 1)
    return at, others[at] == codes


def _joined(found: Flows) -> Flows:
    """Several connections of one pair as one, going by the one that sent most."""
    order = np.lexsort((found.sent_bytes, _codes(found)))
    found = found.only(order)
    begins = np.flatnonzero(np.diff(_codes(found), prepend=-1))
    main = np.append(begins[1:], len(found)) - 1
    most = np.repeat(found.sent_bytes[main], np.diff(np.append(begins, len(found))))
    busy_s = np.where(found.sent_bytes >= BULK * most, found.busy_s, 0.0)
    return Flows(
        found.rank[main], found.peer[main], np.add.reduceat(found.sent_bytes, begins), np.add.reduceat(busy_s, begins),
        found.receiver_s[main], found.rtt_s[main], found.delivery_bytes_per_s[main], found.queued[main],
    )  # fmt: skip


def _codes(found: Flows) -> Ints:
    return found.rank << np.int64(32) | found.peer

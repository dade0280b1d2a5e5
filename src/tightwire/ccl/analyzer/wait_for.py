"""The wait-for graph: r → q when q has not entered the operation in which r waits.

Waiting ends at ranks that wait for nobody: what stands there is the root cause, all others are its victims. Everything is
linear in slots: who is missing in a group is told by the furthest operation that somebody waits in there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tightwire.ccl.collector import Collector
from tightwire.ccl.slots import Bools, Ints
from tightwire.core.events import RENDEZVOUS


@dataclass(frozen=True)
class Waiting:
    """`rank` waits in operation `sequence` (code `op`) of `group` for `missing`, which have not entered it."""

    rank: int
    group: int
    sequence: int
    op: int
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Waits:
    """W waits, one for each rank and group with an operation that did not complete: `rank`, `group` (its number),
    `sequence`, `op`, whether nobody is missing (`whole`), and whether it is known to be in the operation's `wait`
    (`inside`) [W]."""

    collector: Collector
    rank: Ints
    group: Ints
    sequence: Ints
    op: Ints
    whole: Bools
    inside: Bools

    def __len__(self) -> int:
        return len(self.rank)

    def __iter__(self) -> Iterator[Waiting]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Waiting:
        rank, group, sequence = int(self.rank[index]), int(self.group[index]), int(self.sequence[index])
        missing = self.missing(group, sequence)
        others = tuple(missing[missing != rank].tolist())
        return Waiting(rank, self.collector.slots.facts[group].group, sequence, int(self.op[index]), others)

    def missing(self, group: int, sequence: int) -> Ints:
        """The ranks that have not entered that operation of a group (by its number)."""
        place = self.collector.slots.of(group)
        found: Ints = self.collector.slots.ranks[place][self.collector.frames["entered"][place] < sequence]
        return found

    def only(self, some: Bools) -> Waits:
        """Those of `some` [W]."""
        return Waits(
            self.collector, self.rank[some], self.group[some], self.sequence[some], self.op[some], self.whole[some],
            self.inside[some],
        )  # fmt: skip

    def by(self, ranks: Bools) -> Waits:
        """Those of some ranks (by rank)."""
        return self.only(ranks[self.rank])

    def wanted(self) -> Waits:
        """Those of ranks for which others among these wait: a circle has no others."""
        slots = self.collector.slots
        furthest = np.zeros(len(slots.facts), np.int64)
        np.maximum.at(furthest, self.group, self.sequence)
        wanted = np.zeros(len(self.collector.standing.known), bool)
        missing = slots.ranks[self.collector.frames["entered"] < furthest[slots.group_of]]
        wanted[missing[missing < len(wanted)]] = True
        return self.by(wanted)

    def for_rank(self, rank: int) -> Bools:
        """[W] whether `rank` is missing there."""
        slots = self.collector.slots
        mine = np.flatnonzero(slots.ranks == rank)
        entered = np.full(len(slots.facts), np.iinfo(np.int64).max)
        entered[slots.group_of[mine]] = self.collector.frames["entered"][mine]
        found: Bools = (entered[self.group] < self.sequence) & (self.rank != rank)
        return found

    def roots(self) -> dict[int, int]:
        """Those `ends` that are known."""
        known = self.collector.standing.known
        return {rank: index for rank, index in self.ends().items() if rank < len(known) and known[rank]}

    def ends(self) -> dict[int, int]:
        """The ranks where waiting ends, also such as were never heard of, each with (the index of) one of the waits that end
        there. Who waits in an operation that everybody has entered waits for the transport."""
        slots = self.collector.slots
        furthest = np.zeros(len(slots.facts), np.int64)
        np.maximum.at(furthest, self.group, self.sequence)
        waited_by = np.zeros(len(slots.facts), np.int64)
        order = np.argsort(self.sequence, kind="stable")
        waited_by[self.group[order]] = order
        blocked = np.zeros(int(slots.ranks.max(initial=-1)) + 1, bool)
        blocked[self.rank] = True
        ends = np.flatnonzero(self.collector.frames["entered"] < furthest[slots.group_of])
        ends = ends[~blocked[slots.ranks[ends]]]
        return dict(zip(slots.ranks[ends].tolist(), waited_by[slots.group_of[ends]].tolist(), strict=True))


def waits(collector: Collector) -> Waits:
    """All of this moment, in the order of ranks."""
    slots, frames = collector.slots, collector.frames
    inside = frames["entered"] > frames["done"]
    # sent off or posted, and busy with other things: no wait
    inside &= ~slots.pair[slots.group_of] | (frames["waiting"] > 0)
    for number in slots.named(RENDEZVOUS):  # has a class of its own
        inside[slots.of(number)] = False
    slot = np.flatnonzero(inside)
    slot = slot[np.argsort(slots.ranks[slot], kind="stable")]
    group, sequence = slots.group_of[slot], frames["done"][slot].astype(np.int64) + 1
    least = np.minimum.reduceat(frames["entered"], slots.base) if len(slots.base) else np.zeros(0, np.uint32)
    return Waits(
        collector,
        slots.ranks[slot],
        group,
        sequence,
        frames["op"][slot].astype(np.int64),
        least[group] >= sequence,
        frames["waiting"][slot] > 0,
    )

"""Ranks that call and end operations at random, what is told of them, and what they really did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.core.events import RECORD, Kind

RANKS = 3
FACTS = [GroupFacts(11, "world", [0, 1, 2]), GroupFacts(2**63 + 5, "some", [0, 2]), GroupFacts(7, "0→1", [0, 1], True)]
Action = tuple[int, int, int]  # what, in which of its groups, how many bytes
actions = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), max_size=5)
looks = st.lists(st.tuples(*[actions] * RANKS), min_size=1, max_size=5)


@dataclass
class Did:
    """One call: times in ns, None while unknown."""

    entered_ns: int
    size_bytes: int
    own_ns: int | None
    ended_ns: int | None = None
    failed: bool = False


@dataclass
class Ranks:
    """`did[rank, group, sequence]`."""

    now_ns: int = 10**12
    did: dict[tuple[int, int, int], Did] = field(default_factory=dict)
    last_ns: dict[int, int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)

    def look(self, each: tuple[list[Action], ...]) -> Summary:
        """After each rank acted: 0 calls something, 1 ends what it called first, 2 what it called last, in error."""
        samples = []
        for rank, acted in enumerate(each):
            mine = [facts for facts in FACTS if rank in facts.ranks]
            made = [self._act(rank, what, mine[where % len(mine)].group, size) for what, where, size in acted]
            records = np.array([row for row in made if row is not None], RECORD)
            self.written[rank] = self.written.get(rank, 0) + len(records)
            samples.append(
                RankSample(
                    rank, RANKS, 100 + rank, 1, 0, self.written[rank], [self.frame(rank, f.group) for f in mine],
                    ProcessState("S", 1.0), None, records.tobytes(),
                )
            )  # fmt: skip
        self.now_ns += 10**9
        return Summary("host", self.now_ns / 1e9, samples, FACTS)

    def frame(self, rank: int, group: int) -> GroupFrame:
        mine = [did for (by, where, _), did in self.did.items() if (by, where) == (rank, group)]
        ended = [did for did in mine if did.ended_ns is not None]
        return GroupFrame(group, len(mine), 0, len(ended), int(bool(mine)), sum(did.failed for did in ended))

    def _act(self, rank: int, what: int, group: int, size: int) -> tuple[int, ...] | None:
        mine = {seq: did for (by, where, seq), did in self.did.items() if (by, where) == (rank, group)}
        running = [seq for seq, did in mine.items() if did.ended_ns is None]
        if what and not running:
            return None
        self.now_ns += 1_234_567
        before_ns, self.last_ns[rank] = self.last_ns.get(rank), self.now_ns
        if what == 0:
            sequence, kind = len(mine) + 1, Kind.ENTERED
            own_ns = None if before_ns is None else self.now_ns - before_ns
            self.did[rank, group, sequence] = Did(self.now_ns, size, own_ns)
        else:
            sequence, kind = (running[0], Kind.DONE) if what == 1 else (running[-1], Kind.FAILED)
            did = self.did[rank, group, sequence]
            did.ended_ns, did.failed = self.now_ns, kind == Kind.FAILED
        return self.now_ns, group, sequence, size, size, 1, 0xFFFFFFFF, kind, 1, 0, 0


def digest_of(each: list[tuple[list[Action], ...]]):  # type: ignore[no-untyped-def]
    """The digest of the last of some looks."""
    ranks, packer = Ranks(), Packer()
    return [packer.digest(ranks.look(acted)) for acted in each][-1]

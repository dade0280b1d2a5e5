"""What an agent sees of its host at one moment; `packing` makes a digest of it."""

from __future__ import annotations

import msgspec

from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame


class GroupFacts(msgspec.Struct, frozen=True):
    """A group's name and its global ranks; or, for `point_to_point`, a directed pair: its source and its target (one
    rank alone that receives from anyone)."""

    group: int
    name: str
    ranks: list[int]
    point_to_point: bool = False


class RankSample(msgspec.Struct, frozen=True):
    """One rank: `process` is None when it is gone; `goodbye` as in the ring; `written` counts its events so far;
    `died` is its place in the order of deaths on its host, where that is known; `records` what was written since the
    last look (`core.events.RECORD`)."""

    rank: int
    world: int
    pid: int
    pid_start: int
    goodbye: int
    written: int
    frames: list[GroupFrame]
    process: ProcessState | None
    died: int | None = None
    records: bytes = b""

    @property
    def alive(self) -> bool:
        return self.process is not None and not self.process.dead

    @property
    def stopped(self) -> bool:
        return self.process is not None and self.process.stopped


class Summary(msgspec.Struct, frozen=True):
    """All ranks of one host at `at_s` of its monotonic clock, the groups that its ranks know, and what its
    ranks do that the probe does not see. `unknown`: ranks whose state cannot be seen any more, and why."""

    host: str
    at_s: float
    ranks: list[RankSample]
    groups: list[GroupFacts]
    unseen: list[str] = []
    unknown: dict[int, str] = {}

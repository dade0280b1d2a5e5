"""One per host, outside the ranks: reads their rings and what the kernel says about them, and makes a summary.

A rank that is stopped, deadlocked or dead is still seen: its ring is a file, its state is the kernel's. A ring that is
damaged while its process lives makes the rank `unknown`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tightwire.ccl.deaths import Deaths
from tightwire.ccl.probe import process
from tightwire.ccl.probe.ring import Goodbye, Ring, RingState
from tightwire.ccl.pulse import Pulse
from tightwire.ccl.sources import nccl_plugin
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.ccl.transport import End
from tightwire.core.clock import Clock
from tightwire.errors import ConfigError

MAX_FACTS_BYTES = 16 * 2**20
MAX_UNSEEN = 100
MOST_OPEN = 64  # processes whose files stay open, four each: a process may have some 1,000
BEAT_S, SLACK_S = 0.2, 1e-3
TOGETHER_S = 0.05  # ranks that die of one cause, or end together; who was first is known all the same
_GOODBYES = frozenset(Goodbye)


class Agent:
    """Watches the rings in `folder`. `unknown`: ranks whose ring cannot be read any more, and why."""

    def __init__(self, folder: Path, clock: Clock, proc: Path = Path("/proc")) -> None:
        self._folder, self._clock, self._proc = folder, clock, proc
        self._facts_read: dict[str, int] = {}
        self._groups: dict[int, GroupFacts] = {}
        self._rings: dict[str, Ring] = {}  # by file name, as opened for the last look
        self._processes: dict[tuple[int, int], process.Process] = {}  # by pid and start
        self._seen: dict[str, tuple[int, int]] = {}  # (start of the process, records read so far)
        self._unseen: list[str] = []
        self._deaths = Deaths()
        self._pulse: Pulse[str] = Pulse()
        self._host = socket.gethostname()
        self._last: dict[str, RankSample] = {}
        self.unknown: dict[int, str] = {}

    def look(self) -> Summary:
        """What is to be seen now. Files that are not (yet) rings are passed over."""
        ranks = []
        self.unknown = {}
        rings, facts = self._files()
        for name in sorted({*rings, *self._last}):
            try:
                sample = self._look_at(name)
            except (OSError, ConfigError):
                sample = None
            if sample is None:
                sample = self._without_ring(name)
            else:
                self._last[name] = sample
            if sample is not None:
                ranks.append(sample)
        for name in facts:
            self._read_facts(name)
        at_s = self._clock.now_s()
        self._pulse.looked(at_s, {name: sample.written for name, sample in self._last.items() if sample.alive})
        return Summary(self._host, at_s, ranks, list(self._groups.values()), self._unseen, self.unknown)

    def described(self, groups: Collection[int]) -> list[GroupFacts]:
        """Those of these groups that its ranks know."""
        return [self._groups[group] for group in groups if group in self._groups]

    @property
    def pids(self) -> set[int]:
        """The processes of the ranks that were seen."""
        return {sample.pid for sample in list(self._last.values())}

    def transfers(self, pids: Mapping[int, int]) -> list[End]:
        """What NCCL's proxies of these ranks (rank → process) moved, where they run the profiler plugin."""
        return nccl_plugin.ends(self._folder, pids)

    def wait(self, timeout_s: float) -> None:
        """Sleep, but no longer than until a rank dies (who was first is seen only by looking at once) or slackens. While
        there is none, a beat."""
        living = [name for name, sample in self._last.items() if sample.alive]
        left_s = timeout_s if self._last else min(timeout_s, BEAT_S)
        while left_s > SLACK_S:
            beat_s = min(left_s, BEAT_S)
            if self._deaths.wait(beat_s, self._clock):
                self._clock.sleep_s(TOGETHER_S)
                return
            if self._pulse.due(self._clock.now_s(), {name: self._rings[name].written() for name in living}):
                return
            left_s -= beat_s

    def close(self) -> None:
        self._deaths.close()
        for ring in self._rings.values():
            ring.close()
        for each in self._processes.values():
            each.close()
        self._rings.clear()
        self._processes.clear()

    def _files(self) -> tuple[list[str], list[str]]:
        """(the rings, the facts about groups) in the folder."""
        try:
            names = [name for name in os.listdir(self._folder) if name.startswith("rank-")]
        except OSError:  # not there yet
            names = []
        rings, facts = ([name for name in names if name.endswith(end)] for end in (".ring", ".groups"))
        return rings, facts

    def _look_at(self, name: str) -> RankSample | None:
        """None when what is there cannot be the ring that was there before."""
        file = self._opened(name)
        ring, before = file.state(), self._last.get(name)
        if before is not None and self._damaged(ring, before):
            return None
        state = self._state(ring.pid, ring.pid_start)
        died = self._deaths.order(ring.pid)
        if state is None or state.dead or died is not None:
            ring, state = file.state(), None  # with what it wrote last
        else:
            self._deaths.watch(ring.pid)
        return _sample(ring, state, died, self._new_records(name, file, ring))

    def _opened(self, name: str) -> Ring:
        """Anew at each look: another file may have come in its place."""
        file, before = Ring(f"{self._folder}/{name}"), self._rings.get(name)
        if before is not None:
            before.close()
        self._rings[name] = file
        return file

    def _state(self, pid: int, started: int) -> process.ProcessState | None:
        """None when that process is gone."""
        key = pid, started
        if key not in self._processes:
            if len(self._processes) >= MOST_OPEN:
                return process.read(pid, started, self._proc)
            try:
                self._processes[key] = process.Process(pid, started, self._proc)
            except OSError:
                return None
        state = self._processes[key].read()
        if state is None or state.dead:
            self._processes.pop(key).close()
        return state

    def _damaged(self, ring: RingState, before: RankSample) -> bool:
        if ring.goodbye not in _GOODBYES:
            return True
        if (ring.rank, ring.pid, ring.pid_start) != (before.rank, before.pid, before.pid_start):
            owner = self._state(before.pid, before.pid_start)
            return owner is not None and not owner.dead
        entered = {frame.group: frame.entered_seq for frame in ring.frames}
        return ring.written < before.written or any(
            entered.get(frame.group, -1) < frame.entered_seq for frame in before.frames
        )

    def _without_ring(self, name: str) -> RankSample | None:
        """A rank that lives on after its ring was damaged or removed; None when there was none, or it is gone."""
        before = self._last.get(name)
        state = None if before is None else self._state(before.pid, before.pid_start)
        if before is None or state is None or state.dead:
            self._last.pop(name, None)
            if name in self._rings:
                self._rings.pop(name).close()
            return None
        self.unknown[before.rank] = f"the ring of rank {before.rank} is damaged"
        return msgspec.structs.replace(before, process=state, records=b"")

    def _new_records(self, name: str, file: Ring, ring: RingState) -> bytes:
        process_of, seen = self._seen.get(name, (ring.pid_start, 0))
        if process_of != ring.pid_start:  # another process took the rank
            seen = 0
        if seen == ring.written:
            return b""
        records, written = file.new(seen)
        self._seen[name] = ring.pid_start, written
        return records

    def _read_facts(self, name: str) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            path = self._folder / name
            size = path.stat().st_size
            if size != self._facts_read.get(name) and size <= MAX_FACTS_BYTES:
                for line in path.read_text().splitlines():
                    self._read_fact(json.loads(line))
                self._facts_read[name] = size

    def _read_fact(self, fact: dict[str, Any]) -> None:
        if "unseen" in fact:
            if len(self._unseen) < MAX_UNSEEN and str(fact["unseen"]) not in self._unseen:
                self._unseen.append(str(fact["unseen"]))
            return
        group, ranks = int(fact["group"]), [int(rank) for rank in fact["ranks"]]
        self._groups[group] = GroupFacts(group, str(fact["name"]), ranks, bool(fact.get("point_to_point")))


def _sample(ring: RingState, state: process.ProcessState | None, died: int | None, records: bytes) -> RankSample:
    return RankSample(
        ring.rank, ring.world, ring.pid, ring.pid_start, ring.goodbye, ring.written, ring.frames, state, died, records
    )

"""A simulated cluster as its agents tell it: summaries of each host, and the transport's counters."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tightwire.ccl.evidence import Evidence
from tightwire.ccl.faults.simulate.fault import Fault
from tightwire.ccl.faults.simulate.layout import Layout
from tightwire.ccl.faults.simulate.physics import Physics, Program
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import RankSample, Summary
from tightwire.ccl.throttling import Throttling
from tightwire.ccl.transport import Connection
from tightwire.core.clock import Clock
from tightwire.core.events import RECORD, Kind

RTT_S, QUEUED_RTT_S = 0.0002, 0.01
RUN_AHEAD = 2  # steps simulated beyond what was asked for


class SimulatedCluster:
    """`summaries(now_s)` are those of one moment, `connections(now_s)` the counters then; ask with a growing time.
    `skew_s`: the hosts' clocks are apart by up to that much; `lost`: that share of the summaries never arrives."""

    def __init__(
        self, layout: Layout, program: Program | None = None, faults: Sequence[Fault] = (), seed: int = 0,
        skew_s: float = 0.0, lost: float = 0.0,
    ) -> None:  # fmt: skip
        self._rng = np.random.default_rng(seed)
        self.layout, self.faults, self._lost = layout, faults, lost
        self.physics = Physics(layout, program or Program(), faults, self._rng)
        count = int(layout.hosts[-1]) + 1
        self._skew_s = self._rng.random(count) * skew_s
        self._records, self._ranks = np.zeros(0, RECORD), np.zeros(0, np.int64)
        self._written = np.zeros(layout.world, np.int64)
        self._frames: list[dict[int, list[int]]] = [{} for _ in range(layout.world)]
        self._traffic: deque[tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]] = deque(maxlen=256)
        self.step_ends_s: list[float] = []

    def summaries(self, now_s: float) -> list[Summary]:
        """What each host's agent sees at `now_s`; those that are lost are left out."""
        self._run_until(now_s)
        due = self._records["time_ns"] <= now_s * 1e9
        records, ranks = self._records[due], self._ranks[due]
        self._records, self._ranks = self._records[~due], self._ranks[~due]
        edges = np.searchsorted(ranks, np.arange(self.layout.world + 1))
        samples: dict[int, list[RankSample]] = {}
        for rank in range(self.layout.world):
            host = int(self.layout.hosts[rank])
            own = records[edges[rank] : edges[rank + 1]].copy()
            samples.setdefault(host, []).append(self._sample(rank, own, host, now_s))
        facts = self.layout.facts
        found = [
            Summary(f"host{host}", now_s + self._skew_s[host], each, facts if host == 0 else [])
            for host, each in samples.items()
        ]
        return [summary for summary in found if self._rng.random() >= self._lost]

    def connections(self, now_s: float) -> list[Connection]:
        """Those of the links between hosts."""
        self._run_until(now_s)
        told = [each for each in self._traffic if each[0] <= now_s]
        if not told:
            return []
        _, acked, busy = told[-1]
        physics = self.physics
        speed, touched = physics.speed(), physics.touched()
        found = []
        for number, (rank, peer) in enumerate(physics.links.tolist()):
            if self.layout.hosts[rank] == self.layout.hosts[peer]:
                continue
            slow, broken = speed[number] < physics.program.link_bytes_per_s, speed[number] == 0
            found.append(
                Connection(
                    rank, peer, f"{rank}:{peer}", f"{peer}:{rank}", 65536 if slow or broken else 0, bool(broken),
                    5 if broken else 0, int(acked[number]), None, float(busy[number]), 0.0,
                    QUEUED_RTT_S if touched[number] else RTT_S, int(speed[number]),
                )
            )  # fmt: skip
        return found

    def _run_until(self, now_s: float) -> None:
        while self.physics.now_s[np.isfinite(self.physics.now_s)].max(initial=-np.inf) <= now_s:
            before = self.physics.now_s.copy()
            records, ranks = self.physics.step()
            self._records = np.concatenate([self._records, records])
            self._ranks = np.concatenate([self._ranks, ranks])
            order = np.argsort(self._ranks, kind="stable")
            self._records, self._ranks = self._records[order], self._ranks[order]
            end_s = float(self.physics.now_s.max())
            self._traffic.append((end_s, self.physics.acked_bytes.copy(), self.physics.busy_s.copy()))
            self.step_ends_s.append(end_s)
            if not len(records) or np.array_equal(before, self.physics.now_s):
                break

    def _sample(self, rank: int, records: npt.NDArray[np.void], host: int, now_s: float) -> RankSample:
        frames = self._frames[rank]
        for time_ns, group, sequence, op, kind in records[["time_ns", "group", "seq", "op", "kind"]].tolist():
            frame = frames.setdefault(group, [0, 0, 0, 0])
            if kind == Kind.ENTERED:
                frame[0], frame[1], frame[3] = sequence, time_ns, op
            else:
                frame[2] += 1
        records["time_ns"] = (records["time_ns"].astype(np.int64) + int(self._skew_s[host] * 1e9)).astype(np.uint64)
        self._written[rank] += len(records)
        told = [GroupFrame(group, f[0], f[1], f[2], f[3], 0, f[0] if f[0] > f[2] else 0) for group, f in frames.items()]
        return RankSample(
            rank, self.layout.world, 1000 + rank, 1, 0, int(self._written[rank]), told, self._state(rank, now_s), None,
            records.tobytes(),
        )  # fmt: skip

    def _state(self, rank: int, now_s: float) -> ProcessState | None:
        """What the kernel says: a rank that stopped or died says so as soon as its last record is out."""
        for fault in self.faults:
            over = len(self.step_ends_s) >= fault.step and (
                fault.step == 0 or self.step_ends_s[fault.step - 1] <= now_s
            )
            if fault.rank == rank and over and fault.kind in ("stop", "kill"):
                return ProcessState("T", now_s) if fault.kind == "stop" else None
        return ProcessState("R", now_s)


class SimulatedSource:
    """What a watcher judges a simulated cluster by; looking takes no time, waiting moves the clock."""

    def __init__(self, cluster: SimulatedCluster, clock: Clock) -> None:
        self.cluster, self._clock = cluster, clock

    def look(self) -> list[Summary]:
        return self.cluster.summaries(self._clock.now_s())

    def wait(self, timeout_s: float) -> None:
        self._clock.sleep_s(timeout_s)

    def connections(self, pids: Mapping[int, int]) -> list[Connection]:
        return self.cluster.connections(self._clock.now_s())

    def evidence(self, pid: int, pid_start: int) -> Evidence | None:
        return None

    def throttling(self, pid: int, pid_start: int) -> Throttling | None:
        return None

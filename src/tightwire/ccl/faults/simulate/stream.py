"""A simulated cluster as its agents tell it: digests of each host, and the transport's counters."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tightwire.ccl.connections import CONNECTION, Connections, connection
from tightwire.ccl.digest import FRAME, RANK, UNKNOWN, Digest
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.faults.simulate.fault import Fault
from tightwire.ccl.faults.simulate.layout import Layout
from tightwire.ccl.faults.simulate.physics import Physics, Program, by_rank
from tightwire.ccl.packing import REFRESHED, REPEATED, Packer
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.slots import Slots
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.ccl.throttling import Throttling
from tightwire.ccl.transport import Connection
from tightwire.core.clock import Clock
from tightwire.core.events import RECORD, Kind

RTT_S, QUEUED_RTT_S = 0.0002, 0.01
QUEUED_BYTES, RETRANSMITS = 65536, 5


class SimulatedCluster:
    """`digests(now_s)` are those of one moment, `connections(now_s)` the counters then; ask with a growing time.
    `skew_s`: the hosts' clocks are apart by up to that much; `lost`: that share of the digests never arrives."""

    def __init__(
        self, layout: Layout, program: Program | None = None, faults: Sequence[Fault] = (), seed: int = 0,
        skew_s: float = 0.0, lost: float = 0.0,
    ) -> None:  # fmt: skip
        self._rng = np.random.default_rng(seed)
        self.layout, self.faults, self._lost = layout, faults, lost
        self.physics = Physics(layout, program or Program(), faults, self._rng)
        count = int(layout.hosts[-1]) + 1
        self._skew_s = self._rng.random(count) * skew_s
        self._told_groups = _by_host(layout)
        self._pending: list[tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]] = []  # of steps not all told
        self._packer = Packer()
        self._ranks_now = np.zeros(layout.world, RANK)
        self._ranks_now["rank"], self._ranks_now["world"] = np.arange(layout.world), layout.world
        self._ranks_now["pid"], self._ranks_now["pid_start"] = 1000 + np.arange(layout.world), 1
        self._ranks_now["died"] = UNKNOWN
        self._slots = Slots()
        self._slots.add(layout.facts)
        self._by_rank = np.argsort(self._slots.ranks, kind="stable")
        self._frames = np.zeros(len(self._slots.ranks), FRAME)
        self._frames["group"] = np.array([facts.group for facts in layout.facts], np.uint64)[self._slots.group_of]
        self._traffic: deque[tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]] = deque(maxlen=256)
        self._names: tuple[npt.NDArray[np.bytes_], npt.NDArray[np.bytes_]] | None = None
        self._looks = 0
        self.step_ends_s: list[float] = []

    def inject(self, faults: Sequence[Fault], seed: int) -> None:
        """Go on with these faults, and other noise than until now."""
        self.faults = self.physics.faults = faults
        self._rng = self.physics.rng = np.random.default_rng(seed)

    def digests(self, now_s: float) -> list[Digest]:
        """What each host's agent sees at `now_s`, packed; those that are lost are left out."""
        layout = self.layout
        records, ranks = self._due(now_s)
        at_s = now_s + self._skew_s
        frames, owners = self._frames[self._by_rank], self._slots.ranks[self._by_rank]
        used = frames["entered"] > 0
        self._looks += 1
        whole = (self._looks + np.arange(len(at_s))) % REFRESHED == 0
        rows, told, calls, kinds = self._packer.pack(
            np.round(at_s * 1e6).astype(np.int64)[layout.hosts],
            whole[layout.hosts],
            self._ranks_now,
            frames[used],
            owners[used],
            records,
            ranks,
        )
        first = np.searchsorted(layout.hosts, np.arange(len(at_s) + 1))
        edges = [
            np.concatenate([np.zeros(1, np.int64), np.cumsum(rows[name], dtype=np.int64)])[first].tolist()
            for name in ("frames", "calls")
        ]
        described = whole | (self._looks <= REPEATED)
        found = []
        for host, kept in enumerate((self._rng.random(len(at_s)) >= self._lost).tolist()):
            if kept:
                found.append(
                    Digest(
                        f"host{host}", float(at_s[host]), rows[first[host] : first[host + 1]].tobytes(),
                        told[edges[0][host] : edges[0][host + 1]].tobytes(), calls[edges[1][host] : edges[1][host + 1]].tobytes(),
                        kinds.tobytes(), self._told_groups[host] if described[host] else [], whole=bool(whole[host]),
                    )
                )  # fmt: skip
        return found

    def summaries(self, now_s: float) -> list[Summary]:
        """The same before it is packed, with all groups. Ask for these or for digests."""
        records, ranks = self._due(now_s)
        edges = np.searchsorted(ranks, np.arange(self.layout.world + 1))
        samples: dict[int, list[RankSample]] = {}
        for rank in range(self.layout.world):
            frames = self._frames[self._slots.ranks == rank]
            entered_ns = records["time_ns"][edges[rank] : edges[rank + 1]].max(initial=0)
            told = [
                GroupFrame(
                    int(f["group"]),
                    int(f["entered"]),
                    int(entered_ns),
                    int(f["done"]),
                    int(f["op"]),
                    0,
                    int(f["waiting"]),
                )
                for f in frames
                if f["entered"]
            ]
            row, mine = self._ranks_now[rank], records[edges[rank] : edges[rank + 1]].tobytes()
            state = ProcessState(row["state"].decode(), now_s) if row["state"] else None
            sample = RankSample(
                rank, self.layout.world, int(row["pid"]), 1, 0, int(row["written"]), told, state, None, mine
            )
            samples.setdefault(int(self.layout.hosts[rank]), []).append(sample)
        facts, at_s = self.layout.facts, now_s + self._skew_s
        found = [Summary(f"host{host}", float(at_s[host]), each, facts) for host, each in samples.items()]
        return [summary for summary in found if self._rng.random() >= self._lost]

    def _due(self, now_s: float) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
        """The records written since the last look, on their hosts' clocks, and their ranks."""
        self._run_until(now_s)
        told, left = [(np.zeros(0, RECORD), np.zeros(0, np.int64))], list(self._pending[:0])
        for each, of_each in self._pending:
            due = each["time_ns"] <= now_s * 1e9
            for some, into in ((np.flatnonzero(due), told), (np.flatnonzero(~due), left)):
                if len(some):
                    into.append((each.take(some), of_each[some]))
        self._pending = left
        records, ranks = (np.concatenate(column) for column in zip(*told, strict=True))
        order = by_rank(ranks)
        records, ranks = records.take(order), ranks[order]
        self._count(records, ranks)
        self._note_states(now_s)
        records["time_ns"] += (self._skew_s * 1e9).astype(np.uint64)[self.layout.hosts[ranks]]
        return records, ranks

    def _count(self, records: npt.NDArray[np.void], ranks: npt.NDArray[np.int64]) -> None:
        """New records into the frames, and how many each rank wrote."""
        slots, _ = self._slots.find(records["group"], ranks)
        enters = records["kind"] == Kind.ENTERED
        frames = self._frames
        np.maximum.at(frames["entered"], slots[enters], records["seq"][enters].astype(np.uint32))
        frames["op"][slots[enters]] = records["op"][enters]
        np.maximum.at(frames["done"], slots[~enters], records["seq"][~enters].astype(np.uint32))
        frames["waiting"] = np.where(frames["entered"] > frames["done"], frames["entered"], 0)
        self._ranks_now["written"] += np.bincount(ranks, minlength=self.layout.world).astype(np.uint64)

    def _note_states(self, now_s: float) -> None:
        """What the kernel says: a rank that stopped or died says so as soon as its last record is out."""
        rows = self._ranks_now
        rows["state"], rows["cpu_s"] = b"R", now_s
        for fault in self.faults:
            over = len(self.step_ends_s) >= fault.step and (
                fault.step == 0 or self.step_ends_s[fault.step - 1] <= now_s
            )
            if over and fault.kind in ("stop", "kill"):
                rows["state"][fault.rank] = b"T" if fault.kind == "stop" else b""

    def connections(self, now_s: float) -> list[Connection]:
        """Those of the links between hosts."""
        return [connection(row) for row in self.transport(now_s)]

    def transport(self, now_s: float) -> Connections:
        """The same in columns."""
        self._run_until(now_s)
        told = [each for each in self._traffic if each[0] <= now_s]
        if not told:
            return np.zeros(0, CONNECTION)
        _, acked, busy = told[-1]
        physics = self.physics
        across = np.flatnonzero(self.layout.hosts[physics.links[:, 0]] != self.layout.hosts[physics.links[:, 1]])
        speed, ends = physics.speed()[across], physics.links[across]
        held = physics.held[across]
        slow = held | ((speed > 0) & (speed < physics.program.link_bytes_per_s))
        found = np.zeros(len(across), CONNECTION)
        found["rank"], found["peer"], found["local"], found["remote"] = *ends.T, *self._addresses(across)
        found["queued_bytes"], found["resending"] = np.where(slow, QUEUED_BYTES, 0), held
        found["retransmits"] = np.where(held, RETRANSMITS, 0)
        found["acked_bytes"], found["received_bytes"] = acked[across].astype(np.int64), np.nan
        found["busy_s"] = busy[across]
        found["rtt_s"] = np.where(physics.touched()[across], QUEUED_RTT_S, RTT_S)
        found["delivery_bytes_per_s"] = speed.astype(np.int64)
        return found

    def _addresses(self, links: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.bytes_]]:
        """Of both ends of these links."""
        if self._names is None:
            pairs = self.physics.links[links].tolist()
            self._names = (
                np.array([f"{a}:{b}" for a, b in pairs], "S48"),
                np.array([f"{b}:{a}" for a, b in pairs], "S48"),
            )
        return self._names

    def _run_until(self, now_s: float) -> None:
        while self.physics.now_s[np.isfinite(self.physics.now_s)].max(initial=-np.inf) <= now_s:
            before = self.physics.now_s.copy()
            records, ranks = self.physics.step()
            self._pending.append((records, ranks))
            end_s = float(self.physics.now_s.max())
            self._traffic.append((end_s, self.physics.acked_bytes.copy(), self.physics.busy_s.copy()))
            self.step_ends_s.append(end_s)
            if not len(records) or np.array_equal(before, self.physics.now_s):
                break


def _by_host(layout: Layout) -> list[list[GroupFacts]]:
    """The groups that each host tells about: those of whose ranks it has the first."""
    found: list[list[GroupFacts]] = [[] for _ in range(int(layout.hosts[-1]) + 1)]
    for facts in layout.facts:
        found[int(layout.hosts[facts.ranks[0]])].append(facts)
    return found


class SimulatedSource:
    """What a watcher judges a simulated cluster by; looking takes no time, waiting moves the clock."""

    def __init__(self, cluster: SimulatedCluster, clock: Clock) -> None:
        self.cluster, self._clock = cluster, clock

    def look(self) -> list[Digest]:
        return self.cluster.digests(self._clock.now_s())

    def wait(self, timeout_s: float) -> None:
        self._clock.sleep_s(timeout_s)

    def connections(self, pids: Mapping[int, int]) -> Connections:
        return self.cluster.transport(self._clock.now_s())

    def reached(self, pid: int, pid_start: int, addresses: list[str]) -> set[str] | None:
        told = self.cluster.transport(self._clock.now_s())
        return set(addresses) - {remote.decode() for remote in told["remote"][told["delivery_bytes_per_s"] == 0].tolist()}

    def evidence(self, pid: int, pid_start: int) -> Evidence | None:
        return None

    def throttling(self, pid: int, pid_start: int) -> Throttling | None:
        return None

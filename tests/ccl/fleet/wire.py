"""A simulated cluster whose hosts have clocks days apart, and agents that ship over a wire with delays to a collector that
may be killed; all on a clock that nobody waits for."""

from pathlib import Path

import msgspec
import numpy as np

from tests.ccl.faults.clusters import LAYOUT
from tightwire.ccl.faults.simulate.fault import Fault
from tightwire.ccl.faults.simulate.stream import SimulatedCluster
from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.hosts import Hosts
from tightwire.ccl.fleet.incidents import Incidents
from tightwire.ccl.fleet.judging import Judging, News
from tightwire.ccl.fleet.messages import About, Answer, Ask, Findings, pack, pack_findings
from tightwire.ccl.fleet.sending import Sending
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import Summary
from tightwire.ccl.transport import End, Socket
from tightwire.core.clock import FakeClock
from tightwire.core.events import RECORD

DAY_S = 86400.0


class Ahead:
    """Another host's clock."""

    def __init__(self, clock: FakeClock, ahead_s: float) -> None:
        self.clock, self.ahead_s = clock, ahead_s

    def now_s(self) -> float:
        return self.clock.now_s() + self.ahead_s

    def sleep_s(self, seconds: float) -> None:
        raise AssertionError


class SimulatedAgent:
    """Of one host; `cut`: nothing gets through."""

    def __init__(self, name: str, clock: FakeClock, ahead_s: float, run: int = 1) -> None:
        self.clock = Ahead(clock, ahead_s)
        self.about = About("job", name, run)
        self.backlog = Backlog()
        self.sending = Sending(self.about, self.backlog, self.clock)
        self.packer = Packer()
        self.cut = False

    def look(self, summary: Summary) -> None:
        ahead_s = self.clock.ahead_s
        ranks = []
        for sample in summary.ranks:
            records = np.frombuffer(sample.records, RECORD).copy()
            records["time_ns"] = records["time_ns"].astype(np.int64) + int(ahead_s * 1e9)
            frames = [_moved(each, ahead_s) for each in sample.frames]
            start = sample.pid_start + int((ahead_s + 5 * DAY_S) * 100)
            ranks.append(msgspec.structs.replace(sample, records=records.tobytes(), frames=frames, pid_start=start))
        at_s = float(summary.at_s + ahead_s)
        digest = self.packer.digest(msgspec.structs.replace(summary, at_s=at_s, ranks=ranks))
        self.backlog.append(at_s, pack(digest), digest.whole)


class Wire:
    """`said`: the news of all collectors, with the time. `step` is a fifth of a second."""

    def __init__(self, out: Path, *faults: Fault, seed: int = 0) -> None:
        self.clock = FakeClock(5 * DAY_S)
        self.began_s = self.clock.now_s()
        self.cluster = SimulatedCluster(LAYOUT, None, faults, seed)
        self.out, self.rng = out, np.random.default_rng(seed)
        names = sorted({f"host{host}" for host in LAYOUT.hosts.tolist()})
        self.agents = {
            name: SimulatedAgent(name, self.clock, (number - 2) * DAY_S) for number, name in enumerate(names)
        }
        self.said: list[tuple[float, News]] = []
        self.collect()

    def collect(self) -> None:
        """A collector starts, the first or another after a kill."""
        self.hosts = Hosts(self.clock, self._ask)
        incidents = Incidents(self.out, lambda text: None, self.clock.now_s)
        self.judging = Judging(
            "job", self.hosts, incidents, self.clock, lambda news: self.said.append((self.now_s, news))
        )
        self.up = True

    @property
    def now_s(self) -> float:
        """Of the simulation."""
        return self.clock.now_s() - self.began_s

    def run(self, until_s: float) -> None:
        while self.now_s < until_s:
            self.step()

    def step(self) -> None:
        for summary in self.cluster.summaries(self.now_s):
            began_s = self.began_s
            ranks = [
                msgspec.structs.replace(
                    each,
                    records=_later(each.records, began_s),
                    frames=[_moved(frame, began_s) for frame in each.frames],
                )
                for each in summary.ranks
            ]
            agent = self.agents[summary.host]
            agent.look(Summary("", summary.at_s + began_s, ranks, self.cluster.layout.facts))
        for agent in self.agents.values():
            for _ in range(200):  # until nothing is left to say
                due = list(agent.sending.due())
                for message in due:
                    if self.up and not agent.cut:
                        delay_s = float(self.rng.exponential(0.002))
                        reply = self.hosts.take(message, self.clock.now_s() + delay_s)
                        if reply is not None:
                            agent.sending.hear(reply)
                if not due or not self.up or agent.cut:
                    break
        if self.up:
            self.judging.step()
        self.clock.advance_s(0.2)

    def _ask(self, ask: Ask) -> None:
        agent = self.agents[ask.host]
        if agent.cut:
            return
        ends = []
        groups = [facts for facts in self.cluster.layout.facts if facts.group in ask.groups]
        if ask.what == "ends":
            told = self.cluster.connections(self.now_s)
            both = {(each.rank, each.peer) for each in told}
            for each in told:
                if each.rank in ask.pids:
                    ends.append(End(each.rank, "", each.socket))
                if each.peer in ask.pids and (each.peer, each.rank) not in both:
                    ends.append(End(each.peer, "", Socket(0, each.socket.remote, each.socket.local, 0, False, 0, 0)))
        body = pack_findings(Findings(ends=ends, groups=groups))
        self.hosts.take(Answer(agent.about, ask.number, body), self.clock.now_s())


def _later(data: bytes, by_s: float) -> bytes:
    records = np.frombuffer(data, RECORD).copy()
    records["time_ns"] = records["time_ns"].astype(np.int64) + int(by_s * 1e9)
    return records.tobytes()


def _moved(frame: GroupFrame, by_s: float) -> GroupFrame:
    return msgspec.structs.replace(frame, entered_ns=frame.entered_ns + int(by_s * 1e9))

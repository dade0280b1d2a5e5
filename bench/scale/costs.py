"""What the collector costs: it runs in a process of its own, takes each host's messages as they are on the wire, and is
asked nothing by the simulation but the time that it took."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection

import msgspec
import numpy as np

from scale.playing import EVERY_S, SKEW_S
from tightwire.ccl.connections import CONNECTION, Connections
from tightwire.ccl.digest import CALL
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.faults.simulate.fault import Fault
from tightwire.ccl.faults.simulate.layout import Layout
from tightwire.ccl.faults.simulate.physics import Program
from tightwire.ccl.faults.simulate.stream import SimulatedCluster
from tightwire.ccl.fleet.hosts import Hosts
from tightwire.ccl.fleet.messages import About, Report, decode_to_collector, encode, pack
from tightwire.ccl.throttling import Throttling
from tightwire.ccl.verdict import Verdict
from tightwire.ccl.watcher import Watcher
from tightwire.core.clock import FakeClock

SIZES = (1024, 4096, 16384, 65536)
WARM_S, MEASURED_S, HUNG_S = 16, 12, 30
REPEATED_S = 4  # until nothing that was said before a hang is said again


class Cost(msgspec.Struct, frozen=True):
    """`second_s` of one core for a second of all ranks' summaries; `verdict_s` for the look that named the rank which hung
    at the end; the collector's largest resident memory; bytes on the wire while the job ran and while it hung."""

    ranks: int
    second_s: float
    verdict_s: float
    memory_gb: float
    bytes_per_rank_sweep: float
    idle_bytes_per_rank_sweep: float
    calls_per_rank_s: float


class Remote(Hosts):
    """What the watcher in the other process judges by."""

    def __init__(self, link: Connection, clock: FakeClock) -> None:
        super().__init__(clock, lambda ask: None)
        self.link = link
        self.spent_s = 0.0

    def receive(self) -> list[bytes]:
        """A second's messages; none at the end."""
        count = int.from_bytes(self.link.recv_bytes(), "little")
        return [self.link.recv_bytes() for _ in range(count)]

    def connections(self, pids: Mapping[int, int]) -> Connections:
        self.link.send_bytes(b"transport")
        before_s = time.process_time()
        rows = np.frombuffer(self.link.recv_bytes(), CONNECTION)
        self.spent_s += time.process_time() - before_s  # of the pipe
        return rows

    def evidence(self, pid: int, pid_start: int) -> Evidence | None:
        return None

    def throttling(self, pid: int, pid_start: int) -> Throttling | None:
        return None


class Second(msgspec.Struct, frozen=True):
    """The processor time of one look and what was said."""

    spent_s: float
    said: Verdict | None


def collect(link: Connection) -> None:
    """The collector's process: answers each look with a `Second`, and at the end with its memory in bytes."""
    clock = FakeClock()
    source = Remote(link, clock)
    watcher = Watcher(source, source.horizon)
    while messages := source.receive():
        clock.advance_s(EVERY_S)
        began_s, before_s = time.process_time(), source.spent_s
        for each in messages:
            source.take(decode_to_collector(each), clock.now_s())
        said = _judge(watcher, source)
        spent_s = time.process_time() - began_s - (source.spent_s - before_s)
        said = None if said is None else msgspec.structs.replace(said, waiting_ranks=[], evidence=[])
        link.send_bytes(msgspec.msgpack.encode(Second(spent_s, said)))
    link.send_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss.to_bytes(8, "little"))


def _judge(watcher: Watcher, source: Remote) -> Verdict | None:
    said = None
    while said is None:
        source.advance()
        said = watcher.step() if source.begun else None
        if not source.more:
            break
    return said


def measure(ranks: int, seed: int) -> Cost:
    """A job of so many ranks watched for a while, and then one of them loops."""
    clock = FakeClock()
    cluster = SimulatedCluster(Layout(8, 8, ranks // 64), Program(), (), seed, SKEW_S)
    context = multiprocessing.get_context("spawn")
    link, other = context.Pipe()
    collector = context.Process(target=collect, args=(other,))
    collector.start()
    other.close()
    seconds: list[Second] = []
    sizes: list[int] = []
    calls: list[int] = []
    while len(seconds) < WARM_S + MEASURED_S + HUNG_S:
        if len(seconds) == WARM_S + MEASURED_S:
            cluster.inject([Fault("loop", ranks // 2, cluster.physics.steps)], seed)
        clock.advance_s(EVERY_S)
        number, digests = len(seconds), cluster.digests(clock.now_s())
        encoded = [
            encode(Report(About("job", each.host, 1), number, number - 1 if number else None, 0, 0, each.at_s, pack(each)))
            for each in digests
        ]
        sizes.append(sum(map(len, encoded)))
        calls.append(sum(len(each.calls) for each in digests))
        link.send_bytes(len(encoded).to_bytes(8, "little"))
        for each in encoded:
            link.send_bytes(each)
        while (answer := link.recv_bytes()) == b"transport":
            link.send_bytes(cluster.transport(clock.now_s()).tobytes())
        seconds.append(msgspec.msgpack.decode(answer, type=Second))
        if seconds[-1].said is not None:
            break
    link.send_bytes((0).to_bytes(8, "little"))
    memory_bytes = int.from_bytes(link.recv_bytes(), "little") * 1024
    collector.join()
    measured = slice(WARM_S, WARM_S + MEASURED_S)
    last = seconds[-1]
    if last.said is None or last.said.guilty_ranks != [ranks // 2]:
        raise RuntimeError(f"{ranks} ranks: rank {ranks // 2} looped, said was {last.said}")
    return Cost(
        ranks,
        float(np.mean([each.spent_s for each in seconds[measured]])),
        last.spent_s,
        memory_bytes / 1e9,
        float(np.mean(sizes[measured])) / ranks,
        float(np.min(sizes[WARM_S + MEASURED_S + REPEATED_S :])) / ranks,
        float(np.mean(calls[measured])) / ranks / CALL.itemsize / EVERY_S,
    )

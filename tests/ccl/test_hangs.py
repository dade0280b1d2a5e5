"""Several classes of hangs that begin at once are told, each by itself; and nothing is told that follows from a hang."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.ccl.faults.clusters import LAYOUT
from tightwire.ccl.connections import Connections, columns
from tightwire.ccl.digest import Digest
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.faults.simulate.fault import Fault
from tightwire.ccl.faults.simulate.stream import SimulatedCluster, SimulatedSource
from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import Goodbye, GroupFrame
from tightwire.ccl.rounds import NO_PARTNER
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.ccl.throttling import Throttling
from tightwire.ccl.transport import Connection
from tightwire.ccl.verdict import Verdict
from tightwire.ccl.watcher import Watcher
from tightwire.core.clock import FakeClock
from tightwire.core.events import DTYPE_CODES, OPERATION_CODES, RECORD, Kind

LEFT, RIGHT = GroupFacts(1, "left", [0, 1, 2]), GroupFacts(2, "right", [3, 4, 5])
WORLD = 6
STEP_S, HUNG_S = 0.1, 5.0


@dataclass
class Job:
    """Two data-parallel groups, each with an all-reduce in every step, until 5 s; then each rank does what it is told:
    `calls` (how many bytes, unless it calls nothing any more), `failed` ones, and the kernel's `state` and `goodbye`."""

    clock: FakeClock = field(default_factory=FakeClock)
    calls: dict[int, int] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    state: dict[int, str | None] = field(default_factory=dict)
    goodbye: dict[int, int] = field(default_factory=dict)
    broken: tuple[tuple[int, int], ...] = ()
    packer: Packer = field(default_factory=Packer)
    told: dict[int, int] = field(default_factory=dict)

    def rows(self, rank: int) -> list[tuple[int, ...]]:
        steps = round(min(self.clock.now_s(), HUNG_S) / STEP_S)
        found = []
        for n in range(1, steps + 1):
            found += [self.row(rank, n, Kind.ENTERED, n * STEP_S), self.row(rank, n, Kind.DONE, n * STEP_S + 0.01)]
        if self.clock.now_s() >= HUNG_S and rank in self.calls:
            found.append(self.row(rank, steps + 1, Kind.ENTERED, HUNG_S, self.calls[rank]))
            found += [self.row(rank, steps + 1, Kind.FAILED, HUNG_S + 0.01)] if rank in self.failed else []
        return found

    def row(self, rank: int, n: int, kind: Kind, at_s: float, size: int = 16) -> tuple[int, ...]:
        group, op = self.group(rank).group, OPERATION_CODES["allreduce"]
        return int(at_s * 1e9), group, n, size, size, op, NO_PARTNER, kind, DTYPE_CODES["float32"], 0, 0

    def group(self, rank: int) -> GroupFacts:
        return LEFT if rank in LEFT.ranks else RIGHT

    def look(self) -> list[Digest]:
        samples = []
        for rank in range(WORLD):
            rows = self.rows(rank)
            entered, ended = (
                sum(row[7] in kinds for row in rows) for kinds in ((Kind.ENTERED,), (Kind.DONE, Kind.FAILED))
            )
            failed, op = sum(row[7] == Kind.FAILED for row in rows), OPERATION_CODES["allreduce"]
            frame = GroupFrame(self.group(rank).group, entered, 0, ended, op, failed, entered if entered > ended else 0)
            state = self.state.get(rank, "S")
            process = None if state is None else ProcessState(state, 1.0)
            news = np.array(rows[self.told.get(rank, 0) :], RECORD).tobytes()
            self.told[rank] = len(rows)
            goodbye = self.goodbye.get(rank, Goodbye.NONE)
            samples.append(RankSample(rank, WORLD, 100 + rank, 1, goodbye, len(rows), [frame], process, None, news))
        return [self.packer.digest(Summary("host", self.clock.now_s(), samples, [LEFT, RIGHT]))]

    def wait(self, timeout_s: float) -> None:
        self.clock.sleep_s(timeout_s)

    def connections(self, pids: Mapping[int, int]) -> Connections:
        sockets = [(a, b, Socket(0, f"{a}:1", f"{b}:1", 96, True, 3, 500, 500)) for a, b in self.broken]
        return columns([Connection(a, b, each) for a, b, each in sockets])

    def reached(self, pid: int, pid_start: int, addresses: list[str]) -> set[str] | None:
        return None

    def evidence(self, pid: int, pid_start: int) -> Evidence | None:
        return None

    def throttling(self, pid: int, pid_start: int) -> Throttling | None:
        return None


def watched(job: Job, until_s: float = 30.0, then: dict[float, dict[str, object]] | None = None) -> list[Verdict]:
    """What was said; `then`: at these times the job is changed."""
    watcher, said, changes = Watcher(job, job.clock), [], dict(then or {})
    while job.clock.now_s() < until_s:
        for at_s in [each for each in changes if each <= job.clock.now_s()]:
            for name, value in changes.pop(at_s).items():
                setattr(job, name, value)
        verdict = watcher.step()
        said += [] if verdict is None else [verdict]
        watcher.wait()
    return said


def names(said: list[Verdict]) -> list[tuple[str, list[int], list[str]]]:
    return [(verdict.anomaly, verdict.guilty_ranks, verdict.guilty_links) for verdict in said]


def test_another_call_in_one_group_and_a_rank_that_loops_in_the_other() -> None:
    said = watched(Job(calls={0: 16, 1: 20, 2: 16, 3: 16, 4: 16}))
    assert names(said) == [("H2", [1], []), ("H1", [5], [])]
    assert said[0].at_s < HUNG_S + 2 < HUNG_S + 8 < said[1].at_s < HUNG_S + 10
    assert said[1].waiting_ranks == [3, 4]


@pytest.mark.parametrize("state", ["T", None])
def test_a_rank_that_is_stopped_or_dead_beside_another_call(state: str | None) -> None:
    said = watched(Job(calls={0: 16, 1: 20, 2: 16, 3: 16, 4: 16}), then={HUNG_S: {"state": {5: state}}})
    assert sorted(names(said)) == [("H1", [5], []), ("H2", [1], [])]


def test_a_link_without_which_a_group_does_not_begin_yet() -> None:
    # 5 loops; 3 and 4 have entered, and what 3 sends to 4 is lost
    said = watched(Job(calls=dict.fromkeys(range(5), 16), broken=((3, 4),)))
    assert names(said) == [("H1", [5], []), ("H3", [], ["3-4"])]
    assert any("which others have not entered" in line for line in said[1].evidence)


def test_three_classes() -> None:
    said = watched(Job(calls={0: 16, 1: 20, 2: 16, 3: 16, 4: 16}, broken=((3, 4),)))
    assert sorted(names(said)) == [("H1", [5], []), ("H2", [1], []), ("H3", [], ["3-4"])]


def test_who_fails_in_a_call_that_differs_is_not_told_once_more() -> None:
    # the operation fails, ranks leave in error one after the other, the last one is killed
    then = {
        HUNG_S + 0.4: {"failed": {0, 1}},
        HUNG_S + 0.6: {"goodbye": {0: Goodbye.ERROR}, "state": {0: None}},
        HUNG_S + 1.0: {"goodbye": {0: Goodbye.ERROR, 1: Goodbye.ERROR}, "state": {0: None, 1: None}},
        HUNG_S + 1.4: {"state": {0: None, 1: None, 2: None, 5: None}},
    }
    said = watched(Job(calls={0: 16, 1: 20, 2: 16, 3: 16, 4: 16, 5: 16}), then=then)
    assert names(said) == [("H2", [1], [])]


@pytest.mark.parametrize("after_s", [0.2, 1.0, 5.0])
def test_who_is_killed_once_the_job_hangs_is_not_told(after_s: float) -> None:
    told_s = HUNG_S + 9.0
    then = {told_s + after_s: {"state": {0: None, 3: None}}, told_s + after_s + 0.3: {"state": dict.fromkeys(range(5))}}
    said = watched(Job(calls=dict.fromkeys(range(5), 16)), then=then)
    assert names(said) == [("H1", [5], [])]


def test_what_ranks_call_after_an_error_is_no_class_of_its_own() -> None:
    # 5 dies; 3 and 4 lost their peer, and 4 reports that in a call of its own
    job = Job(calls=dict.fromkeys(range(5), 16))
    said = watched(
        job, then={HUNG_S: {"state": {5: None}}, HUNG_S + 0.6: {"failed": {3, 4}, "calls": {**job.calls, 4: 99}}}
    )
    assert names(said) == [("H1", [5], [])]


def test_no_link_is_told_of_a_rank_that_does_not_read_since_it_stands() -> None:
    job = Job(calls=dict.fromkeys(range(5), 16), broken=((4, 5), (3, 5)))
    assert names(watched(job, then={HUNG_S: {"state": {5: "T"}}})) == [("H1", [5], [])]


def test_it_is_known_when_somebody_is_not_decided_yet() -> None:
    job = Job(calls={0: 16, 1: 20, 2: 16, 3: 16, 4: 16})
    watcher, undecided = Watcher(job, job.clock), {}
    while job.clock.now_s() < HUNG_S + 16:
        watcher.step()
        undecided[job.clock.now_s()] = watcher.hangs.undecided
        job.clock.sleep_s(0.2)
    while_waiting = [value for at_s, value in undecided.items() if HUNG_S + 2 < at_s < HUNG_S + 7.5]
    assert while_waiting == [True] * len(while_waiting) != []
    assert not any(value for at_s, value in undecided.items() if at_s < HUNG_S or at_s > HUNG_S + 9)


def test_a_hang_is_told_anew_after_the_job_moved() -> None:
    job = Job(calls=dict.fromkeys(range(5), 16))
    watcher, said = Watcher(job, job.clock), []
    while job.clock.now_s() < 40:
        verdict = watcher.step()
        said += [] if verdict is None else [verdict]
        if 25 < job.clock.now_s() < 25.3:
            watcher.move_again()
        job.clock.sleep_s(0.2)
    assert names(said) == [("H1", [5], [])] * 2


@pytest.mark.parametrize(
    "faults",
    [
        (Fault("loop", 13, 45), Fault("shape", 0, 45)),
        (Fault("stop", 13, 45), Fault("drop", 0, 45, 2)),
        (Fault("operation", 4, 45), Fault("drop", 0, 45, 2)),
        (Fault("kill", 7, 45), Fault("shape", 0, 45), Fault("loop", 5, 45)),
    ],
)
def test_simulated_training_with_lost_summaries_and_skewed_clocks(faults: tuple[Fault, ...]) -> None:
    clock, said = FakeClock(), []
    watcher = Watcher(SimulatedSource(SimulatedCluster(LAYOUT, None, faults, 1, 0.05, 0.01), clock), clock)
    while clock.now_s() < 40:
        verdict = watcher.step()
        said += [] if verdict is None else [verdict]
        clock.advance_s(0.2 if said else 1.0)
    for anomaly in {fault.anomaly for fault in faults}:
        mine = [fault for fault in faults if fault.anomaly == anomaly]
        last = [verdict for verdict in said if verdict.anomaly == anomaly][-1]
        assert last.guilty_ranks == sorted(rank for fault in mine for rank in fault.guilty_ranks)
        assert last.guilty_links == [link for fault in mine for link in fault.guilty_links]
    assert {verdict.anomaly for verdict in said} == {fault.anomaly for fault in faults}

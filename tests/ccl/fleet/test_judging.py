"""The real watcher over many hosts whose clocks are days apart; collectors killed, agents killed, hosts cut off."""

from pathlib import Path

import numpy as np
import pytest

from tests.ccl.faults.clusters import LAYOUT
from tests.ccl.fleet.wire import Wire
from tightwire.ccl.faults.simulate.fault import CLASSES, Fault, draw
from tightwire.ccl.fleet.hosts import LOST_S


def told(wire: Wire) -> list[tuple[str, str, list[int]]]:
    return [(news.what, news.known.verdict.anomaly, news.known.verdict.guilty_ranks) for _, news in wire.said]


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_is_told_with_its_place(kind: str, tmp_path: Path) -> None:
    fault = draw(kind, LAYOUT, 45, np.random.default_rng(list(CLASSES).index(kind)))
    wire = Wire(tmp_path, fault)
    while not any(news.what == "opened" for _, news in wire.said) and wire.now_s < 60:
        wire.step()
    wire.run(wire.now_s + 5)
    verdict = wire.said[-1][1].known.verdict
    found = (verdict.anomaly, verdict.guilty_ranks, verdict.guilty_links if not fault.guilty_ranks else [])
    assert found == (fault.anomaly, fault.guilty_ranks, fault.guilty_links), told(wire)
    assert all(news.known.verdict.confidence == "high" for _, news in wire.said)
    assert len({news.known.folder for _, news in wire.said}) == 1


def test_two_classes_that_begin_at_once_are_two_incidents(tmp_path: Path) -> None:
    wire = Wire(tmp_path, Fault("shape", 0, 45), Fault("loop", 13, 45))
    wire.run(60)
    assert told(wire) == [("opened", "H2", [0]), ("opened", "H1", [13])]
    assert len({news.known.folder for _, news in wire.said}) == 2
    wire.collect()
    wire.run(75)
    assert sorted(told(wire)[2:]) == [("found", "H1", [13]), ("found", "H2", [0])]


def test_the_second_class_is_told_by_a_collector_that_takes_over_after_the_first(tmp_path: Path) -> None:
    wire = Wire(tmp_path, Fault("shape", 0, 45), Fault("loop", 13, 45))
    while not wire.said:
        wire.step()
    assert told(wire) == [("opened", "H2", [0])]
    wire.collect()
    wire.run(75)
    assert told(wire)[1:] == [("found", "H2", [0]), ("opened", "H1", [13])]


def test_more_of_one_class_changes_the_incident(tmp_path: Path) -> None:
    wire = Wire(tmp_path, Fault("stop", 5, 45), Fault("loop", 13, 45))
    wire.run(60)
    assert [each[0] for each in told(wire)] == ["opened", "changed"]
    assert told(wire)[-1][1:] == ("H1", [5, 13])
    assert len({news.known.folder for _, news in wire.said}) == 1


def test_a_collector_killed_while_a_hang_is_open_says_so_once(tmp_path: Path) -> None:
    wire = Wire(tmp_path, Fault("stop", 5, 45))
    wire.run(25)
    assert told(wire) == [("opened", "H1", [5])]
    wire.up = False
    wire.run(35)
    wire.collect()
    wire.run(60)
    assert told(wire) == [("opened", "H1", [5]), ("found", "H1", [5])]
    assert len({news.known.folder for _, news in wire.said}) == 1


def test_what_happened_while_no_collector_was_there_is_told_when_one_comes(tmp_path: Path) -> None:
    wire = Wire(tmp_path, Fault("sleep", 5, 60, severity=2.0))
    wire.run(8)
    assert len(wire.cluster.step_ends_s) < 60
    wire.up = False
    wire.run(30)
    wire.collect()
    wire.run(40)
    assert told(wire)[:1] == [("opened", "S1", [5])]


def test_a_slow_job_is_told_once_over_two_collectors(tmp_path: Path) -> None:
    wire = Wire(tmp_path, Fault("sleep", 5, 45, severity=2.0, until=110))
    wire.run(20)
    assert told(wire) == [("opened", "S1", [5])]
    wire.up = False
    wire.run(22)
    wire.collect()
    wire.run(60)
    assert [each[0] for each in told(wire)] == ["opened", "found", "closed"]
    assert wire.said[-1][1].known.reason == "recovered"
    wire.collect()  # a third finds it in what the agents kept, and knows that it is over
    wire.run(70)
    assert len(wire.said) == 3


@pytest.mark.parametrize(("rank", "named", "confidence"), [(6, [6, 7], "low"), (0, [0], "high"), (None, [], "")])
def test_of_a_host_without_an_agent_only_that_all_wait_for_it_is_told(
    rank: int | None, named: list[int], confidence: str, tmp_path: Path
) -> None:
    wire = Wire(tmp_path) if rank is None else Wire(tmp_path, Fault("loop", rank, 45))
    wire.agents["host3"].cut = True  # it has ranks 6 and 7
    wire.run(60)
    verdicts = [news.known.verdict for _, news in wire.said]
    assert [(each.guilty_ranks, each.confidence) for each in verdicts] == ([(named, confidence)] if named else [])


def test_a_host_that_is_cut_off_delays_and_accuses_nobody(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    wire.run(10)
    agent = wire.agents["host3"]
    agent.cut = True
    wire.run(13)
    assert wire.hosts.behind_s > 2  # nobody is judged without it
    wire.run(40)
    assert wire.hosts.behind_s < 1  # it is lost: the others are judged on
    assert set(wire.hosts.unknown) == {rank for rank in range(LAYOUT.world) if LAYOUT.hosts[rank] == 3}
    agent.cut = False
    wire.run(60)
    assert wire.said == []
    assert wire.hosts.unknown == {}
    assert wire.hosts.behind_s < 1


def test_who_waits_for_a_lost_host_is_said_with_low_confidence(tmp_path: Path) -> None:
    wire = Wire(tmp_path, Fault("loop", 7, 60))
    wire.run(8)
    wire.agents[f"host{LAYOUT.hosts[7]}"].cut = True
    wire.run(60)
    assert [each[:2] for each in told(wire)] == [("opened", "H1")]
    verdict = wire.said[0][1].known.verdict
    assert verdict.confidence == "low"
    assert 7 in verdict.guilty_ranks
    assert {LAYOUT.hosts[rank] for rank in verdict.guilty_ranks} == {LAYOUT.hosts[7]}
    assert "not been heard of" in verdict.cause


def test_another_fault_is_found_without_a_host_that_is_lost(tmp_path: Path) -> None:
    wire = Wire(tmp_path, Fault("stop", 5, 90))
    wire.run(8)
    lost = next(host for host in range(LAYOUT.hosts[-1] + 1) if host != LAYOUT.hosts[5])
    wire.agents[f"host{lost}"].cut = True
    wire.run(60)
    assert told(wire) == [("opened", "H1", [5])]
    assert wire.said[0][1].known.verdict.confidence == "high"


def test_an_agent_that_starts_again_changes_nothing(tmp_path: Path) -> None:
    from tests.ccl.fleet.wire import SimulatedAgent

    wire = Wire(tmp_path, Fault("sleep", 5, 110, severity=2.0))
    wire.run(10)
    old = wire.agents["host2"]
    wire.agents["host2"] = SimulatedAgent("host2", wire.clock, old.clock.ahead_s, run=2)
    wire.run(15)
    assert wire.said == []
    wire.run(40)
    assert told(wire) == [("opened", "S1", [5])]


def test_a_lost_host_is_waited_for_no_longer_than_it_takes() -> None:
    assert LOST_S < 8

"""How long the agent waits for its next look, on a clock that nobody waits for."""

import os
from pathlib import Path

import pytest

from tightwire import _ring
from tightwire.ccl.agent import BEAT_S, Agent
from tightwire.ccl.probe import process
from tightwire.ccl.pulse import MOST_NEW
from tightwire.core.clock import Clock, FakeClock


class Rank:
    """This process, which writes `pace` records between two beats; `dies`: somebody does in the next one."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.pace, self.beats, self.dies = FakeClock(), 20, 0, False
        self.writer = _ring.Writer(
            str(folder / "rank-0.ring"), 8192, 0, 1, os.getpid(), process.start_ticks(os.getpid())
        )
        self.agent = Agent(folder, self.clock)
        self.agent._deaths.wait = self._beat

    def _beat(self, timeout_s: float, clock: Clock) -> bool:
        self.clock.advance_s(timeout_s)
        self.beats += 1
        for _ in range(self.pace):
            self.writer.entered(-1, 7, 1, 1, 0, 0, 0, 0)
        return self.dies

    def wait(self) -> int:
        """After how many beats the next look comes."""
        before = self.beats
        self.agent.look()
        self.agent.wait(1.0)
        return self.beats - before


@pytest.fixture
def rank(tmp_path: Path) -> Rank:
    return Rank(tmp_path)


def test_a_job_that_runs_as_usual_is_looked_at_seldom(rank: Rank) -> None:
    waits = [rank.wait() for _ in range(8)]
    assert waits[1:] == [round(1.0 / BEAT_S)] * 7
    assert rank.clock.now_s() == pytest.approx(8.0, abs=1.0)


def test_one_that_stands_or_writes_much_is_looked_at_soon(rank: Rank) -> None:
    for _ in range(8):
        rank.wait()
    rank.pace = 0
    assert rank.wait() == 2
    rank.pace = MOST_NEW
    assert rank.wait() == 1


def test_a_death_is_looked_at_at_once(rank: Rank) -> None:
    for _ in range(3):
        rank.wait()
    rank.dies = True
    assert rank.wait() == 1


def test_before_there_is_a_rank_each_beat_is_looked_at(tmp_path: Path) -> None:
    clock = FakeClock()
    agent = Agent(tmp_path / "not there yet", clock)
    agent.look()
    agent.wait(1.0)
    assert clock.now_s() == pytest.approx(BEAT_S)
    agent.close()

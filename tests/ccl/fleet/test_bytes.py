"""What a real job of two hosts costs on the wire, counted by the kernel at the agents' sockets, with CURVE."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ccl.fleet.test_real_hosts import Fleet, end_job, until
from tightwire.ccl import inet_diag
from tightwire.ccl.fleet.collecting import Collecting
from tightwire.ccl.fleet.judging import Judging, News
from tightwire.ccl.fleet.lobbies import open_lobby
from tightwire.core.clock import MonotonicClock
from tightwire.net.keys import Keys

pytestmark = pytest.mark.job
RANKS_PER_HOST, MOST_BYTES = 2, 1184  # for each rank and sweep, the paper's figure
SWEEPS = 12


class Counted(Fleet):
    """With a collector in this process, which says how many reports came."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys = folder / "keys"
        Keys.generate().save(self.keys)
        ours = Keys.load(self.keys)
        self.news: list[News] = []
        self.lobby = open_lobby(self.address, MonotonicClock(), ours, {ours.public}, False, lambda text: None)
        self.collecting = Collecting(self.lobby, self.out, MonotonicClock(), self._hear, lambda text: None)

    def _hear(self, judging: Judging, news: News) -> None:
        self.news.append(news)

    @property
    def guilty(self) -> list[list[int]]:
        """Of what was told so far."""
        self.collecting.step()
        return [news.known.verdict.guilty_ranks for news in self.news]

    @property
    def reports(self) -> int:
        """So far; as a collector does, what is there is judged."""
        self.collecting.step()
        return sum(each.next or 0 for hosts in self.lobby.jobs.now().values() for each in hosts._hosts.values())

    @property
    def sent_bytes(self) -> int:
        """So far, and acknowledged."""
        collector = self.address.removeprefix("tcp://")
        return sum(each.acked_bytes or 0 for each in inet_diag.established() if each.remote == collector)

    def bytes_per_rank_and_sweep(self) -> float:
        """Of the next sweeps."""
        reports, sent = self.reports, self.sent_bytes
        until(lambda: self.reports >= reports + 2 * SWEEPS, self)
        return (self.sent_bytes - sent) / ((self.reports - reports) * RANKS_PER_HOST)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    made = Counted(tmp_path)
    yield made
    made.end()
    end_job(made)
    made.lobby.close()


def test_a_busy_job_fits_and_a_quiet_one_sends_less(counted: Counted) -> None:
    for host in range(2):
        counted.agent(host, "--keys", str(counted.keys))
    until(lambda: counted.reports >= 2, counted)
    counted.job("--steps", "100000", "--fault", "stop", "--rank", "2", "--step", "600")
    until(lambda: counted.losses(), counted)
    busy = counted.bytes_per_rank_and_sweep()
    assert not counted.guilty
    assert busy <= MOST_BYTES
    until(lambda: counted.guilty == [[2]], counted)
    until_s = time.monotonic() + 10.0
    until(lambda: counted.reports and time.monotonic() > until_s, counted)  # what may begin with it has been looked for
    quiet = counted.bytes_per_rank_and_sweep()
    assert quiet < busy / 2

"""Collectors that share jobs through a real Redis, on a clock that nobody waits for; the server's own runs on."""

from collections.abc import Iterator

import pytest

from tests.kv.store.helpers import RedisServer, wait_until
from tightwire.ccl.fleet.shares import LEASE_S, SILENT_S, Shares
from tightwire.ccl.fleet.streams import Streams, address
from tightwire.core.clock import FakeClock
from tightwire.errors import LinkError

CLOCK_S = 1.5  # longer than between two renewals


class Collector:
    def __init__(self, server: RedisServer, clock: FakeClock) -> None:
        self.streams, self.clock = Streams(address(server.url)), clock
        self.news: list[str] = []
        self.shares = Shares(
            self.streams, clock, lambda job: self.news.append(f"+{job}"), lambda job: self.news.append(f"-{job}")
        )

    def step(self, seconds: float = CLOCK_S) -> list[str]:
        self.clock.sleep_s(seconds)
        self.shares.step()
        return sorted(self.shares.mine)


@pytest.fixture
def two(server: RedisServer) -> Iterator[tuple[Collector, Collector]]:
    clock = FakeClock()
    made = Collector(server, clock), Collector(server, clock)
    for each in made:
        each.step()
    made[0].step()  # knows of the other now
    yield made
    for each in made:
        each.streams.close()


def test_jobs_are_shared_evenly_and_each_has_one_collector(two: tuple[Collector, Collector]) -> None:
    first, second = two
    for number in range(5):
        first.streams.announce(f"job{number}", number)
    had = [set(first.step()), set(second.step())]
    assert sorted(map(len, had)) == [2, 3]
    assert set.union(*had) == {f"job{number}" for number in range(5)}
    assert [set(first.step()), set(second.step())] == had  # and they stay


def test_what_a_collector_leaves_goes_to_another(two: tuple[Collector, Collector]) -> None:
    first, second = two
    first.streams.announce("job", 1)
    assert first.step() == ["job"]
    assert second.step() == []
    first.shares.leave()
    assert second.step() == ["job"]


def test_the_jobs_of_one_that_was_killed_are_taken_when_its_leases_end(two: tuple[Collector, Collector]) -> None:
    first, second = two
    first.streams.announce("job", 1)
    assert first.step() == ["job"]
    assert second.step() == []
    wait_until(lambda: second.step() == ["job"], 2 * LEASE_S)  # by the server's clock
    assert first.step(0.0) == []  # it was stopped, and comes back: its time is over before it asks
    assert first.news == ["+job", "-job"]
    assert first.step() == []


def test_a_server_that_was_emptied_gives_the_jobs_back_to_who_has_them(
    two: tuple[Collector, Collector], server: RedisServer
) -> None:
    first, second = two
    first.streams.announce("job", 1)
    assert first.step() == ["job"]
    server.kill()
    server.start()
    with pytest.raises((OSError, LinkError)):
        first.step()
    assert first.step(0.0) == ["job"]
    with pytest.raises((OSError, LinkError)):
        second.step()
    second.streams.announce("job", 2)
    assert second.step(0.0) == []


def test_a_job_that_is_silent_is_over(two: tuple[Collector, Collector]) -> None:
    first, second = two
    first.streams.announce("job", 1)
    assert first.step() == ["job"]
    for _ in range(int(SILENT_S / 3) + 2):
        if not first.step(3.0):
            break
        assert first.streams.jobs() == ["job"]
    assert first.streams.jobs() == []
    assert second.step() == []

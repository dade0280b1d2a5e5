"""Agents and a collector that meet in a real Redis, which is killed, full of nonsense, or asks for a password."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ccl.fleet.helpers import digest, sample
from tests.kv.store.helpers import RedisServer, wait_until
from tightwire.ccl.agent import Agent
from tightwire.ccl.fleet.answering import Answering
from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.lobbies import open_lobby
from tightwire.ccl.fleet.messages import MAX_MESSAGE_BYTES, About, Answer, Ask, pack
from tightwire.ccl.fleet.streams import MOST_DOWN, PASSWORD, START, Streams, address, down, up
from tightwire.ccl.fleet.uplinks import connector
from tightwire.core.clock import MonotonicClock
from tightwire.errors import ConfigError, LinkError
from tightwire.net.keys import Keys

CLOCK = MonotonicClock()
UP = up("job")
ABOUT = About("job", "host", 1)


class Party:
    """An agent and a collector at one server; `said` by both."""

    def __init__(self, url: str) -> None:
        self.said: list[str] = []
        self.backlog = Backlog()
        answering = Answering(ABOUT, Agent(Path("nowhere"), CLOCK))
        self.uplink = connector(url, None, CLOCK, self.said.append)(ABOUT, self.backlog, answering)
        self.lobby = open_lobby(url, CLOCK, None, (), False, self.said.append)

    def see(self, *numbers: int) -> None:
        for number in numbers:
            self.backlog.append(CLOCK.now_s(), pack(digest(CLOCK.now_s(), sample(0, number + 1))), True)
        self.uplink.wake()

    @property
    def next(self) -> int | None:
        """The report that the collector wants."""
        jobs = self.lobby.jobs.now()
        return jobs["job"]._hosts["host"].next if "job" in jobs and jobs["job"]._hosts else None

    def end(self) -> None:
        self.uplink.close()
        self.lobby.close()


@pytest.fixture
def party(server: RedisServer) -> Iterator[Party]:
    made = Party(server.url)
    yield made
    made.end()


@pytest.fixture
def streams(server: RedisServer) -> Iterator[Streams]:
    made = Streams(address(server.url))
    yield made
    made.close()


def until(condition: Callable[[], object]) -> None:
    wait_until(condition, 30)


def test_reports_arrive_and_nothing_stays(streams: Streams, party: Party) -> None:
    party.see(*range(200))
    until(lambda: party.next == 200 and party.uplink.idle)
    assert party.backlog.dropped == 0
    until(lambda: len(streams.read({UP: START})) <= 1)  # the newest stays until the next is read
    assert len(streams.read({down(ABOUT): START})) <= MOST_DOWN
    kept_s = streams._call("TTL", down(ABOUT))
    assert isinstance(kept_s, int)
    assert 0 < kept_s <= 60


def test_a_question_is_answered(party: Party) -> None:
    party.see(0)
    until(lambda: party.next == 1)
    hosts, answers = party.lobby.jobs.now()["job"], []
    take = hosts.take
    hosts.take = lambda message, at_s: (answers.append(message), take(message, at_s))[1]
    party.lobby.jobs._ask("job", Ask(7, "host", "evidence", os.getpid()))
    until(lambda: [each.number for each in answers if isinstance(each, Answer)] == [7])


def test_killed_and_back_again(server: RedisServer, party: Party) -> None:
    party.see(*range(20))
    until(lambda: party.next == 20)
    server.kill()
    party.see(*range(20, 40))
    until(lambda: sum("not reached" in each for each in party.said) >= 2)
    server.start()
    until(lambda: party.next == 40)
    assert party.lobby.jobs.now()["job"].told()[0][2] == 0  # nothing is missing


def test_nonsense_is_counted_and_what_is_too_large_goes(streams: Streams, party: Party) -> None:
    party.see(0)
    until(lambda: party.next == 1)
    streams.add(UP, b"\xc1 no message", 10_000)
    until(lambda: party.lobby.nonsense == 1)
    streams._call("XADD", UP, "*", "one", "field", "and", "another")
    for _ in range(6):
        streams.add(UP, bytes(MAX_MESSAGE_BYTES - 1), 10_000)
    party.see(*range(1, 10))
    until(lambda: party.next == 10)
    until(lambda: len(streams.read({UP: START})) <= 1)


def test_a_stream_is_bounded(streams: Streams) -> None:
    for number in range(500):
        streams.add("some", b"%d" % number, 100)
    length = streams._call("XLEN", "some")
    assert isinstance(length, int)
    assert length < 300  # whole nodes are trimmed
    assert bytes(streams.read({"some": START})[-1].data) != b""
    assert streams.read({"some": "9999999999999-0"}) == []
    before_s = time.monotonic()
    streams.read({"some": "9999999999999-0"}, 0.2)
    assert time.monotonic() - before_s > 0.15
    streams.forget("some")
    assert streams._call("XLEN", "some") == 0
    streams._call("SET", "text", "x")
    with pytest.raises(LinkError):
        streams.read({"text": START})


def test_a_password_comes_from_the_environment_and_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    server = RedisServer("--requirepass", "open sesame")
    try:
        monkeypatch.setenv(PASSWORD, "another")
        stranger = Party(server.url)
        until(lambda: len(stranger.said) == 2)
        stranger.end()
        assert all("WRONGPASS" in each for each in stranger.said), stranger.said
        monkeypatch.setenv(PASSWORD, "open sesame")
        party = Party(server.url)
        party.see(0)
        until(lambda: party.next == 1)
        party.end()
        assert not any("sesame" in each for each in party.said)
    finally:
        server.kill()


@pytest.mark.parametrize("url", ["redis://:secret@host/0", "redis://host/nine", "redis://", "http://host"])
def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    for opened in (
        lambda: connector(url, None, CLOCK, print),
        lambda: open_lobby(url, CLOCK, None, (), False, print),
    ):
        with pytest.raises(ConfigError) as refused:
            opened()
        assert "secret" not in str(refused.value)


def test_keys_are_not_for_redis() -> None:
    with pytest.raises(ConfigError, match="rediss"):
        connector("redis://host", Keys.generate(), CLOCK, print)
    with pytest.raises(ConfigError, match="rediss"):
        open_lobby("redis://host", CLOCK, Keys.generate(), (), False, print)



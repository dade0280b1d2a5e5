"""The rules by which links of KV transfers are judged, over made-up counters; `tests/test_links.py` has real ones."""

from collections.abc import Iterable

import pytest

from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.transfers import TransferWatch
from tightwire.core.clock import FakeClock
from tightwire.core.events import OPERATION_CODES, Kind
from tightwire.core.links import WATCHES, LinkVerdict

ENDPOINTS = [f"tcp://127.0.0.1:{7000 + number}" for number in range(4)]


class Kernel:
    """Links with counters, and a listener on each."""

    def __init__(self, links: int = 1) -> None:
        self.clock = FakeClock()
        self.watch = TransferWatch(None, self.look, self.clock)
        self.links = [self.watch.link(endpoint) for endpoint in ENDPOINTS[:links]]
        self.heard: list[LinkVerdict] = []
        for link in self.links:
            link.listener = self
        self.acked, self.busy_s = [0.0] * links, [0.0] * links
        self.queued, self.resending, self.receiver_s, self.connected = 1000, False, 0.0, True

    def link_verdict(self, verdict: LinkVerdict) -> None:
        self.heard.append(verdict)

    def look(self) -> Iterable[Socket]:
        yield Socket(1, "127.0.0.1:9", "127.0.0.1:9999", 10**6, True, 9, 0, 0, 0.0, 0.0, 0.1, 1)  # somebody else's
        for number, endpoint in enumerate(ENDPOINTS[: len(self.links) if self.connected else 0]):
            yield Socket(
                2 + number, f"127.0.0.1:{number}", endpoint.removeprefix("tcp://"), self.queued, self.resending,
                int(self.resending), int(self.acked[number]), 0, self.busy_s[number], self.receiver_s, 1e-3, 1000,
            )  # fmt: skip

    def say(self, kind: Kind, group: int = 1, link: int = 0) -> None:
        self.links[link].add(kind, group, 1, OPERATION_CODES["kv_transfer"], 0)

    def run(self, seconds: float, speeds: Iterable[float] = ()) -> None:
        """`speeds`: bytes/s that get through on each link."""
        for _ in range(round(seconds * 2)):
            self.clock.advance_s(0.5)
            for number, speed in enumerate(speeds):
                self.acked[number] += speed / 2
                self.busy_s[number] += 0.5
                if speed:
                    self.say(Kind.PROGRESS, link=number)
            self.watch.step()

    @property
    def states(self) -> list[str]:
        return [verdict.state for verdict in self.heard]


def test_nobody_looks_while_nothing_is_sent() -> None:
    kernel = Kernel()
    assert not kernel.watch.step()
    kernel.say(Kind.ENTERED)
    assert kernel.watch.step()
    kernel.say(Kind.DONE)
    assert not kernel.watch.step()


def test_a_link_that_carries_nothing_hangs_until_it_carries() -> None:
    kernel = Kernel()
    kernel.say(Kind.ENTERED)
    kernel.run(5, [1e6])
    kernel.queued, kernel.resending = 5000, True
    kernel.run(3, [0.0])
    assert kernel.states == ["slow"]  # that is known sooner
    kernel.say(Kind.ENTERED, group=2)  # that another one begins is no movement
    kernel.run(3, [0.0])
    assert kernel.states == ["slow", "hung"]
    assert "5000 bytes are queued" in kernel.heard[1].reason
    assert kernel.heard[1].link == ENDPOINTS[0]
    for group in (1, 2):
        kernel.say(Kind.FAILED, group)
    kernel.run(5, [0.0])
    assert kernel.states == ["slow", "hung"]
    kernel.queued, kernel.resending = 0, False
    kernel.run(1, [0.0])
    assert kernel.states == ["slow", "hung", "healthy"]


def test_a_peer_that_cannot_be_reached_hangs_until_it_is_there() -> None:
    kernel = Kernel()
    kernel.connected = False
    kernel.say(Kind.ENTERED)
    kernel.run(6)
    assert kernel.states == ["hung"]
    assert "no connection" in kernel.heard[0].reason
    kernel.connected = True
    kernel.run(1)
    assert kernel.states == ["hung", "healthy"]


@pytest.mark.parametrize("queued", [0, 10**6])
def test_a_long_prefill_and_a_receiver_that_does_not_read_are_no_hung_link(queued: int) -> None:
    kernel = Kernel()
    kernel.say(Kind.ENTERED)
    kernel.queued = queued  # of which none is sent again: the kernel asks for room
    kernel.run(60, [0.0])
    assert kernel.heard == []


def test_a_link_is_slow_against_its_own_past_until_it_is_as_before() -> None:
    kernel = Kernel()
    kernel.say(Kind.ENTERED)
    kernel.run(5, [1e7])
    kernel.run(5, [0.6e7])
    assert kernel.heard == []
    kernel.run(5, [1e6])
    assert kernel.states == ["slow"]
    assert 1e6 <= (kernel.heard[0].bytes_per_s or 0) < 4e6
    assert "before; not because the receiver" in kernel.heard[0].reason
    kernel.run(30, [1e6])
    assert kernel.states == ["slow"]
    kernel.run(5, [1e7])
    assert kernel.states == ["slow", "healthy"]


def test_a_receiver_that_reads_slowly_is_no_slow_link() -> None:
    kernel = Kernel()
    kernel.say(Kind.ENTERED)
    kernel.run(5, [1e7])
    for _ in range(10):
        kernel.receiver_s += 0.5
        kernel.run(0.5, [1e6])
    assert kernel.heard == []


def test_a_link_without_a_past_is_held_against_the_others() -> None:
    kernel = Kernel(links=4)
    for number in range(4):
        kernel.say(Kind.ENTERED, link=number)
    kernel.run(3, [1e7, 1e7, 1e7, 1e7 * 0.15])
    assert [(verdict.link, verdict.state) for verdict in kernel.heard] == []  # too few of its bytes to say
    kernel = Kernel(links=4)
    for number in range(4):
        kernel.say(Kind.ENTERED, link=number)
    for _ in range(6):  # as many bytes in ten times the time
        kernel.busy_s[3] += 9 * 0.5
        kernel.run(0.5, [1e7] * 4)
    assert [(verdict.link, verdict.state) for verdict in kernel.heard] == [(ENDPOINTS[3], "slow")]
    assert "the other links" in kernel.heard[0].reason


def test_it_is_found_by_name() -> None:
    assert WATCHES["ccl"] is TransferWatch
    watch = WATCHES["ccl"]()
    watch.link(ENDPOINTS[0]).add(Kind.ENTERED, 1, 1, 1, 0)
    watch.close()

"""The agent's side of the conversation, on a line that loses what it wants."""

from hypothesis import given
from hypothesis import strategies as st

from tests.ccl.fleet.helpers import digest, sample
from tightwire.ccl.fleet.backlog import Backlog
from tightwire.ccl.fleet.hosts import Hosts
from tightwire.ccl.fleet.messages import About, Hello, Report, Taken, Welcome, pack
from tightwire.ccl.fleet.sending import HELLO_EVERY_S, PATIENCE_S, WINDOW_REPORTS, Sending
from tightwire.core.clock import FakeClock


def agent(clock: FakeClock, count: int) -> tuple[Sending, Backlog]:
    backlog = Backlog()
    for number in range(count):
        backlog.append(number / 5, pack(digest(number / 5, sample(0, number + 1))), True)
    return Sending(About("job", "host", 1), backlog, clock), backlog


def test_nothing_but_greetings_until_somebody_answers() -> None:
    clock = FakeClock()
    sending, _ = agent(clock, 5)
    said = []
    for _ in range(100):
        said += sending.due()
        clock.advance_s(0.1)
    assert {type(each) for each in said} == {Hello}
    assert len(said) <= 10 / HELLO_EVERY_S


def test_a_window_of_reports_is_underway() -> None:
    clock = FakeClock()
    sending, _ = agent(clock, 100)
    sending.hear(Welcome(None, 1e9, 10**9))
    assert [each.number for each in sending.due()] == list(range(WINDOW_REPORTS))
    assert list(sending.due()) == []
    sending.hear(Taken(3))
    assert [each.number for each in sending.due()] == [16, 17, 18]
    clock.advance_s(PATIENCE_S + 0.1)  # nobody takes the rest: greet again, and begin where the collector says
    assert [type(each) for each in sending.due()] == [Hello]
    sending.hear(Welcome(5, 1e9, 10**9))
    assert next(iter(sending.due())).number == 5


def test_a_new_collector_gets_the_last_minutes() -> None:
    clock = FakeClock(20.0)
    sending, _ = agent(clock, 100)
    sending.hear(Welcome(None, 2.0, 10**9))
    assert next(iter(sending.due())).number == 90
    sending.hear(Welcome(None, 300.0, 10**9))
    assert next(iter(sending.due())).number == 0


def test_a_collector_that_knows_nothing_takes_what_begins_in_the_middle() -> None:
    clock = FakeClock(20.0)
    sending, _ = agent(clock, 100)
    hosts = Hosts(clock, lambda ask: None)
    sending.hear(Welcome(None, 2.0, 10**9))
    first, second = list(sending.due())[:2]
    assert hosts.take(second, 20.0) is None  # the first was lost on the way
    assert hosts.take(first, 20.0) == Taken(91)
    assert hosts.take(second, 20.0) == Taken(92)


@given(st.lists(st.booleans(), min_size=20, max_size=60), st.integers(1, 60))
def test_everything_arrives_once_and_in_order(lost: list[bool], count: int) -> None:
    clock = FakeClock(100.0)
    sending, backlog = agent(clock, count)
    hosts, took = Hosts(clock, lambda ask: None), []
    losses = iter(lost)
    while not sending.idle:
        for message in list(sending.due()):
            if next(losses, False):
                continue
            if isinstance(message, Report):
                wanted = hosts._hosts["host"].next
                reply = hosts.take(message, clock.now_s())
                if hosts._hosts["host"].next != wanted:
                    took.append(message.number)
            else:
                reply = hosts.take(message, clock.now_s())
            if reply is not None and not next(losses, False):
                sending.hear(reply)
        clock.advance_s(0.2)
        assert clock.now_s() < 2000
    assert took == list(range(count))
    assert backlog.dropped == 0

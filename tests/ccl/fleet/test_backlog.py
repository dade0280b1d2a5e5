"""Bounded by bytes; what goes undelivered is counted."""

from hypothesis import given
from hypothesis import strategies as st

from tightwire.ccl.fleet import backlog as module
from tightwire.ccl.fleet.backlog import Backlog


def filled(count: int, size: int = 100, max_bytes: int = 10**6) -> Backlog:
    made = Backlog(max_bytes)
    for number in range(count):
        made.append(float(number), bytes(size), True)
    return made


def test_the_oldest_goes_first_and_is_counted_unless_delivered() -> None:
    made = filled(10, max_bytes=500)
    assert [each.number for each in made.read(0, 100, 10**6)] == [5, 6, 7, 8, 9]
    assert made.dropped == 5
    made.delivered(8)
    for number in range(10, 14):
        made.append(float(number), bytes(100), True)
    assert made.dropped == 6  # of 5, 6, 7 and 8 only the last was not there


def test_reading_is_bounded_by_count_and_bytes_but_gives_one_at_least() -> None:
    made = filled(10)
    assert len(made.read(2, 3, 10**6)) == 3
    assert len(made.read(2, 10, 250)) == 2
    assert len(made.read(2, 10, 1)) == 1
    assert made.read(10, 10, 100) == []


def test_from_a_time_on() -> None:
    made = filled(10)
    assert made.since(6.5, 10**6) == 7
    assert made.since(-5.0, 350) == 7
    assert made.since(20.0, 10**6) == 9  # the newest at least
    assert made.since(0.0, 10) == 9
    assert Backlog().since(0.0, 100) == 0


def test_what_is_too_large_to_send_leaves_a_gap(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 8192)
    made = Backlog()
    assert [made.append(0.0, bytes(size), True) for size in (10, 9000, 10)] == [True, False, True]
    assert [each.number for each in made.read(0, 9, 10**6)] == [0, 2]
    assert [each.number for each in made.read(1, 9, 10**6)] == [2]
    assert made.dropped == 1


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 1000), st.integers(0, 70), st.integers(1, 20))
def test_never_more_than_its_bound_and_always_the_newest(sizes: list[int], bound: int, number: int, every: int) -> None:
    made = Backlog(bound)
    fine = [made.append(float(at), bytes(size), at % every == 0) for at, size in enumerate(sizes)]
    left = made.read(0, 1000, 10**9)
    if left and len(left) < len(sizes):  # what is left can be understood, or the agent is told that it cannot
        assert left[0].whole == fine[-1]
        assert left[0].whole or len(left) == 1
    assert sum(len(each.body) for each in left) <= max(bound, sizes[-1] if sizes else 0)
    assert [each.number for each in left] == list(range(len(sizes) - len(left), len(sizes)))
    assert made.dropped == len(sizes) - len(left)
    assert [each.number for each in made.read(number, 1000, 10**9)] == [e.number for e in left if e.number >= number]


@given(st.integers(1, 40), st.integers(1, 20), st.floats(-5, 50), st.integers(0, 4000))
def test_who_knows_nothing_begins_with_what_can_be_understood(count: int, every: int, at_s: float, most: int) -> None:
    made = Backlog()
    for at in range(count):
        made.append(float(at), bytes(100), at % every == 0)
    first = made.read(made.since(at_s, most), 1000, 10**9)[0]
    newest = (count - 1) // every * every
    assert first.whole
    assert first.number == newest or (first.at_s >= at_s and 100 * (count - first.number) <= most)
    earlier = first.number - every
    assert earlier < 0 or earlier < at_s or 100 * (count - earlier) > most

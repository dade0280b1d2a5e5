"""When the next look is due: a job that runs as usual is left alone, one that slackens or stands is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightwire.ccl.pulse import MOST_NEW, SOON_S, Pulse


def watched(pace: float, looks: int = 20) -> tuple[Pulse[str], float, int]:
    """(pulse, time, written) of a ring that was written `pace` records a second so far, looked at every second."""
    pulse: Pulse[str] = Pulse()
    for second in range(looks):
        pulse.looked(second, {"a": int(pace * second)})
    return pulse, looks - 1.0, int(pace * (looks - 1))


@given(st.floats(1, MOST_NEW - 10), st.floats(0, 1))
def test_as_usual_is_not_due(pace: float, passed_s: float) -> None:
    pulse, at_s, _ = watched(pace)
    assert not pulse.due(at_s + passed_s, {"a": int(pace * (at_s + passed_s)) + 1})


@pytest.mark.parametrize(("share", "due"), [(0.0, True), (0.6, True), (0.9, False), (3.0, False)])
def test_one_that_slackens_is_due_soon(share: float, due: bool) -> None:
    pulse, at_s, written = watched(100)
    assert not pulse.due(at_s + SOON_S / 2, {"a": written})
    assert pulse.due(at_s + SOON_S + 0.05, {"a": written + int(share * 40)}) is due


def test_a_new_pace_becomes_the_usual_one() -> None:
    pulse, at_s, written = watched(100)
    for second in range(1, 41):
        pulse.looked(at_s + second, {"a": written + 20 * second})
    assert not pulse.due(at_s + 41, {"a": written + 20 * 41})


def test_before_the_ring_is_overwritten_and_for_ranks_that_come_or_go() -> None:
    pulse, at_s, written = watched(10)
    assert pulse.due(at_s, {"a": written + MOST_NEW})
    assert pulse.due(at_s, {"a": written, "b": 0})
    assert pulse.due(at_s, {})
    assert Pulse().due(0.0, {"a": 0})

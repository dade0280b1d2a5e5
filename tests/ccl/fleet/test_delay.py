from hypothesis import given
from hypothesis import strategies as st

from tightwire.ccl.fleet.delay import WINDOW_S, LeastDelay


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=50), st.floats(-1e6, 1e6))
def test_the_least_delayed_message_tells(delays: list[float], ahead_s: float) -> None:
    found = LeastDelay()
    for number, delay_s in enumerate(delays):
        sent_s = number / 10
        found.take(sent_s + ahead_s, sent_s + delay_s)
    assert abs(found.offset_s - (min(delays) - ahead_s)) < 1e-6


def test_a_clock_that_drifts_is_followed() -> None:
    found = LeastDelay()
    for second in range(1000):
        found.take(second * (1 - 1e-4), second + 0.001)  # it loses 100 µs a second
    assert 0.1 - 2 * WINDOW_S * 1e-4 <= found.offset_s <= 0.101

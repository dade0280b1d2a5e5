"""The circuit breaker's table, state by state."""

from tightwire.core.clock import FakeClock
from tightwire.kv.store.breaker import FIRST_WAIT_S, LONGEST_WAIT_S, Breaker


def test_the_table() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    breaker.succeeded()
    assert (breaker.ask(), breaker.error) == ("go", None)
    breaker.failed("gone")
    assert (breaker.ask(), breaker.error) == ("refused", "gone")
    breaker.succeeded()  # a call from before: no proof
    clock.advance_s(FIRST_WAIT_S * 0.99)
    assert breaker.ask() == "refused"
    breaker.failed("gone too")  # another call from before: the wait does not start again
    clock.advance_s(FIRST_WAIT_S * 0.02)
    assert breaker.error == "gone"
    assert [breaker.ask(), breaker.ask()] == ["probe", "refused"]
    breaker.succeeded()
    assert (breaker.ask(), breaker.error) == ("go", None)


def test_each_failed_probe_doubles_the_wait_up_to_a_limit() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    breaker.failed("gone")
    waits = []
    for _ in range(8):
        start_s = clock.now_s()
        while breaker.ask() != "probe":
            clock.advance_s(0.25)
        waits.append(clock.now_s() - start_s)
        breaker.failed("still gone")
    assert waits[:4] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S, 8 * FIRST_WAIT_S]
    assert waits[-1] == LONGEST_WAIT_S
    clock.advance_s(LONGEST_WAIT_S)
    assert breaker.ask() == "probe"
    breaker.succeeded()
    breaker.failed("gone again")
    clock.advance_s(FIRST_WAIT_S)
    assert breaker.ask() == "probe"

"""A Store answers in time or with a miss, whatever its backend does."""

import threading
import time

import pytest

from tests.kv.store.helpers import Fake, key, value, wait_until
from tightwire.core.clock import MonotonicClock
from tightwire.errors import ConfigError
from tightwire.kv.store import Store

LIMIT_S = 0.15


class Skewed(MonotonicClock):
    """The real clock, and steps forward on demand."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_s(self) -> float:
        return super().now_s() + self.ahead_s


def test_answers() -> None:
    store = Store(Fake(), timeout_s=5)
    assert store.get(key(1), 10) is None
    assert store.put(key(1), b"hello")
    assert bytes(store.get(key(1), 10) or b"") == b"hello"
    assert store.contains([key(1), key(2)]) == 1
    store.remove(key(1))
    wait_until(lambda: store.contains([key(1)]) == 0)
    assert store.error is None


@pytest.mark.parametrize("failure", [OSError(5, "disk"), ValueError("bug"), MemoryError(), AssertionError("bug")])
def test_no_exception_comes_through_and_then_nobody_asks(failure: Exception) -> None:
    fake = Fake()
    store = Store(fake, timeout_s=5)
    store.put(key(1), value(key(1)))
    fake.failure = failure
    assert store.get(key(1), 2000) is None
    assert type(failure).__name__ in (store.error or "")
    calls = fake.calls
    assert store.get(key(1), 2000) is None
    assert not store.put(key(2), b"x")
    assert store.contains([key(1)]) == 0
    assert fake.calls == calls


def test_a_store_that_hangs_costs_the_limit_once_and_comes_back_by_itself() -> None:
    fake, clock = Fake(), Skewed()
    store = Store(fake, timeout_s=LIMIT_S, clock=clock)
    store.put(key(1), b"x")
    hanging = threading.Event()
    fake._meet = hanging.wait  # type: ignore[method-assign]
    start_s = time.monotonic()
    assert store.contains([key(1)]) == 0
    first_s = time.monotonic() - start_s
    assert first_s >= LIMIT_S * 0.9
    start_s = time.monotonic()
    for _ in range(100):
        assert store.contains([key(1)]) == 0
        assert store.get(key(1), 10) is None
    assert time.monotonic() - start_s < LIMIT_S  # 200 calls waited less than one
    clock.ahead_s += 100
    assert store.contains([key(1)]) == 0  # starts the probe, which hangs, too, and does not wait for it
    assert time.monotonic() - start_s < 2 * LIMIT_S
    hanging.set()
    wait_until(lambda: store.error is None)
    assert store.contains([key(1)]) == 1


def test_a_slow_store_that_gives_signs_of_life_is_waited_for_but_lookups_are_not() -> None:
    fake = Fake()
    store = Store(fake, timeout_s=0.3)
    fake.values = {key(number): value(key(number)) for number in range(8)}
    fake.delay_s = 0.2
    pending = [store.start_get(key(number), 2000) for number in range(8)]  # two at a time: 0.8 s for all
    assert [one.result() is not None for one in pending] == [True] * 8
    assert store.error is None
    fake.delay_s = 0.5
    pending = [store.start_get(key(0), 2000)]
    start_s = time.monotonic()
    assert store.contains([key(0)]) == 0
    assert 0.25 < time.monotonic() - start_s < 0.45


def test_reads_do_not_wait_behind_writes() -> None:
    fake = Fake()
    store = Store(fake, timeout_s=5)
    fake.values[key(1)] = memoryview(b"x")
    gate = threading.Event()
    fake.put = lambda *_: gate.wait()  # type: ignore[method-assign,assignment]
    writes = [store.start_put(key(number), b"x") for number in range(9)]
    assert store.get(key(1), 10) is not None
    assert store.contains([key(1)]) == 1
    gate.set()
    assert all(write.result() for write in writes)


def test_closed_means_miss() -> None:
    fake = Fake()
    store = Store(fake, timeout_s=5)
    store.put(key(1), b"x")
    store.close()
    store.close()
    assert store.get(key(1), 10) is None
    assert store.contains([key(1)]) == 0
    assert not store.put(key(2), b"x")


def test_cancelled_before_it_started() -> None:
    fake = Fake()
    store = Store(fake, timeout_s=5)
    fake.delay_s = 0.1
    pending = [store.start_get(key(number), 10) for number in range(6)]
    pending[-1].cancel()
    assert pending[-1].result() is None
    assert store.get(key(1), 10) is None
    assert fake.calls == 6
    assert store.error is None


def test_wrong_settings_and_keys_are_the_callers_fault() -> None:
    with pytest.raises(ConfigError, match="timeout_s=0"):
        Store(Fake(), timeout_s=0)
    store = Store(Fake(), timeout_s=1)
    for call in (lambda: store.get("../x", 1), lambda: store.put("../x", b""), lambda: store.contains(["../x"])):
        with pytest.raises(ConfigError, match="key"):
            call()

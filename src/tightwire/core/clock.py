"""Time as an argument: whoever decides anything by time is handed a clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in seconds."""

    def now_s(self) -> float: ...

    def sleep_s(self, seconds: float) -> None: ...


class MonotonicClock:
    """The real clock (`time.monotonic`)."""

    def now_s(self) -> float:
        return time.monotonic()

    def sleep_s(self, seconds: float) -> None:
        time.sleep(seconds)


class FakeClock:
    """A clock that moves only when told to: timing logic is tested exactly and at once."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        return self._now_s

    def sleep_s(self, seconds: float) -> None:
        self._now_s += max(seconds, 0.0)

    advance_s = sleep_s

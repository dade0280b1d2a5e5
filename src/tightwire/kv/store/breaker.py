"""A circuit breaker: after one failure nobody waits for a store until a probe, for which nobody waits, succeeded.

| state | a request comes | success | failure |
|---|---|---|---|
| closed | goes | stays | → open, for `FIRST_WAIT_S` |
| open | refused; once the wait is over: starts the probe, → probing | stays | stays |
| probing | refused | → closed | → open, for twice as long as before, at most `LONGEST_WAIT_S` |
"""

from __future__ import annotations

import threading
from typing import Literal

from tightwire.core.clock import Clock

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0


class Breaker:
    """Thread-safe. `error` is the last failure's, None while closed."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._state: Literal["closed", "open", "probing"] = "closed"
        self._wait_s, self._until_s = FIRST_WAIT_S, 0.0
        self.error: str | None = None

    @property
    def closed(self) -> bool:
        return self._state == "closed"

    def ask(self) -> Literal["go", "refused", "probe"]:
        """What becomes of a request; with "probe" it is refused, and its caller must start a probe."""
        with self._lock:
            if self._state == "closed":
                return "go"
            if self._state == "open" and self._clock.now_s() >= self._until_s:
                self._state = "probing"
                return "probe"
            return "refused"

    def succeeded(self) -> None:
        with self._lock:
            if self._state == "probing":
                self._state, self._wait_s, self.error = "closed", FIRST_WAIT_S, None

    def failed(self, error: str) -> None:
        with self._lock:
            if self._state == "open":
                return
            if self._state == "probing":
                self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            self._state, self.error = "open", error
            self._until_s = self._clock.now_s() + self._wait_s

"""The jobs whose agents report to this collector."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tightwire.ccl.fleet.hosts import Hosts
from tightwire.ccl.fleet.messages import Ask, Hello, Report, Taken, ToCollector, Welcome
from tightwire.core.clock import Clock

MAX_JOBS = 256


class Jobs:
    """By name. `ask` sends a question to an agent of a job."""

    def __init__(self, clock: Clock, ask: Callable[[str, Ask], None]) -> None:
        self._clock, self._ask = clock, ask
        self._lock = threading.Lock()
        self._jobs: dict[str, Hosts] = {}

    def take(self, message: ToCollector, arrived_s: float) -> Welcome | Taken | None:
        """As `Hosts.take`."""
        hosts = self._hosts(message)
        return None if hosts is None else hosts.take(message, arrived_s)

    def drop(self, job: str) -> None:
        """It is not this collector's any more."""
        with self._lock:
            self._jobs.pop(job, None)

    def now(self) -> dict[str, Hosts]:
        with self._lock:
            return dict(self._jobs)

    def _hosts(self, message: ToCollector) -> Hosts | None:
        name = message.about.job
        with self._lock:
            if name not in self._jobs and isinstance(message, Hello | Report) and len(self._jobs) < MAX_JOBS:
                self._jobs[name] = Hosts(self._clock, lambda ask: self._ask(name, ask))
            return self._jobs.get(name)

"""Which jobs a collector has, where several share those that agents announce in one Redis.

A job is leased, and the lease is renewed each second. A collector takes jobs that nobody has, up to its share of all: their
number ÷ that of collectors, rounded up. When one ends or is killed, its leases end, and the others' shares grow; the agents
of its jobs greet the new owner, which judges what they kept. A job stays where it is as long as its collector lives.
"""

from __future__ import annotations

import math
import secrets
import socket
from collections.abc import Callable

from tightwire.ccl.fleet.streams import Streams
from tightwire.core.clock import Clock

LEASE_S, RENEW_S = 5.0, 1.0
SILENT_S = 600.0  # without a word of any of its agents a job is over


class Shares:
    """Not thread-safe. `taken` and `lost` are told when a job comes and goes."""

    def __init__(
        self, streams: Streams, clock: Clock, taken: Callable[[str], None], lost: Callable[[str], None]
    ) -> None:
        self.name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._streams, self._clock, self._taken, self._lost = streams, clock, taken, lost
        self._mine: dict[str, float] = {}  # until when at the latest
        self._heard: dict[str, float] = {}
        self._renewed_s = -math.inf

    @property
    def mine(self) -> list[str]:
        return list(self._mine)

    def heard(self, job: str) -> None:
        """One of its agents said something."""
        self._heard[job] = self._clock.now_s()

    def step(self) -> None:
        """Renew, give up and take, once a second. Raises OSError and LinkError as `Streams` does."""
        self.forget_late()
        now_s = self._clock.now_s()
        if now_s - self._renewed_s < RENEW_S:
            return
        collectors = self._streams.present(self.name, LEASE_S)
        for job in self.mine:
            if now_s - self._heard[job] > SILENT_S:
                self._streams.over(job)
                self._streams.release(job, self.name)
                self._drop(job)
            elif not self._lease(job):
                self._drop(job)
        jobs = self._streams.jobs()
        for job in jobs:
            if job not in self._mine and len(self._mine) < math.ceil(len(jobs) / collectors) and self._lease(job):
                self._heard[job] = now_s
                self._taken(job)
        self._renewed_s = now_s

    def forget_late(self) -> None:
        """What could not be renewed in time may be another's by now."""
        for job, until_s in list(self._mine.items()):
            if self._clock.now_s() >= until_s:
                self._drop(job)

    def leave(self) -> None:
        """Others may take them at once."""
        for job in self.mine:
            self._streams.release(job, self.name)
        self._streams.leave(self.name)

    def _lease(self, job: str) -> bool:
        until_s = self._clock.now_s() + LEASE_S  # before the question: the server counts from later on
        has = self._streams.lease(job, self.name, LEASE_S)
        if has:
            self._mine[job] = until_s
        return has

    def _drop(self, job: str) -> None:
        del self._mine[job], self._heard[job]
        self._lost(job)

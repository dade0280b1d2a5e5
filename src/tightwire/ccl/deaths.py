"""Waiting for the death of processes that are not our children: pidfd_open(2), which needs no polling."""

from __future__ import annotations

import os
import select

from tightwire.core.clock import Clock


class Deaths:
    """Each watched process ends at most one `wait` early. Where pidfds do not exist, `wait` just sleeps."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._open: dict[int, int] = {}  # pidfd → pid, of those that live
        self._known: set[int] = set()

    def watch(self, pid: int) -> None:
        if pid in self._known or not hasattr(os, "pidfd_open"):
            return
        self._known.add(pid)
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:  # gone already, or no permission
            return
        self._open[descriptor] = pid
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout_s: float, clock: Clock) -> None:
        if not self._open:
            clock.sleep_s(timeout_s)
            return
        for descriptor, _ in self._poll.poll(timeout_s * 1000):
            self._forget(descriptor)

    def close(self) -> None:
        for descriptor in list(self._open):
            self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        os.close(descriptor)
        del self._open[descriptor]

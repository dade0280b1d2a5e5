"""Waiting for the death of processes that are not our children: pidfd_open(2), which needs no polling.

epoll(7) hands out what became ready in the order in which it did, so the order of deaths is known even to an observer
that the machine let wait.
"""

from __future__ import annotations

import os
import select

from tightwire.core.clock import Clock


class Deaths:
    """Each watched process ends at most one `wait` early. Where pidfds do not exist, `wait` just sleeps."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._open: dict[int, int] = {}  # pidfd → pid, of those that live
        self._known: set[int] = set()
        self._order: dict[int, int] = {}

    def watch(self, pid: int) -> None:
        if pid in self._known or not hasattr(os, "pidfd_open"):
            return
        self._known.add(pid)
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:  # gone already, or no permission
            return
        self._open[descriptor] = pid
        self._poll.register(descriptor, select.EPOLLIN)

    def order(self, pid: int) -> int | None:
        """0 for the first of the watched processes that died, 1 for the second, …; None while it is not known dead."""
        self._take(0)
        return self._order.get(pid)

    def wait(self, timeout_s: float, clock: Clock) -> bool:
        """Whether one died meanwhile."""
        if not self._open:
            clock.sleep_s(timeout_s)
            return False
        known = len(self._order)
        self._take(timeout_s)
        return len(self._order) > known

    def close(self) -> None:
        for descriptor in list(self._open):
            self._forget(descriptor)
        self._poll.close()

    def _take(self, timeout_s: float) -> None:
        if self._open:
            for descriptor, _ in self._poll.poll(timeout_s, len(self._open)):
                self._order[self._open[descriptor]] = len(self._order)
                self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        os.close(descriptor)
        del self._open[descriptor]

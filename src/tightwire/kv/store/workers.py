"""A few threads for calls that may never come back. Unlike the standard library's, they do not hold up the exit of the
process: a thread that hangs in a dead network folder cannot be ended."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Workers:
    """At most `count` daemon threads, started as they are needed."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._busy = 0

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """`call`, which must not raise, in one of the threads, in the order of submission."""
        future: Future[T] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(call())

        with self._lock:
            self._busy += 1
            if self._threads < min(self._busy, self._count):
                self._threads += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        self._jobs.put(job)
        return future

    def close(self) -> None:
        """The threads end after what was submitted; nobody waits for them."""
        with self._lock:
            for _ in range(self._threads):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._busy -= 1

"""A Store: a backend that cannot hurt. It answers in time or with a miss, and it never raises for what a backend does.

- A call waits at most `timeout_s` while the store shows no sign of life; lookups at most `timeout_s` in any case.
- After a failure every call is a miss at once until a probe in the background has succeeded (`breaker`).
- Lookups, reads and writes have threads of their own, so that none waits behind another kind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from tightwire.core.clock import Clock, MonotonicClock
from tightwire.errors import ConfigError
from tightwire.kv.store.backend import Backend, checked
from tightwire.kv.store.breaker import Breaker
from tightwire.kv.store.workers import Workers

T = TypeVar("T")
_WRITERS = 2
_PROBE = "0" * 16


class Pending(Generic[T]):
    """A call underway. `result` waits for it; afterwards `begin_s` and `end_s` say when the backend was busy with it
    (equal where it never was)."""

    def __init__(self, store: Store, miss: T, *, strict: bool = False) -> None:
        self._store, self._miss, self._strict = store, miss, strict
        self.future: Future[T] | None = None
        self._asked_s = self.begin_s = self.end_s = store.clock.now_s()

    def result(self, deadline_s: float | None = None) -> T:
        """The answer, or the miss where the backend failed, is too late or was not asked. TimeoutError when the
        store's clock passes `deadline_s` before that."""
        while self.future is not None:
            left_s = float("inf") if deadline_s is None else deadline_s - self._store.clock.now_s()
            try:
                return self.future.result(max(min(self._patience_s(), left_s), 0.0))
            except CancelledError:
                break
            except TimeoutError:
                if deadline_s is not None and self._store.clock.now_s() >= deadline_s:
                    raise
                if self._patience_s() <= 0:
                    self.future.cancel()
                    self._store.fail(f"no answer within {self._store.timeout_s:g} s")
                    break
        return self._miss

    def cancel(self) -> None:
        """Do not start it, if it has not started."""
        if self.future is not None:
            self.future.cancel()

    def _patience_s(self) -> float:
        since_s = self._asked_s if self._strict else max(self._asked_s, self._store.alive_s)
        return since_s + self._store.timeout_s - self._store.clock.now_s()


class Store:
    """`backend` made safe, as above. Thread-safe."""

    def __init__(self, backend: Backend, *, timeout_s: float, clock: Clock | None = None) -> None:
        if not 0 < timeout_s < float("inf"):
            raise ConfigError(f"timeout_s={timeout_s}: must be above zero, like 2")
        self.timeout_s, self.clock = timeout_s, clock or MonotonicClock()
        self._backend, self._breaker = backend, Breaker(self.clock)
        self.alive_s = float("-inf")  # when the backend last answered
        self._lookups = Workers(1, "tightwire-store-lookup")
        self._readers = Workers(backend.parallel, "tightwire-store-read")
        self._writers = Workers(_WRITERS, "tightwire-store-write")
        self._closed = threading.Event()

    @property
    def parallel(self) -> int:
        return self._backend.parallel

    @property
    def error(self) -> str | None:
        """Why every call is a miss at present; None while the store is used."""
        return self._breaker.error

    def get(self, key: str, max_bytes: int) -> memoryview | None:
        return self.start_get(key, max_bytes).result()

    def put(self, key: str, frame: bytes | memoryview) -> bool:
        """Whether it is stored now."""
        return self.start_put(key, frame).result()

    def contains(self, keys: Sequence[str]) -> int:
        """Length of the leading run of `keys` that is there."""
        keys = [checked(key) for key in keys]
        return self._start(self._lookups, lambda: self._backend.contains(keys), 0, strict=True).result()

    def first(self, keys: Sequence[str]) -> int:
        """Place of the first of `keys` that is there; `len(keys)` where none is."""
        keys = [checked(key) for key in keys]
        return self._start(self._lookups, lambda: self._backend.first(keys), len(keys), strict=True).result()

    def remove(self, key: str) -> None:
        """Soon: nobody waits for it."""
        checked(key)
        self._start(self._writers, lambda: self._backend.remove(key), None)

    def start_get(self, key: str, max_bytes: int) -> Pending[memoryview | None]:
        checked(key)
        return self._start(self._readers, lambda: self._backend.get(key, max_bytes), None)

    def start_put(self, key: str, frame: bytes | memoryview) -> Pending[bool]:
        checked(key)
        return self._start(self._writers, lambda: self._backend.put(key, memoryview(frame).cast("B")), False)

    def close(self) -> None:
        """Every call is a miss from now on. Writes that were started are finished in the background."""
        if not self._closed.is_set():
            self._closed.set()
            for workers in (self._lookups, self._readers, self._writers):
                workers.close()
            self._backend.close()

    def fail(self, error: str) -> None:
        self._breaker.failed(error)

    def _start(self, workers: Workers, call: Callable[[], T], miss: T, *, strict: bool = False) -> Pending[T]:
        pending = Pending(self, miss, strict=strict)
        answer = "refused" if self._closed.is_set() else self._breaker.ask()
        if answer == "probe":
            self._probe()

        def guarded() -> T:
            pending.begin_s = pending.end_s = self.clock.now_s()
            try:
                result = call()
            except Exception as error:  # whatever a backend does, the engine goes on
                self.fail(f"{type(error).__name__}: {error}")
                return miss
            pending.end_s = self.alive_s = self.clock.now_s()
            return result

        if answer == "go":
            pending.future = workers.submit(guarded)
        return pending

    def _probe(self) -> None:
        def probe() -> None:
            try:
                self._backend.contains([_PROBE])
            except Exception as error:
                self._breaker.failed(f"{type(error).__name__}: {error}")
            else:
                self._breaker.succeeded()

        self._lookups.submit(probe)

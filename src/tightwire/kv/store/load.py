"""Loading a run of values: while one is decoded and handed over, in the caller's thread, the next ones are on their way
in the store's. A block is handed over while it is still in the processor's caches; at most `parallel + 2` values and one
block are in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tightwire.errors import FrameError
from tightwire.kv.block import KVBlock
from tightwire.kv.store.store import Pending, Store

_NOT_ITS_FAULT = {"strategy", "table"}  # the value may be good for a process with more stages or tables


@dataclass(frozen=True)
class Loaded:
    """The first `tokens` tokens were handed over; `missing` are the (start, stop) of those asked for that were not, and
    `error` says why. `wire_s`: seconds in which at least one value was on its way, for `wire_bytes`; for a
    LinkEstimator. `decode_s`: seconds of decoding. They overlap: their sum may exceed the time the load took."""

    tokens: int
    missing: list[tuple[int, int]]
    error: str | None
    wire_bytes: int
    decode_s: float
    wire_s: float

    @property
    def ok(self) -> bool:
        return self.error is None


class Load:
    """One load of the values of `keys`, each at most `max_bytes`. `decode` makes a block of (index, value) or raises
    FrameError; then the load ends there and the value is removed."""

    def __init__(
        self, store: Store, keys: Sequence[str], max_bytes: int, decode: Callable[[int, memoryview], KVBlock]
    ) -> None:
        self._store, self._keys, self._max_bytes, self._decode = store, keys, max_bytes, decode
        self._spans: list[tuple[float, float]] = []
        self.error: str | None = None
        self.wire_bytes, self.decode_s, self.handed_over = 0, 0.0, 0

    def run(self, on_block: Callable[[KVBlock], None], timeout_s: float | None) -> None:
        """Every block to `on_block`, in order and in this thread, until one is missing or `timeout_s` is over."""
        deadline_s = None if timeout_s is None else self._store.clock.now_s() + timeout_s
        underway: deque[Pending[memoryview | None]] = deque()
        coming = iter(self._keys)
        try:
            for index, key in enumerate(self._keys):
                while len(underway) < self._store.parallel + 2 and (ahead := next(coming, None)) is not None:
                    underway.append(self._store.start_get(ahead, self._max_bytes))
                pending = underway.popleft()
                try:
                    block = self._take(index, key, pending, deadline_s)
                except TimeoutError:
                    pending.cancel()
                    self.error = f"timeout: {index} of {len(self._keys)} values within {timeout_s:g} s"
                    return
                if block is None:
                    return
                on_block(block)
                self.handed_over += 1
                del block  # the next one may have its memory, which the caches hold
        finally:
            for pending in underway:
                pending.cancel()

    @property
    def wire_s(self) -> float:
        return covered_s(self._spans)

    def _take(
        self, index: int, key: str, pending: Pending[memoryview | None], deadline_s: float | None
    ) -> KVBlock | None:
        value = pending.result(deadline_s)
        if value is None:
            self.error = f"value {index}: {self._store.error or 'not there'}"
            return None
        self._spans.append((pending.begin_s, pending.end_s))
        self.wire_bytes += len(value)
        start_s = self._store.clock.now_s()
        try:
            return self._decode(index, value)
        except FrameError as error:
            self.error = f"value {index}: {error}"
            if error.reason not in _NOT_ITS_FAULT:
                self._store.remove(key)
        except Exception as error:  # whatever it is, the engine recomputes
            self.error = f"value {index}: {type(error).__name__}: {error}"
        finally:
            self.decode_s += self._store.clock.now_s() - start_s
        return None


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of (begin, end) spans."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(end - max(begin, until), 0.0)
        until = max(until, end)
    return total

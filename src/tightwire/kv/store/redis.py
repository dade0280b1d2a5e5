"""Redis or Valkey as a store. The server evicts: set its `maxmemory` and `maxmemory-policy allkeys-lru`, or a TTL."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import TypeVar

from tightwire.net.resp import Address, Connection, Reply, ServerError

T = TypeVar("T")
PREFIX = "tightwire:"
_NO_ROOM, _NO_VALUE = "OOM", "WRONGTYPE"


class Redis:
    """One server at `address`; no cluster. `ttl_s`: how long an unused value may stay, None for as long as the server
    likes."""

    parallel = 4

    def __init__(self, address: Address, *, timeout_s: float, ttl_s: int | None = None) -> None:
        self._address, self._timeout_s, self._ttl_s = address, timeout_s, ttl_s
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()

    def get(self, key: str, max_bytes: int) -> memoryview | None:
        try:
            # A range, so that the server never sends more than one byte too much.
            value = self._call("GETRANGE", PREFIX + key, "0", str(max_bytes), max_bytes=max_bytes + 1)
        except ServerError as error:
            if error.code != _NO_VALUE:
                raise
            value = None
        if isinstance(value, memoryview) and 0 < len(value) <= max_bytes:
            return value
        self.remove(key)  # nothing, an empty value, too large, or a list: EXISTS cannot tell them from a good one
        return None

    def put(self, key: str, value: memoryview) -> bool:
        expiry = [] if self._ttl_s is None else ["EX", str(self._ttl_s)]
        try:
            self._call("SET", PREFIX + key, value, *expiry)
        except ServerError as error:
            if error.code == _NO_ROOM:
                return False
            raise
        return True

    def contains(self, keys: Sequence[str]) -> int:
        """Only counts come back: all of a run are there, or as many as there are bound it from above. Where there is a
        beginning and nothing else, two questions answer it; otherwise the run is halved."""
        low, high, questions = 0, len(keys), 0
        while low < high:
            middle = high if questions < 2 else (low + high + 1) // 2
            count = self._count(keys[low:middle])
            low, high = (middle, high) if count == middle - low else (low, low + count)
            questions += 1
        return low

    def first(self, keys: Sequence[str]) -> int:
        """One journey: they are few."""
        there = self._use(lambda connection: connection.counts([("EXISTS", PREFIX + key) for key in keys]))
        return there.index(1) if 1 in there else len(keys)

    def remove(self, key: str) -> None:
        self._call("UNLINK", PREFIX + key)

    def close(self) -> None:
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def _count(self, keys: Sequence[str]) -> int:
        count = self._call("EXISTS", *(PREFIX + key for key in keys))
        assert isinstance(count, int)
        return count

    def _call(self, *words: str | memoryview, max_bytes: int = 0) -> Reply:
        return self._use(lambda connection: connection.call(*words, max_bytes=max_bytes))

    def _use(self, ask: Callable[[Connection], T]) -> T:
        connection = self._connection()
        try:
            answer = ask(connection)
        except ServerError:
            self._idle.put(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)
        return answer

    def _connection(self) -> Connection:
        while True:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                return Connection(self._address, self._timeout_s)
            if not connection.ended:
                return connection
            connection.close()

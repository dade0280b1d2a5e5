"""A store in the memory of this process: for tests, and for one engine that wants its prefixes back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from tightwire.errors import ConfigError


class Memory:
    """At most `max_bytes` of values; what was used longest ago makes room."""

    parallel = 1

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ConfigError(f"max_bytes={max_bytes}: must be above zero, like 10 GiB")
        self._max_bytes, self._bytes = max_bytes, 0
        self._values: OrderedDict[str, memoryview] = OrderedDict()  # the most recently used last
        self._lock = threading.Lock()

    def get(self, key: str, max_bytes: int) -> memoryview | None:
        with self._lock:
            value = self._values.get(key)
        if value is not None and len(value) > max_bytes:
            self.remove(key)
            return None
        return value

    def put(self, key: str, value: memoryview) -> bool:
        if len(value) > self._max_bytes:
            return False
        kept = value if value.readonly else memoryview(bytes(value))
        self.remove(key)
        with self._lock:
            self._values[key] = kept
            self._bytes += len(kept)
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._values.popitem(last=False)[1])
        return True

    def contains(self, keys: Sequence[str]) -> int:
        with self._lock:
            found = next((index for index, key in enumerate(keys) if key not in self._values), len(keys))
            for key in reversed(keys[:found]):
                self._values.move_to_end(key)
        return found

    def first(self, keys: Sequence[str]) -> int:
        return next((index for index, key in enumerate(keys) if self.contains([key])), len(keys))

    def remove(self, key: str) -> None:
        with self._lock:
            self._bytes -= len(self._values.pop(key, b""))

    def close(self) -> None:
        with self._lock:
            self._values.clear()
            self._bytes = 0

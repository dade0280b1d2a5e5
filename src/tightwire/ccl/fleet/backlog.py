"""What an agent has seen, newest last: what is not delivered yet and, as far as there is room, what a collector that
starts again may want to see once more. Bounded; the oldest goes first."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from tightwire.ccl.fleet.messages import MAX_MESSAGE_BYTES

DEFAULT_BYTES = 16 * 2**20
_SPARE_BYTES = 4096  # of a message, beside the body


class Entry(NamedTuple):
    """`after` which other it comes, None for the oldest that is left; `at_s` by the agent's clock; `whole`: it can be
    understood without those before."""

    number: int
    after: int | None
    at_s: float
    body: bytes
    whole: bool


class Backlog:
    """Filled by one thread and emptied by another; neither waits for the other. Where any are left that are whole, the
    oldest is. `dropped` counts what had to go before it was delivered."""

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._entries: deque[Entry] = deque()
        self._lock = threading.Lock()
        self._delivered = 0
        self.next = 0
        self.dropped = 0

    def append(self, at_s: float, body: bytes, whole: bool) -> bool:
        """False: what is kept cannot be understood, or goes on from what is not kept; the next had better be whole."""
        with self._lock:
            number, self.next = self.next, self.next + 1
            if len(body) > MAX_MESSAGE_BYTES - _SPARE_BYTES:
                self.dropped += 1
                return False
            after = self._entries[-1].number if self._entries else None
            self._entries.append(Entry(number, after, at_s, body, whole))
            self._bytes += len(body)
            while len(self._entries) > 1 and (self._bytes > self._max_bytes or not self._entries[0].whole):
                self._drop()
            return self._entries[0].whole

    def _drop(self) -> None:
        gone = self._entries.popleft()
        self._bytes -= len(gone.body)
        self.dropped += gone.number >= self._delivered
        self._entries[0] = self._entries[0]._replace(after=None)

    def delivered(self, number: int) -> None:
        """All before `number` are at the collector."""
        with self._lock:
            self._delivered = max(self._delivered, min(number, self.next))

    def read(self, number: int, count: int, max_bytes: int) -> list[Entry]:
        """From `number` on, or from the oldest that is left."""
        found: list[Entry] = []
        with self._lock:
            first = self._entries[0].number if self._entries else self.next
            for at in range(self._place(max(number, first)), len(self._entries)):
                max_bytes -= len(self._entries[at].body)
                if len(found) == count or (max_bytes < 0 and found):
                    break
                found.append(self._entries[at])
        return found

    def since(self, at_s: float, max_bytes: int) -> int:
        """The number of the oldest that is whole and not older than `at_s`, with at most `max_bytes` from there on; but the
        newest that is whole at least."""
        with self._lock:
            number = None
            for entry in reversed(self._entries):
                max_bytes -= len(entry.body)
                if number is not None and (entry.at_s < at_s or max_bytes < 0):
                    break
                if entry.whole:
                    number = entry.number
            return self.next if number is None else number

    def _place(self, number: int) -> int:
        """Where the first entry is whose number is not less; there are gaps where one was too large to send."""
        low, high = 0, len(self._entries)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._entries[middle].number < number else (low, middle)
        return low

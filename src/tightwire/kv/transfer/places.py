"""Places in a region of memory, given one behind the other, as in a ring, and freed in any order."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Places(Generic[K]):
    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._held: dict[K, tuple[int, int]] = {}  # offset, size; in the order they were given

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def give(self, key: K, size: int) -> int | None:
        """The offset of `size` bytes; None while there is no room behind the newest place."""
        offset = self._offset(size)
        if offset is not None:
            self._held[key] = (offset, size)
        return offset

    def free(self, key: K) -> None:
        self._held.pop(key, None)

    def _offset(self, size: int) -> int | None:
        if not self._held:
            return 0 if size <= self._size_bytes else None
        oldest = next(iter(self._held.values()))[0]
        newest, newest_size = next(reversed(self._held.values()))
        head = newest + newest_size
        if newest < oldest:
            return head if head + size <= oldest else None
        if head + size <= self._size_bytes:
            return head
        return 0 if size <= oldest else None

"""What a kind of store has to do. Values are frames, but a backend does not look into them.

A backend may block and may raise anything: `Store` puts threads, a time limit and a circuit breaker around it. Its
methods are called from several threads at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from tightwire.errors import ConfigError

_KEY = re.compile(r"[0-9a-z]{16,128}")


class Backend(Protocol):
    parallel: int
    """How many gets at the same time are worth their threads."""

    def get(self, key: str, max_bytes: int) -> memoryview | None:
        """None where there is nothing. What is larger than `max_bytes` is not read but removed, and is None."""
        ...

    def put(self, key: str, value: memoryview) -> bool:
        """All of it or nothing; False where there is no room. An equal key may be written by others meanwhile."""
        ...

    def contains(self, keys: Sequence[str]) -> int:
        """How many of `keys` are there before the first that is not. Where the backend evicts, these count as used,
        the first as the most recent: a prefix without its beginning is worth nothing."""
        ...

    def first(self, keys: Sequence[str]) -> int:
        """Place of the first of `keys` that is there, `len(keys)` where none is. That one counts as used."""
        ...

    def remove(self, key: str) -> None:
        """No error where there is nothing."""
        ...

    def close(self) -> None: ...


def checked(key: str) -> str:
    """`key`, which becomes part of file names and commands. Raises ConfigError for anything unfit for that."""
    if not _KEY.fullmatch(key):
        raise ConfigError(f"key {key[:40]!r}: must be 16 to 128 digits and small letters; see prefix_keys")
    return key

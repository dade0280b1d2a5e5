"""Named things that can be composed: a second registration or an unknown name is an error, never a guess."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from tightwire.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from a name to an entry of one `kind` (the word used in messages).

    `entry_points`: a group of entry points; other packages register by being loaded through it, when the registry is
    first asked."""

    def __init__(self, kind: str, entry_points: str = "") -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._group = entry_points

    def add(self, name: str, entry: T) -> T:
        """Register `entry` under `name`; raises ConfigError if the name is taken."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is registered twice; choose another name")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of `add`."""
        return lambda entry: self.add(name, entry)

    def _all(self) -> dict[str, T]:
        if self._group:
            group, self._group = self._group, ""
            for point in entry_points(group=group):
                point.load()
        return self._entries

    def __getitem__(self, name: str) -> T:
        """The entry called `name`; raises ConfigError that lists near misses and what exists."""
        if name not in self._all():
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown {self.kind} {name!r}{hint} Known: {', '.join(self.names())}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._all()))

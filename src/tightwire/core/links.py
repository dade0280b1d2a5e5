"""A verdict about a link, for whoever sends over it: the meeting place of those who diagnose and those who send.

Who sends asks for a watch (`WATCHES`), lets it hear the steps of its transfers, and is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from tightwire.core.registry import Registry
from tightwire.core.trace import Trace


class LinkVerdict(msgspec.Struct, frozen=True):
    """`slow`: it carries `bytes_per_s`, or less than it did where that is not known. `hung`: nothing gets through.
    `healthy`: what was said before is over. `reason` is for people."""

    link: str
    state: Literal["slow", "hung", "healthy"]
    reason: str = ""
    bytes_per_s: float | None = None


class LinkListener(Protocol):
    """Told of verdicts about the link that it sends over."""

    def link_verdict(self, verdict: LinkVerdict) -> None: ...


class WatchedLink(Trace, Protocol):
    """Hears the transfers over one link, and tells `listener`, once it is set, what is wrong with it."""

    listener: LinkListener | None


class LinkWatch(Protocol):
    """Judges the links on which this process sends, until it is closed."""

    def link(self, endpoint: str) -> WatchedLink:
        """The link to `endpoint`, tcp://host:port."""

    def close(self) -> None: ...


WATCHES: Registry[Callable[[], LinkWatch]] = Registry("link watch", "tightwire.link_watches")

"""A verdict about a link, for whoever sends over it: the meeting place of those who diagnose and those who send."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec


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

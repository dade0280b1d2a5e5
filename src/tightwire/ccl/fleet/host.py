"""One host as the collector knows it: what came from it, on our clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from tightwire.ccl.digest import Digest
from tightwire.ccl.fleet.delay import LeastDelay
from tightwire.ccl.fleet.messages import Report

KEPT_BYTES = 64 * 2**20  # that wait to be judged; the oldest goes first
NEARLY = 4  # reports behind at most, of a host that has caught up
_TICK_S = 1e-6


class Host:
    """`next`: the number of the report that is wanted, None before the first of this run of its agent. `missed` reports
    never came."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.delay = LeastDelay()
        self.next: int | None = None
        self.missed = 0
        self.heard_s = 0.0
        self._run: int | None = None
        self._gone = self._said = False
        self._behind = 0
        self._dropped = 0
        self._waiting: deque[tuple[Digest, int]] = deque()
        self._waiting_bytes = 0
        self._released_s: float | None = None

    def heard(self, run: int, arrived_s: float) -> None:
        self.heard_s, self._gone, self._said = arrived_s, False, False
        if run != self._run:
            self._run, self.next = run, None
            self._behind = NEARLY + 1  # until it has reported
            self._dropped = 0

    def bye(self) -> None:
        self._gone = True

    def take(self, report: Report, digest: Digest) -> bool:
        """The next report. One that came already, or one before which another was lost on the way, is passed over: False."""
        self._behind = report.behind
        wanted = 0 if self.next is None else self.next
        if report.number < wanted or (report.after is not None and (self.next is None or report.after >= wanted)):
            return False
        self.missed += max(report.dropped - self._dropped, 0)
        self.next, self._dropped = report.number + 1, report.dropped
        size = len(report.body) + digest.rows_bytes
        self._waiting.append((digest, size))
        self._waiting_bytes += size
        if self._waiting_bytes > KEPT_BYTES:
            self._drop()
        return True

    @property
    def offset_s(self) -> float:
        return self.delay.offset_s

    @property
    def caught_up(self) -> bool:
        return self._behind <= NEARLY

    @property
    def waiting_s(self) -> float | None:
        """The time of the oldest that waits to be released."""
        return self._waiting[0][0].at_s + self.offset_s if self._waiting else None

    @property
    def newest_s(self) -> float | None:
        """The time up to which this host is known."""
        return self._waiting[-1][0].at_s + self.offset_s if self._waiting else self._released_s

    def lost(self, now_s: float, after_s: float) -> bool:
        return self._gone or now_s - self.heard_s > after_s

    def why_lost(self, now_s: float) -> str:
        if self._gone:
            return f"the agent on {self.name} ended"
        if not self.caught_up:
            return f"{self.name} is late with {self._behind} reports"
        return f"{self.name} has not been heard of for {now_s - self.heard_s:.0f} s: the host, its network or its agent"

    def _drop(self) -> None:
        """The oldest; what is left begins with one that can be understood without them."""
        while len(self._waiting) > 1 and (self._waiting_bytes > KEPT_BYTES or not self._waiting[0][0].whole):
            self._waiting_bytes -= self._waiting.popleft()[1]
            self.missed += 1

    def last_word(self, unknown: dict[int, str]) -> Digest | None:
        """Once, when it is lost: of these ranks nothing is known any more. None afterwards."""
        if self._said or self._released_s is None:
            return None
        self._said = True
        self._released_s += _TICK_S
        return Digest(self.name, self._released_s, unknown=unknown)

    def release(self, until_s: float) -> Iterator[Digest]:
        """What waits, up to that time, oldest first, on our clock."""
        offset_s = self.offset_s
        while self._waiting and self._waiting[0][0].at_s + offset_s <= until_s:
            digest, size = self._waiting.popleft()
            self._waiting_bytes -= size
            at_s = digest.at_s + offset_s
            if self._released_s is not None:
                at_s = max(at_s, self._released_s + _TICK_S)  # the offset may have become less
            self._released_s = at_s
            yield msgspec.structs.replace(digest, host=self.name, at_s=at_s)

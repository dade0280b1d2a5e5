"""One host as the collector knows it: what came from it, on our clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec
import numpy as np

from tightwire.ccl.fleet.delay import LeastDelay
from tightwire.ccl.fleet.messages import Body, Report
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import RankSample, Summary
from tightwire.ccl.unknown import settled
from tightwire.core.events import RECORD

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
        self._waiting: deque[tuple[Body, int]] = deque()
        self._waiting_bytes = 0
        self._released_s: float | None = None
        self._last_ns: dict[tuple[int, int], int] = {}  # of each process, the time of its newest record
        self._again = False

    def heard(self, run: int, arrived_s: float) -> None:
        self.heard_s, self._gone, self._said = arrived_s, False, False
        if run != self._run:
            self._run, self.next, self._again = run, None, True
            self._behind = NEARLY + 1  # until it has reported
            self._dropped = 0

    def bye(self) -> None:
        self._gone = True

    def take(self, report: Report, body: Body) -> None:
        """The next report. One that came already, or one before which another was lost on the way, is passed over."""
        self._behind = report.behind
        wanted = 0 if self.next is None else self.next
        if report.number < wanted or (report.after is not None and (self.next is None or report.after >= wanted)):
            return
        self.missed += max(report.dropped - self._dropped, 0)
        self.next, self._dropped = report.number + 1, report.dropped
        size = len(report.body) + sum(len(sample.records) for sample in body.summary.ranks)
        self._waiting.append((body, size))
        self._waiting_bytes += size
        while self._waiting_bytes > KEPT_BYTES and len(self._waiting) > 1:
            self._waiting_bytes -= self._waiting.popleft()[1]
            self.missed += 1

    @property
    def offset_s(self) -> float:
        return self.delay.offset_s

    @property
    def caught_up(self) -> bool:
        return self._behind <= NEARLY

    @property
    def waiting_s(self) -> float | None:
        """The time of the oldest that waits to be released."""
        return self._waiting[0][0].summary.at_s + self.offset_s if self._waiting else None

    @property
    def newest_s(self) -> float | None:
        """The time up to which this host is known."""
        return self._waiting[-1][0].summary.at_s + self.offset_s if self._waiting else self._released_s

    def lost(self, now_s: float, after_s: float) -> bool:
        return self._gone or now_s - self.heard_s > after_s

    def why_lost(self, now_s: float) -> str:
        if self._gone:
            return f"the agent on {self.name} ended"
        if not self.caught_up:
            return f"{self.name} is late with {self._behind} reports"
        return f"{self.name} has not been heard of for {now_s - self.heard_s:.0f} s: the host, its network or its agent"

    def last_word(self, ranks: list[RankSample]) -> Summary | None:
        """Once, when it is lost; None afterwards."""
        if self._said or self._released_s is None:
            return None
        self._said = True
        self._released_s += _TICK_S
        return Summary(self.name, self._released_s, [settled(sample) for sample in ranks], [])

    def release(self, until_s: float) -> Iterator[tuple[Summary, dict[int, str]]]:
        """What waits, up to that time, oldest first, on our clock."""
        while self._waiting and self._waiting[0][0].summary.at_s + self.offset_s <= until_s:
            body, size = self._waiting.popleft()
            self._waiting_bytes -= size
            offset_s = self.offset_s
            at_s = body.summary.at_s + offset_s
            if self._released_s is not None:
                at_s = max(at_s, self._released_s + _TICK_S)  # the offset may have become less
            self._released_s = at_s
            ranks = [self._shifted(sample, offset_s) for sample in body.summary.ranks]
            self._again = False
            yield Summary(self.name, at_s, ranks, body.summary.groups, body.summary.unseen), body.unknown

    def _shifted(self, sample: RankSample, offset_s: float) -> RankSample:
        offset_ns = int(offset_s * 1e9)
        records = np.frombuffer(sample.records, RECORD)
        process = sample.rank, sample.pid_start
        if self._again and len(records):  # a new agent reads the whole ring again
            records = records[records["time_ns"] > self._last_ns.get(process, 0)]
        if len(records):
            self._last_ns[process] = int(records["time_ns"].max())
            records = records.copy()
            records["time_ns"] = np.maximum(records["time_ns"].astype(np.int64) + offset_ns, 0)
        frames = [_moved(frame, offset_ns) for frame in sample.frames]
        return msgspec.structs.replace(sample, frames=frames, records=records.tobytes())


def _moved(frame: GroupFrame, offset_ns: int) -> GroupFrame:
    return msgspec.structs.replace(frame, entered_ns=max(frame.entered_ns + offset_ns, 0))

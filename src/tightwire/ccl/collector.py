"""Merges the agents' summaries into one view of the job. Sans-IO: summaries in, views out; duplicates, reordering
and a lost agent change nothing but the delay."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from tightwire.ccl.summary import GroupFacts, RankSample, Summary

GAPS_KEPT = 200
SET_UP_EVENTS = 4  # a pause before these is import, connection and data loading: no rhythm of the job


@dataclass(eq=False)
class RankView:
    """The newest sample of a rank with its history: when it last made progress, since when it is stopped or gone."""

    sample: RankSample
    seen_s: float
    progress_s: float
    stopped_since_s: float | None = None
    left_since_s: float | None = None
    gaps_s: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS_KEPT))

    def outstanding(self) -> list[tuple[int, int, int]]:
        """(group, oldest sequence number that did not complete, operation code) of each group it waits in."""
        frames = self.sample.frames
        return [(f.group, f.done_count + 1, f.op) for f in frames if f.entered_seq > f.done_count]

    def entered(self, group: int) -> int:
        return next((f.entered_seq for f in self.sample.frames if f.group == group), 0)


class Collector:
    """`ranks` and `groups` are the job as known so far."""

    def __init__(self) -> None:
        self.ranks: dict[int, RankView] = {}
        self.groups: dict[int, GroupFacts] = {}

    def take(self, summary: Summary) -> None:
        """Older summaries than the newest known of a rank are ignored."""
        for facts in summary.groups:
            self.groups[facts.group] = facts
        for sample in summary.ranks:
            view = self.ranks.get(sample.rank)
            if view is None or view.sample.pid_start != sample.pid_start:
                view = self.ranks[sample.rank] = RankView(sample, summary.at_s, summary.at_s)
            elif summary.at_s <= view.seen_s:
                continue
            if sample.written != view.sample.written:
                if view.sample.written >= SET_UP_EVENTS:
                    view.gaps_s.append(summary.at_s - view.progress_s)
                view.progress_s = summary.at_s
            view.sample, view.seen_s = sample, summary.at_s
            if not sample.stopped:
                view.stopped_since_s = None
            elif view.stopped_since_s is None:
                view.stopped_since_s = summary.at_s
            if view.left_since_s is None and (not sample.alive or sample.goodbye == 2):
                view.left_since_s = summary.at_s

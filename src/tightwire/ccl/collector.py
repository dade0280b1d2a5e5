"""Merges the agents' summaries into one view of the job. Sans-IO: summaries in, views out; duplicates, reordering
and a lost agent change nothing but the delay."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from tightwire.ccl.probe.ring import Goodbye
from tightwire.ccl.rounds import Rounds
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.core.events import RECORD

GAPS_KEPT = 200
SET_UP_EVENTS = 16  # a pause before these is import, connection and compilation: no rhythm of the job
IO_BYTES = 2**20  # that much read or written is a sign of life: a checkpoint, a data set
STARVED_SHARE = 1 / 3  # of a silence, at most, is put down to the machine


@dataclass(eq=False)
class RankView:
    """The newest sample of a rank with its history: when it last made progress, since when it is stopped or gone."""

    sample: RankSample
    seen_s: float
    progress_s: float
    stopped_since_s: float | None = None
    left_since_s: float | None = None
    starved_before_s: float = 0.0
    io_s: float = 0.0
    io_before_bytes: int = 0
    gaps_s: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS_KEPT))

    def outstanding(self) -> list[tuple[int, int, int, bool]]:
        """(group, oldest sequence number that did not complete, operation code, whether it is known to be in the `wait`
        of an operation of that group) of each group in which something did not complete."""
        frames = self.sample.frames
        return [(f.group, f.done_count + 1, f.op, f.waiting > 0) for f in frames if f.entered_seq > f.done_count]

    def note_progress(self, at_s: float) -> None:
        self.progress_s = at_s
        if self.sample.process is not None:
            self.starved_before_s = self.sample.process.starved_s

    @property
    def warming_up(self) -> bool:
        return self.sample.written < SET_UP_EVENTS

    def silence_s(self, now_s: float) -> float:
        """How long it made no progress, less the time in which the machine gave it no processor."""
        elapsed_s = now_s - self.progress_s
        process = self.sample.process
        starved_s = process.starved_s - self.starved_before_s if process is not None else 0.0
        return elapsed_s - min(max(starved_s, 0.0), STARVED_SHARE * elapsed_s)

    def note_io(self, at_s: float) -> None:
        done = self.sample.process.io_bytes if self.sample.process is not None else 0
        if abs(done - self.io_before_bytes) >= IO_BYTES:
            self.io_s, self.io_before_bytes = at_s, done

    def entered(self, group: int) -> int:
        return next((f.entered_seq for f in self.sample.frames if f.group == group), 0)


class Collector:
    """`ranks` and `groups` are the job as known so far."""

    def __init__(self) -> None:
        self.ranks: dict[int, RankView] = {}
        self.groups: dict[int, GroupFacts] = {}
        self.rounds = Rounds()
        self.unseen: dict[str, None] = {}  # in the order in which it was told

    def take(self, summary: Summary) -> None:
        """Older summaries than the newest known of a rank are ignored."""
        for facts in summary.groups:
            self.groups[facts.group] = facts
        self.unseen.update(dict.fromkeys(summary.unseen))
        for sample in summary.ranks:
            view = self.ranks.get(sample.rank)
            if view is not None and view.sample.pid_start != sample.pid_start:
                self.rounds.forget()
            self.rounds.take(sample.rank, np.frombuffer(sample.records, RECORD))
            if view is None or view.sample.pid_start != sample.pid_start:
                view = self.ranks[sample.rank] = RankView(sample, summary.at_s, summary.at_s)
                view.note_progress(summary.at_s)
            elif summary.at_s <= view.seen_s:
                continue
            moved = sample.written != view.sample.written
            was_warming_up = view.warming_up
            view.sample, view.seen_s = sample, summary.at_s
            if moved:
                if not was_warming_up:
                    view.gaps_s.append(view.silence_s(summary.at_s))
                view.note_progress(summary.at_s)
            view.note_io(summary.at_s)
            if not sample.stopped:
                view.stopped_since_s = None
            elif view.stopped_since_s is None:
                view.stopped_since_s = summary.at_s
            if view.left_since_s is None and (not sample.alive or sample.goodbye == Goodbye.ERROR):
                view.left_since_s = summary.at_s

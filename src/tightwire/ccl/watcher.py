"""Turns what the agents see into verdicts: why a job stands, else what makes it slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable

from tightwire.ccl.analyzer.slow import verdicts
from tightwire.ccl.analyzer.slow.detector import Detector, Finding
from tightwire.ccl.collector import Collector
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.hangs import Hangs
from tightwire.ccl.host import Source
from tightwire.ccl.verdict import Verdict
from tightwire.core.clock import Clock

DIGEST_EVERY_S = 0.35  # the rounds are timed, by many at once
# Between looks while something may be wrong, and else (while the job may be slow, its detector says); a death ends the wait.
LOOK_EVERY_S, CALM_EVERY_S = 0.2, 1.0


class Watcher:
    """`step` as often as you like: its verdicts are on a hang, one for each class that began with it (again when more is
    known), and on what makes the job slow (again when more is known and when the job has recovered). `unknown` gives the ranks
    that are not seen any more."""

    def __init__(
        self, source: Source, clock: Clock, unknown: Callable[[], Collection[int]] = tuple, *, whole: bool = False
    ) -> None:
        self._source, self._clock, self._unknown, self._whole = source, clock, unknown, whole
        self.collector = Collector()
        self._slow = Detector(self.collector)
        self._digested_s = 0.0
        self._due: deque[Verdict] = deque()
        self.move_again()

    def move_again(self) -> None:
        """The job that hung does: what was told of it counts no more."""
        self.hangs = Hangs(self.collector, self._source, self._clock, self._evidence, self._unknown, self._whole)

    def wait(self) -> None:
        """Until it is time for the next step."""
        if self._due:
            return
        if self.hangs.open and (self.hangs.doubtful or self.hangs.told):
            self._source.wait(LOOK_EVERY_S)
        else:
            self._source.wait(self._slow.next_look_s if self._slow.attentive else CALM_EVERY_S)

    def step(self) -> Verdict | None:
        self.collector.take(self._source.look())
        self._due.extend(self.hangs.look())
        if self._due:
            return self._due.popleft()
        found = None if self.hangs.told else self._slowness()
        return None if found is None else self._slow_verdict(found)

    def _slowness(self) -> Finding | None:
        now_s = self._clock.now_s()
        if self._slow.attentive or now_s - self._digested_s >= DIGEST_EVERY_S:
            self._slow.take(now_s)
            self._digested_s = now_s
        self._look(now_s)
        found = self._slow.news(now_s)
        self._look(now_s)  # a doubt began just now
        return found

    def _look(self, now_s: float) -> None:
        if self._slow.wants_look(now_s):
            self._slow.look(now_s, self._source.connections(self.collector.standing.pids))

    def _slow_verdict(self, found: Finding) -> Verdict:
        over = found.ended_s is not None
        samples = [] if over else [self.collector.ranks[rank].sample for rank in found.ranks]
        held_back = {each.rank: self._source.throttling(each.pid, each.pid_start) for each in samples}
        told = {rank: each for rank, each in held_back.items() if each is not None}
        return verdicts.slow(found, self._evidence(held_back), told, self._clock.now_s())

    def _evidence(self, ranks: Iterable[int]) -> dict[int, Evidence]:
        seen = {}
        for rank in ranks:
            sample = self.collector.ranks[rank].sample
            found = self._source.evidence(sample.pid, sample.pid_start)
            if found is not None:
                seen[rank] = found
        return seen

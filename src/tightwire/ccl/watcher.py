"""Turns what the agents see into verdicts: the classes in the order in which they explain each other."""

from __future__ import annotations

from collections.abc import Iterable

from tightwire.ccl.analyzer import circles, inconsistent, judge, not_entered, rendezvous, stopped, wait_for
from tightwire.ccl.analyzer.inconsistent import Inconsistency
from tightwire.ccl.analyzer.not_entered import Suspect
from tightwire.ccl.analyzer.slow import verdicts
from tightwire.ccl.analyzer.slow.detector import Detector, Finding
from tightwire.ccl.analyzer.stopped import Stopped
from tightwire.ccl.collector import Collector
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.host import Source
from tightwire.ccl.rounds import Round
from tightwire.ccl.summary import Summary
from tightwire.ccl.transport import Connection
from tightwire.ccl.verdict import Verdict
from tightwire.core.clock import Clock

DIGEST_EVERY_S = 0.35  # the rounds are timed, by many at once
LOOK_EVERY_S = 0.2  # a death ends the wait for the next look


class Watcher:
    """`step` as often as you like: its verdicts are one on a hang, and any number on what makes the job slow (each again
    when more is known and when the job has recovered)."""

    def __init__(self, source: Source, clock: Clock) -> None:
        self._source, self._clock = source, clock
        self.collector = Collector()
        self._slow = Detector()
        self._digested_s = 0.0
        self._unread: list[Summary] = []
        self._before: tuple[int, ...] = ()
        self._first_look: tuple[float, list[Connection]] | None = None
        self._mixed: dict[tuple[int, int], Round] = {}

    def wait(self) -> None:
        self._source.wait(LOOK_EVERY_S)

    def step(self) -> Verdict | None:
        summaries = self._source.look()
        for summary in summaries:
            self.collector.take(summary)
        self._unread += summaries
        ranks, groups = self.collector.ranks, self.collector.groups
        different = self._inconsistent()
        if different is not None:
            seen = self._evidence(different.guilty or different.round.called)
            return judge.inconsistent(different, ranks, groups, seen, self._clock.now_s())
        still = self._stopped()
        if still is not None:
            return judge.stopped(still, groups, self._clock.now_s())
        suspects = self._not_entered()
        if suspects:
            seen = self._evidence(s.rank for s in suspects if s.how != "left")
            return judge.not_entered(suspects, ranks, groups, seen, self._clock.now_s())
        circle = circles.find(ranks, groups, self.collector.rounds, self._clock.now_s())
        if circle is not None:
            return circles.verdict(circle, groups, self._evidence(circle.guilty), self._clock.now_s())
        absent = rendezvous.find(ranks, groups, self._clock.now_s())
        if absent is not None:
            return rendezvous.verdict(absent, self._evidence(absent.elsewhere), self._clock.now_s())
        found = self._slowness()
        return None if found is None else self._slow_verdict(found)

    def _slowness(self) -> Finding | None:
        now_s = self._clock.now_s()
        if now_s - self._digested_s >= DIGEST_EVERY_S:
            self._slow.take(self._unread)
            self._digested_s, self._unread = now_s, []
        if self._slow.wants_look(now_s):
            self._slow.look(now_s, self._connections())
        return self._slow.news(now_s)

    def _slow_verdict(self, found: Finding) -> Verdict:
        over = found.ended_s is not None
        samples = [] if over else [self.collector.ranks[rank].sample for rank in found.ranks]
        held_back = {each.rank: self._source.throttling(each.pid, each.pid_start) for each in samples}
        told = {rank: each for rank, each in held_back.items() if each is not None}
        return verdicts.slow(found, self._evidence(held_back), told, self._clock.now_s())

    def _inconsistent(self) -> Inconsistency | None:
        rounds, groups = self.collector.rounds, self.collector.groups
        for key, changed in rounds.news().items():
            if len(inconsistent.camps(changed, groups.get(changed.group), strict=True)) > 1:
                self._mixed[key] = changed
        gone = {rank for rank, view in self.collector.ranks.items() if view.left_since_s is not None}
        for key, changed in list(self._mixed.items()):
            facts = groups.get(changed.group)
            found = inconsistent.find(changed, rounds, facts, gone, self._clock.now_s())
            if found is not None:
                return found
            through = facts is not None and len(changed.ended_ns) >= len(facts.ranks)  # different as it was
            if through or rounds.get(*key) is not changed:  # or forgotten
                del self._mixed[key]
        return None

    def _stopped(self) -> Stopped | None:
        """Looks at the transport only while somebody waits for it, and compares two such looks."""
        ranks, now_s = self.collector.ranks, self._clock.now_s()
        waits = stopped.stuck(ranks, wait_for.waits(ranks, self.collector.groups), now_s)
        if not waits or any(not view.sample.alive or view.sample.stopped for view in ranks.values()):
            self._first_look = None
            return None
        if self._first_look is None:
            self._first_look = now_s, self._connections()
        if now_s - self._first_look[0] < stopped.BETWEEN_S:
            return None
        before, self._first_look = self._first_look[1], (now_s, self._connections())
        return stopped.find(waits, ranks, before, self._first_look[1])

    def _connections(self) -> list[Connection]:
        return self._source.connections({rank: view.sample.pid for rank, view in self.collector.ranks.items()})

    def _not_entered(self) -> list[Suspect]:
        """Suspects that were there twice in a row, or whose process is gone: that does not pass."""
        suspects = not_entered.find(self.collector.ranks, self.collector.groups, self._clock.now_s())
        named = tuple(s.rank for s in suspects)
        gone = any(s.how == "left" for s in suspects)
        firm, self._before = bool(named) and (gone or named == self._before), named
        return suspects if firm else []

    def _evidence(self, ranks: Iterable[int]) -> dict[int, Evidence]:
        seen = {}
        for rank in ranks:
            sample = self.collector.ranks[rank].sample
            found = self._source.evidence(sample.pid, sample.pid_start)
            if found is not None:
                seen[rank] = found
        return seen

"""Turns what the agents see into verdicts: the classes in the order in which they explain each other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tightwire.ccl.analyzer import circles, inconsistent, judge, not_entered, reach, rendezvous, stopped, wait_for
from tightwire.ccl.analyzer.inconsistent import Inconsistency
from tightwire.ccl.analyzer.not_entered import Suspect
from tightwire.ccl.analyzer.slow import verdicts
from tightwire.ccl.analyzer.slow.detector import Detector, Finding
from tightwire.ccl.analyzer.stopped import Stopped
from tightwire.ccl.analyzer.wait_for import Waits
from tightwire.ccl.collector import Collector
from tightwire.ccl.connections import Connections
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.host import Source
from tightwire.ccl.verdict import Verdict
from tightwire.core.clock import Clock

DIGEST_EVERY_S = 0.35  # the rounds are timed, by many at once
CALM_S, ENOUGH_S = 0.1, 2.0  # nobody has moved for so long, or it has stood for so long: no more will come
# Between looks while something may be wrong, while the job may be slow (some steps tell), and else; a death ends the wait.
LOOK_EVERY_S, DOUBTFUL_EVERY_S, CALM_EVERY_S = 0.2, 0.3, 1.0


class Watcher:
    """`step` as often as you like: its verdicts are one on a hang, and any number on what makes the job slow (each again
    when more is known and when the job has recovered)."""

    def __init__(self, source: Source, clock: Clock) -> None:
        self._source, self._clock = source, clock
        self.collector = Collector()
        self._slow = Detector(self.collector)
        self._digested_s = 0.0
        self._before: tuple[int, ...] = ()
        self._first_look: tuple[float, Connections] | None = None
        self._mixed: dict[tuple[int, int], None] = {}  # rounds, by the group's number

    def wait(self) -> None:
        """Until it is time for the next step."""
        if self._mixed or self._before or self._first_look is not None:
            self._source.wait(LOOK_EVERY_S)
        else:
            self._source.wait(DOUBTFUL_EVERY_S if self._slow.attentive else CALM_EVERY_S)

    def step(self) -> Verdict | None:
        collector = self.collector
        collector.take(self._source.look())
        groups = collector.groups
        different = self._inconsistent()
        if different:
            seen = self._evidence(rank for each in different for rank in each.guilty or each.round.called)
            return judge.inconsistent(different, groups, seen, self._clock.now_s())
        waiting = wait_for.waits(collector)
        still = self._stopped(waiting)
        if still is not None:
            return judge.stopped(still, groups, self._clock.now_s())
        suspects = self._not_entered(waiting)
        if suspects:
            seen = self._evidence(s.rank for s in suspects if s.how != "left")
            return judge.not_entered(suspects, collector.ranks, groups, seen, self._clock.now_s())
        circle = circles.find(collector, waiting, self._clock.now_s())
        if circle is not None:
            return circles.verdict(circle, groups, self._evidence(circle.guilty), self._clock.now_s())
        absent = rendezvous.find(collector, self._clock.now_s())
        if absent is not None:
            return rendezvous.verdict(absent, self._evidence(absent.elsewhere), self._clock.now_s())
        found = self._slowness()
        return None if found is None else self._slow_verdict(found)

    def _slowness(self) -> Finding | None:
        now_s = self._clock.now_s()
        if self._slow.attentive or now_s - self._digested_s >= DIGEST_EVERY_S:
            self._slow.take(now_s)
            self._digested_s = now_s
        if self._slow.wants_look(now_s):
            self._slow.look(now_s, self._connections())
        return self._slow.news(now_s)

    def _slow_verdict(self, found: Finding) -> Verdict:
        over = found.ended_s is not None
        samples = [] if over else [self.collector.ranks[rank].sample for rank in found.ranks]
        held_back = {each.rank: self._source.throttling(each.pid, each.pid_start) for each in samples}
        told = {rank: each for rank, each in held_back.items() if each is not None}
        return verdicts.slow(found, self._evidence(held_back), told, self._clock.now_s())

    def _inconsistent(self) -> list[Inconsistency]:
        """Those of this moment, when no more are to be expected: nobody moves any more, or some time has passed."""
        standing, rounds, slots = self.collector.standing, self.collector.rounds, self.collector.slots
        now_s = self._clock.now_s()
        self._mixed |= dict.fromkeys(rounds.mixed())
        if not self._mixed:
            return []
        gone = set(np.flatnonzero(~np.isnan(standing.left_since_s)).tolist())
        found = []
        for group, sequence in list(self._mixed):
            facts, mixed = slots.facts[group], rounds.get(group, sequence)
            different = None if mixed is None else inconsistent.find(mixed, rounds, facts, gone, now_s)
            if different is not None:
                found.append(different)
            elif mixed is None or len(mixed.ended_s) >= len(facts.ranks):  # forgotten, or different as it was
                del self._mixed[group, sequence]
        if not found:
            return []
        calm = now_s - float(standing.progress_s[standing.known].max()) >= CALM_S
        late = now_s - min(each.since_s for each in found) >= ENOUGH_S
        return found if calm or late or gone or any(each.round.failed for each in found) else []

    def _stopped(self, waiting: Waits) -> Stopped | None:
        """Looks at the transport only while somebody waits for it, and compares two such looks."""
        standing, now_s = self.collector.standing, self._clock.now_s()
        stuck = stopped.stuck(waiting, now_s)
        if not len(stuck) or standing.dead.any() or standing.stopped.any():
            self._first_look = None
            return None
        if self._first_look is None:
            self._first_look = now_s, self._connections()
        if now_s - self._first_look[0] < stopped.BETWEEN_S:
            return None
        before, self._first_look = self._first_look[1], (now_s, self._connections())
        found = stopped.find(stuck, before, self._first_look[1])
        return None if found is None else reach.tried(found, self._first_look[1], self._reached)

    def _reached(self, rank: int, addresses: list[str]) -> set[str] | None:
        sample = self.collector.ranks[rank].sample
        return self._source.reached(sample.pid, sample.pid_start, addresses)

    def _connections(self) -> Connections:
        rows = self.collector.standing.rows[self.collector.standing.known]
        return self._source.connections(dict(zip(rows["rank"].tolist(), rows["pid"].tolist(), strict=True)))

    def _not_entered(self, waiting: Waits) -> list[Suspect]:
        """Suspects that were there twice in a row, or whose process is gone: that does not pass."""
        suspects = not_entered.find(self.collector, waiting, self._clock.now_s())
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

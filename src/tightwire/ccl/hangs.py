"""Why a job stands: the classes of hangs in the order in which they explain each other, each told once, and again when more
of it is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import numpy as np

from tightwire.ccl.analyzer import (
    beside,
    circles,
    inconsistent,
    judge,
    not_entered,
    reach,
    rendezvous,
    stopped,
    wait_for,
)
from tightwire.ccl.analyzer.inconsistent import Inconsistency
from tightwire.ccl.analyzer.not_entered import Suspect
from tightwire.ccl.analyzer.stopped import Stopped
from tightwire.ccl.analyzer.wait_for import Waits
from tightwire.ccl.collector import Collector
from tightwire.ccl.connections import Connections
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.host import Source
from tightwire.ccl.rounds import Round
from tightwire.ccl.verdict import Verdict
from tightwire.core.clock import Clock

CALM_S, ENOUGH_S = 0.1, 2.0  # nobody has moved for so long, or it has stood for so long: no more will come
DECIDE_S = 4.0  # after the first word, beyond the patience with a silent rank: what began with it has been told

Evidences = Callable[[Iterable[int]], dict[int, Evidence]]


class Hangs:
    """Of the job that `collector` knows; `whole`: of all of it. `told`: one verdict for each class that stands."""

    def __init__(
        self, collector: Collector, source: Source, clock: Clock, evidence: Evidences, unknown: Callable[[], Collection[int]],
        whole: bool,
    ) -> None:  # fmt: skip
        self._collector, self._source, self._clock = collector, source, clock
        self._evidence, self._unknown, self._whole = evidence, unknown, whole
        self.told: dict[str, Verdict] = {}
        self._told_s = np.inf  # the first of them
        self._before: tuple[int, ...] = ()
        self._first_look: tuple[float, Connections] | None = None
        self._mixed: dict[tuple[int, int], None] = {}  # rounds, by the group's number

    def recall(self, verdict: Verdict, told_s: float) -> None:
        """Somebody else told that, at that time of the clock: only what is more is told."""
        self.told[verdict.anomaly] = verdict
        self._told_s = min(self._told_s, told_s)

    @property
    def doubtful(self) -> bool:
        """Whether something may be wrong."""
        return bool(self._mixed or self._before or self._first_look is not None)

    @property
    def open(self) -> bool:
        """Whether more may be told."""
        return self._clock.now_s() < self._told_s + not_entered.threshold_s(self._collector.standing) + DECIDE_S

    @property
    def undecided(self) -> bool:
        """Whether a hang was told, and somebody else stands whose patience is not over yet."""
        if not self.told or not self.open:
            return False
        settled = {*self._unknown(), *(rank for verdict in self.told.values() for rank in verdict.guilty_ranks)}
        return beside.undecided(wait_for.waits(self._collector), self._collector, self._rounds(), settled)

    def look(self) -> list[Verdict]:
        """What is news at this moment."""
        collector, groups, found = self._collector, self._collector.groups, list[Verdict]()
        if not self.open:
            return []
        different = self._inconsistent()
        if different and self._news("H2", [rank for each in different for rank in each.guilty], []):
            seen = self._evidence(rank for each in different for rank in each.guilty or each.round.called)
            found.append(judge.inconsistent(different, groups, seen, self._clock.now_s()))
        waiting = wait_for.waits(collector)
        still = self._stopped(waiting)
        if still is not None and self._news("H3", still.devices, still.pairs):
            found.append(judge.stopped(still, groups, self._clock.now_s()))
        suspects = self._not_entered(waiting, alone=not (different or still))
        if suspects and self._news("H1", [s.rank for s in suspects], []):
            seen = self._evidence(s.rank for s in suspects if s.how in ("stopped", "elsewhere"))
            found.append(judge.not_entered(suspects, collector.ranks, groups, seen, self._clock.now_s()))
        if not found and not self.told:
            found = self._nowhere_and_nobody(waiting)
        for verdict in found:
            self.told[verdict.anomaly] = verdict
            self._told_s = min(self._told_s, verdict.at_s)
        return found

    def _nowhere_and_nobody(self, waiting: Waits) -> list[Verdict]:
        """Where waiting has no end, or there is no group yet."""
        collector, groups = self._collector, self._collector.groups
        circle = circles.find(collector, waiting, self._clock.now_s())
        if circle is not None:
            return [circles.verdict(circle, groups, self._evidence(circle.guilty), self._clock.now_s())]
        absent = rendezvous.find(collector, self._clock.now_s())
        if absent is not None:
            return [rendezvous.verdict(absent, self._evidence(absent.elsewhere), self._clock.now_s())]
        return []

    def _news(self, anomaly: str, ranks: Iterable[int], pairs: Iterable[tuple[int, int]]) -> bool:
        """Whether that is more than was told of this class."""
        told = self.told.get(anomaly)
        named = {*map(int, ranks), *(f"{a}-{b}" for a, b in pairs)}
        return told is None or not named <= {*told.guilty_ranks, *told.guilty_links}

    def _inconsistent(self) -> list[Inconsistency]:
        """Those of this moment, when no more are to be expected: nobody moves any more, or some time has passed."""
        standing, rounds, slots = self._collector.standing, self._collector.rounds, self._collector.slots
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
        if self.told:
            found = beside.differing(found, self._collector)
        if not found:
            return []
        calm = now_s - float(standing.progress_s[standing.known].max()) >= CALM_S
        late = now_s - min(each.since_s for each in found) >= ENOUGH_S
        return found if calm or late or gone or any(each.round.failed for each in found) else []

    def _stopped(self, waiting: Waits) -> Stopped | None:
        """Looks at the transport only while somebody waits for it, or once it is known that the job stands, and compares two
        such looks."""
        standing, now_s = self._collector.standing, self._clock.now_s()
        stuck = waiting if self.told else stopped.stuck(waiting, now_s)
        if not len(stuck) or (not self.told and (standing.dead.any() or standing.stopped.any())):
            self._first_look = None
            return None
        if self._first_look is None:
            self._first_look = now_s, self._source.connections(standing.pids)
        if now_s - self._first_look[0] < stopped.BETWEEN_S:
            return None
        before, self._first_look = self._first_look[1], (now_s, self._source.connections(standing.pids))
        found = stopped.find(stuck, before, beside.transport(self._first_look[1], self._collector))
        return None if found is None else reach.tried(found, self._first_look[1], self._reached)

    def _reached(self, rank: int, addresses: list[str]) -> set[str] | None:
        sample = self._collector.ranks[rank].sample
        return self._source.reached(sample.pid, sample.pid_start, addresses)

    def _not_entered(self, waiting: Waits, alone: bool) -> list[Suspect]:
        """Suspects that were there twice in a row, or whose process is gone: that does not pass."""
        found = not_entered.find(self._collector, waiting, self._clock.now_s(), whole=self._whole)
        if self.told or not alone:
            found = [each for each in found if each.rank not in self._unknown()]
            found = beside.suspects(found, self._collector, waiting, self._rounds(), self._told_s)
        named = tuple(s.rank for s in found)
        gone = any(s.how == "left" for s in found)
        firm, self._before = bool(named) and (gone or named == self._before), named
        return found if firm else []

    def _rounds(self) -> list[Round]:
        """Those in which calls differ."""
        found = (self._collector.rounds.get(*key) for key in self._mixed)
        return [each for each in found if each is not None]

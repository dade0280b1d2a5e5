"""One job, judged over all its hosts: verdicts become incidents, which are opened, told once, and closed.

| state of a job | | |
|---|---|---|
| running | every slice is judged | a hang → hung; all ranks gone → over |
| hung | what began with it is told for some seconds, until its ranks complete operations again | → running |
| over | nothing is judged, until its ranks are started anew | → running |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from tightwire.ccl import incident
from tightwire.ccl.fleet.hosts import Hosts
from tightwire.ccl.fleet.incidents import Incidents, Known
from tightwire.ccl.unknown import doubted
from tightwire.ccl.watcher import Watcher
from tightwire.core.clock import Clock

MOST_SLICES = 2000  # at once


class News(NamedTuple):
    """`opened`, told again because more is known (`changed`), `closed`; `found`: it was open already when this collector
    started."""

    what: Literal["opened", "changed", "closed", "found"]
    known: Known


class Judging:
    """`hosts` of `job`; what happens goes to `tell`. `over` and `hung` as above."""

    def __init__(
        self, job: str, hosts: Hosts, incidents: Incidents, clock: Clock, tell: Callable[[News], None]
    ) -> None:  # fmt: skip
        self.job, self.hosts = job, hosts
        self._incidents, self._clock, self._tell = incidents, clock, tell
        self._watcher = self._new_watcher()
        self._before = [each for each in incidents.of(job) if each.open]  # of an earlier collector
        self.over = False
        self.hangs = 0

    def forget(self) -> None:
        """Begin again with what comes from now on."""
        self._watcher = self._new_watcher()
        self.hosts.describe_again()

    @property
    def unseen(self) -> list[str]:
        return list(self._watcher.collector.unseen)

    def step(self) -> None:
        """Judge all that is there."""
        for _ in range(MOST_SLICES):
            self._slice()
            if not self.hosts.more:
                break

    def _slice(self) -> None:
        if self.hosts.advance():
            self._end("the job was started again")
            self._watcher, self.over = self._new_watcher(), False
        if not self.hosts.begun:
            return
        self._recall()
        hang = self.hung
        if self.over or (hang is not None and not self._watcher.hangs.told):
            self._watcher.collector.take(self.hosts.look())
        else:
            self._judge()
        if hang is not None and self._moves(hang):
            self._close(hang, "it moves again")
            self._watcher.move_again()
        if self.hosts.roster.over and not self.over:
            self.over = True
            self._end("the job ended")

    def _new_watcher(self) -> Watcher:
        return Watcher(self.hosts, self.hosts.horizon, lambda: self.hosts.unknown, whole=True)

    @property
    def hung(self) -> Known | None:
        return next((each for each in self._incidents.of(self.job) if each.open and each.verdict.is_hang), None)

    def _judge(self) -> None:
        said = self._watcher.step()
        if said is None:
            return
        verdict = doubted(said, self.hosts.unknown)
        now_s = self._clock.now_s()
        record = incident.capture(self._watcher.collector, verdict, [])
        verdict = msgspec.structs.replace(verdict, at_s=max(now_s, verdict.at_s))
        known = {each.folder for each in self._incidents.of(self.job)}
        found, news = self._incidents.note(
            self.job, verdict, msgspec.structs.replace(record, verdict=verdict), self.hosts.roster.processes, self._done(verdict.waiting_ranks),
            now_s - verdict.since_s,
        )  # fmt: skip
        if news:
            self.hangs += verdict.is_hang
            self._tell(News("closed" if not found.open else "changed" if found.folder in known else "opened", found))

    def _recall(self) -> None:
        """What an earlier collector left open: is it still, or was the job started again meanwhile?"""
        if not self._before or not self.hosts.roster.places:
            return
        processes = self.hosts.roster.processes
        for each in self._before:
            if not each.of_start(processes):
                self._close(each, "the job was started again")
            elif each.open:
                self.hangs += each.verdict.is_hang
                self._tell(News("found", each))
                self._go_on(each)
        self._before = []

    def _go_on(self, found: Known) -> None:
        """Where an earlier collector stopped: what began with its hang is told here, if all of it is seen again."""
        began_s = self._clock.now_s() - self._incidents.ago_s(found)
        if found.verdict.is_hang and self.hosts.horizon.now_s() < began_s:
            self._watcher.hangs.recall(found.verdict, began_s + found.verdict.at_s - found.verdict.since_s)

    def _moves(self, hang: Known) -> bool:
        """Its ranks complete operations again; where the guilty died, that cannot be."""
        places = self.hosts.roster.places
        if any(rank in places and not places[rank].alive for rank in hang.verdict.guilty_ranks):
            return False
        return self._done(hang.verdict.waiting_ranks) > hang.done

    def _done(self, waiting: list[int]) -> int:
        return self._watcher.collector.completed(waiting or list(self.hosts.roster.places))

    def _end(self, reason: str) -> None:
        for each in self._incidents.of(self.job):
            if each.open:
                self._close(each, reason)

    def _close(self, known: Known, reason: str) -> None:
        self._incidents.close(known, reason)
        self._tell(News("closed", known))

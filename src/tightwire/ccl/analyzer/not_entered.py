"""H1, not entered: one or more ranks never called the collective that the others wait in.

Three ways to it, each with its own patience:

| seen | how | patience |
|---|---|---|
| left | the process is gone or died of an exception while others wait for it, and it was the first to go | none |
| stopped | its kernel state is T while another rank waits | `STOPPED_S` |
| elsewhere | it makes no progress, waits for nobody and reads or writes nothing, while others wait for it | from the job's own rhythm |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tightwire.ccl.analyzer.wait_for import Waiting, roots, waits
from tightwire.ccl.collector import RankView
from tightwire.ccl.probe.ring import Goodbye
from tightwire.ccl.summary import GroupFacts

STOPPED_S = 1.5
STOPPED_ALONE_S = 5.0  # nobody waits in a collective yet: the others may still be in the rendezvous
FLOOR_S = 8.0  # below this a checkpoint or an evaluation on one rank looks like a hang
RHYTHM = 3.0  # times the longest pause that the job made before
WARM_UP_S = 12.0  # the first steps import, compile and connect

How = Literal["left", "stopped", "elsewhere"]


@dataclass(frozen=True)
class Suspect:
    """`rank` is where waiting ends, `since_s` when it was last seen to do anything."""

    rank: int
    how: How
    wait: Waiting | None
    waiting_ranks: tuple[int, ...]
    since_s: float


def threshold_s(ranks: Mapping[int, RankView]) -> float:
    """How long a pause must last before it is no pause of this job any more."""
    if any(view.warming_up for view in ranks.values()):
        return WARM_UP_S
    longest = max((gap for view in ranks.values() for gap in view.gaps_s), default=0.0)
    return max(FLOOR_S, RHYTHM * longest)


def find(ranks: Mapping[int, RankView], groups: Mapping[int, GroupFacts], now_s: float) -> list[Suspect]:
    """The suspects of this moment, best explanation first; empty while all is well."""
    waiting = waits(ranks, groups)
    return _left(ranks, waiting) or _stopped(ranks, waiting, now_s) or _elsewhere(ranks, waiting, now_s)


def _left(ranks: Mapping[int, RankView], waiting: list[Waiting]) -> list[Suspect]:
    gone = [(view.left_since_s, _death(view), rank) for rank, view in ranks.items() if view.left_since_s is not None]
    if len(gone) == len(ranks) and all(ranks[rank].sample.goodbye == Goodbye.NONE for _, _, rank in gone):
        return []  # the whole job was killed from outside
    for since_s, _, rank in sorted(gone):
        how = ranks[rank].sample.goodbye
        if how == Goodbye.ASKED:
            return []  # a launcher ends the job; who is gone after that is no culprit
        if how == Goodbye.IN_ORDER or _victim(ranks[rank]):
            continue
        wait = next((w for w in waiting if rank in w.missing), next((w for w in waiting if w.rank != rank), None))
        if wait is None and how == Goodbye.ERROR:
            return []
        return [Suspect(rank, "left", wait, _waiters(waiting, {rank}), since_s)]
    return []


def _death(view: RankView) -> float:
    """Its place in the order of deaths; who is only about to die comes after the dead."""
    return math.inf if view.sample.died is None else view.sample.died


def _victim(view: RankView) -> bool:
    """An exception ended it, out of an operation that failed: its peer was gone before."""
    sample = view.sample
    return sample.goodbye == Goodbye.ERROR and (bool(view.outstanding()) or any(f.failed for f in sample.frames))


def _stopped(ranks: Mapping[int, RankView], waiting: list[Waiting], now_s: float) -> list[Suspect]:
    since = {r: view.stopped_since_s for r, view in ranks.items() if view.stopped_since_s is not None}
    suspects = []
    for rank, since_s in since.items():
        # A rank may be stopped inside the operation: then it has entered, and yet nobody gets out without it.
        held = [w for w in waiting if w.rank not in since and (rank in w.missing or not w.missing)]
        if held:
            best = next((w for w in held if rank in w.missing), held[0])
            suspects.append(Suspect(rank, "stopped", best, _waiters(held, set(since)), since_s))
        elif now_s - since_s >= STOPPED_ALONE_S and any(_runs(other) for other in ranks.values()):
            suspects.append(Suspect(rank, "stopped", None, (), since_s))
    # one that stands long enough speaks for all that stand: they are one incident
    return suspects if any(now_s - s.since_s >= STOPPED_S for s in suspects) else []


def _runs(view: RankView) -> bool:
    return view.sample.alive and not view.sample.stopped and view.sample.goodbye == Goodbye.NONE


def _elsewhere(ranks: Mapping[int, RankView], waiting: list[Waiting], now_s: float) -> list[Suspect]:
    limit_s = threshold_s(ranks)
    silent = {rank for rank, view in ranks.items() if view.silence_s(now_s) >= limit_s / 2}
    stuck = [w for w in waiting if w.rank in silent]
    suspects = []
    for rank, wait in roots(stuck).items():
        if rank in silent and now_s - ranks[rank].io_s >= limit_s and ranks[rank].sample.goodbye != Goodbye.IN_ORDER:
            suspects.append(Suspect(rank, "elsewhere", wait, _waiters(stuck, {rank}), ranks[rank].progress_s))
    # as above: the first whose patience is over speaks for all that are silent, if somebody waited as long for it
    over = {rank for rank in silent if ranks[rank].silence_s(now_s) >= limit_s}
    return suspects if any(s.rank in over for s in suspects) and any(w.rank in over for w in stuck) else []


def _waiters(waiting: list[Waiting], guilty: set[int]) -> tuple[int, ...]:
    return tuple(sorted({w.rank for w in waiting} - guilty))

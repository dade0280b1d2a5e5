"""H1, not entered: one or more ranks never called the collective that the others wait in.

Four ways to it, each with its own patience:

| seen | how | patience |
|---|---|---|
| left | the process is gone or died of an exception while others wait for it, and it was the first to go | none: all others are heard of first |
| stopped | its kernel state is T while another rank waits | `STOPPED_S` |
| elsewhere | it makes no progress, waits for nobody and reads or writes nothing, while others wait for it | from the job's own rhythm |
| unseen | nothing was ever heard of it, though all should be, as where a host of a fleet has no agent, and waiting ends there alone | as before, `UNSEEN` times |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tightwire.ccl.analyzer.wait_for import Waiting, Waits
from tightwire.ccl.collector import Collector, RankView
from tightwire.ccl.probe.ring import Goodbye
from tightwire.ccl.slots import Bools
from tightwire.ccl.standing import Standing

STOPPED_S = 1.5
STOPPED_ALONE_S = 5.0  # nobody waits in a collective yet: the others may still be in the rendezvous
FLOOR_S = 8.0  # below this a checkpoint or an evaluation on one rank looks like a hang
RHYTHM = 3.0  # times the longest pause that the job made before
WARM_UP_S = 12.0  # the first steps import, compile and connect
TOGETHER_S = 1.0  # two that went without a goodbye went together
SKEW_S, HEARD_S = 0.1, 2.0  # between hosts' clocks; for a lost summary to come again

UNSEEN = 2.0  # it may write a checkpoint, which cannot be seen

How = Literal["left", "stopped", "elsewhere", "unseen"]


@dataclass(frozen=True)
class Suspect:
    """`rank` is where waiting ends, `since_s` when it was last seen to do anything."""

    rank: int
    how: How
    wait: Waiting | None
    waiting_ranks: tuple[int, ...]
    since_s: float


def threshold_s(standing: Standing) -> float:
    """How long a pause must last before it is no pause of this job any more."""
    return WARM_UP_S if standing.warming_up else max(FLOOR_S, RHYTHM * standing.longest_gap_s)


def find(collector: Collector, waiting: Waits, now_s: float, *, whole: bool = False) -> list[Suspect]:
    """The suspects of this moment; empty while all is well. `whole`: the whole job should be heard of."""
    gone_or_stopped = _left(collector, waiting, now_s) + _stopped(collector, waiting, now_s)
    elsewhere = _elsewhere(collector, waiting, now_s, whole)
    return gone_or_stopped + _beside(collector, elsewhere) if gone_or_stopped else elsewhere


def _beside(collector: Collector, elsewhere: list[Suspect]) -> list[Suspect]:
    """Those of them that are no victims of others who are gone or stopped."""
    standing = collector.standing
    victims = set(collector.slots.ranks[collector.frames["failed"] > 0].tolist())
    return [
        suspect
        for suspect in elsewhere
        if np.isnan(standing.left_since_s[suspect.rank])
        and not standing.stopped[suspect.rank]
        and suspect.rank not in victims
    ]


def _left(collector: Collector, waiting: Waits, now_s: float) -> list[Suspect]:
    """The first to go, with those that went just after it, as long as none of these was its victim."""
    standing, ranks = collector.standing, collector.ranks
    left = np.flatnonzero(~np.isnan(standing.left_since_s))
    goodbyes = standing.rows["goodbye"][left]
    if not len(left) or (len(left) == standing.known.sum() and (goodbyes == Goodbye.NONE).all()):
        return []  # nobody, or the whole job was killed from outside
    order = np.lexsort((left, standing.rows["died"][left], standing.left_since_s[left]))
    suspects: list[Suspect] = []
    for rank in left[order].tolist():
        how, since_s = int(standing.rows["goodbye"][rank]), float(standing.left_since_s[rank])
        if suspects and (how != Goodbye.NONE or since_s > suspects[0].since_s + TOGETHER_S):
            break
        if how == Goodbye.ASKED:
            return []  # a launcher ends the job; who is gone after that is no culprit
        if how == Goodbye.IN_ORDER or _victim(ranks[rank]):
            continue
        for_it = np.flatnonzero(waiting.for_rank(rank))
        others = for_it if len(for_it) else np.flatnonzero(waiting.rank != rank)
        if suspects and not len(for_it):
            continue  # nobody misses it: it may have died of the first one's death
        if not len(others) and how == Goodbye.ERROR:
            return []
        wait = waiting[int(others[0])] if len(others) else None
        suspects.append(Suspect(rank, "left", wait, _waiters(waiting, {rank}), since_s))
    return suspects if suspects and _all_heard(standing, suspects[0].since_s, now_s) else []


def _all_heard(standing: Standing, since_s: float, now_s: float) -> bool:
    """Whether all others were heard of at that time or later: some may have gone with the first."""
    here = standing.known & np.isnan(standing.left_since_s)
    return bool((standing.seen_s[here] >= since_s - SKEW_S).all()) or now_s - since_s >= HEARD_S


def _victim(view: RankView) -> bool:
    """An exception ended it, out of an operation that failed: its peer was gone before."""
    sample = view.sample
    return sample.goodbye == Goodbye.ERROR and (bool(view.outstanding()) or any(f.failed for f in sample.frames))


def _stopped(collector: Collector, waiting: Waits, now_s: float) -> list[Suspect]:
    standing = collector.standing
    stopped = standing.stopped
    if not stopped.any():
        return []
    others = waiting.by(~stopped)
    runs = standing.known & ~standing.dead & ~stopped & (standing.rows["goodbye"] == Goodbye.NONE)
    suspects = []
    for rank in np.flatnonzero(stopped).tolist():
        since_s = float(standing.stopped_since_s[rank])
        missed = others.for_rank(rank)
        # A rank may be stopped inside the operation: then it has entered, and yet nobody gets out without it.
        held = others.only(missed | others.whole)
        if len(held):
            best = int(np.flatnonzero(missed)[0]) if missed.any() else int(np.flatnonzero(others.whole)[0])
            suspects.append(Suspect(rank, "stopped", others[best], _waiters(held, set()), since_s))
        elif now_s - since_s >= STOPPED_ALONE_S and runs.any():
            suspects.append(Suspect(rank, "stopped", None, (), since_s))
    # one that stands long enough speaks for all that stand: they are one incident
    return suspects if any(now_s - s.since_s >= STOPPED_S for s in suspects) else []


def _elsewhere(collector: Collector, waiting: Waits, now_s: float, whole: bool) -> list[Suspect]:
    standing = collector.standing
    limit_s, silence_s = threshold_s(standing), standing.silence_s(now_s)
    silent = standing.known & (silence_s >= limit_s / 2)
    over = standing.known & (silence_s >= limit_s)
    if not over.any():
        return []
    stuck = waiting.by(silent)
    idle = silent & (now_s - standing.io_s >= limit_s) & (standing.rows["goodbye"] != Goodbye.IN_ORDER)
    idle &= ~collector.undescribed  # it waits, for whom is not known
    known = stuck.roots()
    if whole and not known:
        return _unseen(collector, stuck, silence_s >= UNSEEN * limit_s)
    roots = {rank: index for rank, index in known.items() if idle[rank]}
    # as above: the first whose patience is over speaks for all that are silent, if somebody waited as long for it
    if not any(over[rank] for rank in roots) or not over[stuck.rank].any():
        return []
    waiting_ranks = _waiters(stuck, set(roots))
    return [
        Suspect(rank, "elsewhere", stuck[index], waiting_ranks, float(standing.progress_s[rank]))
        for rank, index in roots.items()
    ]


def _unseen(collector: Collector, stuck: Waits, patient: Bools) -> list[Suspect]:
    ends = stuck.ends()
    if not ends or not patient[stuck.rank].any():
        return []
    waiting_ranks = _waiters(stuck, set(ends))
    since_s = float(collector.standing.progress_s[stuck.rank].max())
    return [Suspect(rank, "unseen", stuck[index], waiting_ranks, since_s) for rank, index in ends.items()]


def _waiters(waiting: Waits, guilty: set[int]) -> tuple[int, ...]:
    return tuple(rank for rank in np.unique(waiting.rank).tolist() if rank not in guilty)

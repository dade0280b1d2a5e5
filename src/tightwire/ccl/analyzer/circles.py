"""Circles in the wait-for graph: ranks that wait for each other, in different groups or in another order, wait for ever.

A circle has no end at which waiting could be said to begin. A rank without which there would be no circle at all is where
it can have begun; of several such ranks, those are named that left the order of their own earlier calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tightwire.ccl.analyzer.not_entered import threshold_s
from tightwire.ccl.analyzer.wait_for import Waiting, Waits
from tightwire.ccl.collector import Collector
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.rounds import Rounds, Signature
from tightwire.ccl.slots import Bools
from tightwire.ccl.standing import Standing
from tightwire.ccl.summary import GroupFacts
from tightwire.ccl.verdict import Verdict
from tightwire.core.events import operation

PATTERN = 400  # calls of a rank that are looked through for its order

Edges = Mapping[int, frozenset[int]]


@dataclass(frozen=True)
class Circle:
    """`ranks` wait for each other, in this order, each in one of `waits`. Without any one of `guilty` nobody would wait
    in a circle; `alone`: that is true of one rank only. `departed` of them called what did not follow before."""

    ranks: tuple[int, ...]
    waits: tuple[Waiting, ...]
    guilty: tuple[int, ...]
    departed: tuple[int, ...]
    alone: bool
    waiting_ranks: tuple[int, ...]
    since_s: float


def find(collector: Collector, waiting: Waits, now_s: float) -> Circle | None:
    """None while there is no circle, or while it is too young to tell it from a pause."""
    standing, limit_s = collector.standing, threshold_s(collector.standing)
    silence_s = standing.silence_s(now_s)
    still = _blocked(standing, waiting) & (silence_s >= limit_s / 2)
    if not (still & (silence_s >= limit_s)).any():
        return None
    stuck = [wait for wait in waiting.by(still).wanted() if wait.missing]
    edges = _edges(stuck)
    circle = _circle(edges)
    if not circle or (now_s - standing.io_s[circle] < limit_s).any():
        return None
    breaking = tuple(sorted(rank for rank in circle if not _circle(_edges(stuck, without=rank))))
    candidates = breaking or tuple(sorted(circle))
    departed = tuple(rank for rank in candidates if not _as_usual(rank, collector.rounds))
    steps = [(rank, circle[(at + 1) % len(circle)]) for at, rank in enumerate(circle)]
    found = tuple(next(w for w in stuck if w.rank == rank and after in w.missing) for rank, after in steps)
    others = tuple(rank for rank in np.unique(waiting.by(still).rank).tolist() if rank not in candidates)
    since_s = float(standing.progress_s[circle].max())
    return Circle(tuple(circle), found, candidates, departed, len(breaking) == 1, others, since_s)


def verdict(found: Circle, groups: Mapping[int, GroupFacts], evidence: Mapping[int, Evidence], now_s: float) -> Verdict:
    """One H1 verdict. Of several ranks without which there would be no circle, one alone is named only at low
    confidence."""
    guilty = found.departed or found.guilty
    certain = found.departed == found.guilty if found.alone else len(guilty) == len(found.guilty) == 2
    lines = [
        f"rank {wait.rank} waits in {operation(wait.op)} number {wait.sequence} of group {_name(wait.group, groups)!r} for "
        f"{_ranks(wait.missing)}, which {'has' if len(wait.missing) == 1 else 'have'} not entered it"
        for wait in found.waits
    ]
    if found.alone:
        lines.append(f"without rank {found.guilty[0]} nobody would wait in a circle")
    if found.departed:
        lines.append(f"{_ranks(found.departed)} left the order of the earlier calls; the other ranks did not")
    for rank in guilty:
        if rank in evidence and evidence[rank].stack:
            lines.append(f"Python stack of rank {rank}, innermost first: " + " ← ".join(evidence[rank].stack[:6]))
    first = next(wait for wait in found.waits if wait.rank == found.ranks[0])
    if found.alone:
        first = next((wait for wait in found.waits if guilty[0] in wait.missing), first)
    circle = " → ".join(f"rank {rank}" for rank in (*found.ranks, found.ranks[0]))
    return Verdict(
        anomaly="H1",
        guilty_ranks=list(guilty),
        confidence="high" if certain else "low",
        cause=f"a circle of waiting, {circle}",
        group=_name(first.group, groups),
        operation=operation(first.op),
        sequence=first.sequence,
        waiting_ranks=sorted(set(found.waiting_ranks) | set(found.ranks) - set(guilty)),
        evidence=lines,
        since_s=found.since_s,
        at_s=now_s,
    )


def _blocked(standing: Standing, waiting: Waits) -> Bools:
    """By rank: it is in a wait, as far as can be seen: it said so, or it sleeps."""
    inside = np.zeros(len(standing.known), bool)
    inside[waiting.rank[waiting.inside]] = True
    here = standing.known & ~standing.dead & ~standing.stopped
    blocked: Bools = here & (inside | (standing.rows["state"] == b"S"))
    return blocked


def _edges(waiting: Iterable[Waiting], without: int | None = None) -> Edges:
    found: dict[int, frozenset[int]] = {}
    for wait in waiting:
        if wait.rank != without:
            found[wait.rank] = found.get(wait.rank, frozenset()) | (frozenset(wait.missing) - {without})
    return found


def _circle(edges: Edges) -> list[int]:
    """One circle, a short one, each rank waiting for the next; empty when there is none. Linear in the edges."""
    rest = _on_circles(edges)
    if not rest:
        return []
    start = min(rest, key=lambda rank: (len(rest[rank]), rank))
    seen: list[int] = []
    while start not in seen:  # everyone left waits for somebody left
        seen.append(start)
        start = min(rest[start], key=lambda rank: (rank not in seen, rank))
    return seen[seen.index(start) :]


def _on_circles(edges: Edges) -> dict[int, frozenset[int]]:
    """What is left when those that wait for nobody left are taken away, again and again."""
    waited_by: dict[int, list[int]] = {}
    for rank, missing in edges.items():
        for other in missing:
            waited_by.setdefault(other, []).append(rank)
    left = {rank: len(missing) for rank, missing in edges.items()}
    free = [other for other in waited_by if other not in edges] + [rank for rank, count in left.items() if count == 0]
    gone = set(free)
    while free:
        for rank in waited_by.get(free.pop(), ()):
            left[rank] -= 1
            if left[rank] == 0 and rank not in gone:
                gone.add(rank)
                free.append(rank)
    return {rank: missing - gone for rank, missing in edges.items() if rank not in gone}


def _as_usual(rank: int, rounds: Rounds) -> bool:
    """Whether its last call is what followed the calls before it the last time that it made these."""
    calls = _calls(rank, rounds)
    if not calls:
        return True
    now, past = calls[0], calls[1:]
    for length in (2, 1):
        context = past[:length]
        for back in range(1, len(past) - length + 1):
            if past[back : back + length] == context:
                return past[back - 1] == now
    return True  # it has no order to leave


def _calls(rank: int, rounds: Rounds) -> list[tuple[int, Signature]]:
    """The last calls of a rank in all its groups, newest first."""
    newest = sorted(rounds.calls(rank), key=lambda call: call[0], reverse=True)[:PATTERN]
    return [(group, signature) for _, group, signature in newest]


def _name(group: int, groups: Mapping[int, GroupFacts]) -> str:
    return groups[group].name if group in groups else f"{group:016x}"


def _ranks(ranks: Iterable[int]) -> str:
    named = sorted(ranks)
    return f"rank{'s' if len(named) > 1 else ''} {', '.join(map(str, named))}"

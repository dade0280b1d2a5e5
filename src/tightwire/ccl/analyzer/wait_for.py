"""The wait-for graph: r → q when q has not entered the operation in which r waits.

Waiting ends at ranks that wait for nobody: what stands there is the root cause, all others are its victims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tightwire.ccl.collector import RankView
from tightwire.ccl.summary import GroupFacts
from tightwire.core.events import RENDEZVOUS


@dataclass(frozen=True)
class Waiting:
    """`rank` waits in operation `sequence` (code `op`) of `group` for `missing`, which have not entered it."""

    rank: int
    group: int
    sequence: int
    op: int
    missing: tuple[int, ...]


def waits(ranks: Mapping[int, RankView], groups: Mapping[int, GroupFacts]) -> list[Waiting]:
    """One entry for each rank and group with an operation that did not complete; linear in their number."""
    found = []
    for rank, view in ranks.items():
        for group, sequence, op, waiting in view.outstanding():
            facts = groups.get(group)
            if facts is not None and (facts.name == RENDEZVOUS or (facts.point_to_point and not waiting)):
                continue  # has a class of its own; or: sent off or posted, and busy with other things
            members = facts.ranks if facts is not None else list(ranks)
            missing = tuple(
                q for q in members if q != rank and (ranks[q].entered(group) if q in ranks else 0) < sequence
            )
            found.append(Waiting(rank, group, sequence, op, missing))
    return found


def roots(waiting: list[Waiting]) -> dict[int, Waiting]:
    """The ranks where waiting ends, each with one of the waits that end there. Who waits in an operation that everybody
    has entered waits for the transport."""
    blocked = {wait.rank for wait in waiting}
    found: dict[int, Waiting] = {}
    for wait in waiting:
        for q in wait.missing:
            if q not in blocked and q not in found:
                found[q] = wait
    return found

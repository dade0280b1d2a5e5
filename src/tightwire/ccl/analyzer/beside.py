"""Several hangs of one moment: what stands beside one that is known, and does not follow from it.

A hang stops the whole job within a step: a rank that goes later, out of an operation, goes for it, or because somebody ends
the job. A rank that called a round in which calls differ is part of that; one whose operation failed lost its peer; and once
a rank has left in error, those that die after it may have died of that. What differs after a failed operation is how the job
deals with errors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from tightwire.ccl.analyzer.inconsistent import Inconsistency
from tightwire.ccl.analyzer.not_entered import HEARD_S, Suspect
from tightwire.ccl.analyzer.wait_for import Waits
from tightwire.ccl.collector import Collector
from tightwire.ccl.connections import Connections
from tightwire.ccl.probe.ring import Goodbye
from tightwire.ccl.rounds import Round


def suspects(
    found: Iterable[Suspect], collector: Collector, waiting: Waits, mixed: Iterable[Round], told_s: float
) -> list[Suspect]:
    """Those that are no victims of a hang that is told of at `told_s`; `mixed`: the rounds in which calls differ."""
    victims = _victims(collector, mixed)
    in_error = bool((collector.standing.rows["goodbye"] == Goodbye.ERROR).any())
    spread_s = HEARD_S + collector.standing.longest_gap_s  # until all stand, and that is known
    inside = set(waiting.rank.tolist())
    return [
        replace(each, waiting_ranks=tuple(rank for rank in each.waiting_ranks if rank not in victims))
        for each in found
        if each.rank not in victims
        and each.since_s <= told_s + (0.0 if each.rank in inside else spread_s)
        and not (each.how == "left" and in_error)
    ]


def differing(found: Iterable[Inconsistency], collector: Collector) -> list[Inconsistency]:
    """Those that are not about how the job deals with an error."""
    failures = np.bincount(collector.slots.ranks, collector.frames["failed"])
    return [each for each in found if all(failures[rank] <= (rank in each.round.failed) for rank in each.round.called)]


def transport(connections: Connections, collector: Collector) -> Connections:
    """Without those of ranks that are stopped or dead: what is sent to them stands for a reason that is known."""
    standing = collector.standing
    still = np.flatnonzero(standing.stopped | standing.dead)
    return connections[~np.isin(connections["rank"], still) & ~np.isin(connections["peer"], still)]


def undecided(waiting: Waits, collector: Collector, mixed: Iterable[Round], settled: Collection[int]) -> bool:
    """Whether somebody who is no victim stands where waiting ends, without those of whom all is said (`settled`)."""
    standing = collector.standing
    here = standing.known & ~standing.dead & (standing.rows["goodbye"] == Goodbye.NONE)
    return bool({rank for rank in waiting.roots() if here[rank]} - _victims(collector, mixed) - set(settled))


def _victims(collector: Collector, mixed: Iterable[Round]) -> set[int]:
    called = {rank for round in mixed for rank in round.called}
    return called | set(collector.slots.ranks[collector.frames["failed"] > 0].tolist())

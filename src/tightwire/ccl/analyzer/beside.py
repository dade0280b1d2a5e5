"""Several hangs of one moment: what stands beside one that is known, and does not follow from it.

A hang stops the whole job within a step, so whatever began after it was told is its consequence or somebody's answer to it.
Of the rest, a rank that called a round in which calls differ is part of that; one whose operation failed lost its peer; and
once a rank has left in error, those that die after it may have died of that. What differs after a failed operation is how the
job deals with errors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from tightwire.ccl.analyzer.inconsistent import Inconsistency
from tightwire.ccl.analyzer.not_entered import Suspect
from tightwire.ccl.analyzer.wait_for import Waits
from tightwire.ccl.collector import Collector
from tightwire.ccl.connections import Connections
from tightwire.ccl.probe.ring import Goodbye
from tightwire.ccl.rounds import Round


def suspects(found: Iterable[Suspect], collector: Collector, mixed: Iterable[Round], until_s: float) -> list[Suspect]:
    """Those that are no victims of another hang; `mixed`: the rounds in which calls differ."""
    victims = _victims(collector, mixed)
    in_error = bool((collector.standing.rows["goodbye"] == Goodbye.ERROR).any())
    return [
        each
        for each in found
        if each.rank not in victims and each.since_s <= until_s and not (each.how == "left" and in_error)
    ]


def differing(found: Iterable[Inconsistency], collector: Collector, until_s: float) -> list[Inconsistency]:
    """Those that are not about how the job deals with an error."""
    failures = np.bincount(collector.slots.ranks, collector.frames["failed"])
    return [
        each
        for each in found
        if each.since_s <= until_s and all(failures[rank] <= (rank in each.round.failed) for rank in each.round.called)
    ]


def transport(connections: Connections, collector: Collector) -> Connections:
    """Without those of ranks that are stopped or dead: what is sent to them stands for a reason that is known."""
    standing = collector.standing
    still = np.flatnonzero(standing.stopped | standing.dead)
    return connections[~np.isin(connections["rank"], still) & ~np.isin(connections["peer"], still)]


def undecided(waiting: Waits, collector: Collector, mixed: Iterable[Round], guilty: Collection[int]) -> bool:
    """Whether somebody who is no victim and not known to be `guilty` stands where waiting ends."""
    standing = collector.standing
    here = standing.known & ~standing.dead & (standing.rows["goodbye"] == Goodbye.NONE)
    return bool({rank for rank in waiting.roots() if here[rank]} - _victims(collector, mixed) - set(guilty))


def _victims(collector: Collector, mixed: Iterable[Round]) -> set[int]:
    called = {rank for round in mixed for rank in round.called}
    return called | set(collector.slots.ranks[collector.frames["failed"] > 0].tolist())

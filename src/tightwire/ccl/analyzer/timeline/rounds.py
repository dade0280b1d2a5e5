"""Round n of a group is its operation number n on all ranks: who came late by its own doing, who left late, and how long the
bytes took once all were there.

A rank's lateness is its own doing as far as it was in no collective for longer than the others before they entered: whoever
left its operation before late is a victim. Clocks are aligned only where they must be apart: a rank that left an operation
before another one entered it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tightwire.ccl.analyzer.dumps.gloo import needs_everybody
from tightwire.ccl.sources.timeline.operations import NO_STEP, Floats, Ints, Timeline

APART_S, APART = 5e-4, 0.1  # a rank left that much before another came, in that share of the rounds
PASSES = 64  # over groups that are joined through others


@dataclass(frozen=True)
class Rounds:
    """`group`, `sequence`, `op`, `size`, `step`, `begin_s` (the last entered), `over_s` (all could leave), `transfer_s` [R];
    `round` (index into these), `rank` (index into `ranks`), `late_s`, `drag_s` (left after the others) [M]; `lead_s` of
    each rank's clock [K], all 0 where they agree. `own_s` is the part of `late_s` that is its own doing, `alone_s` how long it
    was in no operation before [M]."""

    group: Ints
    sequence: Ints
    op: Ints
    size: Ints
    step: Ints
    begin_s: Floats
    over_s: Floats
    transfer_s: Floats
    round: Ints
    rank: Ints
    late_s: Floats
    own_s: Floats
    alone_s: Floats
    drag_s: Floats
    ranks: Ints
    lead_s: Floats


def rounds(timeline: Timeline) -> Rounds:
    """Those with two members or more, all with the same operation."""
    ranks, rank = np.unique(timeline.rank, return_inverse=True)
    alone_s = _alone(rank, timeline.start_s, timeline.end_s)
    order = np.lexsort((rank, timeline.sequence, timeline.group))
    round_of, starts = _runs(np.stack([timeline.group[order], timeline.sequence[order]]))
    sizes = np.diff(np.append(starts, len(order)))
    same = np.minimum.reduceat(timeline.op[order], starts) == np.maximum.reduceat(timeline.op[order], starts)
    keep = (sizes > 1) & same
    order, round_of = order[keep[round_of]], (np.cumsum(keep) - 1)[round_of[keep[round_of]]]
    starts = np.flatnonzero(np.diff(round_of, prepend=-1))
    first = order[starts]
    together = np.array([needs_everybody(op) for op in timeline.ops], bool)[timeline.op[first]]
    who, entered, ended = rank[order], timeline.start_s[order], timeline.end_s[order]
    lead_s = (
        _leads(who, entered, ended, round_of, starts, together, len(ranks)) if timeline.ends else np.zeros(len(ranks))
    )
    entered, ended = entered - lead_s[who], ended - lead_s[who]
    begin_s = np.maximum.reduceat(entered, starts) if len(starts) else np.zeros(0)
    leave_s = _low_median(ended, round_of, starts)
    over_s = np.maximum(
        np.where(together, leave_s, np.maximum.reduceat(ended, starts) if len(starts) else leave_s), begin_s
    )
    before_s = np.concatenate([[-np.inf], over_s[:-1]])
    before_s[np.diff(timeline.group[first], prepend=-1) != 0] = -np.inf
    step, late_s = timeline.step[first], _over(entered, round_of, starts)
    return Rounds(
        timeline.group[first], timeline.sequence[first], timeline.op[first], timeline.size[first],
        step if (step != NO_STEP).all() else _bins(timeline.group[first], over_s), begin_s, over_s,
        np.maximum(over_s - np.maximum(begin_s, before_s), 0.0), round_of, who,
        late_s, np.minimum(late_s, _over(alone_s[order], round_of, starts)), alone_s[order],
        np.where(together[round_of], np.maximum(ended - np.maximum(leave_s, begin_s)[round_of], 0.0), 0.0), ranks, lead_s,
    )  # fmt: skip


def _alone(rank: Ints, start_s: Floats, end_s: Floats) -> Floats:
    """[N]: for how long the rank was in no operation before; 0 for its first. Operations are sorted by rank and start."""
    if not len(rank):
        return np.zeros(0)
    floor_s = float(start_s.min())
    span_s = float(end_s.max()) - floor_s + 1.0
    busy_s = np.maximum.accumulate(end_s - floor_s + rank * span_s) - rank * span_s + floor_s
    found = np.zeros(len(rank))
    found[1:] = np.where(rank[1:] == rank[:-1], np.maximum(start_s[1:] - busy_s[:-1], 0.0), 0.0)
    return found


def _leads(
    who: Ints, entered: Floats, ended: Floats, round_of: Ints, starts: Ints, together: npt.NDArray[np.bool_], count: int
) -> Floats:
    """[K]: from the operations that all leave together."""
    lead_s = np.zeros(count)
    if not together.any():
        return lead_s
    apart = np.minimum.reduceat(ended, starts) < np.maximum.reduceat(entered, starts) - APART_S
    if apart[together].mean() < APART:
        return lead_s
    use = together[round_of]
    sizes = np.bincount(round_of)
    mine = np.maximum(np.bincount(who[use], minlength=count), 1)
    for _ in range(PASSES):
        left_s = ended - lead_s[who]
        error_s = left_s - (np.bincount(round_of, left_s) / sizes)[round_of]
        lead_s += np.bincount(who[use], error_s[use], count) / mine
    return lead_s


def _runs(keys: Ints) -> tuple[Ints, Ints]:
    """Of sorted columns [*, n]: the number of each one's run, and where the runs start."""
    fresh = np.ones(keys.shape[1], bool)
    fresh[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return np.cumsum(fresh) - 1, np.flatnonzero(fresh)


def _low_median(values: Floats, round_of: Ints, starts: Ints) -> Floats:
    """[R]: the lower median of each round's values [M]."""
    ordered = values[np.lexsort((values, round_of))]
    sizes = np.diff(np.append(starts, len(values)))
    found: Floats = ordered[starts + (sizes - 1) // 2]
    return found


def _over(values: Floats, round_of: Ints, starts: Ints) -> Floats:
    """[M]: how much more than the round's median."""
    return np.maximum(values - _low_median(values, round_of, starts)[round_of], 0.0)


def _bins(group: Ints, over_s: Floats) -> Ints:
    """Steps where none are told: stretches of some rounds each of the group that has most."""
    if not len(group):
        return np.zeros(0, np.int64)
    ends = np.sort(over_s[group == np.bincount(group).argmax()])
    count = int(np.clip(len(ends) // 4, 4, 50))
    edges = ends[np.linspace(0, len(ends), count + 1).astype(np.int64)[1:-1] - 1]
    return np.searchsorted(edges, over_s).astype(np.int64)

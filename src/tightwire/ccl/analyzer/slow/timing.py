"""Rounds that are over: who came late by its own doing, and how long the bytes took once all were there.

With e the entries and d the ends of a round (aligned clocks): it could begin at max(e), and was over at min(d) where all
leave together, else when the last one left. Rank r was late by e_r − median(e), and that is its own doing as far as it
was away for so long since its event before; for the rest it waited somewhere else, and the round there says for whom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tightwire.ccl.analyzer.slow.grid import COLUMNS, Floats, Grid, Ints, Keys
from tightwire.core.events import OPERATION_CODES

TOGETHER = np.array(
    [
        OPERATION_CODES[name]
        for name in (
            "allreduce", "allgather", "_allgather_base", "reduce_scatter", "_reduce_scatter_base", "alltoall", "alltoall_base",
            "barrier", "allreduce_coalesced", "allgather_coalesced", "allgather_into_tensor_coalesced",
            "reduce_scatter_tensor_coalesced", "monitored_barrier",
        )
    ],
    np.uint32,
)  # fmt: skip
ENOUGH = 0.75  # of a round's members: a summary may be lost
PATIENCE = 8  # batches that a round waits for the rest of them


@dataclass(frozen=True)
class Timing:
    """R rounds in the order of their groups and sequence numbers, M members one after the other. `begin_s`, `over_s`,
    `transfer_s` (after the last entry and after the round before), `bytes` (of all members) [R]; `round` (index into
    these), `slot`, `rank`, `late_s`, `own_s`, `stay_s` (from entry to end), `left_s` (the end) [M]."""

    group: Ints
    sequence: Ints
    site: np.ndarray[tuple[int], np.dtype[np.uint64]]
    begin_s: Floats
    over_s: Floats
    transfer_s: Floats
    bytes: Floats
    round: Ints
    slot: Ints
    rank: Ints
    late_s: Floats
    own_s: Floats
    stay_s: Floats
    left_s: Floats
    together: np.ndarray[tuple[int], np.dtype[np.bool_]]


class Timer:
    """Turns ends into timed rounds as soon as all members are known, or enough of them after a while."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._open = Keys(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._age = np.zeros(0, np.int64)
        self._over_s: dict[int, float] = {}  # of the last round of each group

    def take(self, keys: Keys, offset_s: Floats) -> Timing | None:
        """`keys`: rounds of which an end was seen; `offset_s` [S]: how far each slot's host is ahead."""
        grid = self._grid
        pairs = np.concatenate(
            [[self._open.group, self._open.sequence, -self._age], [keys.group, keys.sequence, 0 * keys.group]], axis=1
        )
        pairs = pairs[:, np.lexsort(pairs[::-1])]  # the oldest mention of each first
        fresh = np.ones(pairs.shape[1], bool)
        fresh[1:] = (pairs[:2, 1:] != pairs[:2, :-1]).any(axis=0)
        group, sequence, age = pairs[0, fresh], pairs[1, fresh], -pairs[2, fresh]
        if not len(group):
            return None
        found = Keys(group, sequence)
        slots, columns, starts = grid.members(found)
        here = (grid.sequence[slots, columns] == np.repeat(sequence, grid.size[group])) & ~np.isnan(
            grid.ended[slots, columns]
        )
        present = np.add.reduceat(here, starts)
        complete = present == grid.size[group]
        gone = np.maximum.reduceat(grid.sequence[slots, columns], starts) > sequence
        ready = complete | ((age >= PATIENCE) & (present >= ENOUGH * grid.size[group]) & (present > 1))
        keep = ~ready & ~gone & (age < COLUMNS * PATIENCE)
        self._open, self._age = Keys(group[keep], sequence[keep]), age[keep] + 1
        return self._time(Keys(group[ready], sequence[ready]), offset_s) if ready.any() else None

    def _time(self, keys: Keys, offset_s: Floats) -> Timing:
        grid = self._grid
        slots, columns, starts = grid.members(keys)
        sizes = grid.size[keys.group]
        round_of = np.repeat(np.arange(len(sizes)), sizes)
        absent = grid.sequence[slots, columns] != keys.sequence[round_of]
        entered = np.where(absent, np.nan, grid.entered[slots, columns] - offset_s[slots])
        ended = np.where(absent, np.nan, grid.ended[slots, columns] - offset_s[slots])
        begin_s = np.fmax.reduceat(entered, starts)
        first = slots[starts], columns[starts]
        together = np.isin(grid.op[first], TOGETHER)
        over_s = np.where(together, np.fmin.reduceat(ended, starts), np.fmax.reduceat(ended, starts))
        over_s = np.fmax(over_s, begin_s)
        before_s = np.concatenate([[np.nan], over_s[:-1]])
        fresh = np.concatenate([[True], keys.group[1:] != keys.group[:-1]])
        before_s[fresh] = [self._over_s.get(group, np.nan) for group in keys.group[fresh].tolist()]
        last = np.concatenate([fresh[1:], [True]])
        self._over_s |= dict(zip(keys.group[last].tolist(), over_s[last].tolist(), strict=True))
        own_s = np.where(absent, np.nan, grid.own[slots, columns])
        late_s = np.fmax(entered - _low_median(entered, round_of, starts)[round_of], 0.0)
        return Timing(
            keys.group, keys.sequence, grid.site[first], begin_s, over_s,
            np.fmax(over_s - np.fmax(begin_s, before_s), 0.0), grid.bytes[first].astype(np.float64) * sizes, round_of,
            slots, grid.ranks[slots], np.nan_to_num(np.minimum(late_s, own_s)), np.nan_to_num(own_s), ended - entered,
            ended, together,
        )  # fmt: skip


def _low_median(values: Floats, round_of: Ints, starts: Ints) -> Floats:
    """The lower median of each round's values [M] that are there: [R]."""
    ordered = values[np.lexsort((values, round_of))]  # NaN last
    present = np.add.reduceat(~np.isnan(values), starts)
    found: Floats = ordered[starts + np.maximum(present - 1, 0) // 2]
    return found

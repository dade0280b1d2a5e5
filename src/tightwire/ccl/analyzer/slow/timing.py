"""Rounds that are over: who came late by its own doing, and how long the bytes took once all were there.

With e the entries and d the ends of a round (aligned clocks): it could begin at max(e), and was over at min(d) where all
leave together, else when the last one left. Rank r was late by e_r − median(e), and that is its own doing as far as it
was away for so long since its event before; for the rest it waited somewhere else, and the round there says for whom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tightwire import _rounds  # type: ignore[attr-defined]
from tightwire.ccl.kinds import sites
from tightwire.ccl.rounds import FAILED, Rounds, longer
from tightwire.ccl.slots import Bools, Floats, Ints, Words
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
PATIENCE_S, FORGOTTEN_S = 2.8, 60.0  # that a round waits for the rest of them, and after which it is given up


@dataclass(frozen=True)
class Timing:
    """R rounds in the order of their groups and sequence numbers, M members one after the other. `begin_s`, `over_s`,
    `transfer_s` (after the last entry and after the round before), `bytes` (of all members), where their members begin
    (`starts`) [R]; `round` (index into these), `slot`, `rank`, `late_s`, `own_s`, `stay_s` (from entry to end), `left_s`
    (the end) [M]."""

    group: Ints
    sequence: Ints
    site: Words
    begin_s: Floats
    over_s: Floats
    transfer_s: Floats
    bytes: Floats
    starts: Ints
    round: Ints
    slot: Ints
    rank: Ints
    late_s: Floats
    own_s: Floats
    stay_s: Floats
    left_s: Floats
    together: Bools


class Timer:
    """Turns ends into timed rounds as soon as all members are known, or enough of them after a while."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._column, self._group, self._sequence = (np.zeros(0, np.int64) for _ in range(3))  # of open rounds
        self._since_s, self._first_s = np.zeros(0), np.zeros(0)  # heard of, and ended on the first rank (NaN: not looked up)
        self._enough = np.zeros(0, bool)  # members are known for it to be timed
        self._noted = np.zeros_like(rounds.newest)  # [G, C] the number of the round that is open or timed
        self._last, self._over_s = np.zeros(0, np.int64), np.zeros(0)  # timed round of each group: its number and end

    def take(self, now_s: float, lead_s: Floats) -> Timing | None:
        """What is ready since the last time; `lead_s` by rank: how far its host's clock is ahead."""
        rounds = self._rounds
        self._open(now_s)
        column, group, sequence = self._column, self._group, self._sequence
        ended, size, age_s = rounds.ended[group, column], rounds.slots.size[group], now_s - self._since_s
        enough = (ended >= ENOUGH * size) & (ended > 1)
        ready = (ended == size) | ((age_s >= PATIENCE_S) & enough)
        keep = ~ready & (age_s < FORGOTTEN_S)
        order = np.lexsort((sequence[ready], group[ready]))
        column, group, sequence = column[ready][order], group[ready][order], sequence[ready][order]
        self._column, self._group, self._sequence = self._column[keep], self._group[keep], self._sequence[keep]
        self._since_s, self._first_s, self._enough = self._since_s[keep], self._first_s[keep], enough[keep]
        self._look_up(lead_s)
        return self._time(column, group, sequence, lead_s) if len(group) else None

    def waiting(self, now_s: float) -> Ints:
        """The groups that wait for the rest of a round, and not for too long yet: where summaries are lost, rounds of many
        ranks come late."""
        groups, at = np.unique(self._group, return_inverse=True)
        oldest_s = np.zeros(len(groups))
        np.maximum.at(oldest_s, at, now_s - self._since_s)
        found: Ints = groups[oldest_s < PATIENCE_S]
        return found

    def settled_s(self, now_s: float) -> float:
        """Up to when all rounds are timed that will be soon: before the first end in those that only a few are missing in."""
        awaited = self._enough & (now_s - self._since_s < PATIENCE_S)
        return float(self._first_s[awaited].min(initial=np.inf))

    def _open(self, now_s: float) -> None:
        """Rounds whose first end came since the last time, less those whose column has gone to another."""
        rounds = self._rounds
        if self._noted.shape[1] != rounds.columns:  # fewer columns: numbers stay, places do not
            self._noted = np.zeros_like(rounds.newest)
            self._column = self._sequence % rounds.columns
        self._noted = longer(self._noted, len(rounds.slots.facts))
        more = len(rounds.slots.facts) - len(self._over_s)
        self._last, self._over_s = np.append(self._last, np.zeros(more, np.int64)), np.append(self._over_s, np.full(more, np.nan))
        place = np.flatnonzero(rounds.unread)
        rounds.unread.reshape(-1)[place] = False
        noted, sequence = self._noted.reshape(-1), rounds.newest.reshape(-1)[place]
        fresh = sequence != noted[place]
        place, sequence = place[fresh], sequence[fresh]
        noted[place] = sequence
        group, column = np.divmod(place, rounds.columns)
        here = rounds.newest[self._group, self._column] == self._sequence
        self._column = np.concatenate([self._column[here], column])
        self._group = np.concatenate([self._group[here], group])
        self._sequence = np.concatenate([self._sequence[here], sequence.astype(np.int64)])
        self._since_s = np.concatenate([self._since_s[here], np.full(len(group), now_s)])
        self._first_s = np.concatenate([self._first_s[here], np.full(len(group), np.nan)])

    def _look_up(self, lead_s: Floats) -> None:
        """When the open rounds that are waited for since now ended on the first of their ranks that are known."""
        rounds, slots = self._rounds, self._rounds.slots
        new = np.flatnonzero(self._enough & np.isnan(self._first_s))
        if not len(new):
            return
        member, starts = slots.members(self._group[new])
        sizes = slots.size[self._group[new]]
        at = member * rounds.columns + np.repeat(self._column[new], sizes)
        absent = rounds.marks.reshape(-1)[at] // 2 != np.repeat(self._sequence[new], sizes)
        ended = rounds.cells["ended"].reshape(-1)[at] - lead_s[slots.ranks[member]]
        self._first_s[new] = np.fmin.reduceat(np.where(absent, np.nan, ended), starts)

    def _time(self, column: Ints, group: Ints, sequence: Ints, lead_s: Floats) -> Timing:
        rounds, slots = self._rounds, self._rounds.slots
        sizes = slots.size[group]
        starts, members = np.cumsum(sizes) - sizes, int(sizes.sum())
        round_of, member, rank = np.empty((3, members), np.int64)
        entered, ended, own_s, late_s = np.empty((4, members))
        begin_s, first_s, last_s = np.empty((3, len(sizes)))
        kind = np.empty(len(sizes), np.uint32)
        _rounds.times(
            rounds.cells.reshape(-1).view(np.uint8), rounds.marks, slots.ranks, slots.base, slots.size, group, column, sequence, starts,
            np.ascontiguousarray(lead_s, np.float64), round_of, member, rank, entered, ended, own_s, late_s, begin_s, first_s, last_s, kind,
        )  # fmt: skip
        told = rounds.kinds.rows[kind & ~FAILED]
        together = np.isin(told["op"], TOGETHER)
        over_s = np.fmax(np.where(together, first_s, last_s), begin_s)
        before_s = np.concatenate([[np.nan], over_s[:-1]])
        fresh = np.concatenate([[True], group[1:] != group[:-1]])
        before_s[fresh] = np.where(self._last[group[fresh]] < sequence[fresh], self._over_s[group[fresh]], np.nan)
        newest = sequence > self._last[group]  # a round may come after a later one
        last = np.concatenate([fresh[1:], [True]]) & newest
        self._last[group[last]], self._over_s[group[last]] = sequence[last], over_s[last]
        return Timing(
            group, sequence, sites(told), begin_s, over_s, np.fmax(over_s - np.fmax(begin_s, before_s), 0.0),
            told["bytes"].astype(np.float64) * sizes, starts, round_of, member, rank, late_s, own_s,
            ended - entered, ended, together,
        )  # fmt: skip

"""Events in columns: for each slot (a rank in a group) and each of the last `COLUMNS` rounds, when it entered, when that
ended, and what the rank did since its event before. Linear in events; everything is done on whole arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tightwire.ccl.summary import GroupFacts
from tightwire.core.events import RECORD, Kind

COLUMNS = 64
_RANK_MIX, _SITE_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Keys:
    """Rounds by `group` (its number here) and `sequence`: [R] each."""

    group: Ints
    sequence: Ints


class Grid:
    """`ranks` [S] and `group_of` [S] say what a slot is, `base` and `size` [groups] where the slots of a group are.
    Times are seconds of the rank's own host, NaN where unknown."""

    def __init__(self) -> None:
        self.facts: list[GroupFacts] = []
        self.base, self.size = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.ranks, self.group_of = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.entered, self.ended, self.own = (np.zeros((0, COLUMNS)) for _ in range(3))
        self.sequence = np.zeros((0, COLUMNS), np.int64)
        self.site = np.zeros((0, COLUMNS), np.uint64)
        self.op = np.zeros((0, COLUMNS), np.uint32)
        self.bytes = np.zeros((0, COLUMNS), np.uint64)
        self._known: set[int] = set()
        self._keys, self._slots = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._last_s: dict[int, float] = {}

    def add(self, facts: Iterable[GroupFacts]) -> None:
        """Groups that are not known yet get their slots."""
        fresh = {each.group: each for each in facts if each.group not in self._known}
        if not fresh:
            return
        sizes = np.array([len(each.ranks) for each in fresh.values()], np.int64)
        first = len(self.ranks)
        ranks = np.concatenate([np.array(each.ranks, np.int64) for each in fresh.values()])
        names = np.repeat(np.array(list(fresh), np.uint64), sizes)
        self.base = np.concatenate([self.base, first + np.cumsum(sizes) - sizes])
        self.size = np.concatenate([self.size, sizes])
        self.group_of = np.concatenate([self.group_of, np.repeat(np.arange(len(fresh)) + len(self.facts), sizes)])
        self.ranks = np.concatenate([self.ranks, ranks])
        self.facts += fresh.values()
        self._known |= set(fresh)
        for name in ("entered", "ended", "own"):
            setattr(self, name, np.concatenate([getattr(self, name), np.full((len(ranks), COLUMNS), np.nan)]))
        for name in ("sequence", "site", "op", "bytes"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((len(ranks), COLUMNS), old.dtype)]))
        keys = np.concatenate([self._keys, names + ranks.astype(np.uint64) * _RANK_MIX])
        slots = np.concatenate([self._slots, np.arange(first, first + len(ranks))])
        order = np.argsort(keys)
        self._keys, self._slots = keys[order], slots[order]

    def take(self, ranks: Iterable[int], batches: Iterable[bytes], whole: Iterable[bool]) -> Keys:
        """New records of some ranks (`core.events.RECORD`), oldest first; `whole` says of each that none was lost since
        its last. Returns the rounds of which some rank saw the end."""
        given = [
            (rank, batch, all_there) for rank, batch, all_there in zip(ranks, batches, whole, strict=True) if len(batch)
        ]
        if not given or not len(self._keys):
            return Keys(np.zeros(0, np.int64), np.zeros(0, np.int64))
        records: npt.NDArray[np.void] = np.frombuffer(b"".join([batch for _, batch, _ in given]), RECORD)
        counts = np.array([len(batch) for _, batch, _ in given]) // RECORD.itemsize
        rank_of = np.repeat(np.array([rank for rank, _, _ in given], np.int64), counts)
        times_s = records["time_ns"] / 1e9
        own_s = np.diff(times_s, prepend=times_s[0])
        starts = np.cumsum(counts) - counts
        own_s[starts] = [
            time_s - self._last_s.get(rank, np.nan) if all_there else np.nan
            for (rank, _, all_there), time_s in zip(given, times_s[starts], strict=True)
        ]
        self._last_s |= {
            rank: time_s for (rank, _, _), time_s in zip(given, times_s[starts + counts - 1].tolist(), strict=True)
        }
        return self._place(records, rank_of, times_s, own_s)

    def members(self, keys: Keys) -> tuple[Ints, Ints, Ints]:
        """(slots [M], their columns [M], where each round's begin [R]) of rounds, one after the other."""
        sizes = self.size[keys.group]
        starts = np.cumsum(sizes) - sizes
        slots = np.repeat(self.base[keys.group] - starts, sizes) + np.arange(sizes.sum())
        return slots, np.repeat(keys.sequence % COLUMNS, sizes), starts

    def _place(self, records: npt.NDArray[np.void], ranks: Ints, times_s: Floats, own_s: Floats) -> Keys:
        keys = records["group"] + ranks.astype(np.uint64) * _RANK_MIX
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = self._keys[at] == keys
        sequence = records["seq"].astype(np.int64)
        slots, columns = self._slots[at], sequence % COLUMNS
        enters = known & (records["kind"] == Kind.ENTERED)
        cells = slots[enters], columns[enters]
        self.entered[cells], self.own[cells], self.sequence[cells] = times_s[enters], own_s[enters], sequence[enters]
        self.ended[cells], self.op[cells], self.site[cells] = np.nan, records["op"][enters], _sites(records[enters])
        self.bytes[cells] = records["bytes"][enters]
        ends = known & (records["kind"] == Kind.DONE)
        ends[ends] = self.sequence[slots[ends], columns[ends]] == sequence[ends]
        self.ended[slots[ends], columns[ends]] = times_s[ends]
        pairs = np.unique(np.stack([self.group_of[slots[ends]], sequence[ends]]), axis=1)
        return Keys(pairs[0], pairs[1])


def _sites(records: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """A number for each call site: operation, size and dtype."""
    mixed: npt.NDArray[np.uint64] = records["op"].astype(np.uint64) + (
        records["dtype"].astype(np.uint64) << np.uint64(32)
    )
    return (mixed ^ (records["bytes"] * _RANK_MIX)) * _SITE_MIX

"""Places for what ranks do: a slot is one rank in one group (or pair), the slots of a group stand one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tightwire.ccl.summary import GroupFacts

_MIX, _RANK_SHIFT, _GROUP_SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(44), np.uint64(20)
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]


class Slots:
    """G groups in the order in which they became known, with S slots. `number` of each group's name; `base`, `size`,
    `pair` (whether it is one) [G]; `ranks`, `group_of` [S]."""

    def __init__(self) -> None:
        self.facts: list[GroupFacts] = []
        self.number: dict[int, int] = {}
        self._named: dict[str, list[int]] = {}
        self.base, self.size = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.pair = np.zeros(0, bool)
        self.ranks, self.group_of = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._names = np.zeros(0, np.uint64)
        self._keys, self._slots = np.zeros(0, np.uint64), np.zeros(0, np.int64)

    def add(self, facts: Iterable[GroupFacts]) -> bool:
        """Whether any of these groups is new."""
        fresh = {each.group: each for each in facts if each.group not in self.number and each.ranks}
        if not fresh:
            return False
        sizes = np.array([len(each.ranks) for each in fresh.values()], np.int64)
        first = len(self.ranks)
        ranks = np.concatenate([np.array(each.ranks, np.int64) for each in fresh.values()])
        names = np.repeat(np.array(list(fresh), np.uint64), sizes)
        self.number |= dict(zip(fresh, range(len(self.facts), len(self.facts) + len(fresh)), strict=True))
        self.base = np.concatenate([self.base, first + np.cumsum(sizes) - sizes])
        self.size = np.concatenate([self.size, sizes])
        self.pair = np.concatenate([self.pair, [each.point_to_point for each in fresh.values()]])
        self.group_of = np.concatenate([self.group_of, np.repeat(np.arange(len(fresh)) + len(self.facts), sizes)])
        self.ranks = np.concatenate([self.ranks, ranks])
        for number, each in enumerate(fresh.values(), start=len(self.facts)):
            self._named.setdefault(each.name, []).append(number)
        self.facts += fresh.values()
        keys = np.concatenate([self._keys, _keys(names, ranks)])
        slots = np.concatenate([self._slots, np.arange(first, first + len(ranks))])
        order = np.argsort(keys, kind="stable")
        self._keys, self._slots = keys[order], slots[order]
        self._names = np.concatenate([self._names, np.array(list(fresh), np.uint64)])
        return True

    def find(self, groups: Words, ranks: Ints) -> tuple[Ints, Bools]:
        """(the slots, which of them exist) of these ranks in these groups: [N] each."""
        if not len(self._keys):
            return np.zeros(len(groups), np.int64), np.zeros(len(groups), bool)
        keys = _keys(groups, ranks)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        slots = self._slots[at]
        return slots, (self._keys[at] == keys) & (self._names[self.group_of[slots]] == groups)

    def members(self, groups: Ints) -> tuple[Ints, Ints]:
        """(slots [M], where each group's begin [R]) of groups, one after the other."""
        sizes = self.size[groups]
        starts = np.cumsum(sizes) - sizes
        return np.repeat(self.base[groups] - starts, sizes) + np.arange(sizes.sum()), starts

    def named(self, name: str) -> list[int]:
        """The numbers of the groups of that name."""
        return self._named.get(name, [])

    def of(self, group: int) -> slice:
        """The slots of one group."""
        return slice(int(self.base[group]), int(self.base[group] + self.size[group]))


def put(rows: npt.NDArray[Any], at: Ints, given: npt.NDArray[Any]) -> None:
    """`rows[at] = given` of one structured type, several times as fast: numpy goes field by field. (`take` reads as fast.)"""
    whole = np.dtype((np.void, rows.dtype.itemsize))
    np.put(rows.view(whole), at, given.view(whole))


def _keys(groups: Words, ranks: Ints) -> Words:
    """In the order of ranks, as they come: so a search finds near its last place."""
    keys: Words = (ranks.astype(np.uint64) << _RANK_SHIFT) | (groups * _MIX >> _GROUP_SHIFT)
    return keys

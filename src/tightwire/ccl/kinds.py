"""Kinds of calls, numbered: operation, bytes, dtype, shape, partner."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tightwire.ccl.batch import Rows
from tightwire.ccl.digest import KIND
from tightwire.ccl.slots import Words
from tightwire.core.events import OPERATION_CODES

MOST = 2**20
OWN_SIZE = [OPERATION_CODES[name] for name in ("alltoall", "alltoall_base", "unknown")]
_MIX, _SITE_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
Numbers = npt.NDArray[np.uint32]


class Kinds:
    """`rows` of `KIND` by number; `of_group`, `of_pair`: a number for what the ranks of a round of a group, or the ends of a
    pair, should have in common."""

    def __init__(self) -> None:
        self.rows: Rows = np.zeros(0, KIND)
        self._codes, self._numbers = np.zeros(0, np.uint64), np.zeros(0, np.uint32)  # in the order of codes
        self.of_group, self.of_pair = np.zeros(0, np.uint64), np.zeros(0, np.uint64)

    def numbers(self, kinds: Rows) -> Numbers:
        """Of rows of `KIND`, some perhaps new."""
        codes = kind_codes(kinds)
        at = np.searchsorted(self._codes, codes)
        known = self._codes.take(at, mode="clip") == codes if len(self._codes) else np.zeros(len(codes), bool)
        if not known.all():
            fresh, first = np.unique(codes[~known], return_index=True)
            self._add(kinds[~known][first], fresh)
            at = np.searchsorted(self._codes, codes)
        return self._numbers[at]

    def full(self, more: int) -> bool:
        return len(self.rows) + more > MOST

    def keep(self, used: Numbers) -> Numbers:
        """Only those `used`. Returns the new numbers by the old."""
        kept = np.unique(used)
        number = np.zeros(len(self.rows), np.uint32)
        number[kept] = np.arange(len(kept))
        rows = self.rows[kept]
        Kinds.__init__(self)
        self._add(rows, kind_codes(rows))
        return number

    def _add(self, rows: Rows, codes: Words) -> None:
        numbers = np.arange(len(self.rows), len(self.rows) + len(rows)).astype(np.uint32)
        self.rows = np.concatenate([self.rows, rows])
        codes, numbers = np.concatenate([self._codes, codes]), np.concatenate([self._numbers, numbers])
        order = np.argsort(codes, kind="stable")
        self._codes, self._numbers = codes[order], numbers[order]
        size = (rows["bytes"] * _MIX) ^ (rows["dtype"].astype(np.uint64) * _SITE_MIX)
        called = (rows["op"].astype(np.uint64) << np.uint64(32)) + rows["partner"]
        sized = np.where(np.isin(rows["op"], OWN_SIZE), np.uint64(0), size)
        self.of_pair = np.concatenate([self.of_pair, size])
        self.of_group = np.concatenate([self.of_group, sized + called * _MIX])


def kind_codes(kinds: Rows) -> Words:
    """A number for each kind of call."""
    codes = np.zeros(len(kinds), np.uint64)
    for name in KIND.names or ():
        codes = (codes ^ kinds[name].astype(np.uint64)) * _MIX
        codes ^= codes >> np.uint64(31)
    return codes


def sites(kinds: Rows) -> Words:
    """A number for each call site: operation, size and dtype."""
    mixed: Words = kinds["op"].astype(np.uint64) + (kinds["dtype"].astype(np.uint64) << np.uint64(32))
    return (mixed ^ (kinds["bytes"] * _MIX)) * _SITE_MIX

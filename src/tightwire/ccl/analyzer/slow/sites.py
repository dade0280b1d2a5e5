"""Call sites (group, operation, size, dtype): which come once a step, and which one ends it.

The anchor is the rarest of the call sites that move nearly all bytes, of those that still come; one that several share a
step with, forward and backward, gives way to one that comes once.
"""

from __future__ import annotations

import numpy as np

from tightwire.ccl.analyzer.slow.timing import Timing
from tightwire.ccl.slots import Bools, Floats, Ints, Words

ENOUGH = 18  # rounds of the anchor, before it is believed
COVER = 0.9  # of all bytes move at call sites that come at least once a step
SHARED, SHARED_LEAST = (4, 3, 2), 4  # times a step, for a call site that others share a step with
LEAST_S = 1.0  # of rounds, before an anchor is chosen
REGULAR = 0.5  # a site that comes in fewer steps than this share is not part of the step
_GROUP_SHIFT, _SITE_SHIFT = np.uint64(40), np.uint64(24)


class CallSites:
    """`count` rounds until `find` found the `anchor`."""

    def __init__(self) -> None:
        self.anchor: np.uint64 | None = None
        self._regular: Words = np.zeros(0, np.uint64)
        self._first_s: float | None = None
        self._codes: Words = np.zeros(0, np.uint64)  # in their order
        self._count, self._bytes, self._last_s, self._came_as = (np.zeros(0) for _ in range(4))

    def count(self, timing: Timing) -> None:
        if self._first_s is None:
            self._first_s = float(timing.over_s.min())
        codes, at = np.unique(np.concatenate([self._codes, _code(timing.group, timing.site)]), return_inverse=True)
        known, came = at[: len(self._codes)], at[len(self._codes) :]
        last_s = np.full(len(codes), -np.inf)
        last_s[known] = self._last_s
        np.maximum.at(last_s, came, timing.over_s)
        self._count = _spread(self._count, known, len(codes)) + np.bincount(came, minlength=len(codes))
        self._bytes = _spread(self._bytes, known, len(codes)) + np.bincount(came, timing.bytes, len(codes))
        came_as = np.full(len(codes), np.inf)
        came_as[known] = self._came_as
        fresh = np.isinf(came_as[came])
        np.minimum.at(came_as, came[fresh], len(self._codes) + np.flatnonzero(fresh))
        self._codes, self._last_s, self._came_as = codes, last_s, came_as

    def find(self, waiting: Ints) -> bool:
        """Whether there is an anchor now. The groups `waiting` are known up to their last round only, and at least to one."""
        first_s, now_s = self._first_s or 0.0, float(self._last_s.max(initial=-np.inf))
        groups, at = np.unique((self._codes >> _GROUP_SHIFT).astype(np.int64), return_inverse=True)
        if now_s - first_s < LEAST_S or not np.isin(waiting, groups).all():
            return False
        known_s = np.full(len(groups), -np.inf)
        np.maximum.at(known_s, at, self._last_s)
        known_s[~np.isin(groups, waiting)] = now_s
        alive = np.flatnonzero(2 * self._last_s >= first_s + known_s[at])
        count, size = self._count[alive], self._bytes[alive]
        heavy = np.lexsort((self._came_as[alive], -size))
        before = np.cumsum(size[heavy]) - size[heavy]
        covering = heavy[before < COVER * size.sum()] if size.sum() > 0 else heavy[:1]
        rarest = int(covering[count[covering].argmin()])
        if count[rarest] >= SHARED_LEAST:
            for times in SHARED:  # what moves the bytes may come several times a step, forward and backward
                shares = np.flatnonzero(np.abs(times * count - count[rarest]) <= times)
                if len(shares):
                    rarest = int(shares[self._came_as[alive[shares]].argmin()])
                    break
        if count[rarest] < ENOUGH:
            return False
        self._regular = self._codes[alive[count >= REGULAR * count[rarest]]]
        self.anchor = self._codes[alive[rarest]]
        return True

    def is_anchor(self, group: Ints, site: Words) -> Bools:
        found: Bools = _code(group, site) == self.anchor
        return found

    def regular(self, group: Ints, site: Words) -> Bools:
        """Which of these belong to the steps."""
        codes = _code(group, site)
        at = np.minimum(np.searchsorted(self._regular, codes), len(self._regular) - 1)
        found: Bools = self._regular[at] == codes
        return found


def _spread(values: Floats, at: Ints, count: int) -> Floats:
    found = np.zeros(count)
    found[at] = values
    return found


def _code(group: Ints, site: Words) -> Words:
    """In the order of groups, as they come: so a search finds near its last place."""
    return (group.astype(np.uint64) << _GROUP_SHIFT) | (site >> _SITE_SHIFT)

"""What the kernel says about each rank's processor time: waited for, and held back by a quota."""

from __future__ import annotations

from collections import deque

import numpy as np

from tightwire.ccl.analyzer.slow.excess import DOUBT, SLOW
from tightwire.ccl.slots import Floats
from tightwire.ccl.standing import Standing

KEPT = 256  # looks
LOST = 0.3  # of what was lost is the quota's doing
AGAIN = 0.25  # of the steps are longer than usual


def slowed(held_back: Floats, longer: float, often: float) -> tuple[int, ...]:
    """The ranks whose quota makes steps longer: `held_back` [ranks], as a share of a step, as is `longer`; `often`: the share
    of steps that are. The kernel says itself whom it holds back: less is enough than where times are all there is."""
    if longer < DOUBT or often < AGAIN:
        return ()
    return tuple(np.flatnonzero(held_back >= (LOST * longer if longer >= SLOW else DOUBT)).tolist())


class ProcessorTime:
    """Over the last looks, by rank."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, Floats]] = deque(maxlen=KEPT)

    def take(self, standing: Standing) -> None:
        """As it stands now; NaN for ranks that are not here."""
        here = standing.known & (standing.rows["state"] != b"")
        held_back_s = np.where(here, standing.rows["throttled_s"], np.nan)
        starved_s = np.where(here, standing.rows["starved_s"] - standing.rows["throttled_s"], np.nan)
        self._told.append((float(standing.seen_s[standing.known].max()), np.stack([starved_s, held_back_s])))

    def starved_s(self, since_s: float) -> Floats:
        """By rank: how much longer than the others, or than it used to, it was ready to run since then and got no processor,
        but for a quota's doing: where a machine has become busy, chance decides who is late."""
        starved: Floats = self._grown(self._at(since_s), -1)[0]
        if not len(starved):
            return starved
        found: Floats = np.maximum(starved - np.median(starved), self._beyond_usual(since_s)[0])
        return found

    def held_back_s(self, since_s: float) -> Floats:
        """By rank: for how much longer than it used to be a quota held it back since then. Many jobs live with a quota."""
        found: Floats = np.maximum(self._beyond_usual(since_s)[1], 0.0)
        return found

    def _beyond_usual(self, since_s: float) -> Floats:
        """[2, ranks] since then, less as much as there was in such a time before."""
        then = self._at(since_s)
        grown, before = self._grown(then, -1), np.maximum(self._grown(0, then), 0.0)
        if then > 0:
            first_s, then_s, now_s = (self._told[at][0] for at in (0, then, -1))
            grown -= before * (now_s - then_s) / max(then_s - first_s, now_s - then_s)
        return grown

    def _at(self, since_s: float) -> int:
        """The look from which on to count."""
        return max((at for at, (at_s, _) in enumerate(self._told) if at_s <= since_s), default=0)

    def _grown(self, first: int, last: int) -> Floats:
        """[2, ranks] between two looks; 0 of a rank that was not here at one of them."""
        if not self._told:
            return np.zeros((2, 0))
        ends = np.full((2, *self._told[-1][1].shape), np.nan)
        for end, at in zip(ends, (first, last), strict=True):
            seen = self._told[at][1]
            end[:, : seen.shape[1]] = seen
        grown: Floats = np.nan_to_num(ends[1] - ends[0])
        return grown

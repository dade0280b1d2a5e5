"""What the kernel says about each rank's processor time: waited for, and held back by a quota."""

from __future__ import annotations

from collections import deque

import numpy as np

from tightwire.ccl.slots import Floats
from tightwire.ccl.standing import Standing

KEPT = 256  # looks


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
        """By rank: how long it was ready to run since then and got no processor, but for a quota's doing."""
        found: Floats = self._grown(since_s)[0]
        return found

    def held_back_s(self, since_s: float) -> Floats:
        """By rank: how long a quota held it back since then."""
        found: Floats = self._grown(since_s)[1]
        return found

    def _grown(self, since_s: float) -> Floats:
        """[2, ranks]; 0 of a rank that was not here then or is not now."""
        if not self._told:
            return np.zeros((2, 0))
        ranks = self._told[-1][1].shape[1]
        then = next((each for at_s, each in reversed(self._told) if at_s <= since_s), self._told[0][1])
        before = np.full((2, ranks), np.nan)
        before[:, : then.shape[1]] = then
        grown: Floats = np.nan_to_num(self._told[-1][1] - before)
        return grown

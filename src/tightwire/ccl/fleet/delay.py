"""How far a host's clock is from ours, from one-way messages: what was delayed least tells it best.

Every message says when it was sent; arrival − sending = offset + delay. The least of the last half minute to minute is
the offset, too large by the least delay; it is forgotten after that, for clocks drift.
"""

from __future__ import annotations

import math

WINDOW_S = 30.0


class LeastDelay:
    """Times of arrival are ours, times of sending the other side's. `offset_s` is what to add to these, once there was a
    message."""

    def __init__(self) -> None:
        self._now = self._before = self.offset_s = math.inf
        self._since_s = -math.inf

    def take(self, sent_s: float, arrived_s: float) -> None:
        if arrived_s - self._since_s > WINDOW_S:
            self._before, self._now, self._since_s = self._now, math.inf, arrived_s
        self._now = min(self._now, arrived_s - sent_s)
        self.offset_s = min(self._now, self._before)

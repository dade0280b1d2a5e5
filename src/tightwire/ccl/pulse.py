"""When the next look at a host's ranks is due, from how much they have written: the one number of a ring that costs
nearly nothing to read. A job that runs as usual is looked at seldom; one that slackens or stands, soon.

Sans-IO: what was written in, yes or no out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

SOON_S = 0.35  # after the last look, two beats: one that fell behind is looked at
BEHIND = 0.75  # of its usual pace
FOLLOW = 1 / 8  # of a look's pace goes into the usual one
MOST_NEW = 512  # records, of which an analyzer keeps the rounds at least
R = TypeVar("R", bound=Hashable)


class Pulse(Generic[R]):
    """Of the rings R, by what each has written so far (records)."""

    def __init__(self) -> None:
        self._at_s: float | None = None
        self._written: dict[R, int] = {}
        self._usual: dict[R, float] = {}  # records a second

    def looked(self, at_s: float, written: Mapping[R, int]) -> None:
        """All were looked at."""
        if self._at_s is not None and at_s > self._at_s:
            passed_s = at_s - self._at_s
            for ring, count in written.items():
                if ring in self._written:
                    pace = (count - self._written[ring]) / passed_s
                    usual = self._usual.setdefault(ring, pace)
                    self._usual[ring] = usual + FOLLOW * (pace - usual)
        self._at_s, self._written = at_s, dict(written)

    def due(self, now_s: float, written: Mapping[R, int]) -> bool:
        """Whether to look again before the time is up."""
        if self._at_s is None or written.keys() != self._written.keys():
            return True
        passed_s = now_s - self._at_s
        for ring, count in written.items():
            fresh = count - self._written[ring]
            if fresh >= MOST_NEW or (passed_s >= SOON_S and fresh < BEHIND * passed_s * self._usual.get(ring, 0.0)):
                return True
        return False

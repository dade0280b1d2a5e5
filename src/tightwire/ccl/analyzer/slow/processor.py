"""What the kernel says about each rank's processor time: waited for, and held back by a quota."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tightwire.ccl.summary import Summary

KEPT = 512  # summaries
History = deque[tuple[float, dict[int, float]]]  # (time, by rank)


class ProcessorTime:
    """Over the last summaries, by rank."""

    def __init__(self) -> None:
        self._starved: History = deque(maxlen=KEPT)
        self._held_back: History = deque(maxlen=KEPT)

    def take(self, summaries: Sequence[Summary]) -> None:
        for summary in summaries:
            states = {s.rank: s.process for s in summary.ranks if s.process is not None}
            starved = {rank: state.starved_s - state.throttled_s for rank, state in states.items()}
            self._starved.append((summary.at_s, starved))
            self._held_back.append((summary.at_s, {rank: state.throttled_s for rank, state in states.items()}))

    def starved_s(self, since_s: float) -> dict[int, float]:
        """How long it was ready to run since then and got no processor, but for a quota's doing."""
        return _grown(self._starved, since_s)

    def held_back_s(self, since_s: float) -> dict[int, float]:
        """How long a quota held it back since then."""
        return _grown(self._held_back, since_s)


def _grown(history: History, since_s: float) -> dict[int, float]:
    now: dict[int, float] = {}
    then: dict[int, float] = {}
    for at_s, told in history:
        for rank, value in told.items():
            if at_s <= since_s or rank not in then:
                then[rank] = value
            now[rank] = value
    return {rank: now[rank] - then[rank] for rank in now}

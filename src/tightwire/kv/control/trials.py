"""Strategies that may be faster than what is known of them are tried on a few pieces of transfers.

A whole transfer with one that is believed to be slow costs too much to be tried for a gain of a few percent. k of n
pieces cost about k/n of the difference; k is as small as lets clocks tell how long they took. What trials may cost is a
credit: a share of the time of all requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from tightwire.kv.control.corrections import TIMING_ERROR_S
from tightwire.kv.control.records import Candidate, Trial

WORTH_TRYING = 0.99  # an optimistic time that is this much of the best expected one
INFORMATIVE_S = 10 * TIMING_ERROR_S  # of stages that are tried
MOST_CREDIT = 0.2  # of a request's time, which is there at first: a long quiet time must not pay for a storm


class Trials:
    """`share` of the time of all requests may be spent on trials; 0 tries nothing."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._credit_s: float | None = None

    def choose(
        self,
        best: int,
        others: Sequence[int],
        candidates: Sequence[Candidate],
        totals: Sequence[float],
        pieces: int,
        slo_s: float | None,
    ) -> Trial | None:
        """The most promising of `others`, which are within the request's budget, for some of its `pieces`; `totals` are
        the candidates' expected seconds, `best` has been chosen. None: nothing is promising or it costs too much."""
        best_s = totals[best]
        if self._share <= 0:
            return None
        credit_s = MOST_CREDIT * best_s if self._credit_s is None else self._credit_s
        self._credit_s = min(credit_s + self._share * best_s, MOST_CREDIT * best_s)
        most_s = self._credit_s if slo_s is None else min(self._credit_s, slo_s - best_s)
        found, worth_s, spent_s = None, WORTH_TRYING * best_s, 0.0
        for i in others:
            candidate = candidates[i]
            if candidate.optimistic_s < worth_s:
                stages_s = candidate.corrected.encode_s + candidate.corrected.decode_s
                tried = min(ceil(INFORMATIVE_S / stages_s * pieces), pieces)
                cost_s = max(totals[i] - best_s, 0.0) * tried / pieces
                if cost_s <= most_s:
                    found, worth_s, spent_s = Trial(candidate.strategy, tried), candidate.optimistic_s, cost_s
        self._credit_s -= spent_s
        return found

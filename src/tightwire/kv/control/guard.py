"""The quality guard: does a strategy still lose as little on live KV as it did when it was profiled?

A profile carries `error` = (median, upper): the error of single pieces of calibration KV (`error.attention_error`), where
`upper` is hardly ever passed. Live pieces are sampled on the sender, where raw KV is. Whether the share that passes
`upper` is still P0 or has become P1 is Wald's sequential test (Page's CUSUM: evidence for "all is well" is not saved up):

    score ← max(0, score + log P1/P0)  where a sample passes `upper`, else  max(0, score + log (1−P1)/(1−P0))

A strategy whose score reaches THRESHOLD is demoted: three samples in a row, or a few more with others between them.
From the first bad sample on, every request of that strategy is sampled, so that is soon.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import log

from tightwire.kv.profiles import Profile

P0, P1 = 0.05, 0.6
THRESHOLD = log(1000.0)  # likelihood ratio at which "it has changed" is believed
SLACK = 1.25  # of `upper`: calibration saw a few prompts, not all
_WORSE, _FINE = log(P1 / P0), log((1 - P1) / (1 - P0))


class Guard:
    """`share` of the requests is sampled; strategies without a profiled error are not watched."""

    def __init__(self, profiles: Sequence[Profile], share: float, rng: random.Random) -> None:
        self._range = {p.strategy: p.error for p in profiles if p.error is not None and p.strategy != "raw"}
        self._share, self._rng = share, rng
        self._score = dict.fromkeys(self._range, 0.0)
        self.demoted: dict[str, str] = {}  # strategy → why

    def wants(self, strategy: str) -> bool:
        """Whether a request with this strategy should be sampled."""
        if strategy not in self._range or strategy in self.demoted:
            return False
        return self._score[strategy] > 0 or self._rng.random() < self._share

    def observe(self, strategy: str, error: float) -> bool:
        """One live sample; True when it demoted the strategy."""
        if strategy not in self._range or strategy in self.demoted:
            return False
        median, upper = self._range[strategy]
        bad = not error <= SLACK * upper  # NaN is bad
        self._score[strategy] = max(0.0, self._score[strategy] + (_WORSE if bad else _FINE))
        if self._score[strategy] < THRESHOLD:
            return False
        self.demoted[strategy] = (
            f"demoted: its error on live KV is {error:.2g}, profiled were {median:.2g} to {upper:.2g}"
        )
        return True

    def restore(self, strategy: str) -> None:
        """Trust it again, for example after a new profile."""
        self.demoted.pop(strategy, None)
        if strategy in self._score:
            self._score[strategy] = 0.0

"""decide / observe: the candidate with the least predicted time within the quality budget; raw is always one.

No I/O and no clock: the link's estimate comes in with the request, measured times come back with `observe`.
"""

from __future__ import annotations

from math import exp, log

import msgspec

from tightwire.core.units import format_rate, format_time
from tightwire.errors import ConfigError
from tightwire.kv.control.latency import Prediction, predict
from tightwire.kv.profiles import ProfileLibrary
from tightwire.kv.strategy import Strategy
from tightwire.net.estimator import LinkEstimate

CORRECTION_WEIGHT = 0.3  # of the newest log-residual: a few transfers correct a wrong profile
CLEAR_GAIN = 0.97  # a lossy strategy must be predicted clearly faster than raw to be worth its loss


class Candidate(msgspec.Struct, frozen=True):
    """`corrected_s` = predicted total × what was learnt about this strategy; `refused` says why it may not be used."""

    strategy: str
    quality: float
    prediction: Prediction
    corrected_s: float
    refused: str | None = None


class Decision(msgspec.Struct, frozen=True):
    """The choice with all that led to it."""

    chosen: str
    reason: str
    candidates: list[Candidate]
    link_bytes_per_s: float | None

    @property
    def strategy(self) -> Strategy:
        return Strategy.parse(self.chosen)

    @property
    def candidate(self) -> Candidate | None:
        return next((c for c in self.candidates if c.strategy == self.chosen), None)


class Controller:
    """Holds, for every strategy, the mean log-residual of measured against predicted times."""

    def __init__(self, library: ProfileLibrary, quality_budget: float = 0.97) -> None:
        if not 0 <= quality_budget <= 1:
            raise ConfigError(f"quality_budget={quality_budget} is out of range; use 0 to 1, like 0.97")
        self.library, self.quality_budget = library, quality_budget
        self._residuals: dict[str, float] = {}

    def decide(self, raw_bytes: int, chunks: int, link: LinkEstimate | None) -> Decision:
        """`raw_bytes` in `chunks` pieces are to be sent over `link`; None: nothing is known about it yet."""
        if link is None:
            return Decision("raw", "the link has not been measured yet", [], None)
        candidates = []
        for profile in self.library.profiles:
            prediction = predict(profile, raw_bytes, chunks, link)
            corrected_s = prediction.total_s * exp(self._residuals.get(profile.strategy, 0.0))
            refused = None
            if profile.strategy != "raw" and profile.quality < self.quality_budget:
                refused = f"quality {profile.quality:.3f} is below the budget {self.quality_budget:.3f}"
            candidates.append(Candidate(profile.strategy, profile.quality, prediction, corrected_s, refused))
        raw = next(c for c in candidates if c.strategy == "raw")
        allowed = sorted((c for c in candidates if c.refused is None), key=lambda c: c.corrected_s)
        best = allowed[0]
        if best.corrected_s > CLEAR_GAIN * raw.corrected_s:
            best = raw
        return Decision(best.strategy, _explain(best, raw, allowed, link), candidates, link.bytes_per_s)

    def observe(self, decision: Decision, measured_s: float) -> None:
        """What the chosen candidate really took; moves its correction. Raw is observed like any other."""
        candidate = decision.candidate
        if candidate is None or measured_s <= 0:
            return
        residual = log(measured_s / candidate.prediction.total_s)
        before = self._residuals.get(decision.chosen, 0.0)
        self._residuals[decision.chosen] = before + CORRECTION_WEIGHT * (residual - before)


def _explain(best: Candidate, raw: Candidate, allowed: list[Candidate], link: LinkEstimate) -> str:
    rate = format_rate(link.bytes_per_s)
    if best is raw:
        others = [c for c in allowed if c is not raw]
        if not others:
            return f"nothing else is within the quality budget at {rate}"
        return f"at {rate} raw takes {format_time(raw.corrected_s)}, the next best {format_time(others[0].corrected_s)}"
    second = next((c for c in allowed if c is not best and c is not raw), raw)
    name = Strategy.parse(second.strategy).short
    return (
        f"at {rate} it takes {format_time(best.corrected_s)} where raw takes {format_time(raw.corrected_s)}; "
        f"second was {name} with {format_time(second.corrected_s)}"
    )

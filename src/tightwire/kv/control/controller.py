"""decide / observe: the candidate with the least expected time within the quality budget; raw is always one.

No I/O; clock and random generator are handed in. What the link does comes with the request, measured times come back
with `observe`, KV samples with `sampled`, verdicts about the link with `link_verdict`.

| step of `decide` | rule |
|---|---|
| refuse | below the quality budget, demoted by the guard, or cooling down after broken promises |
| predict | the tandem queue over profiled speeds (`latency`), corrected by what was learnt (`corrections`) |
| expect | its mean over the link's speed now and the one that it may have jumped back to |
| choose | the fastest; of those that are as fast, the one with the best quality; raw unless the gain is clear |
| try | a few pieces with a strategy that may be faster (`trials`), where no SLO is at risk |

`revise` decides again about what is left of a transfer when the link changed under it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from math import log

import msgspec

from tightwire.core.clock import Clock, MonotonicClock
from tightwire.core.links import LinkVerdict
from tightwire.core.units import format_rate, format_time
from tightwire.kv.control.corrections import FixedCost, Ratio, StageSpeed
from tightwire.kv.control.guard import Guard
from tightwire.kv.control.latency import model
from tightwire.kv.control.records import Candidate, Decision, Outcome, Record, Request, Share, Stages, Trial
from tightwire.kv.control.settings import Settings
from tightwire.kv.control.trials import Trials
from tightwire.kv.profiles import ProfileLibrary
from tightwire.kv.strategy import Strategy
from tightwire.net.estimator import LinkEstimate

CLEAR_GAIN = 0.99  # a lossy strategy must be expected faster than raw to be worth its loss, however small
AS_FAST = 1.01  # of those within this of the fastest, quality decides
SLOW_SHARE = 0.5  # of its usual speed: what is left of a link that is called slow without a number
LEAST_CHANCE = 0.02  # of a jump of the link, from which on it is reckoned with
CHANGED_LINK = 0.2  # of log speed, from which on a transfer underway is decided again
WORTH_REVISING = 0.9  # of the time that what is left takes otherwise
BROKEN_PROMISES = 2  # in a row: met the SLO by prediction, broke it in truth


class Controller:
    """Not thread-safe: one lock around it, where several threads decide. `records` are the last ones."""

    def __init__(
        self,
        library: ProfileLibrary,
        settings: Settings | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.library, self.settings = library, settings or Settings()
        self._clock = clock or MonotonicClock()
        profiles = library.profiles
        self._names = [p.strategy for p in profiles]
        self._short = [Strategy.parse(name).short for name in self._names]
        self._at = {name: index for index, name in enumerate(self._names)}
        self._raw = self._at["raw"]
        self._arms = [  # seconds for a raw byte
            (p.strategy, p.quality, p.ratio, 1 / p.encode_bytes_per_s, 1 / p.decode_bytes_per_s) for p in profiles
        ]
        families = [family(name) for name in self._names]
        self.encode, self.decode = StageSpeed(families), StageSpeed(families)
        self.ratio, self.fixed = Ratio([p.ratio for p in profiles]), FixedCost()
        self.guard = Guard(profiles, self.settings.sample_share, rng or random.Random(0))
        self._trials = Trials(self.settings.explore_share)
        self._quiet_until_s = float("-inf")  # nothing is tried until then
        self._broken = [0] * len(profiles)
        self._cool_until_s = [float("-inf")] * len(profiles)
        self._verdict: LinkVerdict | None = None
        self._records: deque[Record] = deque(maxlen=self.settings.keep)

    def decide(self, request: Request, link: LinkEstimate | None) -> Decision:
        """`request` is to be sent over `link`; None: nothing is known about it yet, raw will tell."""
        now_s, verdict = self._clock.now_s(), self._verdict
        if verdict is not None and verdict.state == "hung":
            reason = f"the link is said to be dead: {verdict.reason}"
            return Decision("raw", reason, [], None, request, now_s, send=False, probe=True)
        if link is None:
            return Decision("raw", "the link has not been measured yet", [], None, request, now_s, probe=True)
        rate = self._rate(link)
        candidates = self._candidates(request, link, rate, now_s)
        totals = [c.expected_s for c in candidates]
        allowed = [i for i, c in enumerate(candidates) if c.refused is None]
        chosen = self._best(allowed, totals)
        others = [i for i in allowed if i != chosen]
        second = self._best(others, totals) if others else None
        trial = None
        if now_s >= self._quiet_until_s:
            slo_s = request.slo_s or self.settings.slo_s
            trial = self._trials.choose(chosen, others, candidates, totals, max(request.chunks, 1), slo_s)
        return Decision(
            self._names[chosen], self._explain(chosen, second, totals, rate, trial), candidates, rate, request, now_s,
            None if second is None else self._names[second], trial, probe=verdict is not None,
        )  # fmt: skip

    def revise(
        self, decision: Decision, raw_bytes: int, prefill_s: float, link: LinkEstimate | None
    ) -> Decision | None:
        """A decision for what is left of a transfer, `raw_bytes` and `prefill_s` of compute, where the link has changed
        since `decision` and another strategy is clearly faster now; None: go on."""
        rate, request = decision.link_bytes_per_s, decision.request
        if link is None or rate is None or raw_bytes <= 0:
            return None
        now = self._rate(link)
        if abs(log(now / rate)) < CHANGED_LINK:
            return None
        left = raw_bytes / request.raw_bytes
        rest = msgspec.structs.replace(
            request, raw_bytes=raw_bytes, chunks=max(round(request.chunks * left), 1), prefill_s=prefill_s,
            tokens=round(request.tokens * left), queued_bytes=0,
        )  # fmt: skip
        now_s = self._clock.now_s()
        candidates = self._candidates(rest, link, now, now_s)
        totals = [c.expected_s for c in candidates]
        current = self._at[decision.chosen]
        best = self._best([i for i, c in enumerate(candidates) if c.refused is None], totals)
        if best == current or totals[best] > WORTH_REVISING * totals[current]:
            return None
        reason = (
            f"the link went from {format_rate(rate)} to {format_rate(now)} with {left:.0%} still to send, for which it takes "
            f"{format_time(totals[best])} where {self._short[current]} takes {format_time(totals[current])}"
        )
        return Decision(
            self._names[best], reason, candidates, now, rest, now_s, decision.chosen, revises=decision.chosen,
        )  # fmt: skip

    def observe(self, decision: Decision, outcome: Outcome) -> Record:
        """What the chosen candidate really took, raw like any other."""
        record = Record(decision, outcome)
        self._records.append(record)
        candidate = decision.candidate
        if candidate is None or outcome.failed:
            return record
        if self._verdict is not None and self._verdict.state == "slow" and outcome.wire_s > 0:
            self._verdict = None  # the link has spoken for itself since
        request = decision.request
        whole = Share(decision.chosen, request.raw_bytes, outcome.wire_bytes, outcome.encode_s, outcome.decode_s)
        for share in outcome.shares or [whole]:
            self._learn(share, decision)
        if not outcome.mixed:
            self._learn_fixed(request, outcome)
            self._keep_promises(self._at[decision.chosen], decision, candidate, outcome)
        return record

    def wants_sample(self, decision: Decision) -> bool:
        """Whether the guard wants to see a piece of this request, raw and as it arrives: hand both to `sampled`."""
        return self.guard.wants(decision.chosen)

    def sampled(self, decision: Decision, error: float) -> None:
        """The error (`error.attention_error`) of the chosen strategy on a piece of a live request."""
        self.guard.observe(decision.chosen, error)

    def link_verdict(self, verdict: LinkVerdict) -> None:
        """`hung`: nothing is sent until a `healthy` one. `slow`: the estimate is capped until a transfer tells more."""
        self._verdict = None if verdict.state == "healthy" else verdict

    @property
    def records(self) -> Iterable[Record]:
        """The last ones, oldest first."""
        return tuple(self._records)

    def budget(self, request: Request) -> float:
        """The quality that this request must keep."""
        if request.quality_budget is not None:
            return request.quality_budget
        budgets = self.settings.workload_budgets
        if request.workload in budgets:
            return budgets[request.workload]
        return max([self.settings.quality_budget, *budgets.values()])

    def _rate(self, link: LinkEstimate) -> float:
        """What the link carries, as far as a verdict lets it be believed."""
        verdict, rate = self._verdict, link.bytes_per_s
        return rate if verdict is None else min(rate, verdict.bytes_per_s or SLOW_SHARE * rate)

    def _candidates(self, request: Request, link: LinkEstimate, rate: float, now_s: float) -> list[Candidate]:
        latency_s, chance = link.latency_s, link.jump_chance if link.jump_chance >= LEAST_CHANCE else 0.0
        slower = rate / link.other_bytes_per_s if chance else 1.0
        size, n = request.raw_bytes, max(request.chunks, 1)
        compute_s = request.prefill_s if request.streamed else 0.0
        queued_s = request.queued_bytes / rate
        budget, raw_wire_s, fixed_s = self.budget(request), size / rate, latency_s + self.fixed.seconds
        encode, decode, ratio, demoted = self.encode, self.decode, self.ratio.value, self.guard.demoted
        total = model(n, compute_s, queued_s, request.one_core)
        candidates = []
        for i, (name, quality, profiled_ratio, encode_s, decode_s) in enumerate(self._arms):
            e, d = size * encode_s, size * decode_s
            w = raw_wire_s / profiled_ratio
            predicted = Stages(e, w, d, latency_s + total(e, w, d))
            w, ce, cd = raw_wire_s / ratio[i], e * encode.factor[i], d * decode.factor[i]
            corrected = Stages(ce, w, cd, fixed_s + total(ce, w, cd))
            expected_s = corrected.total_s
            if chance:
                expected_s += chance * (fixed_s + total(ce, w * slower, cd) - expected_s)
            optimistic_s = fixed_s + total(e * encode.optimistic[i], w, d * decode.optimistic[i])
            refused = None
            if i != self._raw:
                if quality < budget:
                    refused = f"quality {quality:.3f} is below the budget {budget:.3f}"
                elif name in demoted:
                    refused = demoted[name]
                elif now_s < self._cool_until_s[i]:
                    refused = f"cools down: it broke {BROKEN_PROMISES} promises in a row"
            candidates.append(Candidate(name, quality, predicted, corrected, expected_s, optimistic_s, refused))
        return candidates

    def _best(self, allowed: list[int], totals: list[float]) -> int:
        """The fastest by expectation; near ties go to quality, and to raw unless the gain is clear."""
        fastest_s = min(totals[i] for i in allowed)
        if self._raw in allowed and fastest_s > CLEAR_GAIN * totals[self._raw]:
            return self._raw
        profiles = self.library.profiles
        return max((i for i in allowed if totals[i] <= AS_FAST * fastest_s), key=lambda i: profiles[i].quality)

    def _learn(self, share: Share, decision: Decision) -> None:
        index, part = self._at[share.strategy], share.raw_bytes / decision.request.raw_bytes
        predicted = decision.candidates[index].predicted
        self.encode.observe(index, share.encode_s, predicted.encode_s * part)
        self.decode.observe(index, share.decode_s, predicted.decode_s * part)
        if share.wire_bytes > 0 and index != self._raw:
            self.ratio.observe(index, share.raw_bytes / share.wire_bytes)

    def _learn_fixed(self, request: Request, outcome: Outcome) -> None:
        compute_s = 0.0
        if request.streamed:
            compute_s = request.prefill_s if outcome.prefill_s is None else outcome.prefill_s
        if outcome.busy or request.queued_bytes or (outcome.prefill_s is None and compute_s > outcome.wire_s):
            return  # what else the time went to is not known well enough
        stages = (outcome.encode_s, outcome.wire_s, outcome.decode_s)
        self.fixed.observe(outcome.total_s, model(max(request.chunks, 1), compute_s)(*stages))

    def _keep_promises(self, index: int, decision: Decision, candidate: Candidate, outcome: Outcome) -> None:
        slo_s = decision.request.slo_s or self.settings.slo_s
        if slo_s is None or outcome.total_s <= slo_s:
            self._broken[index] = 0
            return
        now_s = self._clock.now_s()
        self._quiet_until_s = now_s + self.settings.cooldown_s
        if candidate.corrected.total_s <= slo_s:
            self._broken[index] += 1
            if self._broken[index] >= BROKEN_PROMISES:
                self._cool_until_s[index], self._broken[index] = self._quiet_until_s, 0

    def _explain(self, chosen: int, second: int | None, totals: list[float], rate: float, trial: Trial | None) -> str:
        at = f"at {format_rate(rate)}"
        takes = format_time(totals[chosen])
        tried = f"; {self._short[self._at[trial.strategy]]} may be faster: tried on {trial.pieces}" if trial else ""
        if second is None:
            return f"nothing else is within the quality budget {at}"
        if chosen == self._raw:
            return f"{at} raw takes {takes}, the next best {format_time(totals[second])}{tried}"
        return (
            f"{at} it takes {takes} where raw takes {format_time(totals[self._raw])}; "
            f"second was {self._short[second]} with {format_time(totals[second])}{tried}"
        )


def log_errors(records: Iterable[Record]) -> list[float]:
    """|log(measured ÷ predicted)| of the totals that were observed."""
    return [abs(log(1 + record.error)) for record in records if record.error is not None]


def family(name: str) -> str:
    """Strategies whose speed has one cause: the same codecs behind K and V."""
    strategy = Strategy.parse(name)
    return "/".join(dict.fromkeys((strategy.k.last.name, strategy.v.last.name)))

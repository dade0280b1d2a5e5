"""The real controller and link estimator over simulated transfers, and what an oracle would have done."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from replay.physics import F64, Arms, Timeline, Truth, transfer
from replay.scenarios import Load
from tightwire.core.clock import FakeClock
from tightwire.kv.control.controller import Controller, Settings
from tightwire.kv.control.records import Outcome
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.net.estimator import LinkEstimator


def arms(library: ProfileLibrary) -> Arms:
    """The library's profiles as the truth."""
    of = [(p.ratio, p.encode_bytes_per_s, p.decode_bytes_per_s) for p in library.profiles]
    return Arms(*np.array(of).T)


def truths(library: ProfileLibrary, link: Timeline, load: Load, seed: int) -> list[Truth]:
    """What each strategy would take for each request."""
    rng, true = np.random.default_rng(seed), arms(library)
    return [
        transfer(true, link, at_s, request.raw_bytes, request.chunks, prefill_s, rng)
        for at_s, request, prefill_s in zip(load.at_s, load.requests, load.prefill_s, strict=True)
    ]


@dataclass(frozen=True)
class Played:
    """Of each request: seconds with the controller, with the oracle, and with each strategy always (inf where the
    budget forbids it); how many requests went below their budget."""

    auto: F64
    oracle: F64
    static: F64
    chosen: list[str]
    violations: int
    model_error: F64

    @property
    def regret(self) -> float:
        return float(self.auto.sum() / self.oracle.sum() - 1)

    @property
    def vs_best_static(self) -> float:
        return float(self.auto.sum() / self.static.sum(axis=0).min())


def play(library: ProfileLibrary, truth: Sequence[Truth], link: Timeline, load: Load, settings: Settings, believed: ProfileLibrary | None = None) -> Played:  # fmt: skip
    """The controller is given `believed`, which has the same strategies in the same order as the true `library`."""
    clock, estimator = FakeClock(), LinkEstimator()
    controller = Controller(believed or library, settings, clock, random.Random(1))
    estimator.observe_round_trip(2 * link.latency_s)
    estimator.observe(4 * 2**20, 4 * 2**20 / link.rate_at(0.0))  # the probe at start-up
    at = {p.strategy: i for i, p in enumerate(library.profiles)}
    quality = np.array([p.quality for p in library.profiles])
    auto, oracle, static, chosen, errors, violations = [], [], [], [], [], 0
    for at_s, request, real in zip(load.at_s, load.requests, truth, strict=True):
        clock.sleep_s(float(at_s) - clock.now_s())
        decision = controller.decide(request, estimator.estimate())
        i, budget = at[decision.chosen], controller.budget(request)
        violations += int(quality[i] < budget)
        outcome = Outcome(
            float(real.encode_s[i]), float(real.wire_s[i]), float(real.decode_s[i]), float(real.total_s[i]),
            int(real.wire_bytes[i]), real.prefill_s,
        )  # fmt: skip
        record = controller.observe(decision, outcome)
        estimator.observe(outcome.wire_bytes, outcome.wire_s)
        allowed = np.where(quality >= budget, real.total_s, np.inf)
        auto.append(outcome.total_s)
        oracle.append(allowed.min())
        static.append(allowed)
        chosen.append(decision.chosen)
        errors.append(record.error or 0.0)
    return Played(np.array(auto), np.array(oracle), np.array(static), chosen, violations, np.abs(errors))


def scaled(library: ProfileLibrary, family: str, stage: str, factor: float, family_of: dict[str, str]) -> ProfileLibrary:  # fmt: skip
    """The library with one stage of one family profiled `factor` times too fast."""
    key = f"{stage}_bytes_per_s"

    def wrong(profile: Profile) -> Profile:
        if family_of[profile.strategy] != family:
            return profile
        return msgspec.structs.replace(profile, **{key: getattr(profile, key) * factor})

    return ProfileLibrary(library.model, [wrong(profile) for profile in library.profiles], library.provenance)


def recovered_after(played: Played, window: int = 10, within: float = 1.05) -> int:
    """Requests until every window of 10 is within 5 % of the oracle's time, to the end."""
    sums = [np.convolve(x, np.ones(window), "valid") for x in (played.auto, played.oracle)]
    bad = np.flatnonzero(sums[0] > within * sums[1])
    return int(bad[-1] + 1) if len(bad) else 0


def switched_after(played: Played, at_s: F64, step_s: Sequence[float], within: float = 1.05) -> int:
    """The most requests after any step until one is within 5 % of the oracle's time."""
    worst = 0
    for step in step_s:
        first = int(np.searchsorted(at_s, step))
        good = np.flatnonzero(played.auto[first:] <= within * played.oracle[first:])
        worst = max(worst, int(good[0]) if len(good) else len(played.auto) - first)
    return worst

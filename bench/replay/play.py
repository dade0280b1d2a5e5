"""The real controller and link estimator over simulated transfers, and what an oracle would have done."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from replay.physics import F64, Arms, Luck, Timeline, Truth, steered, transfer
from replay.scenarios import Load
from tightwire.core.clock import FakeClock
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.course import Course
from tightwire.kv.control.records import Decision, Outcome, Share
from tightwire.kv.control.settings import Settings
from tightwire.kv.profiles import Profile, ProfileLibrary
from tightwire.kv.transfer.outbox import OBSERVED_S
from tightwire.net.estimator import LinkEstimator


def arms(library: ProfileLibrary) -> Arms:
    """The library's profiles as the truth."""
    of = [(p.ratio, p.encode_bytes_per_s, p.decode_bytes_per_s) for p in library.profiles]
    return Arms(*np.array(of).T)


@dataclass(frozen=True)
class Fate:
    """One request: the luck it meets, and what each strategy would take."""

    luck: Luck
    static: Truth


def fates(library: ProfileLibrary, link: Timeline, load: Load, seed: int) -> list[Fate]:
    """Of all requests."""
    rng, true = np.random.default_rng(seed), arms(library)
    found = []
    for at_s, request, prefill_s in zip(load.at_s, load.requests, load.prefill_s, strict=True):
        luck = Luck.of(true, request.raw_bytes, request.chunks, prefill_s, rng)
        found.append(Fate(luck, transfer(link, at_s, luck)))
    return found


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


def play(library: ProfileLibrary, fates: Sequence[Fate], link: Timeline, load: Load, settings: Settings, believed: ProfileLibrary | None = None) -> Played:  # fmt: skip
    """The controller is given `believed`, which has the same strategies in the same order as the true `library`. The
    oracle knows all fates, and takes one strategy for a request as all static choices do."""
    clock, estimator = FakeClock(), LinkEstimator()
    controller = Controller(believed or library, settings, clock, random.Random(1))
    estimator.observe_round_trip(2 * link.latency_s)
    estimator.observe(4 * 2**20, 4 * 2**20 / link.rate_at(0.0))  # the probe at start-up
    at = {p.strategy: i for i, p in enumerate(library.profiles)}
    quality = np.array([p.quality for p in library.profiles])
    auto, oracle, static, chosen, errors, violations = [], [], [], [], [], 0
    for at_s, request, fate in zip(load.at_s, load.requests, fates, strict=True):
        clock.sleep_s(max(float(at_s) - clock.now_s(), 0.0))
        decision = controller.decide(request, estimator.estimate())
        budget = controller.budget(request)
        course = _Course(controller, estimator, decision, at)
        real, parts = steered(link, at_s, fate.luck, course.arrived, course.steer)
        course.end()
        violations += sum(bool(quality[i] < budget) for i in parts)
        shares = [Share(library.profiles[i].strategy, int(raw), int(wire), encode_s, decode_s) for i, (raw, wire, encode_s, decode_s) in parts.items()]  # fmt: skip
        outcome = Outcome(
            float(real.encode_s[0]), float(real.wire_s[0]), float(real.decode_s[0]), float(real.total_s[0]),
            int(real.wire_bytes[0]), real.prefill_s, shares=shares,
        )  # fmt: skip
        record = controller.observe(decision, outcome)
        allowed = np.where(quality >= budget, fate.static.total_s, np.inf)
        auto.append(outcome.total_s)
        oracle.append(allowed.min())
        static.append(allowed)
        chosen.append(decision.chosen)
        if record.error is not None:
            errors.append(record.error)
    return Played(np.array(auto), np.array(oracle), np.array(static), chosen, violations, np.abs(errors))


class _Course:
    """One transfer between the simulation and the controller, as the connector stands between the wire and it."""

    def __init__(self, controller: Controller, estimator: LinkEstimator, decision: Decision, at: dict[str, int]) -> None:
        self._course, self._estimator, self._at = Course(controller, decision), estimator, at
        self._bytes = self._busy_s = 0.0

    def arrived(self, now_s: float, size: float, busy_s: float) -> None:
        self._bytes, self._busy_s = self._bytes + size, self._busy_s + busy_s
        if self._busy_s >= OBSERVED_S:
            self.end()

    def steer(self, encoded_bytes: float, prefill_s: float) -> int:
        return self._at[self._course.next(int(encoded_bytes), prefill_s, self._estimator.estimate())]

    def end(self) -> None:
        self._estimator.observe(int(self._bytes), self._busy_s)
        self._bytes = self._busy_s = 0.0


def scaled(library: ProfileLibrary, family: str, stage: str, factor: float, family_of: dict[str, str]) -> ProfileLibrary:  # fmt: skip
    """The library with one stage of one family profiled `factor` times too fast."""
    key = f"{stage}_bytes_per_s"

    def wrong(profile: Profile) -> Profile:
        if family_of[profile.strategy] != family:
            return profile
        return msgspec.structs.replace(profile, **{key: getattr(profile, key) * factor})

    return ProfileLibrary(library.model, [wrong(profile) for profile in library.profiles], library.provenance)


def recovered_after(played: Played, window: int = 10, within: float = 1.05) -> int:
    """Requests until every window of 10 is within 5 % of the oracle's time."""
    auto, oracle = (np.convolve(x, np.ones(window), "valid") for x in (played.auto, played.oracle))
    bad = np.flatnonzero(auto > within * oracle)
    return int(bad[-1] + 1) if len(bad) else 0


def switched_after(played: Played, at_s: F64, step_s: Sequence[float], within: float = 1.05) -> int:
    """The most requests after any step until one is within 5 % of the oracle's time."""
    worst = 0
    for step in step_s:
        first = int(np.searchsorted(at_s, step))
        good = np.flatnonzero(played.auto[first:] <= within * played.oracle[first:])
        worst = max(worst, int(good[0]) if len(good) else len(played.auto) - first)
    return worst

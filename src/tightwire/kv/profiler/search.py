"""Which strategy to measure next: ask and tell over quality; ratio and time are known of every strategy.

Glossary. n strategies, P points (see `space`), gains as in `pareto`. loss = 1 − quality; y = log(loss + SMALLEST) is what
the surrogate models. A step: the surrogate gives each point a mean and deviation of y; `improvement` says how much
hypervolume, and how much ratio at each wanted quality, a point is expected to add; the most for its cost is measured,
at low fidelity first where the surrogate is unsure. Fewer levels are never better (up to SLACK), so what was measured
bounds the points that are coarser or finer in every place.

Nothing here depends on time or on the order in which results arrive: a state is the settings and what was told, in the
order asked, and the same state asks for the same next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np

from tightwire.kv.profiler import features, surrogate
from tightwire.kv.profiler.improvement import Improvement, to_quality, to_y
from tightwire.kv.profiler.pareto import F64, Scale, front, hypervolume
from tightwire.kv.profiler.rates import Rates, compose
from tightwire.kv.profiler.space import Bools, Ints, Space

Fidelity = Literal["few", "full"]

SLACK = 0.7  # of y: how far a measurement may contradict the order of levels
_THRIFT = 0.5  # how much what a measurement costs counts
_UNSURE = 0.9  # deviation of y above which a look at low fidelity pays
_FEW_NOISE = 10.0  # variance of a look at low fidelity, in that of a full measurement


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`budget`: full measurements, of which one at low fidelity costs the share `few_cost`. `qualities`: at which the
    best ratio is wanted. `batch`: measurements asked for at a time. The search ends early when no point is expected to
    add `tolerance` of the hypervolume, or of the ratio, for one full measurement."""

    budget: float
    seed: int = 0
    qualities: tuple[float, ...] = (0.99, 0.97)
    few_cost: float = 0.25
    batch: int = 4
    cold: int = 8
    tolerance: float = 0.0


class Observation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The relative `quality` of `point` at a fidelity."""

    point: int
    fidelity: Fidelity
    quality: float


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a search is besides its problem; round-trips through JSON."""

    settings: Settings
    told: list[Observation]


@dataclass(frozen=True, eq=False)
class Problem:
    """A space with what is known before quality: `ratio` and `time_s` `[n]`; of each point the surrogate's `inputs`, and
    `side_cost` (of K, of V; `[P]`) of a side that was not measured before, where the model's own part costs 1."""

    space: Space
    ratio: F64
    time_s: F64
    inputs: surrogate.Inputs
    side_cost: tuple[F64, F64]

    @classmethod
    def of(cls, space: Space, rates: Rates) -> Problem:
        """A side of median speed is taken to cost as much as the model."""
        known = compose(space, rates)
        points = [space.strategies[index] for index in space.at]
        k, v = (
            np.array([rate.encode_s + rate.decode_s for rate in found])
            for found in (
                [rates.k[f"{s.k}{s.exact}"] for s in points],
                [rates.v[f"{s.v}{s.exact}"] for s in points],
            )
        )
        middle = float(np.median(np.concatenate([k, v])))
        return cls(space, known.ratio, known.time_s, features.inputs(space, rates), (k / middle, v / middle))

    @property
    def scale(self) -> Scale:
        return Scale.of(self.ratio, self.time_s)


class Search:
    """`ask` for measurements and `tell` what came of them, until `ask` gives none."""

    def __init__(self, problem: Problem, settings: Settings, told: Sequence[Observation] = ()) -> None:
        self.problem, self.settings, space = problem, settings, problem.space
        self.told: list[Observation] = []
        self._floor, self._ceiling = (np.full(space.points, sign * np.inf) for sign in (-1, 1))  # of y, by order
        self._gains = problem.scale.gains(problem.ratio, problem.time_s, np.ones(len(space)))
        self._improvement = Improvement(space, self._gains, np.log(problem.ratio), settings.qualities)
        self.tell(told)

    @property
    def state(self) -> State:
        return State(self.settings, list(self.told))

    @property
    def spent(self) -> float:
        """In full measurements."""
        return sum(self._cost(seen.fidelity) for seen in self.told)

    @property
    def known(self) -> F64:
        """Full quality `[P]`; NaN where it is not known."""
        known = np.where(self.problem.space.lossless, 1.0, np.nan)
        for seen in self.told:
            if seen.fidelity == "full":
                known[seen.point] = seen.quality
        return known

    def front(self) -> tuple[list[int], float]:
        """(the strategies found so far that none found dominates, their hypervolume)"""
        quality = self.known[self.problem.space.point]
        found = np.flatnonzero(np.isfinite(quality))
        gains = self.problem.scale.gains(self.problem.ratio[found], self.problem.time_s[found], quality[found])
        return [int(found[index]) for index in front(gains)], hypervolume(gains)

    def tell(self, observations: Sequence[Observation]) -> None:
        """What was measured, in the order in which it was asked for."""
        space = self.problem.space
        for seen in observations:
            self.told.append(seen)
            if seen.fidelity == "full":
                y = float(to_y(np.array(seen.quality)))
                coarser, finer = space.coarser(seen.point), space.finer(seen.point)
                self._floor[coarser] = np.maximum(self._floor[coarser], y)
                self._ceiling[finer] = np.minimum(self._ceiling[finer], y)

    def ask(self) -> list[tuple[int, Fidelity]]:
        """The next measurements, points and fidelities; none at the end of the budget or of what can be hoped for."""
        if len(self.told) < self.settings.cold:
            wanted = self._cold()[len(self.told) :][: self.settings.batch]
        else:
            wanted = self._promising()
        room, asked = self.settings.budget - self.spent + 1e-9, []
        for point, fidelity in wanted:
            room -= self._cost(fidelity)
            if room < 0:
                break
            asked.append((point, fidelity))
        return asked

    def _cost(self, fidelity: Fidelity) -> float:
        return 1.0 if fidelity == "full" else self.settings.few_cost

    def _cold(self) -> list[tuple[int, Fidelity]]:
        """Points far from each other (farthest-point order), the first by the seed."""
        x = self.problem.inputs.x
        chosen = [int(np.random.default_rng(self.settings.seed).integers(len(x)))]
        nearest = np.full(len(x), np.inf)
        while len(chosen) < self.settings.cold:
            nearest = np.minimum(nearest, np.square(x - x[chosen[-1]]).sum(axis=1))
            chosen.append(int(nearest.argmax()))
        return [(point, "few") for point in chosen]

    def _promising(self) -> list[tuple[int, Fidelity]]:
        """One after the other the best by `_value`, each taken to turn out as the surrogate expects."""
        told, known = self.told, self.known
        few = np.array([seen.fidelity == "few" for seen in told])
        looked = {seen.point for seen in told if seen.fidelity == "few"}
        points = np.array([seen.point for seen in told])
        y = to_y(np.array([seen.quality for seen in told]))
        process = surrogate.fit(self._inputs(points, few), y, np.where(few, _FEW_NOISE, 1.0))
        belief = process.believe(self._inputs(np.arange(len(known)), np.zeros(len(known), bool)))
        done, asked = np.isfinite(known), list[tuple[int, Fidelity]]()
        while len(asked) < self.settings.batch:
            mean = np.clip(belief.mean, self._floor - SLACK, self._ceiling + SLACK)
            value = np.where(done, 0, self._value(known, mean, belief.deviation))
            point = int(value.argmax())
            if value[point] <= self.settings.tolerance:
                break
            unsure = belief.deviation[point] > _UNSURE and point not in looked
            asked.append((point, "few" if unsure else "full"))
            done[point] = True
            known[point] = to_quality(mean[point])
            belief.observe(point)
        return asked

    def _inputs(self, points: Ints, few: Bools) -> surrogate.Inputs:
        """Low fidelity may be off by a constant."""
        taken = self.problem.inputs.take(points)
        return replace(taken, basis=np.concatenate([taken.basis, few[:, None] * 1.0], axis=1))

    def _value(self, known: F64, mean: F64, deviation: F64) -> F64:
        """What a point is expected to add for what it costs `[P]`: the mean of the relative gain in hypervolume and of
        the gain in log ratio."""
        _, volume = self.front()
        added = self._improvement.volume(known, mean, deviation) / max(volume, 1e-9)
        added += self._improvement.ratio(known, mean, deviation)
        return added / self._costs(known) ** _THRIFT

    def _costs(self, known: F64) -> F64:
        """Of measuring each point `[P]`, in the model's part."""
        space, measured = self.problem.space, np.isfinite(known)
        costs = np.ones(space.points)
        for side, side_cost in zip((space.k, space.v), self.problem.side_cost, strict=True):
            held = side * len(space.exacts) + space.exact
            costs += np.where(np.isin(held, held[measured]), 0, side_cost)
        return costs

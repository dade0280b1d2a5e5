"""How much a point is expected to add to what was found, its quality being uncertain.

Hypervolume: of a point with known ratio and time and uncertain quality q, the volume added is the integral over quality
levels s below q of the area that its ratio and time add to the staircase of what was found at s or better. So its
expectation is ∫ area(s) · P(q ≥ s) ds, no sampling needed; the exact integrand at the middle of each of some levels.
Ratio: for each wanted quality, how much of log ratio it adds to the best found, times P(q ≥ that quality).

y = log(loss + SMALLEST) with loss = 1 − quality is taken as normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import erfc, sqrt

import numpy as np

from tightwire.kv.profiler.pareto import F64, QUALITY_REFERENCE, Staircase
from tightwire.kv.profiler.space import Ints, Space

SMALLEST = 1e-3  # losses below it are as good as none
_LEVELS = np.array([0, 1, 2, 3, 5, 7.5, 10, 12.5, 16, 20, 25, 30, 40, 55, 75, 100]) / 1000  # of loss
_Z = np.linspace(-8, 8, 3201)  # the normal distribution as a table: within 1e-6
_BELOW = np.array([erfc(-z / sqrt(2)) / 2 for z in _Z])


def to_y(quality: F64) -> F64:
    y: F64 = np.log(np.maximum(1 - quality, -SMALLEST / 2) + SMALLEST)
    return y


def to_quality(y: F64) -> F64:
    return 1 - (np.exp(y) - SMALLEST)


class Improvement:
    """`gains` `[n, 3]` and `log_ratio` `[n]` of a space's strategies; `qualities`: where the best ratio is wanted."""

    def __init__(self, space: Space, gains: F64, log_ratio: F64, qualities: Sequence[float]) -> None:
        self.point, self.gains, self.log_ratio, self.qualities = space.point, gains, log_ratio, qualities
        # of each point the smallest strategy and the fastest; what lies between adds little
        self._small = _best(space.point, gains[:, 0] + 1e-6 * gains[:, 1])
        self._fast = _best(space.point, gains[:, 1] + 1e-6 * gains[:, 0])

    def volume(self, known: F64, mean: F64, deviation: F64) -> F64:
        """Expected hypervolume that each point adds `[P]`; `known` `[P]`: quality, NaN where it is not known."""
        small, fast = self.gains[self._small], self.gains[self._fast]
        both = np.minimum(small, fast)
        found, added = known[self.point], np.zeros(len(mean))
        for low, high in pairwise(_LEVELS):
            stairs = Staircase()
            for index in np.flatnonzero(found >= 1 - (low + high) / 2):
                stairs.add(self.gains[index, 0], self.gains[index, 1])
            area = [stairs.missing(corner[:, 0], corner[:, 1]) for corner in (small, fast, both)]
            added += (area[0] + area[1] - area[2]) * chance((low + high) / 2, mean, deviation) * (high - low)
        return added / (1 - QUALITY_REFERENCE)

    def ratio(self, known: F64, mean: F64, deviation: F64) -> F64:
        """Expected gain in log ratio `[P]`, mean over the wanted qualities."""
        found, added = known[self.point], np.zeros(len(mean))
        for quality in self.qualities:
            feasible = self.log_ratio[found >= quality]
            more = self.log_ratio[self._small] - (feasible.max() if feasible.size else 0.0)
            added += np.maximum(more, 0) * chance(1 - quality, mean, deviation)
        return added / max(len(self.qualities), 1)


def chance(loss: float, mean: F64, deviation: F64) -> F64:
    """P(the loss is at most that)."""
    z = (np.log(loss + SMALLEST) - mean) / deviation
    below: F64 = np.interp(z, _Z, _BELOW)
    return below


def _best(point: Ints, score: F64) -> Ints:
    """The strategy of each point whose score is highest, `[P]`."""
    order = np.lexsort((score, point))
    last: Ints = order[np.flatnonzero(np.diff(point[order], append=-1))]
    return last

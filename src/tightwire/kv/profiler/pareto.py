"""The 3-D Pareto front and its hypervolume (Zitzler & Thiele, PPSN 1998), both exact.

Glossary. gain: an objective scaled so that 0 is the reference point, 1 the best, and more is better.
Points are fp64 `[n, 3]`: the gains of ratio, time and quality, in this order. A point dominates another if it is no worse
in all three and better in one. The hypervolume is the volume that the points dominate above the reference (0, 0, 0).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

QUALITY_REFERENCE = 0.9  # a strategy that loses more than a tenth is of no use to anyone


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What gain 1 (`ratio_best`, `time_best_s`) and gain 0 (`time_worst_s`) stand for. Ratio counts by its logarithm
    from 1 (raw), time (seconds a raw byte, encode and decode together) by its logarithm, quality from 0.9 to 1."""

    ratio_best: float
    time_best_s: float
    time_worst_s: float

    @classmethod
    def of(cls, ratio: F64, time_s: F64) -> Scale:
        """The scale of a whole space."""
        return cls(float(ratio.max()), float(time_s.min()), float(time_s.max()))

    def gains(self, ratio: F64, time_s: F64, quality: F64) -> F64:
        """`[n, 3]`, each clipped to 0 … 1."""
        slowest = np.log(self.time_worst_s / self.time_best_s)
        parts = (
            np.log(ratio) / np.log(self.ratio_best),
            np.log(self.time_worst_s / time_s) / (slowest or 1.0),
            (quality - QUALITY_REFERENCE) / (1 - QUALITY_REFERENCE),
        )
        return np.clip(np.stack(parts, axis=1), 0, 1)


class Staircase:
    """Points of a plane `[0, 1]²` that do not dominate each other: x rises, y falls; and the area below them."""

    def __init__(self) -> None:
        self.x: list[float] = []
        self.y: list[float] = []
        self.area = 0.0

    def add(self, x: float, y: float) -> bool:
        """Whether (x, y) was not dominated (a point equal to one that stands here is)."""
        at = bisect_left(self.x, x)
        if at < len(self.x) and self.y[at] >= y:
            return False
        end = at + (at < len(self.x) and self.x[at] == x)
        start = at
        while start > 0 and self.y[start - 1] <= y:
            start -= 1
        left = self.x[start - 1] if start else 0.0
        below, right = 0.0, left
        for index in range(start, end):
            below += (self.x[index] - right) * self.y[index]
            right = self.x[index]
        if right < x:  # the rest lies below the next step
            below += (x - right) * (self.y[end] if end < len(self.x) else 0.0)
        self.area += (x - left) * y - below
        self.x[start:end], self.y[start:end] = [x], [y]
        return True

    def missing(self, x: F64, y: F64) -> F64:
        """The area that each (x, y) `[n]` would add."""
        steps = np.array([0.0, *self.x])
        heights = np.array([*self.y, 0.0])  # from steps[i] to steps[i + 1]
        filled = np.concatenate([[0.0], np.cumsum(np.diff(steps) * heights[:-1])])
        lower = len(self.y) - np.searchsorted(heights[:-1][::-1], y, side="left")  # the first step lower than y
        reach = np.minimum(steps[lower], x)
        last = np.searchsorted(steps, x, side="right") - 1
        under_x = filled[last] + (x - steps[last]) * heights[last]
        under_reach = filled[lower]
        added: F64 = x * y - reach * y - np.where(x > steps[lower], under_x - under_reach, 0.0)
        return added


def front(points: F64) -> list[int]:
    """Indices of the points that none dominates, best quality first; of equal points the first."""
    order = np.lexsort((-points[:, 0], -points[:, 1], -points[:, 2]))
    stairs = Staircase()
    return [int(index) for index in order if stairs.add(float(points[index, 0]), float(points[index, 1]))]


def hypervolume(points: F64 | Sequence[Sequence[float]]) -> float:
    """The volume below `points`: slices of equal quality, from the best down, each a staircase."""
    ordered = np.asarray(points, np.float64).reshape(-1, 3)
    ordered = ordered[np.argsort(-ordered[:, 2], kind="stable")]
    stairs, volume = Staircase(), 0.0
    for index, (x, y, quality) in enumerate(ordered):
        stairs.add(float(x), float(y))
        following = ordered[index + 1, 2] if index + 1 < len(ordered) else 0.0
        volume += stairs.area * float(quality - following)
    return volume

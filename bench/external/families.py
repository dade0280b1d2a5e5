"""Strategies by what they are made of, and how two rankings of them differ by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightwire.kv.profiler.pareto import F64
from tightwire.kv.quality import rank_correlation
from tightwire.kv.strategy import Chain

SMALLEST = 6  # a family of fewer says nothing


@dataclass(frozen=True)
class Family:
    """`shift`: how much worse the first ranking places its members than the second, as a share of all strategies."""

    name: str
    members: int
    correlation: float
    shift: float


def name(chain: Chain) -> str:
    """Transforms, quantizer and the axis whose values share parameters; without numbers, tables and the codec."""
    axis = getattr(chain.quantizer, "axis", "")
    return "+".join(stage.name for stage in chain.stages[:-1]) + (f" by {axis}" if axis else "")


def families(names: Sequence[str], first: F64, second: F64) -> list[Family]:
    """Of losses `first` and `second`, the families of `SMALLEST` and more, those most apart first."""
    away = (ranks(first) - ranks(second)) / len(names)
    found = []
    for each in dict.fromkeys(names):
        which = np.array([other == each for other in names])
        if which.sum() >= SMALLEST:
            correlation = rank_correlation(first[which].tolist(), second[which].tolist())
            found.append(Family(each, int(which.sum()), correlation, float(away[which].mean())))
    return sorted(found, key=lambda family: -abs(family.shift))


def ranks(values: F64) -> F64:
    """0 for the smallest; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: F64 = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return found

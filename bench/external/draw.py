"""Points of a measured space whose losses are spread: most of the space loses little, and a draw from it would too."""

from __future__ import annotations

import numpy as np

from tightwire.kv.profiler.pareto import F64
from tightwire.kv.profiler.space import Ints

BINS = 16


def spread(loss: F64, count: int, seed: int) -> Ints:
    """`count` different indices of `loss` > 0; every one of `BINS` equal parts of log loss that holds any is as likely."""
    usable = np.flatnonzero(loss > 0)
    edges = np.linspace(*np.log(np.quantile(loss[usable], [0, 1])), BINS + 1)
    part = np.digitize(np.log(loss[usable]), edges[1:-1])
    weight = 1 / np.bincount(part, minlength=BINS)[part]
    found: Ints = np.random.default_rng(seed).choice(usable, count, replace=False, p=weight / weight.sum())
    return found

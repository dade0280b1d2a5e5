"""What the surrogate sees of a point, all of it measured or known before any quality: for K and V the logarithms of error
and ratio of the side, the family of the side, and what is exact. Works for any stages: nothing here knows them by name.
"""

from __future__ import annotations

import numpy as np

from tightwire.kv.profiler.pareto import F64
from tightwire.kv.profiler.rates import Rate, Rates
from tightwire.kv.profiler.space import Ints, Space
from tightwire.kv.profiler.surrogate import Inputs

_FLOOR = 1e-5  # of error: below it nothing is lost
_PARTS = np.array([[1.0, 0, 1, 0, 1, 0, 1], [0.0, 1, 0, 1, 0, 1, 1], np.ones(7)])  # K's groups, V's, all
_SHARES = (0.4, 0.3, 0.3)
_ERROR_SCALE, _FAMILY_SCALE = 1.5, 0.7  # how far a length scale of 1 reaches


def inputs(space: Space, rates: Rates) -> Inputs:
    """Of each point of `space`."""
    of_points = [space.strategies[index] for index in space.at]
    k = [rates.k[f"{s.k}{s.exact}"] for s in of_points]
    v = [rates.v[f"{s.v}{s.exact}"] for s in of_points]
    errors = np.stack([_log_error(k), _log_error(v)], axis=1)
    half = rates.raw_bytes / 2
    ratios = np.log(half / np.stack([_bytes(k), _bytes(v)], axis=1))
    words = [*space.families, space.exact]
    columns = [errors / _ERROR_SCALE, ratios, *(_one_hot(word) * _FAMILY_SCALE for word in words)]
    group = np.repeat(np.arange(7), [1, 1, 1, 1, *(int(word.max()) + 1 for word in words)])
    both = np.logaddexp(errors[:, 0], errors[:, 1])
    basis = np.concatenate([errors, both[:, None]], axis=1)
    return Inputs(np.concatenate(columns, axis=1), group, _PARTS, _SHARES, basis)


def _log_error(rates: list[Rate]) -> F64:
    return np.log(np.array([rate.error for rate in rates]) + _FLOOR)


def _bytes(rates: list[Rate]) -> F64:
    return np.array([rate.bytes for rate in rates], np.float64)


def _one_hot(word: Ints) -> F64:
    return np.eye(int(word.max()) + 1)[word]

"""A Gaussian process over the quality loss (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006).

Glossary. n observations, m candidates, F inputs, G groups of inputs that share a length scale. y: what is modelled;
covariance = amplitude² · (kernel + noise on the diagonal), kernel = a weighted sum of Matérn-5/2 kernels, of the inputs of
K, of those of V, and of all: what a K side does is learnt from every V side it was seen with. Equations are those of the
book.
The mean is linear in `basis` columns, least squares with a small ridge; the process models what that leaves.
Amplitude follows from the data in closed form, length scales and noise from the marginal likelihood (5.8, with the
amplitude profiled out), coordinate by coordinate over a small grid: deterministic, and milliseconds at n <= 200.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tightwire.kv.profiler.pareto import F64
from tightwire.kv.profiler.space import Ints

LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
NOISES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_RIDGE = 1e-2
_SQRT5 = np.sqrt(5.0)


@dataclass(frozen=True, eq=False)
class Inputs:
    """`x` `[m, F]`, each column of a like scale; `group` `[F]`: which length scale it has; `parts` `[S, G]`: which groups
    each kernel of the sum sees, 1 or 0, its weight being `shares` `[S]`; `basis` `[m, B]`: columns of the mean (a constant
    is added)."""

    x: F64
    group: Ints
    parts: F64
    shares: tuple[float, ...]
    basis: F64

    def take(self, rows: Ints) -> Inputs:
        return replace(self, x=self.x[rows], basis=self.basis[rows])


@dataclass(frozen=True)
class Hyper:
    """Length scales, one for each group, and noise variance as a share of the amplitude's."""

    lengths: tuple[float, ...]
    noise: float


class Process:
    """A fit to y `[n]` at `inputs`; `loose` `[n]` multiplies the noise of single observations. `squares` `[G, n, n]`:
    the squared distances of the inputs, where they are known already."""

    def __init__(self, inputs: Inputs, y: F64, hyper: Hyper, loose: F64, squares: F64 | None = None) -> None:
        self.inputs, self.hyper = inputs, hyper
        design = _design(inputs.basis)
        penalty = _RIDGE * np.eye(design.shape[1])
        penalty[0, 0] = 1e-9
        self._slope = np.linalg.solve(design.T @ design + penalty, design.T @ y)
        left = y - design @ self._slope
        if squares is None:
            squares = _squares(inputs, inputs)
        gram = _kernel(inputs, squares, hyper)
        self._factor = np.linalg.cholesky(gram + np.diag(hyper.noise * loose + 1e-9))
        half = np.linalg.solve(self._factor, left)
        self._inverse = np.linalg.inv(self._factor)
        self._weights = self._inverse.T @ half
        self.amplitude2 = max(float(half @ half) / len(y), 1e-9)
        self.evidence = -len(y) / 2 * np.log(self.amplitude2) - float(np.log(np.diag(self._factor)).sum())

    def believe(self, at: Inputs) -> Belief:
        """What the fit says of the points `at` (2.25, 2.26)."""
        mean = _design(at.basis) @ self._slope
        belief = Belief(self, at, mean, np.empty((len(mean), 0)))
        cross = belief.cross(self.inputs)
        belief.mean = mean + cross @ self._weights
        belief.explained = cross @ self._inverse.T
        return belief

    def predict(self, at: Inputs) -> tuple[F64, F64]:
        """Mean and standard deviation `[m]` of what is observed without noise."""
        belief = self.believe(at)
        return belief.mean, belief.deviation


@dataclass(eq=False)
class Belief:
    """Of m points: the `mean` of y, and `explained` `[m, n]`, whose rows' products are how much covariance the
    observations explain."""

    process: Process
    at: Inputs
    mean: F64
    explained: F64

    @property
    def deviation(self) -> F64:
        left = np.maximum(1 - np.square(self.explained).sum(axis=1), 1e-9)
        deviation: F64 = np.sqrt(self.process.amplitude2 * left)
        return deviation

    def cross(self, inputs: Inputs) -> F64:
        """Prior correlation with the points `inputs` `[m, n]`."""
        return _kernel(inputs, _squares(self.at, inputs), self.process.hyper)

    def observe(self, point: int) -> None:
        """Take the mean of `point` as observed: no mean changes, the deviations around it shrink."""
        prior = self.cross(self.at.take(np.array([point])))[:, 0]
        left = prior - self.explained @ self.explained[point]
        column = left / np.sqrt(max(left[point], 1e-9) + self.process.hyper.noise)
        self.explained = np.concatenate([self.explained, column[:, None]], axis=1)


def fit(inputs: Inputs, y: F64, loose: F64, start: Hyper | None = None, rounds: int = 2) -> Process:
    """The most likely process on the grid, searched from `start`, one coordinate after the other."""
    groups = int(inputs.group.max()) + 1
    squares = _squares(inputs, inputs)
    best = Process(inputs, y, start or Hyper((2.0,) * groups, 1e-2), loose, squares)
    for _ in range(rounds):
        before = best.hyper
        for coordinate in range(groups + 1):
            for value in NOISES if coordinate == groups else LENGTHS:
                lengths = list(best.hyper.lengths)
                if coordinate < groups:
                    lengths[coordinate] = value
                tried = Hyper(tuple(lengths), value if coordinate == groups else best.hyper.noise)
                if tried != best.hyper:
                    found = Process(inputs, y, tried, loose, squares)
                    best = found if found.evidence > best.evidence else best
        if best.hyper == before:
            break
    return best


def _design(basis: F64) -> F64:
    return np.concatenate([np.ones((len(basis), 1)), basis], axis=1)


def _kernel(inputs: Inputs, squares: F64, hyper: Hyper) -> F64:
    """The sum of kernels of `squares` `[G, …]`."""
    weights = inputs.parts / np.square(hyper.lengths)  # [S, G]
    found = np.zeros(squares.shape[1:])
    for share, row in zip(inputs.shares, weights, strict=True):
        found += share * _matern(np.tensordot(row, squares, 1).astype(np.float64))
    return found


def _squares(a: Inputs, b: Inputs) -> F64:
    """Squared distances `[G, len(a), len(b)]` of the inputs of each group."""
    groups = range(int(a.group.max()) + 1)
    return np.stack([_distances(a.x[:, a.group == g], b.x[:, a.group == g]) for g in groups])


def _distances(a: F64, b: F64) -> F64:
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :] - 2 * a @ b.T
    found: F64 = np.maximum(squares, 0, out=squares)
    return found


def _matern(squares: F64) -> F64:
    """Matérn with nu = 5/2 of squared distances (4.17)."""
    distance = _SQRT5 * np.sqrt(squares)
    correlation: F64 = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return correlation

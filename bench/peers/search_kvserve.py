"""KVServe's published search (arXiv 2605.13734): ratios of all candidates first, then only accuracy is searched for.

A Gaussian process (Matérn 3/2) over the configuration; next = ratio × P(quality ≥ wanted) + exploration × deviation, the
exploration fading; 8 cold starts spread over the range of ratios; a point that fails rules out those with no more levels
anywhere, one that passes those with no fewer.
"""

from __future__ import annotations

import numpy as np

from peers.replay import Replay

COLD = 8
WANTED = 0.99
_EXPLORATION, _DECAY = 2.0, 0.97
_LENGTHS = (0.5, 1.0, 2.0, 4.0)
_NOISE = 1e-3


def search(replay: Replay, budget: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    space, ratio, x = replay.space, replay.best_ratio, replay.encoding
    order, open_ = np.argsort(ratio), np.ones(space.points, bool)
    chosen = [int(rng.choice(part)) for part in np.array_split(order, COLD)]
    seen: list[int] = []
    quality: list[float] = []
    exploration = _EXPLORATION
    while len(seen) < budget:
        if not chosen:
            mean, deviation = _predict(x, np.array(seen), np.array(quality))
            chance = _below((mean - WANTED) / deviation)
            score = ratio / ratio.max() * chance + exploration * deviation
            score[~open_] = -np.inf
            if not open_.any():
                return
            chosen = [int(score.argmax())]
            exploration *= _DECAY
        point = chosen.pop(0)
        seen.append(point)
        quality.append(replay.measure(point))
        open_[point] = False
        if quality[-1] < WANTED:
            open_ &= ~space.coarser(point)
        else:
            open_ &= ~space.finer(point)


def _predict(x: np.ndarray, seen: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre, spread = quality.mean(), quality.std() + 1e-6
    y = (quality - centre) / spread
    best = None
    for length in _LENGTHS:
        factor = np.linalg.cholesky(_matern32(x[seen], x[seen], length) + _NOISE * np.eye(len(seen)))
        half = np.linalg.solve(factor, y)
        evidence = -half @ half / 2 - np.log(np.diag(factor)).sum()
        if best is None or evidence > best[0]:
            best = (evidence, length, factor, half)
    _, length, factor, half = best
    cross = np.linalg.solve(factor, _matern32(x[seen], x, length))
    deviation = np.sqrt(np.maximum(1 - np.square(cross).sum(axis=0), 1e-9))
    return centre + spread * (half @ cross), spread * deviation


def _matern32(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :] - 2 * a @ b.T
    distance = np.sqrt(3 * np.maximum(squares, 0)) / length
    return (1 + distance) * np.exp(-distance)


def _below(z: np.ndarray) -> np.ndarray:
    grid = np.linspace(-8, 8, 1601)
    density = np.exp(-(grid**2) / 2)
    return np.interp(z, grid, np.cumsum(density) / density.sum())

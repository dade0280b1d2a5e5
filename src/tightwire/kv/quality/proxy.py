"""The proxy: how far attention's output moves on sampled prompts, layers and heads, under the model's own queries.

Per head: ‖softmax(q K̂ᵀ) V̂ − softmax(q Kᵀ) V‖² ÷ ‖softmax(q Kᵀ) V‖², over the answer's places; K and V as they arrive.
The error is the mean over heads. No pass through the model: the layers after an error do not see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from tightwire.kv.engines.batched import BatchedModel
from tightwire.kv.quality.sides import Group, Sides
from tightwire.kv.strategy import Strategy

PROMPTS = 1  # of each group
LAYERS = 8
HEADS = 4
Queries = list[list[torch.Tensor]]  # of each group, of each layer: [B, query heads, Q, D]


class Proxy:
    """Up to `PROMPTS` prompts of each group, `LAYERS` layers and `HEADS` KV heads, spread evenly."""

    def __init__(self, queries: Queries, groups: Sequence[Group], sides: Sides) -> None:
        """`queries` of all prompts of `groups`; `sides`: over `sample(groups)`."""
        _, layers, heads, _, self._dim = groups[0].k.shape
        self._sides, self._at = sides, np.ix_(_spread(layers, LAYERS), _spread(heads, HEADS))
        self._queries = []
        for found in queries:
            whole = torch.stack(found, dim=1)[:PROMPTS]
            self._queries.append(self._some(whole.reshape(len(whole), layers, heads, -1, self._dim)))
        self._expected = [self._out(n, g.k, g.v) for n, g in enumerate(sides.groups)]

    @staticmethod
    def sample(groups: Sequence[Group]) -> list[Group]:
        """The prompts that are used."""
        return [Group(group.k[:PROMPTS], group.v[:PROMPTS]) for group in groups]

    @staticmethod
    @contextmanager
    def watching(model: BatchedModel) -> Iterator[Queries]:
        """Collects the queries of the groups that run meanwhile, one pass for each."""
        found: Queries = []

        def seen(layer: int, queries: torch.Tensor) -> None:
            if layer == 0:
                found.append([])
            found[-1].append(queries.clone())

        with model.watch(seen):
            yield found

    def error(self, strategy: Strategy) -> float:
        """The mean over prompts, layers and heads; lower is better."""
        errors = []
        for number, (k, v) in enumerate(zip(*self._sides.arrived(strategy), strict=True)):
            expected = self._expected[number]
            lost = (self._out(number, k, v) - expected).square().sum(dim=(-2, -1))
            errors.append((lost / expected.square().sum(dim=(-2, -1)).clamp_min(1e-30)).mean())
        return float(torch.stack(errors).mean())

    def _out(self, number: int, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """fp32 `[B, layers, heads, queries of the head, D]`"""
        scores = self._queries[number] @ self._some(k).float().transpose(-1, -2) * self._dim**-0.5
        return torch.softmax(scores, dim=-1) @ self._some(v).float()

    def _some(self, x: torch.Tensor) -> torch.Tensor:
        """The sampled layers and heads of `[B, L, H, …]`."""
        layers, heads = self._at
        return x[:, torch.from_numpy(layers), torch.from_numpy(heads)]


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: the correlation of the ranks, equal values sharing the mean of theirs."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks

"""The proxy: how far attention's output moves on sampled prompts, layers and heads, under the model's own queries.

Per head: ‖softmax(q K̂ᵀ) V̂ − softmax(q Kᵀ) V‖² ÷ ‖softmax(q Kᵀ) V‖², over the answer's places; K and V as they arrive.
The error is the mean over heads. No pass through the model: the layers after an error do not see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from tightwire.kv.engines.batched import BatchedModel
from tightwire.kv.quality.sides import Group

Queries = list[list[torch.Tensor]]  # of each group, of each layer: [B, query heads, Q, D]


class Proxy:
    def __init__(self, queries: Queries, groups: Sequence[Group]) -> None:
        self._queries = [torch.stack(layers, dim=1) for layers in queries]  # [B, L, query heads, Q, D]
        self._scale = groups[0].k.shape[-1] ** -0.5
        self._expected = [self._out(n, g.k, g.v) for n, g in enumerate(groups)]

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

    def error(self, k: list[torch.Tensor], v: list[torch.Tensor]) -> float:
        errors = []
        for number, expected in enumerate(self._expected):
            out = self._out(number, k[number], v[number])
            lost = (out - expected).square().sum(dim=(-2, -1)) / expected.square().sum(dim=(-2, -1)).clamp_min(1e-30)
            errors.append(lost.mean())
        return float(torch.stack(errors).mean())

    def _out(self, number: int, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """fp32 `[B, L, H, queries of the head, D]`"""
        queries = self._queries[number]
        batch, layers, heads, _, dim = k.shape
        grouped = queries.reshape(batch, layers, heads, -1, dim)
        return torch.softmax(grouped @ k.float().transpose(-1, -2) * self._scale, dim=-1) @ v.float()

"""How much a strategy changes attention's output on one piece of KV, without a model: the guard's cheap error.

Queries are not at hand where KV is sent. Keys stand in for them: where a model attends to a token, some query looks like
its key. Of sampled layers and heads, with keys k [T, D] and the mean key m, the q are k − m at sampled tokens, and

    error = ‖softmax(q K̂ᵀ/√D) V̂ − softmax(q Kᵀ/√D) V‖² ÷ ‖softmax(q Kᵀ/√D) V‖²,  mean over layers and heads,

where no token attends to itself. Comparable only with itself: on other KV, or with another strategy.
"""

from __future__ import annotations

import torch

from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.strategy import Strategy

LAYERS, HEADS, QUERIES = 4, 4, 16


def attention_error(was: KVBlock, arrived: KVBlock) -> float:
    """0 is equal; not finite where something that arrived is not."""
    if was.tokens < 2:
        return 0.0
    at = torch.meshgrid(_spread(was.layers, LAYERS), _spread(was.heads, HEADS), indexing="ij")
    k, v, k_, v_ = (x[at].float() for x in (was.k, was.v, arrived.k, arrived.v))
    tokens = _spread(was.tokens, QUERIES)
    q = (k - k.mean(dim=2, keepdim=True))[:, :, tokens]
    itself = torch.zeros(len(tokens), was.tokens)
    itself[torch.arange(len(tokens)), tokens] = float("-inf")
    expected, found = _out(q, k, v, itself), _out(q, k_, v_, itself)
    lost = (found - expected).square().sum(dim=(-2, -1))
    return float((lost / expected.square().sum(dim=(-2, -1)).clamp_min(1e-30)).mean())


def strategy_error(block: KVBlock, strategy: Strategy) -> float:
    """Of `strategy` on one live piece: encoded and decoded once more, beside the transfer."""
    return attention_error(block, decode_block(encode_block(block, strategy)))


def _out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """fp32 `[layers, heads, queries, D]`"""
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask, dim=-1) @ v


def _spread(count: int, most: int) -> torch.Tensor:
    return torch.linspace(0, count - 1, min(count, most)).round().long()

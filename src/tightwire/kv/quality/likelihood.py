"""How much a strategy hurts a model: its answers with encoded and decoded KV against those with raw KV."""

from __future__ import annotations

from collections.abc import Sequence

from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.engines.transformers import Engine, assemble
from tightwire.kv.strategy import Strategy


def common_prefix(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of `a` that `b` repeats before the first difference; 1 for equal sequences."""
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return same / max(len(a), 1)


def through(kv: KVBlock, strategy: Strategy, chunk_tokens: int) -> KVBlock:
    """`kv` as it would arrive: encoded and decoded chunk by chunk."""
    return assemble([decode_block(encode_block(chunk, strategy)) for chunk in kv.token_chunks(chunk_tokens)])


def relative_likelihood(
    engine: Engine, prompts: Sequence[list[int]], strategy: Strategy, *, count: int = 12, chunk_tokens: int = 128
) -> float:
    """Mean over `count` positions of each prompt (token ids) of p(chosen) ÷ p(best): what raw KV thinks of the token
    that greedy decoding takes with `strategy`, teacher-forced on the continuation that raw KV gives.

    1 is equal; a flip between two tokens that raw KV finds nearly as good costs nearly nothing, a wrong answer all."""
    kept: list[float] = []
    for ids in prompts:
        raw = engine.prefill(ids[:-1])
        continuation = engine.generate(ids, raw, count)
        expected = engine.log_probabilities(ids, raw, continuation)
        chosen = engine.log_probabilities(ids, through(raw, strategy, chunk_tokens), continuation).argmax(dim=-1)
        lost = expected.gather(1, chosen[:, None])[:, 0] - expected.max(dim=-1).values
        kept += lost.exp().tolist()
    return sum(kept) / max(len(kept), 1)

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


def greedy_agreement(
    engine: Engine, prompts: Sequence[list[int]], strategy: Strategy, *, count: int = 48, chunk_tokens: int = 128
) -> float:
    """Share of positions at which greedy decoding takes the same token as with raw KV, teacher-forced on the
    continuation that raw KV gives. 1 is equal; the mean over `prompts` (token ids) of `count` positions each."""
    same = total = 0
    for ids in prompts:
        raw = engine.prefill(ids[:-1])
        continuation = engine.generate(ids, raw, count)
        chosen = engine.choices(ids, through(raw, strategy, chunk_tokens), continuation)
        expected = engine.choices(ids, raw, continuation)
        same += sum(a == b for a, b in zip(chosen, expected, strict=True))
        total += len(expected)
    return same / max(total, 1)

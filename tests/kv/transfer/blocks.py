"""KV to send, and what the tests of transfers share."""

import torch

from tightwire.kv.block import KVBlock
from tightwire.kv.strategy import Strategy

FOUR = Strategy.parse("hadamard+uniform:levels=16+pack")
LAYERS = 3


def make_block(tokens: int = 100) -> KVBlock:
    torch.manual_seed(3)
    return KVBlock(
        torch.randn(LAYERS, 2, tokens, 64).to(torch.bfloat16), torch.randn(LAYERS, 2, tokens, 64).to(torch.bfloat16)
    )


def layer_of(block: KVBlock, layer: int) -> KVBlock:
    return KVBlock(block.k[layer : layer + 1], block.v[layer : layer + 1], layer, 0, block.layers, block.tokens)


def joined(blocks: list[KVBlock]) -> KVBlock:
    """Token chunks of all layers as one block."""
    parts = sorted(blocks, key=lambda block: block.token_start)
    return KVBlock(torch.cat([part.k for part in parts], dim=2), torch.cat([part.v for part in parts], dim=2))

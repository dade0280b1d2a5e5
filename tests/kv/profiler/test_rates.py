from itertools import count

import pytest
import torch

from tightwire.kv.block import KVBlock
from tightwire.kv.codec import encode_block
from tightwire.kv.profiler import rates
from tightwire.kv.profiler.space import Space
from tightwire.kv.strategy import RAW, Strategy

TEXTS = [
    "uniform:levels=8+rans",
    "uniform:levels=8+pack/hadamard+uniform:levels=4+rans",
    "rope+allocate:centibits=250+rans/uniform:levels=6,axis=channel+pack@sinks=4,recent=32",
    "uniform:levels=8+pack@first=1,last=1",
    "exponent",
]


@pytest.fixture(scope="module")
def blocks() -> list[KVBlock]:
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(4, 2, 320, 64, generator=generator).bfloat16() for _ in "kv")
    return KVBlock(k, v).token_chunks(160)


def test_composed_bytes_are_those_of_real_frames(blocks: list[KVBlock]) -> None:
    space = Space([RAW, *map(Strategy.parse, TEXTS)])
    found = rates.compose(space, rates.measure(space, blocks))
    raw = sum(block.raw_bytes for block in blocks)
    for strategy, ratio in zip(space.strategies[1:], found.ratio[1:], strict=True):
        assert ratio == pytest.approx(raw / sum(len(encode_block(b, strategy)) for b in blocks), rel=2e-4), strategy


def test_seconds_are_the_clock_s_and_shrink_with_exact_tokens(blocks: list[KVBlock]) -> None:
    ticks = count()
    space = Space([Strategy.parse("uniform:levels=8+pack"), Strategy.parse("uniform:levels=8+pack@recent=160")])
    found = rates.compose(space, rates.measure(space, blocks, clock=lambda: float(next(ticks))))
    raw = sum(block.raw_bytes for block in blocks)
    assert found.encode_s * raw == pytest.approx([4.0, 2.0])  # a tick a block, K and V
    assert found.decode_s == pytest.approx(found.encode_s)


def test_error_falls_with_levels_and_is_zero_without_loss(blocks: list[KVBlock]) -> None:
    space = Space([Strategy.parse(text) for text in ("uniform:levels=4+pack", "uniform:levels=16+pack", "exponent")])
    k = rates.measure(space, blocks).k
    errors = [k[str(s.k)].error for s in space.strategies]
    assert errors[0] > 4 * errors[1] > 0
    assert errors[2] == 0

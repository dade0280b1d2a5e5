from random import Random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.kv.strategies import CHAINS, KINDS, blocks, hard_values, strategies
from tightwire.errors import FrameError
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.frame import parse
from tightwire.kv.stages.base import Lossless
from tightwire.kv.strategy import Exact, Strategy

HADAMARD4 = Strategy.parse("hadamard+uniform:levels=16+pack")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(blocks(), strategies)
def test_every_strategy_round_trips_and_both_paths_agree(block: KVBlock, strategy: Strategy) -> None:
    native = encode_block(block, strategy)
    assert native == encode_block(block, strategy, native_kernels=False)
    got, twin = decode_block(native), decode_block(native, native_kernels=False)
    assert torch.equal(got.k, twin.k)
    assert torch.equal(got.v, twin.v)
    assert (got.layer_start, got.token_start, got.k.dtype) == (block.layer_start, block.token_start, block.k.dtype)
    assert torch.isfinite(got.k.float()).all()
    assert len(native) <= len(encode_block(block, Strategy.parse("raw")))


@pytest.mark.parametrize("batch", range(10))
def test_a_sample_of_the_whole_space_round_trips(batch: int) -> None:
    """600 of all pairs of chains, each on an odd shape of a hard kind."""
    random = Random(batch)
    for index in range(60):
        strategy = Strategy(random.choice(CHAINS), random.choice(CHAINS), Exact(*random.choices((0, 0, 1, 3), k=4)))
        shape = (random.randint(1, 3), random.choice((1, 1, 2, 3)), random.choice((1, 2, 7, 33, 65)), random.choice((64, 80, 128)))
        dtype = random.choice((torch.bfloat16, torch.float16, torch.float32))
        k, v = (hard_values(random.choice(KINDS), shape, dtype, 100 * batch + index + side) for side in (0, 1))
        block = KVBlock(k, v, random.randint(0, 2), random.randint(0, 9))
        frame = encode_block(block, strategy)
        assert frame == encode_block(block, strategy, native_kernels=False), strategy.short
        got, twin = decode_block(frame), decode_block(frame, native_kernels=False)
        assert torch.equal(got.k, twin.k), strategy.short
        assert torch.equal(got.v, twin.v), strategy.short
        assert torch.isfinite(got.k.float()).all(), strategy.short
        assert torch.isfinite(got.v.float()).all(), strategy.short
        used = Strategy.parse(parse(frame).header.strategy)
        for side, chain, x in ((got.k, used.k, k), (got.v, used.v, v)):
            if isinstance(chain.last, Lossless):
                assert torch.equal(side.view(torch.uint8), x.view(torch.uint8)), strategy.short
            (first, last), (head, tail) = used.exact.within(block)
            for part in (slice(None, first), slice(shape[0] - last, None)):
                assert torch.equal(side[part], x[part])
            for part in (slice(None, head), slice(shape[2] - tail, None)):
                assert torch.equal(side[:, :, part], x[:, :, part])


def test_raw_is_exact_for_every_bit_pattern() -> None:
    patterns = torch.from_numpy(np.arange(65536, dtype=np.uint16).view(np.int16)).view(torch.bfloat16)
    block = KVBlock(patterns.reshape(1, 1, 512, 128), patterns.flip(0).reshape(1, 1, 512, 128))
    got = decode_block(encode_block(block, Strategy.parse("raw")))
    assert torch.equal(got.k.view(torch.int16), block.k.view(torch.int16))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "text", ["hadamard+uniform:levels=16+pack", "uniform:levels=10+zstd", "uniform:axis=channel+pack"]
)
def test_what_is_not_finite_is_sent_raw(bad: float, text: str) -> None:
    k = torch.randn(1, 2, 8, 64).to(torch.bfloat16)
    k[0, 1, 3, 7] = bad
    block = KVBlock(k, torch.randn(1, 2, 8, 64).to(torch.bfloat16))
    frame = encode_block(block, Strategy.parse(text))
    assert parse(frame).header.strategy == "raw"
    assert torch.equal(decode_block(frame).k.view(torch.int16), k.view(torch.int16))


def test_the_error_is_within_half_a_step() -> None:
    x = torch.randn(2, 2, 50, 64)
    got = decode_block(encode_block(KVBlock(x, x), Strategy.parse("uniform:levels=16+pack"))).k
    spread = x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)
    assert ((got - x).abs() <= spread / 15 / 2 * 1.03 + 1e-6).all()


def test_hadamard_spreads_an_outlier() -> None:
    x = torch.randn(1, 1, 64, 128)
    x[..., 5] *= 50
    x = x.to(torch.bfloat16)

    def error(text: str) -> float:
        return float((decode_block(encode_block(KVBlock(x, x), Strategy.parse(text))).k.float() - x.float()).norm())

    # one outlier channel: the rotation shares its range among all channels of the block
    assert error("hadamard+uniform:levels=16,axis=token+pack") < error("uniform:levels=16,axis=token+pack")


def test_the_ratio_is_what_the_format_says() -> None:
    block = KVBlock(torch.randn(4, 8, 256, 128).to(torch.bfloat16), torch.randn(4, 8, 256, 128).to(torch.bfloat16))
    frame = encode_block(block, HADAMARD4)
    assert block.raw_bytes / len(frame) == pytest.approx(16 / 4.5, rel=0.01)  # 4 bits and 32 bits for each 64


def test_a_frame_of_another_model_or_strategy_is_refused() -> None:
    block = KVBlock(torch.randn(1, 1, 4, 64), torch.randn(1, 1, 4, 64))
    frame = encode_block(block, HADAMARD4, "model-a")
    with pytest.raises(FrameError, match="model-a"):
        decode_block(frame, "model-b")

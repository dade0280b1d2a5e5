from random import Random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.kv.strategies import (
    CHAINS,
    KINDS,
    NOT_FINITE,
    any_block,
    any_chain,
    any_exact,
    blocks,
    hard_values,
    strategies,
)
from tightwire.errors import FrameError
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.frame import parse
from tightwire.kv.stages.base import Lossless
from tightwire.kv.strategy import RAW, Strategy

HADAMARD4 = Strategy.parse("hadamard+uniform:levels=16+pack")


def round_trip(block: KVBlock, strategy: Strategy) -> tuple[KVBlock, Strategy]:
    """(what arrives, the strategy that the frame names), after all that holds for every block and strategy."""
    frame = encode_block(block, strategy)
    assert frame == encode_block(block, strategy, native_kernels=False), strategy.short
    assert len(frame) <= len(encode_block(block, RAW))
    got, twin = decode_block(frame), decode_block(frame, native_kernels=False)
    assert (got.layer_start, got.token_start, got.k.dtype) == (block.layer_start, block.token_start, block.k.dtype)
    used = Strategy.parse(parse(frame).header.strategy)
    assert used == strategy or used.is_raw
    (first, last), (head, tail) = used.exact.within(block)
    for x, y, z, chain in ((block.k, got.k, twin.k, used.k), (block.v, got.v, twin.v, used.v)):
        assert same(y, z), strategy.short
        if isinstance(chain.last, Lossless):
            assert same(y, x), strategy.short
        for part in (slice(None, first), slice(block.layers - last, None)):
            assert same(y[part], x[part]), strategy.short
        for part in (slice(None, head), slice(block.tokens - tail, None)):
            assert same(y[:, :, part], x[:, :, part]), strategy.short
        odd = ~torch.isfinite(x)  # what is not finite arrives bit by bit, and nothing else becomes so
        assert same(y[odd], x[odd]), strategy.short
        assert torch.isfinite(y[~odd]).all(), strategy.short
    return got, used


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit by bit."""
    bits = torch.int16 if a.element_size() == 2 else torch.int32
    return a.dtype is b.dtype and torch.equal(a.view(bits), b.view(bits))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(blocks(), strategies)
def test_every_strategy_round_trips_and_both_paths_agree(block: KVBlock, strategy: Strategy) -> None:
    round_trip(block, strategy)


@pytest.mark.parametrize("batch", range(10))
def test_a_sample_of_the_enumerated_space_round_trips(batch: int) -> None:
    """500 that are sent as such, and about as many that fall back to raw."""
    random, coded = Random(batch), 0
    while coded < 50:
        strategy = Strategy(random.choice(CHAINS), random.choice(CHAINS), any_exact(random))
        coded += not round_trip(any_block(random), strategy)[1].is_raw


@pytest.mark.parametrize("batch", range(10))
def test_a_sample_of_all_valid_settings_round_trips(batch: int) -> None:
    """Several transforms, every axis and form, settings that nobody would enumerate."""
    random, coded = Random(1000 + batch), 0
    while coded < 10:
        strategy = Strategy(any_chain(random), any_chain(random), any_exact(random))
        coded += not round_trip(any_block(random), strategy)[1].is_raw


@pytest.mark.parametrize("batch", range(4))
def test_what_is_not_finite_is_carried_bit_by_bit_by_any_strategy(batch: int) -> None:
    random, coded = Random(2000 + batch), 0
    lossless = [chain for chain in CHAINS if isinstance(chain.last, Lossless)]
    for _ in range(50):
        k, v = (random.choice(random.choice((CHAINS, lossless))) for _ in range(2))
        strategy = Strategy(k, v, any_exact(random))
        coded += not round_trip(any_block(random, (*KINDS, *NOT_FINITE, *NOT_FINITE)), strategy)[1].is_raw
    assert coded  # where it stood in an exact part, or the chain was lossless


NEAR = [chain for chain in CHAINS if not any(stage.name == "delta" for stage in chain.stages)]  # its errors add up


@pytest.mark.parametrize("batch", range(4))
def test_what_arrives_is_nearer_than_nothing(batch: int) -> None:
    random = Random(3000 + batch)
    for seed in range(20):
        k, v = (hard_values("normal", (2, 2, 65, 64), torch.bfloat16, 100 * batch + 2 * seed + side) for side in (0, 1))
        strategy = Strategy(random.choice(NEAR), random.choice(NEAR))
        got, used = round_trip(KVBlock(k, v), strategy)
        assert used == strategy
        for x, y in ((k.float(), got.k.float()), (v.float(), got.v.float())):
            assert (y - x).norm() < x.norm(), strategy.short


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

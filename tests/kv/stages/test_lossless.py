import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kv.strategies import blocks, dtypes

from tightwire.errors import FrameError
from tightwire.kv.block import KVBlock, as_bytes
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.frame import parse
from tightwire.kv.stages import STAGES
from tightwire.kv.stages.base import Lossless
from tightwire.kv.stages.lossless.splitzip import SplitZip
from tightwire.kv.strategy import Strategy

STAGES_LOSSLESS: list[Lossless] = [
    stage for name in STAGES.names() if issubclass(STAGES[name], Lossless) for stage in STAGES[name].variants()
]  # type: ignore[misc]
by_stage = pytest.mark.parametrize("stage", STAGES_LOSSLESS, ids=str)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(as_bytes(a), as_bytes(b))


@settings(max_examples=200, deadline=None)
@given(blocks(), st.sampled_from(STAGES_LOSSLESS))
def test_every_bit_comes_back(block: KVBlock, stage: Lossless) -> None:
    for x in (block.k, block.v):
        assert same(stage.decode(memoryview(b"".join(stage.encode(x))), (*x.shape,), x.dtype), x)
    got = decode_block(encode_block(block, Strategy.parse(str(stage))))
    assert same(got.k, block.k)
    assert same(got.v, block.v)


@by_stage
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1, 512, 128), (1, 1, 1, 1), (1, 1, 3, 5), (2, 3, 1, 17)])
def test_random_bits_come_back(stage: Lossless, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)).view(dtype).reshape(shape)
    data = b"".join(stage.encode(x))
    assert same(stage.decode(memoryview(data), shape, dtype), x)


@by_stage
def test_every_bf16_pattern_comes_back(stage: Lossless) -> None:
    x = torch.from_numpy(np.arange(65536, dtype=np.uint16).view(np.int16)).view(torch.bfloat16).reshape(1, 1, 512, 128)
    assert same(stage.decode(memoryview(b"".join(stage.encode(x))), (1, 1, 512, 128), torch.bfloat16), x)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(STAGES_LOSSLESS), dtypes, st.binary(max_size=600), st.integers(0, 10**6), st.integers(1, 255))
def test_bad_bytes_are_a_frame_error(stage: Lossless, dtype: torch.dtype, junk: bytes, at: int, change: int) -> None:
    shape = (1, 2, 9, 15)
    good = b"".join(stage.encode(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)))
    damaged = bytearray(good)
    damaged[at % len(good)] ^= change
    for data in (junk, good[: at % len(good)], good + b"\0", bytes(damaged)):
        try:
            got = stage.decode(memoryview(data), shape, dtype)
        except FrameError as error:
            assert error.reason == "payload"
        else:
            assert len(data) == len(good) or data is junk
            assert (got.shape, got.dtype) == (shape, dtype)


def test_splitzip_takes_12_bits_of_16() -> None:
    x = torch.randn(2, 2, 256, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert len(b"".join(SplitZip().encode(x))) / as_bytes(x).size == pytest.approx(0.75, rel=0.01)
    assert len(b"".join(SplitZip().encode(x.float()))) / (4 * x.numel()) == pytest.approx(28 / 32, rel=0.01)
    frame = encode_block(KVBlock(x, x), Strategy.parse("splitzip"))
    assert parse(frame).header.strategy == "splitzip"


def test_splitzip_never_grows_by_more_than_a_byte() -> None:
    for seed in range(20):
        bits = np.random.default_rng(seed).integers(0, 65536, 37 + seed, np.uint16)
        x = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).reshape(1, 1, 1, -1)
        assert len(b"".join(SplitZip().encode(x))) <= 1 + 2 * x.numel()


def test_splitzip_escapes() -> None:
    x = torch.ones(1, 1, 8, 64, dtype=torch.bfloat16)
    x.view(-1)[torch.arange(20) * 20] = 2.0 ** torch.arange(-40, 60, 5).to(torch.bfloat16)
    data = b"".join(SplitZip().encode(x))
    escapes = int.from_bytes(data[17:21], "little")
    assert data[0] == 1
    assert escapes == 4  # 20 exponents and that of 1, which is one of them, less 16
    assert same(SplitZip().decode(memoryview(data), (1, 1, 8, 64), torch.bfloat16), x)
    positions = len(data) - 5 * escapes
    swapped = data[: positions] + data[positions + 4 : positions + 8] + data[positions : positions + 4] + data[positions + 8 :]
    known = data[:-1] + data[1:2]  # escapes for an exponent that has a code
    for bad in (swapped, known, b"\2" + data[1:], data[:2] + data[1:2] + data[3:], data[:17] + b"\xff" * 4 + data[21:]):
        with pytest.raises(FrameError):
            SplitZip().decode(memoryview(bad), (1, 1, 8, 64), torch.bfloat16)

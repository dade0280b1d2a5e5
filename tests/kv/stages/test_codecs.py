import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightwire.errors import ConfigError, FrameError
from tightwire.kv.block import U8, U16
from tightwire.kv.stages import STAGES
from tightwire.kv.stages.base import Codec
from tightwire.kv.stages.codecs.deflate import Deflate
from tightwire.kv.stages.codecs.lz4 import Lz4

CODECS: list[Codec] = [
    codec for name in STAGES.names() if issubclass(STAGES[name], Codec) for codec in STAGES[name].variants()
] + [Deflate(9)]  # type: ignore[misc]
by_codec = pytest.mark.parametrize("codec", CODECS, ids=str)


def symbols_of(levels: U16, count: int, seed: int = 0) -> U8:
    rng = np.random.default_rng(seed)
    rows = [np.minimum(rng.geometric(0.3, count) - 1, each - 1).astype(np.uint8) for each in levels]
    return np.stack(rows) if rows else np.empty((0, count), np.uint8)


@by_codec
def test_exact_for_every_number_of_levels(codec: Codec) -> None:
    for each in range(2, 257):
        levels = np.array([each, 2, each], np.uint16)
        symbols = symbols_of(levels, 33, each)
        symbols[0, 0] = each - 1
        assert np.array_equal(codec.decode(memoryview(codec.encode(symbols, levels)), levels, 33), symbols)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(CODECS),
    st.lists(st.integers(2, 256), min_size=1, max_size=9),
    st.sampled_from([1, 2, 7, 8, 9, 64, 511, 512, 513, 3000]),
    st.integers(0, 2**31),
)
def test_exact_for_every_shape(codec: Codec, counts: list[int], count: int, seed: int) -> None:
    levels = np.array(counts, np.uint16)
    symbols = (np.random.default_rng(seed).integers(0, 2**16, (len(levels), count)) % levels[:, None]).astype(np.uint8)
    assert np.array_equal(codec.decode(memoryview(codec.encode(symbols, levels)), levels, count), symbols)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CODECS), st.binary(max_size=200), st.integers(0, 10**6), st.integers(1, 255))
def test_garbage_is_a_frame_error_or_symbols_in_range(codec: Codec, junk: bytes, at: int, change: int) -> None:
    levels = np.array([5, 16, 3], np.uint16)
    good = bytes(codec.encode(symbols_of(levels, 100), levels))
    damaged = bytearray(good)
    damaged[at % len(good)] ^= change
    for data in (junk, good[: at % len(good)], bytes(damaged), good + junk[:1]):
        try:
            got = codec.decode(memoryview(data), levels, 100)
        except FrameError as error:
            assert error.reason == "payload"
        else:
            assert got.shape == (3, 100)
            assert (got.max(axis=1) < levels).all()


@by_codec
def test_truncated_is_refused(codec: Codec) -> None:
    levels = np.array([6] * 4, np.uint16)
    good = bytes(codec.encode(symbols_of(levels, 257), levels))
    for data in (b"", good[:-1], good[: len(good) // 2]):
        with pytest.raises(FrameError):
            codec.decode(memoryview(data), levels, 257)
    with pytest.raises(FrameError):
        codec.decode(memoryview(good), levels, 256)
    with pytest.raises(FrameError):
        codec.decode(memoryview(good), np.array([6] * 5, np.uint16), 257)


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_bytes_after_the_end_are_refused(codec: Codec) -> None:
    levels = np.array([6] * 4, np.uint16)
    good = bytes(codec.encode(symbols_of(levels, 257), levels))
    with pytest.raises(FrameError):
        codec.decode(memoryview(good + b"\0"), levels, 257)


@pytest.mark.parametrize("codec", [Lz4(), Deflate()], ids=str)
def test_few_bytes_take_little_memory(codec: Codec) -> None:
    levels = np.full(1000, 16, np.uint16)
    small = bytes(codec.encode(np.zeros((1, 1000), np.uint8), levels[:1]))
    tracemalloc.start()
    try:
        for data in (small, bytes(3000), b"\xff" * 3000):
            with pytest.raises(FrameError):
                codec.decode(memoryview(data), levels, 10**6)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", [Lz4(), Deflate()], ids=str)
def test_a_symbol_past_its_levels_is_refused(codec: Codec) -> None:
    symbols = np.full((2, 50), 7, np.uint8)
    data = codec.encode(symbols, np.array([8, 8], np.uint16))
    with pytest.raises(FrameError, match="levels"):
        codec.decode(memoryview(data), np.array([8, 7], np.uint16), 50)


def test_lz4_refuses_bits_where_no_symbol_is() -> None:
    levels = np.array([2], np.uint16)
    data = Lz4().encode(np.ones((1, 8), np.uint8), levels)
    with pytest.raises(FrameError, match="no symbol"):
        Lz4().decode(memoryview(data), levels, 7)


def test_lz4_cuts_long_runs() -> None:
    levels = np.array([4, 3], np.uint16)
    symbols = symbols_of(levels, (1 << 19) + 5)
    data = Lz4().encode(symbols, levels)
    assert np.array_equal(Lz4().decode(memoryview(data), levels, symbols.shape[1]), symbols)


def test_skewed_symbols_get_smaller() -> None:
    levels = np.full(4, 16, np.uint16)
    symbols = np.minimum(np.random.default_rng(0).geometric(0.8, (4, 4096)) - 1, 15).astype(np.uint8)
    packed = len(STAGES["pack"]().encode(symbols, levels))
    assert len(Lz4().encode(symbols, levels)) < 0.8 * packed
    assert len(Deflate(9).encode(symbols, levels)) <= len(Deflate(1).encode(symbols, levels)) < 0.6 * packed


def test_settings_out_of_range_are_refused() -> None:
    for level in (0, 10):
        with pytest.raises(ConfigError):
            Deflate(level)

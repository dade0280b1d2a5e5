"""Native kernels, on every instruction set of this machine, equal their numpy twins bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightwire.errors import ConfigError, FrameError
from tightwire.kv.kernels import native, rans, reference
from tightwire.kv.stages.codecs.pack import packed_bytes
from tightwire.kv.stages.transforms.hadamard import BOUND, weights

SHAPES = [(64, 64), (128, 64), (128, 128), (96, 32), (32, 32), (256, 64), (192, 192), (1024, 128)]


def some_values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """bf16 bits: normal values of some scale, with zeros, a constant row, subnormals and a large outlier among them."""
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4)).astype(np.float32)
    kind = rng.integers(0, 6)
    if kind == 1:
        x[0, 0] = -0.0
    elif kind == 2:
        x[0, -1] = 3.1
    elif kind == 3:
        x[-1] *= 1e-38
    elif kind == 4:
        x[0, 0, 5] = 3e38
    elif kind == 5:
        x[..., 3] *= 1000
    return reference.floor_bf16(x)


def joined(parts: list[memoryview]) -> np.ndarray:
    return np.frombuffer(b"".join(parts), np.uint8)


def twin(values: np.ndarray, levels: np.ndarray, mode: str, w: native.Weights, group: int) -> tuple[np.ndarray, ...]:
    x = reference.from_bf16(values)
    with np.errstate(all="ignore"):
        if mode == "rotate":
            x = reference.walsh_blocks(x * w.down[:, None])
        elif mode == "scale":
            x = (x - w.offset[:, None]) * w.down[:, None]
    return reference.quantize(x, group, levels)


def untwin(symbols: np.ndarray, lo: np.ndarray, step: np.ndarray, levels: np.ndarray, mode: str, w: native.Weights, group: int) -> np.ndarray:
    import torch

    from tightwire.kv.block import from_float32

    with np.errstate(all="ignore"):
        y = reference.dequantize(symbols, lo, step, group, levels)
        if mode == "rotate":
            y = reference.walsh_blocks(y) * w.up[:, None]
        elif mode == "scale":
            y = y * w.up[:, None] + w.offset[:, None]
    return from_float32(y, torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("isa", native.ISAS)
@settings(deadline=None, max_examples=120)
@given(
    st.integers(0, 2**31), st.sampled_from(SHAPES), st.integers(1, 40), st.booleans(),
    st.sampled_from(["plain", "rotate", "scale"]), st.sampled_from(["packed", "bytes", "rans"]),
)  # fmt: skip
def test_every_instruction_set_equals_the_reference(
    isa: str, seed: int, shape: tuple[int, int], tokens: int, alike: bool, mode: str, form: str
) -> None:
    dim, group = shape
    rng = np.random.default_rng(seed)
    segments = int(rng.integers(1, 4))
    values = some_values(rng, (segments, tokens, dim))
    levels = rng.integers(2, 257, segments).astype(np.uint16)
    if alike:
        levels[:] = rng.choice([2, 3, 4, 8, 12, 16, 32, 256])
    if mode == "rotate":
        down, up = weights(seed % 1000, dim)
        w = native.Weights(down[None], up[None])
    elif mode == "scale":
        scale = reference.from_bf16(reference.ceil_bf16(np.exp(rng.standard_normal((segments, dim))).astype(np.float32)))
        offset = rng.standard_normal((segments, dim)).astype(np.float32)
        w = native.Weights(np.float32(1) / scale, scale, offset)
    else:
        w = native.PLAIN
    symbols, lo, step = twin(values, levels, mode, w, group)
    finite = not (((lo & 0x7F80) == 0x7F80).any() or (step >= 0x7F80).any())
    if mode == "rotate":
        finite = bool((np.abs(reference.walsh_blocks(reference.from_bf16(values) * w.down[:, None])) < BOUND).all())
    got_lo, got_step = np.empty((2, segments, tokens * (dim // group)), np.uint16)
    out = np.empty_like(values)
    flat = symbols.reshape(segments, -1)
    if form == "rans":
        parts = native.encode_rans(values, levels, w, got_lo, got_step, isa=isa)
        assert (parts is not None) == finite
        if parts is None:
            return
        data = joined(parts)
        assert data.tobytes() == rans.encode(flat, levels)
        native.decode_rans(data, levels, w, got_lo, got_step, out, isa=isa)
    else:
        packed = form == "packed"
        data = np.empty(packed_bytes(levels, tokens * dim) if packed else values.size, np.uint8)
        assert native.encode(values, levels, w, got_lo, got_step, data, packed, isa) == finite
        if not finite:
            return
        wanted = flat.reshape(-1)
        if packed:
            wanted = np.concatenate([reference.pack_bits(row, native.bits_for(int(each))) for row, each in zip(flat, levels, strict=True)])
        np.testing.assert_array_equal(data, wanted)
        native.decode(data, levels, w, got_lo, got_step, out, packed, isa)
    np.testing.assert_array_equal(got_lo, lo.reshape(got_lo.shape))
    np.testing.assert_array_equal(got_step, step.reshape(got_step.shape))
    assert (flat.max(axis=1) < levels).all()
    np.testing.assert_array_equal(out, untwin(symbols, lo, step, levels, mode, w, group))


@pytest.mark.parametrize("isa", native.ISAS)
@pytest.mark.parametrize("mode", ["plain", "rotate", "scale"])
@pytest.mark.parametrize("bad", [0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81])
@pytest.mark.parametrize("shape", [(128, 64), (128, 128), (64, 64), (96, 32)])
def test_what_is_not_finite_is_seen_anywhere(isa: str, mode: str, bad: int, shape: tuple[int, int]) -> None:
    dim, group = shape
    rng = np.random.default_rng(bad)
    down, up = weights(0, dim)
    one = np.ones((1, dim), np.float32)
    w = {"plain": native.PLAIN, "rotate": native.Weights(down[None], up[None]), "scale": native.Weights(one, one, 0 * one)}[mode]
    for _ in range(20):
        values = reference.floor_bf16(rng.standard_normal((2, 21, dim)).astype(np.float32))
        values[rng.integers(2), rng.integers(21), rng.integers(dim)] = bad
        lo, step = np.empty((2, 2, 21 * (dim // group)), np.uint16)
        assert not native.encode(values, np.full(2, 16, np.uint16), w, lo, step, np.empty(values.size, np.uint8), False, isa)


@pytest.mark.parametrize("isa", native.ISAS)
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 30000), st.booleans())
def test_the_entropy_coder_equals_its_twin(isa: str, seed: int, segments: int, count: int, static: bool) -> None:
    rng = np.random.default_rng(seed)
    levels = rng.choice(np.array([2, 5, 12, 16, 17, 256], np.uint16), segments)
    skew = rng.choice([0.3, 1, 5])
    symbols = np.stack([(rng.random(count) ** skew * int(each)).astype(np.uint8) for each in levels])
    tables, held = native.OWN, None
    if static:
        held = {each: rans.normalise(np.where(np.arange(256) < each, 1 + 9 * (np.arange(256) < 3), 0)) for each in map(int, set(levels))}
        tables = native.Tables(np.array(list(held), np.uint16), np.stack(list(held.values())))
    stream = joined(native.rans_encode(symbols, levels, tables, isa))
    assert stream.tobytes() == rans.encode(symbols, levels, held)
    np.testing.assert_array_equal(native.rans_decode(stream, levels, count, tables, isa), symbols)
    np.testing.assert_array_equal(rans.decode(memoryview(stream.tobytes()), levels, count, held), symbols)


@pytest.mark.parametrize("isa", native.ISAS)
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_stream_is_refused_or_decodes_to_symbols(isa: str, draw: st.DataObject) -> None:
    count = draw.draw(st.sampled_from([40, 20000]))
    levels = np.array([3, 12], np.uint16)
    rng = np.random.default_rng(0)
    symbols = (rng.random((2, count)) ** 2 * levels[:, None]).astype(np.uint8)
    stream = bytearray(joined(native.rans_encode(symbols, levels)).tobytes())
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(stream) - 1))
        stream[at] ^= draw.draw(st.integers(1, 255))
    size = draw.draw(st.integers(0, len(stream)) | st.just(len(stream)))
    damaged = np.frombuffer(bytes(stream[:size]), np.uint8)
    results = []
    for decode in (lambda: native.rans_decode(damaged, levels, count, isa=isa), lambda: rans.decode(memoryview(damaged.tobytes()), levels, count)):
        try:
            results.append(decode().tobytes())
        except FrameError as error:
            results.append(str(error))
    assert results[0] == results[1]


def test_the_coded_size_is_the_entropy_and_the_stated_header() -> None:
    rng = np.random.default_rng(1)
    for levels in (2, 3, 6, 12, 16, 40, 256):
        symbols = np.clip(np.rint(rng.normal(levels / 2, levels / 7 + 0.2, (8, 65536))), 0, levels - 1).astype(np.uint8)
        counts = np.bincount(symbols.reshape(-1)).astype(float)
        shares = counts[counts > 0] / symbols.size
        entropy_bytes = -(shares * np.log2(shares)).sum() * symbols.size / 8
        size = sum(map(len, native.rans_encode(symbols, np.full(8, levels, np.uint16))))
        header = 2 * (4 + 2 + levels * 1.5 + 4 * rans.LANES)
        assert entropy_bytes <= size <= entropy_bytes * 1.005 + header


def test_splitting_exponents_is_exact() -> None:
    patterns = np.arange(65536, dtype=np.uint16).reshape(4, 128, 128)
    for isa in native.ISAS:
        rest, parts = native.exponent_encode(patterns, isa)
        out = np.empty_like(patterns)
        native.exponent_decode(rest, joined(parts), out, isa)
        np.testing.assert_array_equal(out, patterns)


def test_threads_give_the_same_bytes() -> None:
    values = some_values(np.random.default_rng(3), (40, 70, 128))
    levels = np.full(40, 12, np.uint16)
    results = []
    try:
        for threads in (1, 2, 5):
            native.set_threads(threads)
            lo, step = np.empty((2, 40, 70), np.uint16)
            parts = native.encode_rans(values, levels, native.PLAIN, lo, step)
            assert parts is not None
            data, out = joined(parts), np.empty_like(values)
            native.decode_rans(data, levels, native.PLAIN, lo, step, out)
            results.append((data.tobytes(), lo.tobytes(), out.tobytes()))
    finally:
        native.set_threads(1)
    assert results[0] == results[1] == results[2]
    with pytest.raises(ConfigError, match="threads=0"):
        native.set_threads(0)


def test_walsh_is_its_own_inverse() -> None:
    x = np.random.default_rng(0).standard_normal((3, 80)).astype(np.float32)
    down, up = weights(7, 80)
    np.testing.assert_allclose(reference.walsh_blocks(reference.walsh_blocks(x * down)) * up, x, atol=1e-5)


@given(st.binary(min_size=0, max_size=3000), st.integers(1, 8))
def test_packing_is_exact(data: bytes, bits: int) -> None:
    symbols = np.frombuffer(data, np.uint8) & ((1 << bits) - 1)
    packed = reference.pack_bits(symbols, bits)
    assert packed.size == -(-symbols.size * bits // 8)
    np.testing.assert_array_equal(reference.unpack_bits(packed, symbols.size, bits), symbols)


def test_packed_symbols_above_the_levels_are_refused() -> None:
    values, levels = np.zeros((1, 9, 64), np.uint16), np.full(1, 12, np.uint16)
    lo, step = np.zeros((2, 1, 9), np.uint16)
    for at in range(9 * 64):
        symbols = np.zeros(9 * 64, np.uint8)
        symbols[at] = 12
        with pytest.raises(FrameError):
            native.decode(reference.pack_bits(symbols, 4), levels, native.PLAIN, lo, step, values, True)


def test_wrong_shapes_are_refused() -> None:
    values, lo = np.zeros((2, 3, 64), np.uint16), np.zeros((2, 3), np.uint16)
    with pytest.raises(ValueError, match="size"):
        native.encode(values, np.full(2, 16, np.uint16), native.PLAIN, lo, lo, np.zeros(31, np.uint8), True)
    with pytest.raises(ValueError, match="levels"):
        native.encode(values, np.full(2, 1, np.uint16), native.PLAIN, lo, lo, np.zeros(192, np.uint8), True)
    with pytest.raises(ValueError, match="cells"):
        native.encode(values, np.full(2, 16, np.uint16), native.PLAIN, lo[:, :2], lo[:, :2], np.zeros(192, np.uint8), True)

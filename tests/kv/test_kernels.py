import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightwire.kv.kernels import native, reference
from tightwire.kv.stages.codecs.pack import bits_for
from tightwire.kv.stages.transforms.hadamard import weights


@pytest.mark.parametrize("isa", native.ISAS)
@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31), st.sampled_from([(64, 64), (128, 64), (128, 128), (80, 80), (96, 32), (16, 16), (240, 48)]),
    st.integers(2, 256), st.booleans(), st.booleans(),
)  # fmt: skip
def test_every_instruction_set_equals_the_reference(
    isa: str, seed: int, shape: tuple[int, int], levels: int, rotate: bool, bytewise: bool
) -> None:
    dim, group = shape
    rng = np.random.default_rng(seed)
    values = reference.floor_bf16((rng.standard_normal((7, dim)) * 10.0 ** rng.integers(-4, 4)).astype(np.float32))
    bits = 8 if bytewise else bits_for(levels)
    rotation = weights(seed % 1000, dim) if rotate else native.NO_TRANSFORM
    x = reference.from_bf16(values)
    if rotate:
        x = reference.walsh_blocks(x * rotation)
    symbols, lo, step = reference.quantize(x, group, levels)
    done = native.encode(values, rotation, group, levels, bits, isa)
    assert done is not None
    np.testing.assert_array_equal(done[0], lo)
    np.testing.assert_array_equal(done[1], step)
    np.testing.assert_array_equal(done[2].reshape(-1), reference.pack_bits(symbols.reshape(-1), bits))
    assert symbols.max() < levels


def test_walsh_is_its_own_inverse() -> None:
    x = np.random.default_rng(0).standard_normal((3, 80)).astype(np.float32)
    w = weights(7, 80)
    np.testing.assert_allclose(reference.walsh_blocks(reference.walsh_blocks(x * w)) * w, x, atol=1e-5)


@given(st.binary(min_size=0, max_size=50), st.integers(1, 8))
def test_packing_is_exact(data: bytes, bits: int) -> None:
    symbols = np.frombuffer(data, np.uint8) & ((1 << bits) - 1)
    packed = reference.pack_bits(symbols, bits)
    assert packed.size == -(-symbols.size * bits // 8)
    np.testing.assert_array_equal(reference.unpack_bits(packed, symbols.size, bits), symbols)


def test_wrong_shapes_are_refused() -> None:
    from tightwire import _kernels

    values, lo, packed = np.zeros((2, 64), np.uint16), np.zeros((2, 1), np.uint16), np.zeros((2, 31), np.uint8)
    with pytest.raises(ValueError, match="packed"):
        _kernels.fused_encode(values, native.NO_TRANSFORM, 16, 4, lo, lo, packed)
    with pytest.raises(ValueError, match="levels"):
        _kernels.fused_encode(values, native.NO_TRANSFORM, 1, 4, lo, lo, np.zeros((2, 32), np.uint8))

"""The Triton kernels of rows equal the numpy reference bit for bit. Run by test_triton.py, in Triton's interpreter and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tightwire.kv.block import from_float32
from tightwire.kv.kernels import native, reference
from tightwire.kv.kernels.triton.plan import LIMITS, Plan
from tightwire.kv.stages.transforms.hadamard import BOUND, weights

from .device import HERE

SHAPES = [(32, 16), (32, 32), (64, 16), (64, 64), (128, 32), (128, 64), (128, 128), (256, 64), (256, 256)]
MODES = ["plain", "rotate", "scale"]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy on Inf and NaN, which the kernels flag


KINDS = {
    "normal": lambda x: None,
    "minus zeros": lambda x: x[0, 0].fill(-0.0),
    "constant row": lambda x: x[0, -1].fill(3.1),
    "subnormals": lambda x: np.multiply(x[-1], 1e-38, out=x[-1]),
    "huge value": lambda x: x[0, 0, 5:6].fill(3e38),
    "outlier channel": lambda x: np.multiply(x[..., 3], 1000, out=x[..., 3]),
    "half way between symbols": lambda x: np.rint(x, out=x),
    "past the range when decoded": lambda x: (x[0, 0].fill(0), x[0, 0, ::2].fill(np.finfo(np.float32).max)),
}


def some_values(rng: np.random.Generator, shape: tuple[int, ...], kind: str = "normal") -> np.ndarray:
    """bf16 bits of some scale."""
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4)).astype(np.float32)
    KINDS[kind](x)
    return reference.floor_bf16(x)


def tensor(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).to(HERE)


def some_weights(mode: str, rng: np.random.Generator, segments: int, dim: int, shared: bool = True) -> native.Weights:
    if mode == "plain":
        return native.PLAIN
    if mode == "rotate":
        down, up = weights(int(rng.integers(1000)), dim)
        return native.Weights(down[None], up[None])
    size = (1 if shared else segments, dim)
    scale = reference.from_bf16(reference.ceil_bf16(np.exp(rng.standard_normal(size)).astype(np.float32)))
    return native.Weights(np.float32(1) / scale, scale, rng.standard_normal(size).astype(np.float32))


def forward(values: np.ndarray, mode: str, w: native.Weights) -> np.ndarray:
    x = reference.from_bf16(values)
    if mode == "rotate":
        return reference.walsh_blocks(x * w.down[:, None])
    return (x - w.offset[:, None]) * w.down[:, None] if mode == "scale" else x


def inverse(y: np.ndarray, mode: str, w: native.Weights) -> torch.Tensor:
    if mode == "rotate":
        y = reference.walsh_blocks(y) * w.up[:, None]
    elif mode == "scale":
        y = y * w.up[:, None] + w.offset[:, None]
    return from_float32(y, torch.bfloat16)


def packed(symbols: np.ndarray, levels: np.ndarray) -> np.ndarray:
    bits = map(native.bits_for, map(int, levels))
    return np.concatenate([reference.pack_bits(row.reshape(-1), b) for row, b in zip(symbols, bits, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=3)
@given(
    st.integers(0, 2**31), st.sampled_from(SHAPES), st.integers(1, 12) | st.integers(1, 24), st.booleans(),
    st.sampled_from(MODES), st.booleans(),
)  # fmt: skip
def test_kernels_equal_the_reference(
    kind: str, seed: int, shape: tuple[int, int], tokens: int, alike: bool, mode: str, packs: bool
) -> None:
    dim, group = shape
    rng = np.random.default_rng(seed)
    segments = int(rng.integers(1, 3))
    values = some_values(rng, (segments, tokens, dim), kind)
    levels = rng.integers(2, 257, segments).astype(np.uint16)
    if alike:
        levels[:] = rng.choice([2, 3, 4, 5, 8, 12, 16, 17, 32, 64, 65, 128, 256])
    w = some_weights(mode, rng, segments, dim, alike)
    y = forward(values, mode, w)
    symbols, lo, step = reference.quantize(y, group, levels)
    finite = bool(np.isfinite(y).all() and ((lo & 0x7F80) != 0x7F80).all() and (step < 0x7F80).all())
    if mode == "rotate":
        finite &= bool((np.abs(y) < BOUND).all())
    plan = Plan(levels, tokens, dim, group, packs, HERE, w)
    payload, bad = plan.encode(tensor(values))
    assert bool(bad) != finite
    if not finite:
        return
    wanted = packed(symbols, levels) if packs else symbols.reshape(-1)
    parts = np.split(payload.cpu().numpy(), [plan.params_bytes // 2, plan.params_bytes])
    for got, part in zip(parts, (lo.reshape(-1).view(np.uint8), step.reshape(-1).view(np.uint8), wanted), strict=True):
        np.testing.assert_array_equal(got, part)
    back, bad = plan.decode(payload)
    assert not bad
    arrived = inverse(reference.dequantize(symbols, lo, step, group, levels), mode, w)
    np.testing.assert_array_equal(back.view(torch.int16).cpu().numpy(), arrived.view(torch.int16).numpy())


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("dim", "tokens"), [(64, 19), (256, 3)])
def test_packing_of_every_width(dim: int, tokens: int, bits: int) -> None:
    """Values that are their own symbols: 0 … levels - 1, both ends in every group."""
    rng = np.random.default_rng(bits)
    levels = np.array([2**bits, 2 ** (9 - bits), 2**bits], np.uint16)  # segments of other widths beside it
    symbols = np.stack([rng.integers(0, each, (tokens, dim)).astype(np.uint8) for each in levels])
    symbols[..., ::32], symbols[..., 1::32] = 0, (levels - 1).astype(np.uint8)[:, None, None]
    plan = Plan(levels, tokens, dim, 32, True, HERE)
    x = tensor(reference.floor_bf16(symbols.astype(np.float32)))
    payload, bad = plan.encode(x)
    assert not bad
    np.testing.assert_array_equal(payload.cpu().numpy()[plan.params_bytes :], packed(symbols, levels))
    back, bad = plan.decode(payload)
    assert not bad
    assert torch.equal(back, x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [0x7F80, 0xFFC1, 0x7F81])
def test_what_is_not_finite_is_seen_anywhere(mode: str, bad: int) -> None:
    rng = np.random.default_rng(bad)
    dim, group = SHAPES[bad % len(SHAPES)]
    values = reference.floor_bf16(rng.standard_normal((2, 9, dim)).astype(np.float32))
    plan = Plan(np.full(2, 16, np.uint16), 9, dim, group, True, HERE, some_weights(mode, rng, 2, dim))
    assert not plan.encode(tensor(values))[1]
    values[rng.integers(2), rng.integers(9), rng.integers(dim)] = bad
    assert plan.encode(tensor(values))[1]


def test_what_decodes_past_the_range_is_clipped() -> None:
    """Steps are rounded up, so the last symbol can mean more than the largest bf16, or than the largest fp32."""
    levels = np.array([22, 26], np.uint16)
    values = np.full((2, 4, 64), 0x7F7F, np.uint16)  # the largest
    values[..., ::2] = 0
    plan = Plan(levels, 4, 64, 64, True, HERE)
    payload, bad = plan.encode(tensor(values))
    assert not bad
    step = payload[plan.params_bytes // 2 : plan.params_bytes].view(torch.bfloat16).double().reshape(2, 4)[:, 0].cpu().numpy()
    assert (step * (levels - 1) > [torch.finfo(torch.bfloat16).max + 2.0**119, torch.finfo(torch.float32).max]).all()
    assert (plan.decode(payload)[0][..., 1::2].view(torch.int16) == 0x7F7F).all()


def test_rows_that_are_not_there_are_not_judged() -> None:
    """Beyond the last row x is 0, and (0 - offset) / scale can overflow."""
    values = np.full((1, 3, 64), 0x40A0, np.uint16)  # 5.0
    one = np.ones((1, 64), np.float32)
    w = native.Weights(one * 2.0**126, one * 2.0**-126, one * 5)
    plan = Plan(np.full(1, 16, np.uint16), 3, 64, 64, True, HERE, w)
    payload, bad = plan.encode(tensor(values))
    assert not bad
    assert (plan.decode(payload)[0] == 5).all()


@pytest.mark.parametrize("packs", [False, True])
def test_decoding_sees_what_no_encoder_writes(packs: bool) -> None:
    plan = Plan(np.array([12, 256], np.uint16), 5, 128, 64, packs, HERE)
    payload, _ = plan.encode(tensor(some_values(np.random.default_rng(0), (2, 5, 128))))
    assert not plan.decode(payload)[1]
    for at, value in ((1, 0x7F), (plan.params_bytes - 1, 0x80), (plan.params_bytes, 0xFF)):
        broken = payload.clone()
        broken[at] = value  # lo Inf or NaN; a step below 0; a symbol 15 or 255 of 12
        broken[0] = 0x80 if at == 1 else broken[0]
        assert plan.decode(broken)[1]


def test_rows_apart_in_memory_are_read_and_written_in_place() -> None:
    """[T, H, D], as an engine holds them, taken as [H, T, D]."""
    x = tensor(some_values(np.random.default_rng(6), (9, 4, 64))).transpose(0, 1)
    plan = Plan(np.full(4, 16, np.uint16), 9, 64, 32, True, HERE)
    payload, _ = plan.encode(x)
    assert torch.equal(payload, plan.encode(x.contiguous())[0])
    out = torch.zeros(9, 4, 64, dtype=torch.bfloat16, device=HERE).transpose(0, 1)
    plan.decode(payload, out)
    assert torch.equal(out, plan.decode(payload)[0])


def test_what_does_not_fit_is_refused() -> None:
    sixteen = np.full(2, 16, np.uint16)
    for arguments in ((sixteen, 4, 96, 32), (sixteen, 4, 64, 8), (sixteen, 0, 64, 32), (sixteen + 250, 4, 64, 32)):
        with pytest.raises(ValueError, match=r"covers|levels"):
            Plan(*arguments, True, HERE)
    three = np.ones((3, 64), np.float32)
    with pytest.raises(ValueError, match="weights"):
        Plan(sixteen, 4, 64, 32, True, HERE, native.Weights(three, three))
    plan = Plan(sixteen, 4, 64, 32, True, HERE)
    with pytest.raises(ValueError, match="not bf16"):
        plan.encode(torch.zeros(2, 4, 64, device=HERE))
    with pytest.raises(ValueError, match="payload"):
        plan.decode(torch.zeros(7, dtype=torch.uint8, device=HERE))


def test_the_bound_of_rotated_values_is_that_of_the_stage() -> None:
    assert LIMITS[MODES.index("rotate")] == BOUND

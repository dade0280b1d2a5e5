"""Transforms and corrections by themselves, in chains, with tables, and on what they were made for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kv.strategies import blocks
from transformers import LlamaConfig, Qwen2Config
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

from tightwire.errors import ConfigError, FrameError
from tightwire.kv import tables
from tightwire.kv.block import F32, KVBlock, to_float32
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.frame import Frame, parse
from tightwire.kv.stages import STAGES
from tightwire.kv.stages.base import Correction, NotFiniteError, Place, Transform
from tightwire.kv.stages.corrections.lowrank import LowRank
from tightwire.kv.stages.transforms import rope
from tightwire.kv.stages.transforms.delta import Delta
from tightwire.kv.stages.transforms.equalize import Equalize
from tightwire.kv.stages.transforms.outliers import Outliers
from tightwire.kv.stages.transforms.pca import Pca
from tightwire.kv.stages.transforms.rope import Rope
from tightwire.kv.strategy import Strategy

FP32_MAX = float(np.finfo(np.float32).max)
BF16_MAX = float(torch.finfo(torch.bfloat16).max)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
places = st.builds(Place, st.integers(0, 3), st.integers(0, 200_000), st.sampled_from(["k", "v"]))


@st.composite
def tensors(draw: st.DrawFn) -> F32:
    """Odd shapes and hard values, fp32 `[L, H, T, D]`."""
    x = to_float32(draw(blocks()).k)
    kind = draw(st.sampled_from(["as it is", "channels", "fp32 max", "bf16 max", "one fp32 max"]))
    if kind == "channels":
        x = np.ascontiguousarray(np.broadcast_to(x[:, :, :1], x.shape))
    elif kind in ("fp32 max", "bf16 max"):
        x = np.where(x >= 0, 1, -1).astype(np.float32) * np.float32(FP32_MAX if kind == "fp32 max" else BF16_MAX)
    elif kind == "one fp32 max":
        x = x.copy()
        x.flat[0] = FP32_MAX
    return x


def there_and_back(stage: Transform, x: F32, place: Place = Place()) -> F32 | None:
    """What `inverse` gives of what `forward` gave; None where the values are refused."""
    shape = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    try:
        y, side = stage.forward(x, place)
    except NotFiniteError:
        return None
    assert y.dtype == np.float32
    assert y.shape == stage.out_shape(shape)
    assert stage.sends_side or side == b""
    if not np.isfinite(y).all():  # the quantizer refuses it
        return None
    before = y.copy()
    back = stage.inverse(y, memoryview(side), place, shape)
    assert back.dtype == np.float32
    assert back.shape == shape
    assert np.array_equal(before, y)
    return back


def error(text: str, x: torch.Tensor) -> float:
    """Norm of the error of K under a strategy, which must not fall back to raw."""
    frame = encode_block(KVBlock(x, x), Strategy.parse(text))
    assert parse(frame).header.strategy != "raw"
    return float((decode_block(frame).k - x).norm())


# by themselves


@quick
@given(tensors(), places)
def test_equalize_is_exact_up_to_fp32_rounding(x: F32, place: Place) -> None:
    back = there_and_back(Equalize(), x, place)
    if back is not None:
        spread = (x.max(axis=2, keepdims=True).astype(np.float64) - x.min(axis=2, keepdims=True)) + 2.0**-125
        assert (np.abs(back.astype(np.float64) - x) <= 2.0**-21 * spread + 2.0**-22 * np.abs(x)).all()


def test_equalize_brings_channels_to_the_unit_range() -> None:
    x = 3 + np.random.default_rng(0).normal(size=(2, 3, 50, 64)) * np.logspace(-6, 6, 64)
    y, _ = Equalize().forward(x.astype(np.float32), Place())
    assert np.abs(y).max() <= 1.02


@quick
@given(tensors(), places, st.sampled_from(Delta.variants()))
def test_delta_is_exact_up_to_fp32_rounding(x: F32, place: Place, stage: Delta) -> None:
    back = there_and_back(stage, x, place)
    if back is not None:
        scale = np.abs(x).max(axis=2, keepdims=True)
        assert (np.abs(back.astype(np.float64) - x) <= 2.0**-22 * stage.every * scale).all()
        assert np.array_equal(back[:, :, :: stage.every], x[:, :, :: stage.every])


def test_delta_takes_the_differences_that_it_says() -> None:
    x = np.arange(7, dtype=np.float32).reshape(1, 1, 7, 1) ** 2  # 0 1 4 9 16 25 36
    anchor, _ = Delta(every=3).forward(x, Place())
    previous, _ = Delta(mode="previous", every=3).forward(x, Place())
    assert anchor.ravel().tolist() == [0, 1, 4, 9, 7, 16, 36]
    assert previous.ravel().tolist() == [0, 1, 3, 9, 7, 9, 36]


@quick
@given(tensors(), places, st.sampled_from(Rope.variants()))
def test_rope_is_exact_up_to_fp32_rounding_and_leaves_v(x: F32, place: Place, stage: Rope) -> None:
    back = there_and_back(stage, x, place)
    if place.side == "v":
        assert back is not None
        assert np.array_equal(back, x)
    elif back is not None:
        a, b = np.split(np.abs(x.astype(np.float64)), 2, axis=3)
        bound = 2.0**-21 * np.concatenate([a + b, a + b], axis=3) + 2.0**-146
        assert (np.abs(np.clip(back, -FP32_MAX, FP32_MAX).astype(np.float64) - x) <= bound).all()


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("theta", [10000, 1000000])
@pytest.mark.parametrize(
    ("config", "module", "embedding"),
    [
        (LlamaConfig, modeling_llama, modeling_llama.LlamaRotaryEmbedding),
        (Qwen2Config, modeling_qwen2, modeling_qwen2.Qwen2RotaryEmbedding),
    ],
)
def test_rope_removes_the_rotation_of_transformers(dim, theta, config, module, embedding) -> None:
    parameters = {"rope_type": "default", "rope_theta": theta}
    made = config(hidden_size=4 * dim, num_attention_heads=4, head_dim=dim, rope_parameters=parameters)
    check_against(module, embedding(made), Rope(theta=theta), dim)


def check_against(module, embedding, stage: Rope, dim: int) -> None:
    start, x = 300, torch.randn(1, 2, 40, dim, generator=torch.Generator().manual_seed(1))
    cos, sin = embedding(x, torch.arange(start, start + 40)[None])
    rotated = module.apply_rotary_pos_emb(x, x, cos, sin)[1].numpy()
    plain, _ = stage.forward(rotated, Place(token_start=start))
    assert np.abs(plain - x.numpy()).max() < 2e-4  # transformers has fp32 angles: 2^-24 · 340 each
    again = stage.inverse(x.numpy(), memoryview(b""), Place(token_start=start), (1, 2, 40, dim))
    assert np.abs(again - rotated).max() < 2e-4


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0},
    ],
)
def test_rope_takes_scaled_frequencies_from_a_table(scaling: dict) -> None:
    parameters = {"rope_theta": 500000.0, "original_max_position_embeddings": 8192, **scaling}
    shape = {"hidden_size": 512, "num_attention_heads": 4, "head_dim": 128, "max_position_embeddings": 32768}
    config = LlamaConfig(**shape, rope_parameters=parameters)
    made = modeling_llama.LlamaRotaryEmbedding(config)
    table = rope.from_inverse_frequencies(made.inv_freq.numpy(), "m", made.attention_scaling)
    check_against(modeling_llama, made, Rope(table=table.name), 128)
    with pytest.raises(tables.MissingTableError, match="head_dim 128, not 64"):
        Rope(table=table.name).forward(np.zeros((1, 1, 1, 64), np.float32), Place())


def test_rope_refuses_what_it_cannot_rotate() -> None:
    odd = np.zeros((1, 1, 2, 15), np.float32)
    with pytest.raises(ConfigError, match="odd"):
        Rope().forward(odd, Place())
    with pytest.raises(FrameError, match="odd"):
        Rope().inverse(odd, memoryview(b""), Place(), (1, 1, 2, 15))
    with pytest.raises(ConfigError, match="from_inverse_frequencies"):
        Rope().calibrate([], "m")
    with pytest.raises(ConfigError, match="finite"):
        rope.from_inverse_frequencies(np.array([np.nan], np.float32), "m")


@quick
@given(tensors(), places, st.sampled_from(["dim", "heads"]))
def test_pca_with_all_directions_loses_only_by_rounding(x: F32, place: Place, over: str) -> None:
    back = there_and_back(Pca(over=over, keep=100), x, place)
    assert (back is None) == bool(np.abs(x).max() > 2.0**100)
    if back is not None:
        _, heads, tokens, dim = x.shape
        whole = tokens >= (dim if over == "dim" else heads * dim)
        lost = np.linalg.norm(back.astype(np.float64) - x)
        assert lost <= 2.0 ** (-18 if whole else -7) * np.linalg.norm(x.astype(np.float64)) + 2.0**-130


@quick
@given(tensors(), places, st.sampled_from(Pca.variants()))
def test_pca_loses_no_more_than_the_spread(x: F32, place: Place, stage: Pca) -> None:
    back = there_and_back(stage, x, place)
    if back is not None:
        x = x.astype(np.float64)
        spread = np.linalg.norm(x - x.mean(axis=2, keepdims=True))
        rounded_mean = 2.0**-8 * np.linalg.norm(x)
        assert np.isfinite(back).all()
        assert np.linalg.norm(back - x) <= spread + rounded_mean + 2.0**-130


@pytest.mark.parametrize("over", ["dim", "heads"])
def test_pca_on_low_rank_values_is_nearly_exact(over: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 1, 100, 8)) @ rng.normal(size=(2, 1, 8, 3 * 64)) + rng.normal(size=(2, 1, 1, 3 * 64))
    x = x.reshape(2, 100, 3, 64).swapaxes(1, 2).astype(np.float32)
    stage = Pca(over=over, keep=25)
    back = there_and_back(stage, x)
    assert back is not None
    assert np.linalg.norm(back - x) < 0.003 * np.linalg.norm(x)  # bf16 tilts the directions by 2^-9
    assert stage.out_shape((2, 3, 100, 64)) == ((2, 3, 100, 16) if over == "dim" else (2, 1, 100, 48))


@quick
@given(tensors(), places, st.sampled_from(Outliers.variants()))
def test_outliers_come_back_exactly_and_the_others_stay(x: F32, place: Place, stage: Outliers) -> None:
    back = there_and_back(stage, x, place)
    assert back is not None
    assert np.array_equal(back, x)
    y, side = stage.forward(x, place)
    assert ((y >= x.min()) & (y <= x.max())).all()
    shape = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    lost = np.float32(1234.5678)
    lossy = stage.inverse(np.full_like(x, lost), memoryview(side), place, shape)
    assert ((lossy == x) | ((lossy == lost) & (y == x))).all()


def test_outliers_leave_the_narrowest_range() -> None:
    x = np.array([0, 1, 2, 3, 100, -7, 90, 4, 5, 6], np.float32).reshape(1, 1, 1, 10)
    y, side = Outliers(permille=200, by="token").forward(x, Place())
    assert y.ravel().tolist() == [0, 1, 2, 3, 6, -7, 6, 4, 5, 6]
    assert side[0] == 0
    assert list(side[1:3]) == [4, 6]
    assert len(side) == 1 + 2 + 2 * 2


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 2), (torch.float16, 2), (torch.float32, 4)])
def test_outliers_are_held_in_as_few_bytes_as_are_exact(dtype: torch.dtype, width: int) -> None:
    x = to_float32(torch.randn(1, 2, 300, 16).to(dtype))
    _, side = Outliers().forward(x, Place())
    assert len(side) == 1 + 2 * 16 * 3 * (2 + width)  # 3 of 300 a channel, positions above 255


@quick
@given(tensors(), st.sampled_from(LowRank.variants()))
def test_lowrank_never_makes_it_worse(residual: F32, stage: LowRank) -> None:
    try:
        side = stage.describe(residual, Place())
    except NotFiniteError:
        assert np.abs(residual).max() > 2.0**100
        return
    y = np.zeros_like(residual)
    left = residual.astype(np.float64) - stage.correct(y, memoryview(side), Place())
    before, after = (np.linalg.norm(r, axis=(2, 3)) for r in (residual.astype(np.float64), left))
    assert (after <= before * (1 + 2.0**-8) + 2.0**-130).all()
    layers, heads, tokens, dim = residual.shape
    assert len(side) == 2 * layers * heads * min(stage.rank, tokens, dim) * (tokens + dim)


# in chains


CHAINS = [
    "equalize+uniform:levels=16,axis=token+pack",
    "equalize+hadamard+uniform:levels=16+pack",
    "delta+uniform:levels=16,axis=channel+zstd",
    "delta:mode=previous,every=4+uniform:levels=32+pack",
    "rope+uniform:levels=8,axis=channel+pack",
    "rope+pca:over=heads,keep=25+uniform:levels=16,axis=channel+pack",
    "pca:keep=50+uniform:levels=16+pack",
    "pca:keep=1+hadamard+uniform:levels=16+zstd",
    "outliers+uniform:levels=4,axis=channel+pack",
    "outliers:by=token+hadamard+uniform:levels=4+pack",
    "lowrank+uniform:levels=4+pack",
    "rope+outliers+lowrank:rank=2+pca:keep=75+lowrank+uniform:levels=4,axis=channel+pack",
]


@quick
@given(blocks(), st.sampled_from(CHAINS), st.sampled_from(["", "@sinks=3,recent=5", "@first=1"]))
def test_whole_chains_give_finite_results(block: KVBlock, text: str, exact: str) -> None:
    got = decode_block(encode_block(block, Strategy.parse(text + exact)))
    assert got.k.shape == block.k.shape
    assert torch.isfinite(got.k.float()).all()
    assert torch.isfinite(got.v.float()).all()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # the last level of a quantizer may pass the maximum
@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize("extreme", [FP32_MAX, -FP32_MAX, BF16_MAX, 1e-45, 1e30])
def test_extreme_values_come_back_finite(text: str, extreme: float) -> None:
    for shape in ((1, 2, 6, 32), (2, 1, 200, 64)):
        k = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        k[0, 0, 3, 5] = extreme
        v = torch.full(shape, extreme)
        got = decode_block(encode_block(KVBlock(k, v), Strategy.parse(text)))
        assert torch.isfinite(got.k).all()
        assert torch.isfinite(got.v).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("stage", [Pca(), Outliers()], ids=str)
def test_what_is_not_finite_is_refused(stage: Transform, bad: float) -> None:
    with pytest.raises(NotFiniteError):
        stage.forward(np.full((1, 1, 4, 16), bad, np.float32), Place())


SENDERS = [Equalize(), Pca(keep=50), Pca(over="heads", keep=10), Outliers(), Outliers(by="token"), LowRank()]


@pytest.mark.parametrize("stage", SENDERS, ids=str)
def test_damaged_side_information_is_refused(stage: Transform | Correction) -> None:
    shape, place = (2, 3, 40, 32), Place()
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)

    def arrive(side: bytes) -> F32:
        if isinstance(stage, Correction):
            return stage.correct(x, memoryview(side), place)
        return stage.inverse(np.zeros(stage.out_shape(shape), np.float32), memoryview(side), place, shape)

    side = stage.describe(x, place) if isinstance(stage, Correction) else stage.forward(x, place)[1]
    arrive(side)
    for damaged in (b"", side[:1], side[:-1], side + b"\0", side[1:], b"\xff" * len(side)):
        with pytest.raises(FrameError, match="payload"):
            arrive(damaged)


@pytest.mark.parametrize("text", [text for text in CHAINS if not text.startswith(("rope", "delta"))])
def test_a_wrong_length_of_side_information_is_refused(text: str) -> None:
    x, strategy = torch.randn(1, 2, 60, 32), Strategy.parse(text)
    frame = parse(encode_block(KVBlock(x, x), strategy))
    assert frame.header.strategy == str(strategy)
    for wrong in (0, 1, 2**16, 2**32 - 1):
        payload = memoryview(wrong.to_bytes(4, "little") + bytes(frame.payload[4:]))
        with pytest.raises(FrameError, match="payload"):
            decode_block(Frame(frame.header, payload))


# tables


@pytest.mark.parametrize("stage", [Equalize(), Pca(keep=50), Pca(over="heads", keep=50)], ids=str)
def test_a_table_is_calibrated_saved_loaded_and_named_by_frames(
    stage: Transform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(4, 2, 200, 32, generator=torch.Generator().manual_seed(5)) * torch.logspace(-2, 1, 32)
    table = stage.calibrate([to_float32(x[:, :, :100]), to_float32(x[:, :, 100:])], "model")
    table.save(tmp_path)
    named = replace(stage, table=table.name)
    text = f"{named}+uniform:levels=256,axis=token+pack"
    frame = encode_block(KVBlock(x[1:3], x[1:3], layer_start=1), Strategy.parse(text))
    assert parse(frame).header.strategy.startswith(str(named))

    monkeypatch.setattr(tables, "_held", {})
    monkeypatch.delenv("TIGHTWIRE_TABLES", raising=False)
    with pytest.raises(FrameError) as caught:
        decode_block(frame)
    assert caught.value.reason == "table"
    monkeypatch.setenv("TIGHTWIRE_TABLES", str(tmp_path))
    got = decode_block(frame).k
    whole = there_and_back(stage, to_float32(x[1:3]))  # what the stage loses with parameters of the block's own
    assert whole is not None
    assert float((got - x[1:3]).norm()) <= 1.1 * np.linalg.norm(whole - x[1:3].numpy()) + 0.05 * float(x[1:3].norm())
    with pytest.raises(tables.MissingTableError, match="layers"):
        encode_block(KVBlock(x, x, layer_start=1), Strategy.parse(text))
    with pytest.raises(tables.MissingTableError, match="layers"):
        encode_block(KVBlock(x[..., :16], x[..., :16]), Strategy.parse(text))


def test_a_pca_table_serves_any_smaller_keep() -> None:
    x = np.random.default_rng(6).normal(size=(1, 2, 90, 32)).astype(np.float32)
    table = Pca(keep=50).calibrate([x], "model")
    y, _ = Pca(keep=25, table=table.name).forward(x, Place())
    assert y.shape == (1, 2, 90, 8)
    with pytest.raises(tables.MissingTableError, match="16 directions"):
        Pca(keep=75, table=table.name).forward(x, Place())
    with pytest.raises(ConfigError, match="no samples"):
        Pca().calibrate([], "model")


@pytest.mark.parametrize("name", ["equalize", "delta", "rope", "pca", "outliers", "lowrank"])
def test_variants_are_distinct_and_need_no_table(name: str) -> None:
    variants = STAGES[name].variants()
    assert len(set(variants)) == len(variants) > 0
    assert all(getattr(stage, "table", "own") == "own" for stage in variants)


# on what they were made for


def test_equalize_lets_unlike_channels_share_parameters() -> None:
    x = torch.randn(1, 2, 100, 64, generator=torch.Generator().manual_seed(7)) * torch.logspace(-2, 1, 64)
    small = x[..., :32]
    after, before = (
        decode_block(encode_block(KVBlock(x, x), Strategy.parse(f"{start}uniform:levels=16,axis=token+pack"))).k
        for start in ("equalize+", "")
    )
    assert float((after[..., :32] - small).norm()) < 0.1 * float((before[..., :32] - small).norm())


def test_delta_helps_where_neighbours_are_alike() -> None:
    steps = torch.randn(1, 2, 200, 64, generator=torch.Generator().manual_seed(8))
    x = 50 * torch.randn(1, 2, 1, 64, generator=torch.Generator().manual_seed(9)) + steps.cumsum(2) * 0.02
    y, _ = Delta().forward(to_float32(x), Place())
    between = np.delete(y, np.s_[::10], axis=2)
    assert np.abs(between).max() < 0.02 * float(x.abs().max())  # and the anchors stay


def test_rope_removal_makes_a_rotated_constant_steady() -> None:
    constant = np.random.default_rng(10).normal(size=(1, 2, 1, 64)).astype(np.float32)
    noise = 0.05 * np.random.default_rng(11).normal(size=(1, 2, 256, 64)).astype(np.float32)
    place = Place(token_start=77)
    k = torch.from_numpy(Rope().inverse(constant + noise, memoryview(b""), place, (1, 2, 256, 64)))
    plain, _ = Rope().forward(k.numpy(), place)
    assert np.ptp(plain, axis=2).mean() < 0.3 * np.ptp(k.numpy(), axis=2).mean()
    sides = (KVBlock(k, k, token_start=77), "uniform:levels=4,axis=channel+pack")
    with_, without = (
        float((decode_block(encode_block(sides[0], Strategy.parse(start + sides[1]))).k - k).norm())
        for start in ("rope+", "")
    )
    assert with_ < 0.3 * without


@pytest.mark.parametrize("by", ["channel", "token"])
def test_outliers_keep_the_range_narrow(by: str) -> None:
    x = torch.randn(2, 2, 200, 128, generator=torch.Generator().manual_seed(12))
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(13)) < 0.002] *= 60
    plain = f"uniform:levels=4,axis={by}+pack"
    assert error(f"outliers:permille=20,by={by}+{plain}", x) < 0.5 * error(plain, x)


def test_pca_spends_symbols_where_the_values_are() -> None:
    rng = torch.Generator().manual_seed(14)
    x = torch.randn(1, 1, 1000, 8, generator=rng) @ torch.randn(1, 1, 8, 64, generator=rng)
    x = x + 0.02 * torch.randn(x.shape, generator=rng)
    # half the symbols, and yet a smaller error
    assert error("pca:keep=25+uniform:levels=16,axis=channel+pack", x) < error("uniform:levels=16,axis=channel+pack", x)


def test_lowrank_lowers_the_error_and_gear_lowers_it_more() -> None:
    rng = torch.Generator().manual_seed(15)
    x = 3 * torch.randn(1, 2, 300, 3, generator=rng) @ torch.randn(1, 2, 3, 128, generator=rng)
    x = x + torch.randn(x.shape, generator=rng)
    x[torch.rand(x.shape, generator=rng) < 0.002] *= 20
    plain = "uniform:levels=4,axis=channel+pack"
    starts = ("", "lowrank:rank=2+", "lowrank:rank=8+", "outliers+lowrank:rank=8+")
    errors = [error(start + plain, x) for start in starts]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]

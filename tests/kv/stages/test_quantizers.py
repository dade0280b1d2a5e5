from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kv.strategies import blocks

from tightwire.errors import ConfigError, FrameError
from tightwire.kv import tables
from tightwire.kv.block import F32, KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.frame import Frame, parse
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import NotFiniteError, Place, Quantized, Quantizer
from tightwire.kv.stages.codecs.rans import Rans
from tightwire.kv.stages.quantizers import groups
from tightwire.kv.stages.quantizers.allocate import MENU, Allocate, spend
from tightwire.kv.stages.quantizers.deadzone import Deadzone
from tightwire.kv.stages.quantizers.fp8 import Fp8
from tightwire.kv.stages.quantizers.mixed import Mixed
from tightwire.kv.stages.quantizers.nonuniform import Nonuniform, lloyd, normal
from tightwire.kv.stages.quantizers.uniform import Uniform
from tightwire.kv.strategy import Chain, Strategy

HERE = Place()
AXES = ("token", "channel", "group", "tensor")
QUANTIZERS: list[Quantizer] = [
    *(Mixed(axis=axis, by=by, group=24) for axis in AXES for by in ("head", "layer")),
    *(Nonuniform(levels, book, axis, 24) for levels in (3, 16, 256) for book in ("lloyd", "normal") for axis in AXES),
    *(Fp8(form, axis, 24) for form in ("e4m3", "e5m2") for axis in AXES),
    *(Allocate(bits, channels) for bits in (100, 250, 800) for channels in (1, 16, 24, 256)),
    *(Deadzone(step, channels) for step in (5, 100, 300) for channels in (1, 8, 24, 256)),
]


@st.composite
def tensors(draw: st.DrawFn) -> F32:
    """Odd shapes and hard values, up to the largest of bf16."""
    tokens, dim = draw(st.sampled_from([1, 2, 7, 33])), draw(st.sampled_from([16, 64, 80, 128]))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), tokens, dim)
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x = rng.standard_normal(shape, np.float32) * np.float32(draw(st.sampled_from([0, 1e-42, 1e-39, 1, 1e4, 1e37])))
    kind = draw(st.sampled_from(["plain", "constant channel", "outlier", "offset", "one sign"]))
    if kind == "constant channel":
        x[..., 3] = 3.1
    elif kind == "outlier":
        x.reshape(-1)[rng.integers(x.size)] = draw(st.sampled_from([3.3895314e38, -3.3895314e38, 1e-38, 30000]))
    elif kind == "offset":
        x += np.float32(1000)
    elif kind == "one sign":
        x = -np.abs(x)
    return x


def through(stage: Quantizer, x: F32, place: Place = HERE) -> tuple[Quantized, F32]:
    """The stage's symbols and what comes back, by way of what a receiver knows."""
    q = stage.quantize(x, place)
    layout = stage.layout(memoryview(q.params), x.shape, place)
    assert np.array_equal(layout.levels, q.levels)
    assert (layout.count, layout.params_bytes) == (q.symbols.shape[1], len(q.params))
    assert q.symbols.shape[0] == len(q.levels)
    assert (q.symbols.max(axis=1) < q.levels).all()
    return q, stage.dequantize(Quantized(q.symbols, layout.levels, memoryview(q.params)), x.shape, place)


def cell_wise(stage: Quantizer, x: F32, of: str) -> np.ndarray:
    """`of` (max, min, std) over the cell of every value."""
    axis = {"token": 3, "channel": 2, "tensor": (2, 3)}.get(stage.axis)
    if axis is not None:
        return np.broadcast_to(getattr(x, of)(axis=axis, keepdims=True), x.shape)
    parts = np.split(x, range(stage.group, x.shape[3], stage.group), axis=3)
    return np.concatenate([np.broadcast_to(getattr(p, of)(axis=3, keepdims=True), p.shape) for p in parts], axis=3)


def shared(stage: Nonuniform, q: Quantized, shape: tuple[int, ...]) -> list[np.ndarray]:
    """(mean, scale) of the cell of every value."""
    found = []
    for bits in groups.read(q.params, shape, stage.cells):
        x = np.zeros((len(q.levels), *shape[2:]))
        rows = stage.cells.turn(x)
        cells = reference.from_bf16(bits).reshape(*rows.shape[:2], -1).astype(np.float64)
        rows[:] = np.repeat(cells, stage.cells.size(rows), axis=-1)[..., : rows.shape[-1]]  # a view of x
        found.append(x.reshape(shape))
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tensors(), st.sampled_from(QUANTIZERS))
def test_errors_are_within_the_bound(x: F32, stage: Quantizer) -> None:
    try:
        q, got = through(stage, x)
    except NotFiniteError:
        assert np.ptp(x.astype(np.float64)) > (2.0**126 if isinstance(stage, Deadzone) else 3e38)
        return
    wide = x.astype(np.float64)
    most = np.finfo(np.float32).max
    error = np.abs(np.clip(got, -most, most) - wide)  # as the codec clips it to the range of the dtype
    tiny = 2.0**-125  # a step is a normal bf16
    slack = 2.0**-20 * np.abs(wide).max() + tiny  # fp32 rounding of lo + q · step
    if isinstance(stage, Fp8):
        share, least = (2.0**-4, 2.0**-10 / 448) if stage.form == "e4m3" else (2.0**-3, 2.0**-17 / 57344)
        bound = np.maximum(np.abs(wide) * share, cell_wise(stage, np.abs(wide), "max") * least * 1.02) + tiny
    elif isinstance(stage, Nonuniform):
        mean, scale = shared(stage, q, x.shape)
        points = stage.points
        bound = np.maximum(scale * np.diff(points).max() / 2, np.abs(wide - mean) - scale * points[-1]) * 1.0001 + slack
        if stage.book == "normal":
            assert (np.abs(wide - mean) <= scale * 1.0001 + tiny).all()  # nothing is clipped
    elif isinstance(stage, Mixed):
        spread = cell_wise(stage, wide, "max") - cell_wise(stage, wide, "min")
        lo = np.abs(cell_wise(stage, wide, "min")) * 2.0**-7
        top = (q.levels.astype(np.float64) - 1).reshape(*x.shape[:2], 1, 1)
        bound = (spread + lo) / top / 2 * 1.01 + slack
    elif isinstance(stage, Deadzone):
        power = np.sqrt(np.square(wide).mean())
        largest = np.abs(wide).max(axis=(2, 3), keepdims=True)
        bound = 0.6 * 1.032 * np.maximum(stage.step / 100 * power, largest / 108) + slack
    else:
        assert isinstance(stage, Allocate)
        spread = np.ptp(wide, axis=2, keepdims=True) + np.abs(wide.min(axis=2, keepdims=True)) * 2.0**-7
        top = np.repeat(q.levels.astype(np.float64) - 1, stage.width(x.shape[3])).reshape(*x.shape[:2], 1, x.shape[3])
        bound = spread / top / 2 * 1.01 + slack
    assert (error <= bound).all(), (error / bound).max()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(blocks(), st.sampled_from(QUANTIZERS), st.sampled_from(["pack", "zstd", "lz4", "deflate"]))
def test_whole_chains_round_trip(block: KVBlock, stage: Quantizer, codec: str) -> None:
    strategy = Strategy.parse(f"{stage}+{codec}/uniform:levels=16+{codec}")
    assert Strategy.parse(strategy.short) == strategy
    got = decode_block(encode_block(block, strategy))
    assert (got.k.shape, got.k.dtype) == (block.k.shape, block.k.dtype)
    assert torch.isfinite(got.k.float()).all()


@pytest.mark.parametrize("stage", QUANTIZERS, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(stage: Quantizer, bad: float) -> None:
    x = np.ones((1, 2, 5, 64), np.float32)
    x[0, 1, 3, 7] = bad
    with pytest.raises(NotFiniteError):
        stage.quantize(x, HERE)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(QUANTIZERS), st.binary(max_size=2000), st.integers(0, 100), st.integers(0, 255))
def test_bad_bytes_are_a_frame_error(stage: Quantizer, junk: bytes, at: int, value: int) -> None:
    block = KVBlock(torch.randn(2, 2, 16, 64), torch.randn(2, 2, 16, 64))
    frame = parse(encode_block(block, Strategy(*2 * (Chain((stage, *Strategy.parse("uniform+pack").k.stages[1:])),))))
    assert frame.header.strategy != "raw"
    damaged = bytearray(frame.payload)
    damaged[at] = value
    for payload in (junk, bytes(frame.payload[:-1]), bytes(damaged)):
        sizes = (len(payload) // 2, len(payload) - len(payload) // 2)
        header = frame.header.__class__(*(getattr(frame.header, name) for name in frame.header.__struct_fields__[:-2]), *sizes)
        try:
            decode_block(Frame(header, memoryview(payload)))
        except FrameError as error:
            assert error.reason == "payload"


@pytest.mark.parametrize("stage", [Nonuniform(), Fp8(), Allocate(), Deadzone(), Mixed()], ids=str)
def test_parameters_that_no_encoder_writes_are_refused(stage: Quantizer) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 64), np.float32)
    q = stage.quantize(x, HERE)
    params = bytearray(q.params)
    params[-2:] = b"\x80\x7f"  # Inf
    for bad in (bytes(params), bytes(params[:-2]) + b"\x80\xbf", bytes(params[:-1]), bytes(params) + b"\0"):
        with pytest.raises(FrameError):
            stage.dequantize(Quantized(q.symbols, q.levels, bad), x.shape, HERE)


@pytest.mark.parametrize(("form", "pattern"), [("e4m3", 0x7F), ("e4m3", 0xFF), ("e5m2", 0x7C), ("e5m2", 0xFE)])
def test_fp8_refuses_what_is_not_a_number(form: str, pattern: int) -> None:
    x = np.ones((1, 1, 2, 16), np.float32)
    q = Fp8(form).quantize(x, HERE)
    q.symbols[0, 3] = pattern
    with pytest.raises(FrameError, match="not a number"):
        Fp8(form).dequantize(q, x.shape, HERE)


def test_fp8_keeps_what_fp8_can_hold() -> None:
    x = np.array([448, -448, 1, 0, 0.25, -1.125, 2.0**-9, 240], np.float32).reshape(1, 1, 1, 8)
    assert np.array_equal(through(Fp8("e4m3"), x)[1], x)  # the scale is 1


def test_known_books() -> None:
    assert lloyd(2) == pytest.approx([-0.7979, 0.7979], abs=1e-3)
    assert lloyd(4) == pytest.approx([-1.510, -0.4528, 0.4528, 1.510], abs=1e-3)
    # Max 1960, table 1
    assert lloyd(16)[8:] == pytest.approx([0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326], abs=2e-3)
    # QLoRA, appendix E
    nf4 = [
        -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
        0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
    ]  # fmt: skip
    assert normal(16) == pytest.approx(nf4, abs=5e-4)


def test_the_books_never_change() -> None:
    from hashlib import sha256

    books = [*(lloyd(n) for n in range(2, 257)), *(normal(n) for n in range(3, 257))]
    assert all((np.diff(book) > 0).all() for book in books)
    assert sha256(b"".join(book.astype("<f4").tobytes() for book in books)).hexdigest() == BOOKS


BOOKS = "6e27656ffaf7006ab24f23a2d223a611d53004e15f4d473137f5076ade1e1b5d"


@pytest.mark.parametrize("levels", [4, 8, 16])
@pytest.mark.parametrize("axis", ["token", "tensor", "channel"])
def test_nonuniform_beats_uniform_on_gaussian_data(levels: int, axis: str) -> None:
    x = np.random.default_rng(1).standard_normal((2, 2, 128, 128), np.float32)

    def mse(stage: Quantizer) -> float:
        return float(np.square(through(stage, x)[1] - x).mean())

    even = mse(Uniform(levels, axis))
    # the range of 128 values adapts to them, so at 16 levels min-max is near; over a whole head it is not
    assert mse(Nonuniform(levels, "lloyd", axis)) < (0.96 if levels == 16 else 0.9) * even
    if levels == 16:
        assert mse(Nonuniform(levels, "normal", axis)) < even
        assert mse(Nonuniform(levels, "lloyd", axis)) == pytest.approx(0.0095, rel=0.05)


def uneven(seed: int, shape: tuple[int, int, int, int] = (4, 4, 64, 64)) -> F32:
    """Heads and channels of very different variance."""
    rng = np.random.default_rng(seed)
    scales = np.exp(1.5 * rng.standard_normal((shape[0], shape[1], 1, shape[3])))
    return (rng.standard_normal(shape) * np.sort(scales, axis=-1)).astype(np.float32)


@pytest.mark.parametrize("centibits", [100, 130, 158, 200, 250, 300, 400, 799, 800])
@pytest.mark.parametrize("channels", [4, 16])
def test_allocate_spends_its_budget(centibits: int, channels: int) -> None:
    q, _ = through(Allocate(centibits, channels), uneven(0))
    spent = np.log2(q.levels).mean() * 100
    assert 0.98 * centibits <= spent <= centibits * (1 + 1e-9)


@pytest.mark.parametrize(("levels", "centibits"), [(4, 200), (8, 300), (16, 400)])
def test_allocate_beats_uniform_at_equal_bits(levels: int, centibits: int) -> None:
    x = uneven(1)
    got, even = through(Allocate(centibits, 8), x)[1], through(Uniform(levels, "channel"), x)[1]
    assert np.square(got - x).mean() < 0.5 * np.square(even - x).mean()


def test_the_greedy_choice_is_the_best() -> None:
    from itertools import product

    w = np.array([100.0, 7.0, 1.0, 0.0])
    chosen = spend(w, 2.0)
    best = float((w / (MENU[chosen] - 1.0) ** 2).sum())
    used = np.log2(MENU[chosen]).mean()
    for other in product(range(8), repeat=4):
        levels = MENU[list(other)].astype(float)
        if np.log2(levels).mean() <= used + 1e-9:
            assert (w / (levels - 1) ** 2).sum() >= best - 1e-9
    assert MENU[chosen][-1] == 2  # nothing is spent on a constant


def test_allocate_is_quick_for_many_segments() -> None:
    from time import perf_counter

    w = np.random.default_rng(0).lognormal(size=4096)
    start = perf_counter()
    spend(w, 3.3)
    assert perf_counter() - start < 1


def test_allocate_refuses_levels_past_the_budget() -> None:
    stage, shape = Allocate(200), (1, 1, 8, 64)
    params = bytearray(stage.quantize(uneven(0, shape), HERE).params)
    for bad, text in ((len(MENU), "index"), (len(MENU) - 1, "bits")):
        params[0] = bad
        with pytest.raises(FrameError, match=text):
            stage.layout(memoryview(params), shape, HERE)


@pytest.mark.parametrize(("centibits", "step"), [(150, 60), (200, 30)])
def test_deadzone_behind_an_entropy_coder_beats_allocate(centibits: int, step: int) -> None:
    x, size, error = uneven(3, (2, 2, 128, 64)), [], []
    for stage in (Allocate(centibits, 8), Deadzone(step, 8)):
        q, got = through(stage, x)
        size.append(len(q.params) + len(Rans().encode(q.symbols, q.levels)))
        error.append(np.square(got - x).mean())
    assert size[1] < 0.65 * size[0]
    assert error[1] < error[0]


def test_deadzone_takes_the_steps_of_a_table() -> None:
    table = tables.Table.make("deadzone", "model", weight=np.array([1.0, 0.25, 4.0], np.float32))
    x = np.random.default_rng(0).standard_normal((2, 1, 256, 64), np.float32)
    stage = Deadzone(40, table=table.name)
    errors = np.square(through(stage, x, Place(1))[1] - x).mean(axis=(1, 2, 3))
    assert errors[0] == pytest.approx(0.1**2 / 12, rel=0.2)  # a wide zero costs a little
    assert errors[1] > 100 * errors[0]
    with pytest.raises(tables.MissingTableError, match="layers 2 to 4"):
        stage.quantize(x, Place(2))


def test_deadzone_gives_small_channels_nothing() -> None:
    x = uneven(4, (1, 2, 64, 64))
    x[..., :32] *= 1e-3
    q, got = through(Deadzone(50, 8), x)
    assert q.symbols.shape == (8, 8 * 64)  # those of the large ones
    assert not got[..., :32].any()
    assert got[..., 32:].any()
    nothing, got = through(Deadzone(), np.zeros((2, 2, 4, 64), np.float32))
    assert (nothing.levels.tolist(), nothing.symbols.any(), got.any()) == ([2], False, False)


def test_deadzone_refuses_steps_that_are_not_finite() -> None:
    stage, shape = Deadzone(), (1, 1, 8, 64)
    params = bytearray(stage.quantize(uneven(0, shape), HERE).params)
    for bits in (0x7F80, 0x7F00, 0x8000, 0xBF80):  # infinite, its multiple is, and negative ones
        with pytest.raises(FrameError, match="not finite"):
            stage.layout(memoryview(bits.to_bytes(2, "little") + bytes(params[2:])), shape, HERE)


@pytest.mark.parametrize(("share", "low"), [(0, 0), (50, 8), (80, 13), (100, 16)])
@pytest.mark.parametrize("by", ["head", "layer"])
def test_mixed_puts_its_share_of_heads_low(share: int, low: int, by: str) -> None:
    q, _ = through(Mixed(share=share, by=by), uneven(2))
    if by == "head":
        assert (q.levels == 6).sum() == low
    else:
        assert (q.levels == 6).sum() == round(share / 100 * 4) * 4
        assert (np.ptp(q.levels.reshape(4, 4), axis=1) == 0).all()


def test_mixed_keeps_the_heads_of_the_widest_range() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 32, 64), np.float32)
    x[1, 2] *= 30
    x[0, 3] *= 10
    levels = through(Mixed(share=75), x)[0].levels.reshape(2, 4)
    assert [*zip(*np.nonzero(levels == 12), strict=True)] == [(0, 3), (1, 2)]


@pytest.mark.parametrize("stage", [Mixed(share=60), Mixed(share=50, by="layer"), Allocate(250, 8)], ids=str)
def test_calibrate_save_load_use(stage: Mixed | Allocate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [uneven(7), uneven(7) + np.float32(0.01)]
    table = stage.calibrate(samples, "model")
    path = table.save(tmp_path)
    monkeypatch.setattr(tables, "_held", {})
    named = replace(stage, table=table.name)
    with pytest.raises(tables.MissingTableError):
        named.quantize(samples[0], HERE)
    assert tables.load(path).name == table.name
    whole, _ = through(named, samples[0])
    monkeypatch.setattr(tables, "_held", {})  # the receiver needs no table
    named.dequantize(whole, samples[0].shape, HERE)
    monkeypatch.setenv("TIGHTWIRE_TABLES", str(tmp_path))
    text = f"{named}+pack"
    block = KVBlock(torch.from_numpy(samples[0]), torch.from_numpy(samples[1]))
    frame = encode_block(block, Strategy.parse(text))
    assert parse(frame).header.strategy == text
    assert torch.isfinite(decode_block(frame).k).all()
    if isinstance(stage, Mixed):  # layer by layer, the same heads are high
        parts = [through(named, samples[0][i : i + 1], Place(i))[0].levels for i in range(4)]
        assert np.array_equal(np.concatenate(parts), whole.levels)
    else:  # heads count by their relative error: the loud ones lose bits to the others
        own = through(stage, samples[0])[0].levels.astype(float).reshape(16, -1).mean(axis=1)
        with_table = whole.levels.astype(float).reshape(16, -1).mean(axis=1)
        assert with_table.std() < own.std()
    with pytest.raises((ConfigError, tables.MissingTableError)):
        named.quantize(samples[0], Place(1))  # there is no layer 4


def test_settings_out_of_range_are_refused() -> None:
    for wrong in (
        lambda: Mixed(high=4, low=6), lambda: Mixed(share=101), lambda: Nonuniform(257), lambda: Nonuniform(2, "normal"),
        lambda: Nonuniform(axis="row"), lambda: Allocate(99), lambda: Allocate(801), lambda: Allocate(channels=0), lambda: Deadzone(0),
        lambda: Deadzone(1001), lambda: Deadzone(channels=0), lambda: Fp8("e3m4"), lambda: Fp8(group=0),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(ConfigError):
        Fp8().calibrate([], "model")

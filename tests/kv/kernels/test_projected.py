"""Chains through principal components: the kernel, on every instruction set of this machine, against the stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tightwire.errors import FrameError
from tightwire.kv.codec import decode_tensor, encode_tensor
from tightwire.kv.kernels import native, projected, reference
from tightwire.kv.stages.base import NotFiniteError, Place, Shape
from tightwire.kv.stages.quantizers.deadzone import PEAKS, Deadzone
from tightwire.kv.stages.transforms.pca import Pca
from tightwire.kv.strategy import Chain, Strategy

CHAINS = [
    f"{turn}{rest}+rans"
    for turn in ("", "rope:theta=10000+")
    for rest in (
        "pca:over=dim,keep=50+allocate:centibits=250,channels=16", "pca:over=heads,keep=25+allocate:centibits=175,channels=8",
        "pca:over=dim,keep=100+allocate:centibits=700,channels=1", "pca:over=dim,keep=50+deadzone:step=80,channels=8",
        "pca:over=heads,keep=100+deadzone:step=5,channels=3",
    )
]  # fmt: skip
QUANTIZERS = ("allocate:centibits=300,channels=8", "deadzone:step=60,channels=8")


def chain(text: str) -> Chain:
    return Strategy.parse(text).k


def near(shape: Shape, seed: int) -> torch.Tensor:
    """Values near a subspace, with a mean, some heads larger than others."""
    rng = np.random.default_rng(seed)
    layers, heads, _, dim = shape
    mix = rng.standard_normal((layers, heads, 9, dim)) * 10.0 ** rng.integers(-3, 3, (layers, heads, 1, 1))
    x = rng.standard_normal((layers, heads, shape[2], 9)) @ mix + rng.standard_normal((layers, heads, 1, dim))
    return torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16)


@given(
    st.integers(1, 3), st.integers(1, 5), st.sampled_from([1, 8]), st.integers(0, 1), st.data()
)  # fmt: skip
def test_parameters_of_deadzone_are_those_of_the_stage(
    heads: int, segments: int, channels: int, odd: int, data: st.DataObject
) -> None:
    stage, shape = Deadzone(channels=channels), (1, heads, 7, segments * channels)
    steps = data.draw(st.lists(st.sampled_from([0, 1, 0x3C80, 0x3F91, 0x7EF0, 0x7F7F, 0x7F80, 0xBF80]), min_size=heads, max_size=heads))
    peaks = data.draw(st.binary(min_size=heads * segments, max_size=heads * segments).map(lambda b: bytes(x % 25 for x in b)))
    sent = memoryview(bytes(odd) + np.array(steps, "<u2").tobytes() + peaks)[odd:]
    found = native.deadzone_parameters(*stage.read(sent, shape), PEAKS, channels)
    try:
        expected = stage.parameters(sent, shape)
    except FrameError:
        assert found is None
    else:
        assert found is not None
        for one, other in zip(found, (expected.coded, expected.levels, expected.lo, expected.step), strict=True):
            np.testing.assert_array_equal(one, other)


def payload(x: torch.Tensor, text: str, place: Place) -> bytes:
    return b"".join(encode_tensor(x, chain(text), place))


@pytest.mark.parametrize("isa", native.ISAS)
@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31), st.sampled_from(CHAINS), st.integers(1, 3), st.integers(1, 3), st.integers(1, 70),
    st.sampled_from([32, 64, 96, 128]), st.sampled_from(["k", "v"]), st.integers(0, 5000),
)  # fmt: skip
def test_the_kernel_gives_what_the_stages_give(
    isa: str, seed: int, text: str, layers: int, heads: int, tokens: int, dim: int, side: str, start: int
) -> None:
    shape, place = (layers, heads, tokens, dim), Place(1, start, side)  # type: ignore[arg-type]
    stages = chain(text).stages
    turned = text.startswith("rope") and side == "k"
    assert projected.covers(stages, shape, torch.bfloat16, place) == (dim % 64 == 0 or not turned)
    if not projected.covers(stages, shape, torch.bfloat16, place):
        return
    data = memoryview(payload(near(shape, seed), text, place))
    got = projected.decode(data, stages, shape, place, isa).float()
    want = decode_tensor(data, chain(text), shape, torch.bfloat16, place, native_kernels=False).float()
    # A sum that rounds otherwise in fp32 may be the next bf16; where terms cancel, it is small against them.
    assert ((got - want).abs() <= want.abs() / 128 + 1e-5 * want.abs().max()).all()


def test_tables_are_kept_by_their_content_and_layers() -> None:
    place, shape = Place(0, 0, "k"), (2, 2, 50, 64)
    x = near(shape, 1)
    for seed in (2, 3):
        table = Pca(over="heads", keep=50).calibrate([near((4, 2, 200, 64), seed).float().numpy()], "m")
        text = f"pca:over=heads,keep=50,table={table.name}+allocate:centibits=300,channels=8+rans"
        for layer in (0, 2):
            place = Place(layer, 0, "k")
            data = memoryview(payload(x, text, place))
            for _ in range(2):
                got = projected.decode(data, chain(text).stages, shape, place).float()
                want = decode_tensor(data, chain(text), shape, torch.bfloat16, place, native_kernels=False).float()
                assert torch.allclose(got, want, rtol=1 / 128, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("isa", native.ISAS)
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_payload_is_refused_by_both_or_by_neither(isa: str, draw: st.DataObject) -> None:
    text, place, shape = draw.draw(st.sampled_from([CHAINS[1], CHAINS[3]])), Place(0, 7, "k"), (2, 2, 40, 64)
    data = bytearray(payload(near(shape, 0), text, place))
    after_side = 4 + int.from_bytes(data[:4], "little")
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, 3) | st.integers(after_side, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    damaged = memoryview(bytes(data[: draw.draw(st.integers(0, len(data)) | st.just(len(data)))]))
    refused = []
    for decode in (
        lambda: projected.decode(damaged, chain(text).stages, shape, place, isa),
        lambda: decode_tensor(damaged, chain(text), shape, torch.bfloat16, place, native_kernels=False),
    ):
        try:
            decode()
            refused.append(False)
        except FrameError as error:
            assert error.reason == "payload"
            refused.append(True)
    assert refused[0] == refused[1]


def test_values_past_the_range_are_clipped() -> None:
    text, place, shape = CHAINS[0], Place(), (1, 1, 40, 64)
    x = near(shape, 5) * 2.0**90
    data = bytearray(payload(x, text, place))
    segments, channels = 2, 32
    steps = 4 + int.from_bytes(data[:4], "little") + segments + 2 * channels
    data[steps : steps + 2 * channels] = np.full(channels, 0x7F7F, np.uint16).tobytes()
    got = projected.decode(memoryview(bytes(data)), chain(text).stages, shape, place)
    assert not got.isinf().any()


@pytest.mark.parametrize("isa", native.ISAS)
@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31), st.booleans(), st.sampled_from(QUANTIZERS), st.sampled_from([("dim", 50), ("heads", 25), ("heads", 13)]), st.integers(1, 3),
    st.integers(1, 70), st.sampled_from([32, 64, 96, 128]), st.sampled_from(["k", "v"]), st.integers(0, 5000),
)  # fmt: skip
def test_coordinates_are_those_of_the_stages(
    isa: str, seed: int, turned: bool, quantizer: str, pca: tuple[str, int], heads: int, tokens: int, dim: int, side: str, start: int
) -> None:
    over, keep = pca
    sample = near((3, heads, 2 * heads * dim, dim), seed).float().numpy()
    table = Pca(over=over, keep=keep).calibrate([sample], "m")  # type: ignore[arg-type]
    text = f"{'rope:theta=10000+' if turned else ''}pca:over={over},keep={keep},table={table.name}+{quantizer}+rans"
    shape, place = (2, heads, tokens, dim), Place(1, start, side)  # type: ignore[arg-type]
    stages = chain(text).stages
    if not projected.covers(stages, shape, torch.bfloat16, place):
        return
    x = near(shape, seed)
    basis, offset = projected._directions(stages[-3], Place(1, 0, place.side), (2, heads, 1, dim))  # type: ignore[arg-type]
    turns = projected._turns_back(stages[0], place, shape) if turned else None  # type: ignore[arg-type]
    done = native.project(native.segments(x), basis, offset, turns, isa)
    assert done is not None
    y, low, high = done
    want = x.float().numpy()
    for stage in stages[:-2]:
        want, _ = stage.forward(want, place)  # type: ignore[attr-defined]
    want = want.swapaxes(2, 3).reshape(y.shape)
    assert np.abs(y - want).max() <= 1e-5 * float(x.float().abs().max()) * np.sqrt(dim * heads)
    assert np.array_equal(low, y.min(axis=-1))
    assert np.array_equal(high, y.max(axis=-1))
    data = projected.encode(x, stages, place, isa)
    assert data is not None
    got = decode_tensor(memoryview(b"".join(data)), chain(text), shape, torch.bfloat16, place).float()
    plain = memoryview(payload_of_stages(x, text, place))
    stages_got = decode_tensor(plain, chain(text), shape, torch.bfloat16, place).float()
    error, other = (float((each - x.float()).norm()) for each in (got, stages_got))
    assert error <= 1.01 * other + 1e-6 * float(x.float().norm())


def payload_of_stages(x: torch.Tensor, text: str, place: Place) -> bytes:
    return b"".join(encode_tensor(x, chain(text), place, native_kernels=False))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2.0**101])
def test_what_is_not_tame_is_left_to_the_stages(bad: float) -> None:
    table = Pca(keep=50).calibrate([near((1, 1, 200, 64), 0).float().numpy()], "m")
    x = near((1, 1, 40, 64), 1)
    x[0, 0, 39, 63] = bad
    text = f"pca:keep=50,table={table.name}+allocate+rans"
    assert projected.encode(x, chain(text).stages, Place()) is None
    with pytest.raises(NotFiniteError):
        encode_tensor(x, chain(text), Place())


@pytest.mark.parametrize("isa", native.ISAS)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([2, 3, 24, 256]), st.floats(-30, 30))
def test_symbols_of_rows_are_those_of_the_reference(isa: str, seed: int, tokens: int, levels: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((6, tokens)) * 10**scale + rng.standard_normal((6, 1))).astype(np.float32)
    rows[0], rows[1] = 0.0, -0.0
    counts = np.array([levels, 16, levels], np.uint16)
    done = native.quantize_rows(rows, rows.min(axis=1), rows.max(axis=1), counts, isa)
    symbols, lo, step = reference.quantize(rows.reshape(3, 2, tokens), tokens, counts)
    assert done is not None
    assert np.array_equal(done[0], symbols.reshape(6, tokens))
    assert np.array_equal(done[1], lo.reshape(-1))
    assert np.array_equal(done[2], step.reshape(-1))


def test_rows_beyond_bf16_are_refused() -> None:
    rows = np.array([[-3.3e38, 3.3e38]], np.float32)
    assert native.quantize_rows(rows, rows.min(axis=1), rows.max(axis=1), np.array([2], np.uint16)) is None

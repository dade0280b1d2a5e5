"""Chains through principal components: the kernel, on every instruction set of this machine, against the stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tightwire.errors import FrameError
from tightwire.kv.codec import decode_tensor, encode_tensor
from tightwire.kv.kernels import native, projected
from tightwire.kv.stages.base import Place, Shape
from tightwire.kv.stages.transforms.pca import Pca
from tightwire.kv.strategy import Chain, Strategy

CHAINS = [
    f"{turn}{pca}+allocate:centibits={bits},channels={channels}+rans"
    for turn in ("", "rope:theta=10000+")
    for pca, bits, channels in (("pca:over=dim,keep=50", 250, 16), ("pca:over=heads,keep=25", 175, 8), ("pca:over=dim,keep=100", 700, 1))
]


def chain(text: str) -> Chain:
    return Strategy.parse(text).k


def near(shape: Shape, seed: int) -> torch.Tensor:
    """Values near a subspace, with a mean, some heads larger than others."""
    rng = np.random.default_rng(seed)
    layers, heads, _, dim = shape
    mix = rng.standard_normal((layers, heads, 9, dim)) * 10.0 ** rng.integers(-3, 3, (layers, heads, 1, 1))
    x = rng.standard_normal((layers, heads, shape[2], 9)) @ mix + rng.standard_normal((layers, heads, 1, dim))
    return torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16)


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
    text, place, shape = CHAINS[1], Place(0, 7, "k"), (2, 2, 40, 64)
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

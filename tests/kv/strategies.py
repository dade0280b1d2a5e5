"""Hypothesis strategies and helpers shared by the kv tests."""

import torch
from hypothesis import strategies as st

from tightwire.kv.block import KVBlock
from tightwire.kv.strategy import Chain, Strategy, enumerate_chains

CHAINS: list[Chain] = list(enumerate_chains())
chains = st.sampled_from(CHAINS)
strategies = st.builds(Strategy, chains, chains)
dtypes = st.sampled_from([torch.bfloat16, torch.float16, torch.float32])


@st.composite
def blocks(draw: st.DrawFn) -> KVBlock:
    """Odd shapes and hard values."""
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 40)),
        draw(st.sampled_from([16, 64, 80, 128])),
    )
    seed, dtype = draw(st.integers(0, 2**31)), draw(dtypes)
    k, v = (hard_values(draw(st.sampled_from(KINDS)), shape, dtype, seed + side) for side in (0, 1))
    return KVBlock(k, v, draw(st.integers(0, 5)), draw(st.integers(0, 1000)))


KINDS = ("normal", "zeros", "constant", "constant channels", "subnormal", "largest", "one largest", "outlier")
NOT_FINITE = ("a NaN", "NaNs of all patterns", "an Inf", "both Infs")


def hard_values(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    range_ = torch.finfo(dtype)
    if kind == "zeros":
        x = torch.zeros(shape)
    elif kind == "constant":
        x = torch.full(shape, 3.1)
    elif kind == "constant channels":
        x[..., ::3] = -7.7
    elif kind == "subnormal":
        x = x * range_.smallest_normal / 8
    elif kind == "largest":
        x = range_.max * x.sign()
    elif kind == "one largest":
        x.view(-1)[seed % x.numel()] = range_.min
    elif kind == "outlier":
        x.view(-1)[seed % x.numel()] = 30000.0
    elif kind == "a NaN":
        x.view(-1)[seed % x.numel()] = torch.nan
    elif kind == "an Inf":
        x.view(-1)[seed % x.numel()] = torch.inf
    elif kind == "both Infs":
        x.view(-1)[[seed % x.numel(), (seed + 1) % x.numel()]] = torch.tensor([torch.inf, -torch.inf])
    x = x.to(dtype)
    if kind == "NaNs of all patterns":
        bits = x.view(torch.int16 if x.element_size() == 2 else torch.int32)
        infinity, limits = int(torch.tensor(torch.inf, dtype=dtype).view(bits.dtype)), torch.iinfo(bits.dtype)
        # signalling with two payloads and the other sign; quiet with all bits of both signs
        for index, pattern in enumerate((infinity + 1, infinity + 3, infinity + 1 + limits.min, limits.max, -1)):
            bits.view(-1)[(seed + index) % x.numel()] = pattern
    return x

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


def hard_values(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    limits = torch.finfo(dtype)
    if kind == "zeros":
        x = torch.zeros(shape)
    elif kind == "constant":
        x = torch.full(shape, 3.1)
    elif kind == "constant channels":
        x[..., ::3] = -7.7
    elif kind == "subnormal":
        x = x * limits.smallest_normal / 8
    elif kind == "largest":
        x = limits.max * x.sign()
    elif kind == "one largest":
        x.view(-1)[seed % x.numel()] = limits.min
    elif kind == "outlier":
        x.view(-1)[seed % x.numel()] = 30000.0
    return x.to(dtype)

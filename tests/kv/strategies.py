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
    """Odd shapes and hard values: constants, zeros, subnormals, one huge outlier."""
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 40)),
        draw(st.sampled_from([16, 64, 80, 128])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(dtypes)

    def values(kind: str) -> torch.Tensor:
        x = torch.randn(shape, generator=generator)
        if kind == "zeros":
            x = torch.zeros(shape)
        elif kind == "constant":
            x = torch.full(shape, 3.1)
        elif kind == "tiny":
            x = x * 1e-39
        elif kind == "outlier":
            x.view(-1)[0] = 30000.0
        return x.to(dtype)

    kinds = st.sampled_from(["normal", "zeros", "constant", "tiny", "outlier"])
    return KVBlock(values(draw(kinds)), values(draw(kinds)), draw(st.integers(0, 5)), draw(st.integers(0, 1000)))

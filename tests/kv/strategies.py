"""Hypothesis strategies and helpers shared by the kv tests."""

from dataclasses import fields
from random import Random
from typing import get_args, get_type_hints

import torch
from hypothesis import strategies as st

from tightwire.errors import ConfigError
from tightwire.kv.block import KVBlock
from tightwire.kv.stages import STAGES
from tightwire.kv.stages.base import Codec, Correction, Lossless, Quantizer, Stage, Transform
from tightwire.kv.strategy import Chain, Exact, Strategy, enumerate_chains

CHAINS: list[Chain] = list(enumerate_chains())
chains = st.sampled_from(CHAINS)
strategies = st.builds(Strategy, chains, chains)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
dtypes = st.sampled_from(DTYPES)


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


def any_stage(random: Random, kinds: tuple[type[Stage], ...]) -> Stage:
    """One of the stages of these kinds, with any settings that it accepts; a table is its own."""
    cls = STAGES[random.choice([name for name in STAGES.names() if issubclass(STAGES[name], kinds)])]
    hints = get_type_hints(cls)
    while True:
        drawn = {
            field.name: random.choice(get_args(hints[field.name]) or _DRAWN[hints[field.name]]) for field in fields(cls)
        }
        try:
            return cls(**drawn)
        except ConfigError:
            continue


_DRAWN = {
    int: (0, 1, 2, 3, 4, 5, 7, 8, 10, 16, 24, 33, 50, 64, 90, 100, 128, 200, 255, 256, 310, 500, 10000),
    str: ("own",),
}


def any_chain(random: Random) -> Chain:
    """Any valid chain: a lossless stage, or up to three transforms and corrections, a quantizer and a codec."""
    if random.random() < 0.05:
        return Chain((any_stage(random, (Lossless,)),))
    before = [any_stage(random, (Transform, Correction)) for _ in range(random.choice((0, 1, 1, 2, 3)))]
    before.sort(key=lambda stage: stage.name != "rope")  # behind pca there may be an odd number of channels
    return Chain((*before, any_stage(random, (Quantizer,)), any_stage(random, (Codec,))))


def any_exact(random: Random) -> Exact:
    return Exact(*random.choices((0, 0, 0, 1, 3), k=4))


def any_block(random: Random, kinds: tuple[str, ...] = KINDS) -> KVBlock:
    """T = 1, H = 1, D = 64, 80 or 128, T a multiple of no group; K and V of two hard kinds, anywhere in a request."""
    layers, heads, tokens = random.randint(1, 3), random.choice((1, 1, 2, 3)), random.choice((1, 2, 7, 33, 65))
    shape, dtype, seed = (
        (layers, heads, tokens, random.choice((64, 80, 128))),
        random.choice(DTYPES),
        random.getrandbits(30),
    )
    k, v = (hard_values(random.choice(kinds), shape, dtype, seed + side) for side in (0, 1))
    layer_start, token_start = random.randint(0, 2), random.randint(0, 9)
    more = random.choice((0, 0, 2))  # the request goes on behind this block
    return KVBlock(k, v, layer_start, token_start, layer_start + layers + more, token_start + tokens + more)

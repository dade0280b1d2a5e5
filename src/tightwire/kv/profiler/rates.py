"""What is measured of every strategy before any quality: bytes, seconds and error of each side on calibration KV.

A side is measured once and strategies are composed: a strategy's bytes are those of its K, its V and the frames' headers,
which is what its real frames take up to a few bytes (numbers in a header are as wide as they need); its seconds are the sum of its sides'. Seconds
are measured where no token is exact and counted for exact ones by the share of tokens that are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Literal

import msgspec
import numpy as np

from tightwire.kv.block import F32, KVBlock, to_float32
from tightwire.kv.codec import decode_tensor, encode_block, encode_tensor
from tightwire.kv.profiler.pareto import F64
from tightwire.kv.profiler.space import Space
from tightwire.kv.stages.base import Place
from tightwire.kv.strategy import RAW, Chain, Exact

Clock = Callable[[], float]
SideName = Literal["k", "v"]


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one side on all calibration blocks. `error`, mean over tokens, layers and heads: of K the squared change of the
    attention logits, of V ‖v − v̂‖² ÷ ‖v − its mean over tokens‖²."""

    bytes: int
    encode_s: float
    decode_s: float
    error: float


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Those of all sides of a space, by the text of chain and exactness; `raw_bytes` of the calibration blocks, and
    `header_bytes` of their frames, without the strategy's text, of which there are `blocks`."""

    k: dict[str, Rate]
    v: dict[str, Rate]
    raw_bytes: int
    header_bytes: int
    blocks: int


class Objectives(msgspec.Struct, frozen=True, eq=False):
    """Of each strategy, fp64 `[n]`: `ratio`, and seconds for a raw byte."""

    ratio: F64
    encode_s: F64
    decode_s: F64

    @property
    def time_s(self) -> F64:
        return self.encode_s + self.decode_s


def compose(space: Space, rates: Rates) -> Objectives:
    """Of each strategy of `space`."""
    k = [rates.k[f"{s.k}{s.exact}"] for s in space.strategies]
    v = [rates.v[f"{s.v}{s.exact}"] for s in space.strategies]
    text = np.array([len(str(s)) for s in space.strategies], np.float64)
    size = np.array([a.bytes + b.bytes for a, b in zip(k, v, strict=True)]) + rates.header_bytes + rates.blocks * text
    encode_s = np.array([a.encode_s + b.encode_s for a, b in zip(k, v, strict=True)])
    decode_s = np.array([a.decode_s + b.decode_s for a, b in zip(k, v, strict=True)])
    return Objectives(
        rates.raw_bytes / np.minimum(size, rates.raw_bytes), encode_s / rates.raw_bytes, decode_s / rates.raw_bytes
    )


def measure(
    space: Space, blocks: Sequence[KVBlock], attention: F32 | None = None, clock: Clock = time.perf_counter
) -> Rates:
    """All sides of `space` on calibration `blocks` (of one model, all layers, cut as they will be sent); `attention`
    `[L, H, D, D]` as in `calibration`, without it K's error is as V's."""
    found: dict[SideName, dict[str, Rate]] = {"k": {}, "v": {}}
    for side, rates in found.items():
        for chain, exact in dict.fromkeys((getattr(s, side), s.exact) for s in space.strategies):
            plain = rates.get(str(chain))
            if plain is None:
                rates[str(chain)] = plain = _whole(side, chain, blocks, attention if side == "k" else None, clock)
            if exact != Exact():
                rates[f"{chain}{exact}"] = _partly(side, chain, exact, blocks, plain)
    empty = sum(len(encode_block(block, RAW)) - block.raw_bytes - len(str(RAW)) for block in blocks)
    return Rates(found["k"], found["v"], sum(block.raw_bytes for block in blocks), empty, len(blocks))


def _whole(side: SideName, chain: Chain, blocks: Sequence[KVBlock], attention: F32 | None, clock: Clock) -> Rate:
    """Without exact tokens; seconds by the median block."""
    size, encode_s, decode_s, errors = 0, list[float](), list[float](), list[float]()
    for block in blocks:
        x, place = getattr(block, side), Place(block.layer_start, block.token_start, side)
        start = clock()
        data = memoryview(b"".join(encode_tensor(x, chain, place)))
        middle = clock()
        back = decode_tensor(data, chain, (x.shape[0], x.shape[1], x.shape[2], x.shape[3]), x.dtype, place)
        encode_s, decode_s = [*encode_s, middle - start], [*decode_s, clock() - middle]
        size += len(data)
        errors.append(_error(to_float32(x), to_float32(back), attention))
    return Rate(size, median(encode_s) * len(blocks), median(decode_s) * len(blocks), sum(errors) / len(errors))


def _error(was: F32, arrived: F32, attention: F32 | None) -> float:
    lost = was - arrived
    if attention is not None:
        return float(((lost @ attention) * lost).sum(axis=3).mean())
    spread = np.square(was - was.mean(axis=2, keepdims=True)).sum(axis=(2, 3))
    return float((np.square(lost).sum(axis=(2, 3)) / np.maximum(spread, 1e-30)).mean())


def _partly(side: SideName, chain: Chain, exact: Exact, blocks: Sequence[KVBlock], plain: Rate) -> Rate:
    """With exact layers and tokens: bytes as they are, the rest from `plain` by the share that is not exact."""
    size, inexact, whole = 0, 0, 0
    for block in blocks:
        x = getattr(block, side)
        (first, last), (head, tail) = exact.within(block)
        inner = x[first : x.shape[0] - last, :, head : x.shape[2] - tail]
        size += (x.numel() - inner.numel()) * x.element_size()
        if inner.numel():
            place = Place(block.layer_start + first, block.token_start + head, side)
            size += sum(map(len, encode_tensor(inner, chain, place)))
        inexact, whole = inexact + inner.numel(), whole + x.numel()
    share = inexact / whole
    return Rate(size, plain.encode_s * share, plain.decode_s * share, plain.error * share)

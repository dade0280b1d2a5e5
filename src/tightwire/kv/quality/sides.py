"""K or V of all prompts of a suite as they would arrive, cut and encoded as the sender does it.

K and V are encoded apart, so a new pair of known sides costs nothing here. Codecs are exact: what arrives is kept without
regard to them, only the sizes depend on them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from tightwire.kv import frame as wire
from tightwire.kv.block import DTYPE_NAMES, KVBlock
from tightwire.kv.codec import Span, decode_tensor, encode_tensor
from tightwire.kv.stages.base import Lossless, NotFiniteError, Place, Stage
from tightwire.kv.strategy import RAW, Chain, Exact, Strategy

Side = Literal["k", "v"]
Ints = npt.NDArray[np.int64]
_REFUSED = -1


@dataclass(frozen=True, eq=False)
class Group:
    """Prompts of one length: K and V, bf16 `[B, L, H, T, D]`."""

    k: torch.Tensor
    v: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Chunk:
    group: int
    prompt: int
    block: KVBlock


class Sides:
    """`arrived` and `bytes` of any strategy over `groups`. At most `cache_bytes` of what arrived is kept, the least
    recently used goes first."""

    def __init__(self, groups: Sequence[Group], chunk_tokens: int, cache_bytes: int, fingerprint: str) -> None:
        self.groups, self._limit, self._fingerprint = groups, cache_bytes, fingerprint
        self._chunks = [
            _Chunk(number, prompt, block)
            for number, group in enumerate(groups)
            for prompt in range(group.k.shape[0])
            for block in KVBlock(group.k[prompt], group.v[prompt]).token_chunks(chunk_tokens)
        ]
        self._raw_bytes = np.array([chunk.block.raw_bytes for chunk in self._chunks])
        self._held: OrderedDict[tuple[Side, tuple[Stage, ...], Exact], list[torch.Tensor]] = OrderedDict()
        self._sizes: dict[tuple[Side, Chain, Exact], Ints] = {}

    def ratio(self, strategy: Strategy) -> float:
        """Raw bytes ÷ bytes of all frames."""
        return float(self._raw_bytes.sum() / self._frame_bytes(strategy))

    def arrived(self, strategy: Strategy) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """K and V of each group, bf16 `[B, L, H, T, D]`; chunks that would be sent raw arrive raw."""
        k, v = self._side("k", strategy.k, strategy.exact), self._side("v", strategy.v, strategy.exact)
        raw = np.flatnonzero(self._sent_raw(strategy))
        return self._patched(k, raw, "k"), self._patched(v, raw, "v")

    def _patched(self, values: list[torch.Tensor], raw: Ints, side: Side) -> list[torch.Tensor]:
        """`values` with the chunks of these indices as they are; copied where that changes something."""
        found, changed = list(values), set()
        for chunk in (self._chunks[index] for index in raw):
            if values[chunk.group] is getattr(self.groups[chunk.group], side):
                continue
            if chunk.group not in changed:
                changed.add(chunk.group)
                found[chunk.group] = values[chunk.group].clone()
            _here(found, chunk).copy_(getattr(chunk.block, side))
        return found

    def _sent_raw(self, strategy: Strategy) -> npt.NDArray[np.bool_]:
        """Of each chunk; the rule of `codec.encode_block`."""
        k, v = self._bytes("k", strategy.k, strategy.exact), self._bytes("v", strategy.v, strategy.exact)
        smaller = k + v + len(str(strategy)) < self._raw_bytes + len(str(RAW))
        raw: npt.NDArray[np.bool_] = ~smaller | (k == _REFUSED) | (v == _REFUSED)
        return raw

    def _frame_bytes(self, strategy: Strategy) -> int:
        raw = self._sent_raw(strategy)
        half = self._raw_bytes // 2
        k = np.where(raw, half, self._bytes("k", strategy.k, strategy.exact))
        v = np.where(raw, half, self._bytes("v", strategy.v, strategy.exact))
        headers = sum(
            self._header_bytes(chunk.block, RAW if plain else strategy, int(k_bytes), int(v_bytes))
            for chunk, plain, k_bytes, v_bytes in zip(self._chunks, raw, k, v, strict=True)
        )
        return int(k.sum() + v.sum()) + headers

    def _header_bytes(self, block: KVBlock, strategy: Strategy, k: int, v: int) -> int:
        """All of a frame but its payload."""
        layers, tokens = strategy.exact.within(block)
        header = wire.Header(
            str(strategy), self._fingerprint, DTYPE_NAMES[block.k.dtype], block.layer_start, block.layers, block.heads,
            block.token_start, block.tokens, block.head_dim, layers, tokens, k, v,
        )  # fmt: skip
        return wire.PREFIX_BYTES + len(msgspec.msgpack.encode(header))

    def _bytes(self, side: Side, chain: Chain, exact: Exact) -> Ints:
        key = (side, chain, exact)
        if key not in self._sizes:
            self._sizes[key] = np.array([size for _, size, _ in self._encoded(side, chain, exact)])
        return self._sizes[key]

    def _side(self, side: Side, chain: Chain, exact: Exact) -> list[torch.Tensor]:
        """What arrives of one side; what cannot be encoded stays raw."""
        if isinstance(chain.last, Lossless):
            return [getattr(group, side) for group in self.groups]
        key = (side, chain.stages[:-1], exact)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        found = [getattr(group, side).clone() for group in self.groups]
        sizes = []
        for chunk, size, (data, span) in self._encoded(side, chain, exact):
            sizes.append(size)
            if data:
                inner = _inner(_here(found, chunk), span)
                shape = (inner.shape[0], inner.shape[1], inner.shape[2], inner.shape[3])
                inner.copy_(decode_tensor(memoryview(data), chain, shape, inner.dtype, _place(chunk, span, side)))
        self._sizes[side, chain, exact] = np.array(sizes)
        self._held[key] = found
        while len(self._held) > 1 and self._held_bytes() > self._limit:
            self._held.popitem(last=False)
        return found

    def _held_bytes(self) -> int:
        return len(self._held) * sum(group.k.nbytes for group in self.groups)

    def _encoded(self, side: Side, chain: Chain, exact: Exact) -> Iterator[tuple[_Chunk, int, tuple[bytes, Span]]]:
        """(chunk, bytes of this side of it, what the chain makes of its inner part)"""
        for chunk in self._chunks:
            span = exact.within(chunk.block)
            x: torch.Tensor = getattr(chunk.block, side)
            inner = _inner(x, span)
            try:
                data = b"".join(encode_tensor(inner, chain, _place(chunk, span, side))) if inner.numel() else b""
            except NotFiniteError:
                yield chunk, _REFUSED, (b"", span)
            else:
                yield chunk, (x.numel() - inner.numel()) * x.element_size() + len(data), (data, span)


def _here(values: list[torch.Tensor], chunk: _Chunk) -> torch.Tensor:
    """The part `[L, H, T, D]` of `values` that `chunk` covers."""
    start = chunk.block.token_start
    return values[chunk.group][chunk.prompt][:, :, start : start + chunk.block.tokens]


def _inner(x: torch.Tensor, span: Span) -> torch.Tensor:
    (first, last), (head, tail) = span
    return x[first : x.shape[0] - last, :, head : x.shape[2] - tail]


def _place(chunk: _Chunk, span: Span, side: Side) -> Place:
    return Place(chunk.block.layer_start + span[0][0], chunk.block.token_start + span[1][0], side)

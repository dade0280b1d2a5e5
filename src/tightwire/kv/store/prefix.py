"""Prefixes in a Store: saved and loaded as KVBlocks, one frame for all layers of each chunk of tokens, and one for the
tail after the last whole chunk.

A frame carries its own key where frames on a link carry the model's fingerprint, so that a value under a wrong key is
refused, as is a damaged one. What cannot be loaded is recomputed by the engine; nothing here raises for what a store
does or holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tightwire.errors import ConfigError, FrameError
from tightwire.kv.block import DTYPE_NAMES, KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.frame import PREFIX_BYTES, Limits, parse
from tightwire.kv.store.keys import TAIL_TOKENS, prefix_keys, tail_keys
from tightwire.kv.store.load import Load, Loaded, covered_s
from tightwire.kv.store.store import Pending, Store
from tightwire.kv.strategy import Strategy

DEFAULT_CHUNK_TOKENS = 256
_WRITES_AHEAD = 3


@dataclass(frozen=True)
class Layout:
    """What an engine's KV looks like: `[layers, heads, tokens, head_dim]` of `dtype`."""

    layers: int
    heads: int
    head_dim: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.head_dim) < 1 or self.dtype not in DTYPE_NAMES:
            raise ConfigError(f"{self}: sizes must be above zero, dtype one of {', '.join(DTYPE_NAMES.values())}")

    @classmethod
    def of(cls, block: KVBlock) -> Layout:
        return cls(block.layers, block.heads, block.head_dim, block.k.dtype)

    @property
    def token_bytes(self) -> int:
        """K and V of one token."""
        return 2 * self.layers * self.heads * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True)
class SaveReport:
    """Of the chunks in a block: how many were written (`saved`, with `tokens` in them), were there already (`present`),
    were not taken (`refused`, and `error` says why). `raw_bytes` and `wire_bytes` are of those written; `wire_s` is the
    time in which at least one was on its way."""

    saved: int
    tokens: int
    present: int
    refused: int
    raw_bytes: int
    wire_bytes: int
    encode_s: float
    wire_s: float
    error: str | None

    @property
    def ok(self) -> bool:
        return self.error is None


class PrefixStore:
    """Prefixes of one model in `store`. `fingerprint` names the model, its weights, and what part of its KV this is
    (a tensor-parallel rank holds its own heads); it may have any length. `strategy_class` separates KV that was stored with different
    qualities: a reader finds only its own. Thread-safe."""

    def __init__(
        self,
        store: Store,
        *,
        fingerprint: str,
        layout: Layout,
        chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
        strategy_class: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if chunk_tokens < 1:
            raise ConfigError(f"chunk_tokens={chunk_tokens}: must be 1 or more")
        self.store, self.layout, self.chunk_tokens = store, layout, chunk_tokens
        self._fingerprint, self._strategy_class, self._device = fingerprint, strategy_class, device
        chunk_bytes = layout.token_bytes * chunk_tokens
        limits = Limits()
        self._limits = Limits(max_payload_bytes=chunk_bytes, max_raw_bytes=chunk_bytes)
        self._max_bytes = PREFIX_BYTES + limits.max_header_bytes + chunk_bytes  # a frame is never larger than raw

    def lookup(self, tokens: Sequence[int], *, salt: str = "") -> int:
        """How many leading tokens are in the store: whole chunks and a tail."""
        found = self.store.contains(self._keys(tokens, salt)) * self.chunk_tokens
        tails = self._tails(tokens[: found + self.chunk_tokens - 1], salt)
        place = self.store.first([key for _, key in tails]) if tails else 0
        return found + (tails[place][0] if place < len(tails) else 0)

    def load(
        self,
        tokens: Sequence[int],
        n: int,
        on_block: Callable[[KVBlock], None],
        *,
        salt: str = "",
        timeout_s: float | None = None,
    ) -> Loaded:
        """The KV of the first `n` of `tokens`, as `lookup` counts them: each chunk's block goes to `on_block`, in
        order and in this thread, as soon as it is decoded. Stops at the first that is missing, late or not what it
        should be, or after `timeout_s`; only what `on_block` raises is raised."""
        keys = self._chunks(tokens[:n], salt)
        load = Load(
            self.store, keys, self._max_bytes, lambda i, value: self._decode(keys[i], i, self._size(i, n), value)
        )
        load.run(on_block, timeout_s)
        loaded = sum(self._size(index, n) for index in range(load.handed_over))
        missing = [(loaded, n)] if loaded < n else []
        error = load.error if load.handed_over < len(keys) else None
        return Loaded(loaded, missing, error, load.wire_bytes, load.decode_s, load.wire_s)

    def save(self, tokens: Sequence[int], block: KVBlock, strategy: Strategy, *, salt: str = "") -> SaveReport:
        """Store each chunk of which `block` holds all tokens, and the tail at its end; `tokens` hold everything from
        the first on. What is there already is not encoded. Encoding overlaps with writing. Raises ConfigError for a
        block that is not of this layout or does not hold all layers."""
        if Layout.of(block) != self.layout or block.layer_start:
            raise ConfigError(
                f"a block of {Layout.of(block)} from layer {block.layer_start} on; stored are {self.layout}"
            )
        first, end = -(-block.token_start // self.chunk_tokens), min(block.token_start + block.tokens, len(tokens))
        keys = self._chunks(tokens[:end], salt)[first:]
        present = self.store.contains(keys)
        writing = _Writing(self.store)
        for index in range(present, len(keys)):
            if self.store.error is not None:
                break
            start = (first + index) * self.chunk_tokens
            writing.add(keys[index], _piece(block, start, self._size(first + index, end)), strategy)
        return writing.report(present, len(keys))

    def _chunks(self, tokens: Sequence[int], salt: str) -> list[str]:
        """Keys of the whole chunks of `tokens` and of the longest tail after them."""
        return self._keys(tokens, salt) + [key for _, key in self._tails(tokens, salt)[:1]]

    def _size(self, index: int, n: int) -> int:
        """Tokens of chunk `index` of `n`."""
        left = n - index * self.chunk_tokens
        return self.chunk_tokens if left >= self.chunk_tokens else left // TAIL_TOKENS * TAIL_TOKENS

    def _keys(self, tokens: Sequence[int], salt: str) -> list[str]:
        return prefix_keys(self._fingerprint, self._strategy_class, tokens, self.chunk_tokens, salt)

    def _tails(self, tokens: Sequence[int], salt: str) -> list[tuple[int, str]]:
        return tail_keys(self._fingerprint, self._strategy_class, tokens, self.chunk_tokens, salt)

    def _decode(self, key: str, index: int, tokens: int, value: memoryview) -> KVBlock:
        frame = parse(value, self._limits)
        header, layout = frame.header, self.layout
        stated = (header.layer_start, header.layers, header.heads, header.head_dim, header.dtype)
        expected = (0, layout.layers, layout.heads, layout.head_dim, DTYPE_NAMES[layout.dtype])
        if stated != expected or (header.token_start, header.tokens) != (index * self.chunk_tokens, tokens):
            raise FrameError("shape", f"{header} is not chunk {index} of {layout}")
        return decode_block(frame, key, device=self._device)


class _Writing:
    """Puts underway, at most `_WRITES_AHEAD` more than the one that is being encoded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._underway: deque[tuple[Pending[bool], KVBlock, int]] = deque()  # with frame bytes
        self._spans: list[tuple[float, float]] = []
        self._saved = self._tokens = self._raw_bytes = self._wire_bytes = 0
        self._encode_s = 0.0

    def add(self, key: str, block: KVBlock, strategy: Strategy) -> None:
        start_s = self._store.clock.now_s()
        frame = encode_block(block, strategy, key)
        self._encode_s += self._store.clock.now_s() - start_s
        self._underway.append((self._store.start_put(key, frame), block, len(frame)))
        while len(self._underway) > _WRITES_AHEAD:
            self._finish()

    def report(self, present: int, wanted: int) -> SaveReport:
        while self._underway:
            self._finish()
        refused = wanted - present - self._saved
        error = (self._store.error or "the store has no room") if refused else None
        return SaveReport(
            self._saved, self._tokens, present, refused, self._raw_bytes, self._wire_bytes, self._encode_s, covered_s(self._spans), error,
        )  # fmt: skip

    def _finish(self) -> None:
        pending, block, wire_bytes = self._underway.popleft()
        if pending.result():
            self._spans.append((pending.begin_s, pending.end_s))
            self._saved += 1
            self._tokens += block.tokens
            self._raw_bytes += block.raw_bytes
            self._wire_bytes += wire_bytes


def _piece(block: KVBlock, token_start: int, tokens: int) -> KVBlock:
    """`tokens` tokens of `block` from position `token_start` of the request on; a view."""
    start = token_start - block.token_start
    return KVBlock(
        block.k[:, :, start : start + tokens],
        block.v[:, :, start : start + tokens],
        block.layer_start,
        token_start,
        block.total_layers or block.layers,
        block.total_tokens or block.token_start + block.tokens,
    )

"""The engine's KV memory: one cache for every layer, read and written through its verified layout."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch

from tightwire.errors import LayoutError
from tightwire.kv.block import KVBlock
from tightwire.kv.engines.vllm.layout import Layout
from tightwire.kv.engines.vllm.plan import Move


class Blocks:
    """`caches`: of every layer, in order. Raises LayoutError when one is not of `layout` or not as the first."""

    def __init__(self, layout: Layout, caches: Sequence[torch.Tensor]) -> None:
        for cache in caches:
            layout.check(cache)
            if cache.shape[1:] != caches[0].shape[1:] or cache.dtype != caches[0].dtype:
                raise LayoutError(f"layers of {tuple(cache.shape[1:])} and of {tuple(caches[0].shape[1:])} in one model")
        self.layout, self._caches = layout, list(caches)
        self._bits = layout.bits(self._caches)
        self.size = caches[0].shape[2]
        self._device = caches[0].device

    @property
    def layers(self) -> int:
        return len(self._caches)

    def raw_bytes(self, tokens: int) -> int:
        """Of K and V of `tokens` tokens in all layers."""
        return sum(tokens * c.shape[1] * c.shape[3] * c.element_size() for c in self._caches)

    def written(self) -> torch.cuda.Event | None:
        """A mark in the engine's work up to now; None where the work is done when the call returns."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def read(self, layer: int, move: Move, after: torch.cuda.Event | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of K and V, each `[H, T, D]` in the host's memory, once the engine has passed `after`."""
        with self._stream():
            if after is not None:
                torch.cuda.current_stream(self._device).wait_event(after)
            k, v = self.layout.gather(self._caches[layer], move.block_ids, move.start, move.stop)
            return k.cpu(), v.cpu()

    def write(self, move: Move, block: KVBlock, written: npt.NDArray[np.bool_]) -> None:
        """Write what of `block` lies in `move`, and mark it in `written` `[L, stop-start]`. Raises LayoutError when
        the block is not of this model."""
        if block.layer_start + block.layers > self.layers:
            raise LayoutError(f"layers up to {block.layer_start + block.layers} for a model of {self.layers}")
        start = max(block.token_start, move.start)
        stop = min(block.token_start + block.tokens, move.stop)
        if start >= stop:
            return
        layers, k, v = slice(block.layer_start, block.layer_start + block.layers), block.k, block.v
        if stop - start < block.tokens:
            inside = slice(start - block.token_start, stop - block.token_start)
            k, v = k[:, :, inside], v[:, :, inside]
        bits = None if self._bits is None else self._bits[layers]
        with self._stream():
            self.layout.scatter(self._caches[layers], move.block_ids, start, k, v, bits)
            written[layers, start - move.start : stop - move.start] = True
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()

    def ids_from(self, move: Move, token: int) -> tuple[int, ...]:
        """The blocks of `move` that hold `token` and what follows it."""
        return move.block_ids[token // self.size : -(-move.stop // self.size)]

    def _stream(self) -> AbstractContextManager[object]:
        """On a GPU a stream of this call's own: the engine's is not waited for, nor does it wait."""
        if self._device.type != "cuda":
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]

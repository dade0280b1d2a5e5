"""Launches of the kernels of rows, for tensors on the device; nothing here waits for it.

A payload is lo of all cells, step of all cells (both bf16 bits), then the symbols, segment by segment: what the stages
write, without a quantizer's own head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import triton.language as tl

from tightwire.kv.block import F32, U16
from tightwire.kv.kernels import native
from tightwire.kv.kernels.reference import BLOCK
from tightwire.kv.kernels.triton import rows
from tightwire.kv.kernels.triton.bf16 import EXACT

LIMITS = (float("inf"), 2.0**100, float("inf"))  # by mode: what |y| must stay below; hadamard.BOUND
BLOCKS = 4  # of 512 values for each program: 16 values a thread
OPTIONS = {"num_warps": 4, **EXACT}
_DIMS = (32, 64, 128, 256)
_GROUPS = (16, *_DIMS)
_Launch = tuple[tuple[int], tuple[int, int, int, int], int, int]  # grid; tokens, begin, end, tiles; form; blocks


def covers(dim: int, group: int) -> bool:
    """Whether rows of `dim` values in groups of `group` neighbours can take these kernels."""
    return dim in _DIMS and group in _GROUPS and dim % group == 0


@dataclass(frozen=True, eq=False)
class Plan:
    """What is the same for blocks of one shape: `levels` `[S]` (2 to 256), T, D, group, packed or a byte for each
    symbol, and weights, on `device`. ValueError where the kernels do not cover it."""

    levels: U16
    tokens: int
    dim: int
    group: int
    packed: bool
    device: torch.device
    weights: native.Weights = field(default_factory=lambda: native.PLAIN)

    def __post_init__(self) -> None:
        if not covers(self.dim, self.group):
            raise ValueError(f"dim={self.dim}, group={self.group} is not for these kernels: ask `covers` first")
        if not self.levels.size or self.levels.min() < 2 or self.levels.max() > 256 or self.tokens < 1:
            raise ValueError("there must be segments and tokens, and 2 to 256 levels for each segment")
        for each in (self.weights.down, self.weights.up, self.weights.offset):
            if each.size and each.shape not in ((1, self.dim), (len(self.levels), self.dim)):
                raise ValueError(f"weights {list(each.shape)} are not [1 or {len(self.levels)}, {self.dim}]")

    @property
    def segments(self) -> int:
        return len(self.levels)

    @property
    def count(self) -> int:
        """Symbols of a segment."""
        return self.tokens * self.dim

    @property
    def params_bytes(self) -> int:
        return 4 * self.segments * self.count // self.group

    @property
    def symbols_bytes(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def _ends(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Where the symbols of every segment end, in bytes; segments start at even ones, as dim is a multiple of 32."""
        bits = [native.bits_for(int(each)) if self.packed else 8 for each in self.levels]
        return np.cumsum(np.array(bits, np.int64) * self.count // 8)

    @cached_property
    def _segments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """On the device: levels int32 `[S]` and where the segments' symbols start, int64 `[S]`."""
        starts = np.concatenate([[0], self._ends[:-1]]).astype(np.int64)
        return self._there(self.levels.astype(np.int32)), self._there(starts)

    @cached_property
    def _weights(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """On the device: down, up, offset; where there are none anything, which is not read."""
        w = self.weights
        down, up, offset = (self._there(each if each.size else np.zeros(1, np.float32)) for each in (w.down, w.up, w.offset))
        return down, up, offset

    def _there(self, array: F32 | np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    @property
    def _weights_stride(self) -> int:
        """From one segment's weights to the next one's; 0 where all share them."""
        return self.dim if len(self.weights.down) > 1 else 0

    def _launches(self) -> list[_Launch]:
        """All rows; packed, those of whole blocks and the others by themselves."""
        if not self.packed:
            return [self._launch(0, self.tokens, rows.BYTES, BLOCKS)]
        whole = self.count // BLOCK * BLOCK // self.dim
        parts = [(0, whole, rows.WORDS, BLOCKS), (whole, self.tokens, rows.TAIL, 1)]
        return [self._launch(*part) for part in parts if part[0] < part[1]]

    def _launch(self, begin: int, end: int, form: tl.constexpr, blocks: int) -> _Launch:
        tiles = -(-(end - begin) * self.dim // (blocks * BLOCK))
        return (self.segments * tiles,), (self.tokens, begin, end, tiles), int(form.value), blocks

    def encode(self, x: torch.Tensor, payload: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """x bf16 `[S, T, D]`, the last axis dense → payload uint8 (into the one given), bad int32 `[1]`: not 0 when a
        value or parameter is not finite, so that the payload must not be sent."""
        self._check(x)
        payload = torch.empty(self.payload_bytes, dtype=torch.uint8, device=x.device) if payload is None else payload
        params, symbols = self._cut(payload)
        bad = torch.zeros(1, dtype=torch.int32, device=x.device)
        (down, _, offset), mode = self._weights, self.weights.mode
        for grid, where, form, blocks in self._launches():
            rows.encode_kernel[grid](
                x.view(torch.int16), params, symbols, bad, *self._segments, down, offset, *where, x.stride(0), x.stride(1),
                self._weights_stride, self.dim, self.group, mode, LIMITS[mode], form, blocks, **OPTIONS,
            )  # fmt: skip
        return payload, bad

    def decode(self, payload: torch.Tensor, x: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `encode`: x bf16 `[S, T, D]` (into the one given), bad int32 `[1]`: not 0 for a payload that
        no encoder writes."""
        return self.decode_parts(*self._cut(payload), x)

    def decode_parts(
        self, params: torch.Tensor, symbols: torch.Tensor, x: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `decode`: params int16 `[2, S, C]`, flat, and symbols uint8, flat."""
        if x is None:
            x = torch.empty(self.segments, self.tokens, self.dim, dtype=torch.bfloat16, device=params.device)
        self._check(x)
        bad = torch.zeros(1, dtype=torch.int32, device=x.device)
        (_, up, offset), mode = self._weights, self.weights.mode
        for grid, where, form, blocks in self._launches():
            rows.decode_kernel[grid](
                params, symbols, x.view(torch.int16), bad, *self._segments, up, offset, *where, x.stride(0), x.stride(1),
                self._weights_stride, self.dim, self.group, mode, form, blocks, **OPTIONS,
            )  # fmt: skip
        return x, bad

    @property
    def payload_bytes(self) -> int:
        return self.params_bytes + self.symbols_bytes

    def _cut(self, payload: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(params int16, symbols)"""
        if payload.shape != (self.payload_bytes,) or payload.dtype is not torch.uint8 or not payload.is_contiguous():
            raise ValueError(f"the payload {list(payload.shape)} {payload.dtype} is not uint8 [{self.payload_bytes}]")
        if payload.data_ptr() % 4:
            raise ValueError("the payload must start at a multiple of 4 bytes")
        return payload[: self.params_bytes].view(torch.int16), payload[self.params_bytes :]

    def _check(self, x: torch.Tensor) -> None:
        shape = (self.segments, self.tokens, self.dim)
        if x.shape != shape or x.dtype is not torch.bfloat16 or x.stride(2) != 1:
            raise ValueError(f"x {list(x.shape)} {x.dtype} is not bf16 {list(shape)} with a dense last axis")

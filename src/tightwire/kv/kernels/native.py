"""The native kernels (C++, chosen by processor): {identity, rotation, scaling} → min-max symbols → {bytes, packing,
entropy coder}, one pass each way, for bf16 along head_dim; and the exponent split of lossless bf16.

What they do not cover (`covers` says so) is done by the stages themselves on `reference`; the bytes are the same.
Segments are shared out among threads: `set_threads`, or TIGHTWIRE_THREADS when the process starts (default 1).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from tightwire import _kernels  # type: ignore[attr-defined]
from tightwire.errors import ConfigError, FrameError
from tightwire.kv.block import F32, U8, U16

ISA: str = _kernels.isa
ISAS: list[str] = _kernels.isas
MAX_DIM = 1024
_OWN_PAGES = 2**20
_PLAIN, _ROTATE, _SCALE = range(3)
_NONE: F32 = np.empty((0, 0), np.float32)


def set_threads(threads: int) -> None:
    """Threads of one encode or decode, the caller's included; ConfigError unless 1 to 256."""
    if not 1 <= threads <= 256:
        raise ConfigError(f"threads={threads} is out of range; use 1 to 256")
    _kernels.set_threads(threads)


def _threads_from_environment() -> None:
    text = os.environ.get("TIGHTWIRE_THREADS", "1")
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"TIGHTWIRE_THREADS={text!r} is not a number; use 1 to 256")
    set_threads(int(text))


@dataclass(frozen=True, eq=False)
class Weights:
    """What happens to rows before they are quantised. rotate: times `down`, then the Walsh-Hadamard butterflies, and
    back with `up`; otherwise: minus `offset`, times `down`, and back times `up`, plus `offset`. fp32 `[1 or S, D]`."""

    down: F32
    up: F32
    offset: F32 = field(default_factory=lambda: _NONE)

    def of(self, segments: slice) -> Weights:
        """Those of some segments."""
        return Weights(*(part if len(part) < 2 else part[segments] for part in (self.down, self.up, self.offset)))

    @property
    def mode(self) -> int:
        return _PLAIN if not self.down.size else _SCALE if self.offset.size else _ROTATE


PLAIN = Weights(_NONE, _NONE)


@dataclass(frozen=True, eq=False)
class Tables:
    """Static frequencies of the entropy coder: `frequencies` uint16 `[N, 256]` for the level counts `levels` `[N]`."""

    levels: U16
    frequencies: U16


OWN = Tables(np.empty(0, np.uint16), np.empty((0, 256), np.uint16))


def pages(size: int) -> U8:
    """Uninitialised memory; where it is large, in pages of its own, which go back at once when it is let go: a heap may
    keep them."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8) if size >= _OWN_PAGES else np.empty(size, np.uint8)


def segments(x: torch.Tensor) -> U16:
    """bf16 `[L, H, T, D]` as its bits `[L·H, T, D]`, each segment contiguous; a view where the memory allows it."""
    layers, heads, tokens, dim = x.shape
    if x.stride()[2:] != (dim, 1):
        x = x.contiguous()
    bits: U16 = x.view(torch.uint16).numpy()
    try:
        bits.shape = (layers * heads, tokens, dim)  # never copies
    except AttributeError:
        bits = np.ascontiguousarray(bits).reshape(layers * heads, tokens, dim)
    return bits


def covers(dim: int, group: int) -> bool:
    """Whether rows of `dim` values in groups of `group` can take the native path."""
    return 0 < dim <= MAX_DIM and dim % 32 == 0 and group % 32 == 0 and dim % group == 0


def bits_for(levels: int) -> int:
    """Bits that hold `levels` values (2 → 1, 5 → 3, 256 → 8)."""
    return max((levels - 1).bit_length(), 1)


def encode(
    values: U16, levels: U16, weights: Weights, lo: U16, step: U16, out: U8, packed: bool, isa: str = ""
) -> bool:
    """values: bf16 bits `[S, T, D]`, each segment contiguous; levels `[S]`; → lo, step bf16 bits `[S, cells]`, `out`:
    flat, the segments' symbols one to a byte or `packed`. False when a value or parameter is not finite."""
    return bool(_kernels.encode(values, levels, weights.mode, weights.down, weights.offset, lo, step, out, packed, isa))


def decode(
    data: U8, levels: U16, weights: Weights, lo: U16, step: U16, out: U16, packed: bool, isa: str = ""
) -> None:
    """The inverse of `encode` into `out` `[S, T, D]`; FrameError for a symbol at or above its level count."""
    if not _kernels.decode(data, levels, weights.mode, weights.up, weights.offset, lo, step, out, packed, isa):
        raise FrameError("payload", "a symbol is not below the number of levels of its segment")


def decode_projected(
    data: U8, coded: npt.NDArray[np.bool_], levels: U16, lo: U16, step: U16, basis: F32, mean: F32,
    turns: tuple[F32, F32] | None, out: U16, isa: str = "",
) -> None:  # fmt: skip
    """The entropy coder's bytes → (lo + symbol · step) · basis + mean as bf16, within the rounding of fp32 sums. `coded`
    `[A]`: which segments of as many of the U·R channels are there, the others being zero; `levels` `[S]` of those that are;
    lo and step of their channels, bf16 bits; basis `[U, C/32, R, 32]`, mean `[U, C]`;
    `out` `[U·C/D, T, D]`, D a multiple of 32. `turns`: cosines and sines `[T, D/2]` by which each pair (i, i + D/2) is
    turned, D a multiple of 64. Basis, mean and turns are `interleaved`. FrameError for what no encoder writes."""
    cos, sin = turns or (_NONE, _NONE)
    wrong = _kernels.decode_projected(data, coded, levels, lo, step, basis, mean, cos, sin, out, isa)
    if wrong:
        raise FrameError("payload", wrong)


def deadzone_parameters(
    steps: U16, chosen: U8, peaks: U8, width: int
) -> tuple[npt.NDArray[np.bool_], U16, U16, U16] | None:
    """The quantizer `deadzone`'s steps of heads, bf16 bits `[H]`, and indices into `peaks` of segments `[S]` → which segments
    are coded `[S]`, their levels, lo and step of their channels, `width` each. None for what no encoder writes."""
    coded, levels = np.empty(len(chosen), bool), np.empty(len(chosen), np.uint16)
    lo, step = np.empty((2, len(chosen) * width), np.uint16)
    count = _kernels.deadzone_parameters(steps, chosen, peaks, coded, levels, lo, step)
    return None if count < 0 else (coded, levels[:count], lo[: count * width], step[: count * width])


def project(
    values: U16, basis: F32, offset: F32, turns: tuple[F32, F32] | None, isa: str = ""
) -> tuple[F32, F32, F32] | None:
    """values: bf16 bits `[U·C/D, T, D]`, each segment contiguous → (coordinates `[U, R, T]`, their minima and maxima `[U, R]`)
    in the directions `basis` `[U, ceil(R/8), C, 8]`, less `offset` `[U, R]`, within the rounding of fp32 sums. `turns`:
    cosines and sines `[T, D/2]` by which each pair (i, i + D/2) is turned before. None: a value is not finite or above 2^100."""
    cos, sin = turns or (_NONE, _NONE)
    y = np.empty((*offset.shape, values.shape[1]), np.float32)
    low, high = np.empty((2, *offset.shape), np.float32)
    return (y, low, high) if _kernels.project(values, basis, offset, cos, sin, y, low, high, isa) else None


def quantize_rows(rows: F32, low: F32, high: F32, levels: U16, isa: str = "") -> tuple[U8, U16, U16] | None:
    """rows `[N, T]` with their minima and maxima `[N]` → symbols `[N, T]`, lo and step bf16 bits `[N]`, as
    `reference.quantize` gives with a row a group. `levels` `[S]`, each of N / S rows. None: a parameter is not finite."""
    symbols, (lo, step) = np.empty(rows.shape, np.uint8), np.empty((2, len(rows)), np.uint16)
    finite = _kernels.quantize_rows(rows, low, high, levels, lo, step, symbols, isa)
    return (symbols, lo, step) if finite else None


def interleaved(x: F32) -> F32:
    """`x` with every 32 of its last axis as 16 even places, then 16 odd ones; a copy."""
    pairs = x.reshape(*x.shape[:-1], -1, 16, 2)
    return np.ascontiguousarray(pairs.swapaxes(-1, -2), np.float32).reshape(x.shape)


def encode_rans(
    values: U16, levels: U16, weights: Weights, lo: U16, step: U16, tables: Tables = OWN, isa: str = ""
) -> list[memoryview] | None:
    """As `encode`, the symbols through the entropy coder (`kernels.rans`): its stream in parts. None when a value or
    parameter is not finite."""
    parts = _kernels.encode_rans(
        values, levels, weights.mode, weights.down, weights.offset, lo, step, tables.levels, tables.frequencies, isa
    )
    return None if parts is None else [part.data for part in parts]


def decode_rans(
    data: U8, levels: U16, weights: Weights, lo: U16, step: U16, out: U16, tables: Tables = OWN, isa: str = ""
) -> None:
    """The inverse of `encode_rans` into `out` `[S, T, D]`; FrameError for what no encoder writes."""
    wrong = _kernels.decode_rans(
        data, levels, weights.mode, weights.up, weights.offset, lo, step, tables.levels, tables.frequencies, out, isa
    )
    if wrong:
        raise FrameError("payload", wrong)


def rans_encode(symbols: U8, levels: U16, tables: Tables = OWN, isa: str = "") -> list[memoryview]:
    """The entropy coder's stream of symbols `[S, N]`, in parts."""
    return [part.data for part in _kernels.rans_encode(symbols, levels, tables.levels, tables.frequencies, isa)]


def rans_decode(data: U8, levels: U16, count: int, tables: Tables = OWN, isa: str = "") -> U8:
    """The inverse of `rans_encode`: `[S, count]`; FrameError for what no encoder writes."""
    out = np.empty((len(levels), count), np.uint8)
    wrong = _kernels.rans_decode(data, levels, tables.levels, tables.frequencies, out, isa)
    if wrong:
        raise FrameError("payload", wrong)
    return out


def exponent_encode(values: U16, isa: str = "") -> tuple[U8, list[memoryview]]:
    """bf16 bits `[S, T, D]` → sign with mantissa, a byte for each value; the entropy coder's stream of the exponents."""
    rest = pages(values.size)
    return rest, [part.data for part in _kernels.exponent_encode(values, rest, isa)]


def exponent_decode(rest: U8, data: U8, out: U16, isa: str = "") -> None:
    """The inverse of `exponent_encode` into `out` `[S, T, D]`; FrameError for what no encoder writes."""
    wrong = _kernels.exponent_decode(rest, data, out, isa)
    if wrong:
        raise FrameError("payload", wrong)


def place(caches: Sequence[U16], ids: Sequence[int], offset: int, k: U16, v: U16) -> None:
    """K and V `[layers·H, T, D]`, each segment contiguous, to the blocks `ids` of every layer's cache `[B, H, N, 2·D]`, from
    token `offset` of the first on: K as `[D, N]`, then V as `[N, D]`."""
    _kernels.place(list(caches), np.array(ids, np.int64), offset, k, v)


_threads_from_environment()

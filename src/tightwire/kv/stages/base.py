"""The contract of a stage.

A strategy is a chain of stages; each stage turns one kind of thing into another:

| kind | from → to | what it does |
|---|---|---|
| `Transform` | FLOATS → FLOATS | `forward`, `inverse` (up to rounding); may send side information along |
| `Correction` | FLOATS → FLOATS | sees what the stages after it lost, and sends something against that |
| `Quantizer` | FLOATS → SYMBOLS | `quantize`, `dequantize`; its parameters come first in the payload |
| `Codec` | SYMBOLS → BYTES | `encode`, `decode`: exact |
| `Lossless` | FLOATS → BYTES | `encode`, `decode`: exact for every bit pattern |

FLOATS are fp32 `[L, H, T, D]`; a transform may change H, T and D (`out_shape` says how). SYMBOLS are uint8 `[S, N]`:
S segments (for most quantizers one for each layer and head) of N symbols, those of segment s below `levels[s]`.

A stage is a frozen dataclass; its fields (int, one of some words, or the name of a table) are its configuration and
its identity: equality, `repr`, text and JSON derive from them. A stage registers itself with `@STAGES.register(name)`,
or, from another package, by an entry point in the group `tightwire.stages`; nothing else needs an edit.
Stages hold no state and do no I/O. Values that are not finite are refused (`NotFiniteError`); the sender then sends
that block raw. What arrives is not trusted: `inverse`, `layout`, `dequantize` and `decode` check it and raise
`FrameError("payload", …)`.

Calibrated stages have a setting `table`: `own` derives what is needed from the block itself and sends it along;
any other name is a `tables.Table` that both sides hold, made by `calibrate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from tightwire.core.registry import Registry
from tightwire.errors import ConfigError, FrameError, TightwireError
from tightwire.kv.block import F32, U8, U16
from tightwire.kv.tables import Table

Kind = Literal["floats", "symbols", "bytes"]
Shape = tuple[int, int, int, int]  # [L, H, T, D]
Buffer = bytes | memoryview
_LENGTH_BYTES = 4  # of the length that stands before side information
OWN = "own"


class NotFiniteError(TightwireError):
    """The values hold NaN or Inf, or a range that the parameters cannot express."""


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: its first layer, its first token's position, and whether it is K or V."""

    layer_start: int = 0
    token_start: int = 0
    side: Literal["k", "v"] = "k"


@dataclass(frozen=True, eq=False)
class Quantized:
    """`symbols` uint8 `[S, N]`, those of segment s below `levels[s]` (uint16 `[S]`); `params`: the bytes from which
    `layout` and `dequantize` know the rest."""

    symbols: U8
    levels: U16
    params: Buffer


@dataclass(frozen=True, eq=False)
class Layout:
    """What a quantizer's parameters say before any symbol is read."""

    levels: U16  # [S]
    count: int  # N, the symbols of each segment
    params_bytes: int


@dataclass(frozen=True)
class Stage:
    """Base of all stages; `takes` and `gives` are checked when a chain is composed."""

    name: ClassVar[str]
    takes: ClassVar[Kind]
    gives: ClassVar[Kind]

    @classmethod
    def variants(cls) -> list[Stage]:
        """The settings worth enumerating; a stage with no setting that matters has one."""
        return [cls()]

    def calibrate(self, samples: Sequence[F32], model: str) -> Table:
        """The table that this stage derives from `samples`, each `[L, H, T, D]` as it arrives at this stage, of all
        layers of the model whose fingerprint is `model`. ConfigError for a stage that takes no table."""
        raise ConfigError(f"{self.name} is not calibrated: it has no table")

    def __str__(self) -> str:
        return self._text(defaults=True)

    @property
    def short(self) -> str:
        """The text without the settings that are at their defaults."""
        return self._text(defaults=False)

    def _text(self, defaults: bool) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = [f"{f.name}={values[f.name]}" for f in fields(self) if defaults or values[f.name] != f.default]
        return f"{self.name}:{','.join(shown)}" if shown else self.name


class Transform(Stage):
    takes: ClassVar[Kind] = "floats"
    gives: ClassVar[Kind] = "floats"
    @property
    def sends_side(self) -> bool:
        """Whether `forward` gives bytes that `inverse` needs."""
        return False

    def out_shape(self, shape: Shape) -> Shape:
        """The shape that `forward` gives for `shape`."""
        return shape

    def forward(self, x: F32, place: Place) -> tuple[F32, bytes]:
        """(what goes on, side information)"""
        raise NotImplementedError

    def inverse(self, y: F32, side: memoryview, place: Place, shape: Shape) -> F32:
        """The values of `shape` again; FrameError when `side` does not fit."""
        raise NotImplementedError


class Correction(Stage):
    """Stands before the quantizer; what follows it runs first."""

    takes: ClassVar[Kind] = "floats"
    gives: ClassVar[Kind] = "floats"

    def describe(self, residual: F32, place: Place) -> bytes:
        """Side information about `residual` = the values − what the receiver will have of them."""
        raise NotImplementedError

    def correct(self, y: F32, side: memoryview, place: Place) -> F32:
        """`y` plus what `side` tells of the residual; FrameError when `side` does not fit."""
        raise NotImplementedError


class Quantizer(Stage):
    takes: ClassVar[Kind] = "floats"
    gives: ClassVar[Kind] = "symbols"

    def quantize(self, x: F32, place: Place) -> Quantized:
        """NotFiniteError when the parameters cannot express the values."""
        raise NotImplementedError

    def layout(self, data: memoryview, shape: Shape, place: Place) -> Layout:
        """Of a payload that starts with this quantizer's parameters; FrameError when they do not fit `shape`."""
        raise NotImplementedError

    def dequantize(self, q: Quantized, shape: Shape, place: Place) -> F32:
        """The values `[L, H, T, D]` again."""
        raise NotImplementedError


class Codec(Stage):
    takes: ClassVar[Kind] = "symbols"
    gives: ClassVar[Kind] = "bytes"

    def encode(self, symbols: U8, levels: U16) -> Buffer:
        """`symbols` `[S, N]`, `levels` `[S]`."""
        raise NotImplementedError

    def decode(self, data: memoryview, levels: U16, count: int) -> U8:
        """Symbols `[S, count]`, those of segment s below levels[s]; FrameError if `data` does not hold exactly those."""
        raise NotImplementedError


class Lossless(Stage):
    takes: ClassVar[Kind] = "floats"
    gives: ClassVar[Kind] = "bytes"

    def encode(self, x: torch.Tensor) -> list[Buffer]:
        """`x` `[L, H, T, D]`, bf16, fp16 or fp32, as parts that belong one after the other."""
        raise NotImplementedError

    def decode(self, data: memoryview, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """The tensor again, every bit; FrameError if `data` does not hold exactly it."""
        raise NotImplementedError


STAGES: Registry[type[Stage]] = Registry("stage", entry_points="tightwire.stages")


def require_range(name: str, value: int, low: int, high: int) -> None:
    """ConfigError unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigError(f"{name}={value} is out of range; use {low} to {high}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is unknown; use one of {', '.join(choices)}")


def require_bytes(what: str, data: Buffer, wanted: int) -> None:
    """FrameError unless `data` has exactly `wanted` bytes."""
    if len(data) != wanted:
        raise FrameError("payload", f"{what} takes {wanted} bytes, got {len(data)}")


def side_length(side: bytes) -> bytes:
    """What stands before a stage's side information."""
    return len(side).to_bytes(_LENGTH_BYTES, "little")


def split_side(data: memoryview) -> tuple[memoryview, memoryview]:
    """(a stage's side information, what follows it); FrameError when less is left than is stated."""
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES + size:
        raise FrameError("payload", f"side information of {size} bytes is stated, {len(data)} are left")
    return data[_LENGTH_BYTES : _LENGTH_BYTES + size], data[_LENGTH_BYTES + size :]


def read_array(
    what: str, data: Buffer, dtype: npt.DTypeLike, shape: tuple[int, ...], offset: int = 0
) -> npt.NDArray[Any]:
    """A view of `data` from `offset` on as little-endian `dtype` of `shape`; FrameError when it is too short."""
    kind = np.dtype(dtype).newbyteorder("<")
    count = math.prod(shape)
    if len(data) - offset < count * kind.itemsize:
        raise FrameError("payload", f"{what} takes {count * kind.itemsize} bytes, got {max(len(data) - offset, 0)}")
    return np.frombuffer(data, kind, count, offset).reshape(shape)


def check_symbols(symbols: U8, levels: U16) -> U8:
    """`symbols` `[S, N]`; FrameError when one is not below its segment's level count."""
    if symbols.size and (symbols.max(axis=1) >= levels).any():
        raise FrameError("payload", "a symbol is not below the number of levels of its segment")
    return symbols

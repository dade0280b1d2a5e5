"""The contract of a stage.

A strategy is a chain of stages; each stage turns one kind of thing into another:

| kind | from → to | method |
|---|---|---|
| `Transform` | FLOATS → FLOATS | `forward(x)`, `inverse(x)`: fp32 `[..., T, D]`, inverse up to rounding |
| `Quantizer` | FLOATS → SYMBOLS | `quantize(x)` → `Quantized`; `dequantize(q, shape)` |
| `Codec` | SYMBOLS → BYTES | `encode(symbols, levels)`, `decode(data, count, levels)`: exact |
| `Lossless` | FLOATS → BYTES | `encode(x)`, `decode(data, shape, dtype)`: exact for every bit pattern |

A stage is a frozen dataclass; its fields are its configuration and its identity: equality, `repr`, text and JSON
derive from them. A stage registers itself under its name with `@STAGES.register(name)`; nothing else needs an edit.
Stages hold no state and do no I/O. Values that are not finite are refused by quantizers (`NotFiniteError`);
the sender then sends that block raw.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch

from tightwire.core.registry import Registry
from tightwire.errors import ConfigError, TightwireError
from tightwire.kv.block import F32, U8, U16

Kind = Literal["floats", "symbols", "bytes"]


class NotFiniteError(TightwireError):
    """The values hold NaN or Inf, or a range that the parameters cannot express."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """`symbols` uint8 of the values' shape; `lo`, `step` bf16 bits, one pair per group, in row order."""

    symbols: U8
    lo: U16
    step: U16


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

    def forward(self, x: F32) -> F32:
        raise NotImplementedError

    def inverse(self, x: F32) -> F32:
        raise NotImplementedError


class Quantizer(Stage):
    takes: ClassVar[Kind] = "floats"
    gives: ClassVar[Kind] = "symbols"
    levels: int

    def quantize(self, x: F32) -> Quantized:
        raise NotImplementedError

    def dequantize(self, quantized: Quantized) -> F32:
        raise NotImplementedError

    def groups(self, shape: tuple[int, ...]) -> int:
        """How many (lo, step) pairs a tensor of `shape` `[L, H, T, D]` has."""
        raise NotImplementedError


class Codec(Stage):
    takes: ClassVar[Kind] = "symbols"
    gives: ClassVar[Kind] = "bytes"

    def encode(self, symbols: U8, levels: int) -> bytes:
        raise NotImplementedError

    def decode(self, data: memoryview, count: int, levels: int) -> U8:
        """`count` symbols, each below `levels`; raises FrameError if `data` does not hold exactly those."""
        raise NotImplementedError


class Lossless(Stage):
    takes: ClassVar[Kind] = "floats"
    gives: ClassVar[Kind] = "bytes"

    def encode(self, x: torch.Tensor) -> bytes:
        raise NotImplementedError

    def decode(self, data: memoryview, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        raise NotImplementedError


STAGES: Registry[type[Stage]] = Registry("stage")


def require_range(name: str, value: int, low: int, high: int) -> None:
    """ConfigError unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigError(f"{name}={value} is out of range; use {low} to {high}")

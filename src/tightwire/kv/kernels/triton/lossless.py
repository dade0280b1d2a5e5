"""Lossless bf16 (`stages.lossless.exponent`): the exponents for the entropy coder, sign and mantissa as a byte."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tightwire.kv.kernels.triton.bf16 import EXACT

BLOCK = 2048  # values of a program


@triton.jit
def split_kernel(x, exponents, rest, x_segment, x_token, count, tiles, D: tl.constexpr, BLOCK: tl.constexpr):
    """x int16 (bf16 bits) [S, T, D] → exponents uint8 [S, N]; rest uint8 [S, N]: sign, then 7 bits of mantissa."""
    segment, at, inside = _place(count, tiles, BLOCK)
    where = x + segment * x_segment + (at // D).to(tl.int64) * x_token + at % D
    bits = tl.load(where, mask=inside, other=0).to(tl.int32)
    to = segment * count + at
    tl.store(exponents + to, ((bits >> 7) & 0xFF).to(tl.uint8), mask=inside)
    tl.store(rest + to, ((bits & 0x7F) | ((bits >> 8) & 0x80)).to(tl.uint8), mask=inside)


@triton.jit
def merge_kernel(x, exponents, rest, x_segment, x_token, count, tiles, D: tl.constexpr, BLOCK: tl.constexpr):
    """The inverse of `split_kernel`."""
    segment, at, inside = _place(count, tiles, BLOCK)
    source = segment * count + at
    exponent = tl.load(exponents + source, mask=inside, other=0).to(tl.int32)
    others = tl.load(rest + source, mask=inside, other=0).to(tl.int32)
    bits = (others & 0x7F) | (exponent << 7) | ((others & 0x80) << 8)
    where = x + segment * x_segment + (at // D).to(tl.int64) * x_token + at % D
    tl.store(where, bits.to(tl.int16), mask=inside)


@triton.jit
def _place(count, tiles, BLOCK: tl.constexpr):
    """(segment int64, the program's places in it int32 [BLOCK], which of them there are)"""
    program = tl.program_id(0)
    at = program % tiles * BLOCK + tl.arange(0, BLOCK)
    return (program // tiles).to(tl.int64), at, at < count


def split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x bf16 `[S, T, D]`, the last axis dense → (exponents, rest), uint8 `[S, N]` each."""
    segments, count = x.shape[0], x.shape[1] * x.shape[2]
    exponents, rest = torch.empty(2, segments, count, dtype=torch.uint8, device=x.device)
    _launch(split_kernel, x, exponents, rest)
    return exponents, rest


def merge(exponents: torch.Tensor, rest: torch.Tensor, x: torch.Tensor) -> None:
    """The inverse of `split` into x."""
    _launch(merge_kernel, x, exponents, rest)


def _launch(kernel, x: torch.Tensor, exponents: torch.Tensor, rest: torch.Tensor) -> None:
    segments, tokens, dim = x.shape
    tiles = -(-tokens * dim // BLOCK)
    kernel[(segments * tiles,)](
        x.view(torch.int16), exponents, rest, x.stride(0), x.stride(1), tokens * dim, tiles, dim, BLOCK, **EXACT
    )

"""{identity, rotation, scaling} → min-max symbols → {bytes, packing} in one pass over memory, and back in one.

A program takes BLOCKS · 512 values of one segment: whole rows [ROWS, D]. Groups of GROUP neighbours share lo and step;
C = N / GROUP cells a segment. MODE: what happens to rows first; FORM: how symbols stand.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

from tightwire.kv.kernels.triton.bf16 import ceil_bf16, floor_bf16, from_bf16, rint_of_product, to_bf16
from tightwire.kv.kernels.triton.packing import BLOCK, bits_for, load_blocks, load_tail, store_blocks, store_tail
from tightwire.kv.kernels.triton.walsh import extremes, rotate

PLAIN, ROTATE, SCALE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # MODE, as native.Weights.mode
BYTES, WORDS, TAIL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # FORM; the last: what fills no block of 512


@triton.jit
def encode_kernel(
    x, lo_step, symbols, bad, levels, starts, down, offset, tokens, begin, end, tiles, x_segment, x_token, w_segment,
    D: tl.constexpr, GROUP: tl.constexpr, MODE: tl.constexpr, LIMIT: tl.constexpr, FORM: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """x int16 (bf16 bits) → lo_step int16 [2, S, C]: lo, step; symbols uint8; bad int32 [1], set where a parameter is not
    finite or a value is not below LIMIT. Rows `begin` to `end` of every segment; x_… and w_…: strides in elements."""
    segment, first, row, inside = _place(begin, end, tiles, D, BLOCKS)
    ROWS: tl.constexpr = BLOCKS * BLOCK // D
    GROUPS: tl.constexpr = D // GROUP
    column = tl.arange(0, D)
    bits = tl.load(x + segment * x_segment + row[:, None] * x_token + column[None, :], mask=inside[:, None], other=0)
    y = from_bf16(bits)
    at = segment * w_segment + column
    if MODE == ROTATE:
        y = rotate(y * tl.load(down + at)[None, :], ROWS, D)
    elif MODE == SCALE:
        y = (y - tl.load(offset + at)[None, :]) * tl.load(down + at)[None, :]
    count = tl.load(levels + segment)
    least, most = extremes(y, ROWS * D)
    least, most = tl.reshape(least, [ROWS, D // 8]), tl.reshape(most, [ROWS, D // 8])
    wild = (tl.abs(least) >= LIMIT) | (tl.abs(most) >= LIMIT) | (least != least)
    tl.store(bad + tl.zeros([ROWS, D // 8], tl.int32), 1, mask=wild & inside[:, None])
    lo = floor_bf16(tl.min(tl.reshape(least, [ROWS, GROUPS, GROUP // 8]), axis=2))
    lo = tl.where(lo == 0x8000, 0, lo)
    base = from_bf16(lo)
    span = tl.max(tl.reshape(most, [ROWS, GROUPS, GROUP // 8]), axis=2) - base
    step = ceil_bf16(span * tl.div_rn(1.0, (count - 1).to(tl.float32))) & 0x7FFF
    step = tl.where((step > 0) & (step < 0x0080), 0x0080, step)
    width = from_bf16(step)
    inverse = tl.div_rn(1.0, tl.where(width > 0, width, 1.0))
    above = tl.reshape(y, [ROWS, GROUPS, GROUP]) - base[:, :, None]
    q = tl.reshape(rint_of_product(above, inverse[:, :, None]), [ROWS, D])
    _report(bad, lo, step, inside[:, None])
    cell, cells = _cells(segment, row, tokens, tiles, GROUPS)
    tl.store(lo_step + cell, lo.to(tl.int16), mask=inside[:, None])
    tl.store(lo_step + cells + cell, step.to(tl.int16), mask=inside[:, None])
    if FORM == BYTES:
        tl.store(symbols + _index(segment, row, tokens, D), q, mask=inside[:, None])
    else:
        out, bits = symbols + tl.load(starts + segment), bits_for(count)
        if FORM == WORDS:
            store_blocks(out, q, bits, first, end, D, BLOCKS)
        else:
            store_tail(out, q, bits, row, inside, D)


@triton.jit
def decode_kernel(
    lo_step, symbols, x, bad, levels, starts, up, offset, tokens, begin, end, tiles, x_segment, x_token, w_segment,
    D: tl.constexpr, GROUP: tl.constexpr, MODE: tl.constexpr, FORM: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The inverse of `encode_kernel`; bad is set by a symbol not below its levels and by parameters not finite."""
    segment, first, row, inside = _place(begin, end, tiles, D, BLOCKS)
    ROWS: tl.constexpr = BLOCKS * BLOCK // D
    GROUPS: tl.constexpr = D // GROUP
    column = tl.arange(0, D)
    count = tl.load(levels + segment)
    bits = bits_for(count)
    if FORM == BYTES:
        q = tl.load(symbols + _index(segment, row, tokens, D), mask=inside[:, None], other=0)
    else:
        data = symbols + tl.load(starts + segment)
        if FORM == WORDS:
            q = tl.reshape(load_blocks(data, bits, first, end, D, BLOCKS), [ROWS, D])
        else:
            q = load_tail(data, bits, row, inside, D)
    cell, cells = _cells(segment, row, tokens, tiles, GROUPS)
    lo = tl.load(lo_step + cell, mask=inside[:, None], other=0).to(tl.int32) & 0xFFFF
    step = tl.load(lo_step + cells + cell, mask=inside[:, None], other=0).to(tl.int32) & 0xFFFF
    _report(bad, lo, step, inside[:, None])
    if count < 256 and (FORM == BYTES or count < 1 << bits):  # else every symbol is below
        tl.store(bad + tl.zeros([ROWS, D], tl.int32), 1, mask=(q.to(tl.int32) >= count) & inside[:, None])
    y = tl.reshape(q, [ROWS, GROUPS, GROUP]).to(tl.float32)
    y = tl.reshape(y * from_bf16(step)[:, :, None] + from_bf16(lo)[:, :, None], [ROWS, D])
    at = segment * w_segment + column
    if MODE == ROTATE:
        y = rotate(y, ROWS, D) * tl.load(up + at)[None, :]
    elif MODE == SCALE:
        y = y * tl.load(up + at)[None, :] + tl.load(offset + at)[None, :]
    where = x + segment * x_segment + row[:, None] * x_token + column[None, :]
    tl.store(where, to_bf16(y).to(tl.int16), mask=inside[:, None])


@triton.jit
def _place(begin, end, tiles, D: tl.constexpr, BLOCKS: tl.constexpr):
    """(segment, the program's first row in it, its rows int64 [ROWS], which of them there are)"""
    program = tl.program_id(0)
    first = begin + program % tiles * (BLOCKS * BLOCK // D)
    row = first + tl.arange(0, BLOCKS * BLOCK // D)
    return (program // tiles).to(tl.int64), first, row.to(tl.int64), row < end


@triton.jit
def _index(segment, row, tokens, D: tl.constexpr):
    """Where [ROWS, D] stands in [S, T, D]."""
    return (segment * tokens + row)[:, None] * D + tl.arange(0, D)[None, :]


@triton.jit
def _cells(segment, row, tokens, tiles, GROUPS: tl.constexpr):
    """(where the cells of [ROWS, GROUPS] stand, how many all segments have)"""
    cell = (segment * tokens + row)[:, None] * GROUPS + tl.arange(0, GROUPS)[None, :]
    return cell, tl.num_programs(0).to(tl.int64) // tiles * tokens * GROUPS


@triton.jit
def _report(bad, lo, step, inside):
    """Set `bad` where parameters, bf16 bits, are not finite, or a step is below 0."""
    wild = ((lo & 0x7F80) == 0x7F80) | (step >= 0x7F80)
    tl.store(bad + tl.zeros(lo.shape, tl.int32), 1, mask=wild & inside)

"""Symbols in registers ↔ packed bytes, in the order of `reference.pack_bits`."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

BLOCK = tl.constexpr(512)  # reference.BLOCK


@triton.jit
def bits_for(levels):
    """Bits that hold `levels` values, 2 to 256."""
    few = 1 + (levels > 2).to(tl.int32) + (levels > 4).to(tl.int32) + (levels > 8).to(tl.int32)
    many = (levels > 16).to(tl.int32) + (levels > 32).to(tl.int32) + (levels > 64).to(tl.int32)
    return few + many + (levels > 128).to(tl.int32)


@triton.jit
def store_blocks(out, q, bits, first, end, D: tl.constexpr, BLOCKS: tl.constexpr):
    """q uint8 [ROWS, D]: whole blocks of a segment whose packed bytes start at `out`."""
    columns = tl.permute(tl.reshape(q, [BLOCKS, 16, 32]), (0, 2, 1))  # a thread has the 16 rows of a column
    even, odd = tl.split(tl.reshape(columns, [BLOCKS, 32, 4, 2, 2]))
    r0, r2 = tl.split(even)
    r1, r3 = tl.split(odd)
    n = bits.to(tl.uint32)
    quarters = r0.to(tl.uint32) | (r1.to(tl.uint32) << n) | (r2.to(tl.uint32) << 2 * n) | (r3.to(tl.uint32) << 3 * n)
    even, odd = tl.split(tl.reshape(quarters, [BLOCKS, 32, 2, 2]))  # of the column's stream, 4 · bits bits each
    q0, q2 = tl.split(even)
    q1, q3 = tl.split(odd)
    words, there = _words(out, bits, first, end, D, BLOCKS)
    for w in range(bits):
        word = _shifted(q0, -16 * w) | _shifted(q1, 4 * bits - 16 * w)
        word |= _shifted(q2, 8 * bits - 16 * w) | _shifted(q3, 12 * bits - 16 * w)
        tl.store(words + w * 32, word.to(tl.uint16), mask=there)


@triton.jit
def load_blocks(data, bits, first, end, D: tl.constexpr, BLOCKS: tl.constexpr):
    """The inverse of `store_blocks`: uint8 [BLOCKS, 16, 32]."""
    words, there = _words(data, bits, first, end, D, BLOCKS)
    even = tl.join(_quarter(words, 0, bits, there), _quarter(words, 2, bits, there))
    odd = tl.join(_quarter(words, 1, bits, there), _quarter(words, 3, bits, there))
    quarters = tl.reshape(tl.join(even, odd), [BLOCKS, 32, 4])
    n = bits.to(tl.uint32)
    top = (1 << n) - 1
    even = tl.join((quarters & top).to(tl.uint8), ((quarters >> 2 * n) & top).to(tl.uint8))
    odd = tl.join(((quarters >> n) & top).to(tl.uint8), ((quarters >> 3 * n) & top).to(tl.uint8))
    return tl.permute(tl.reshape(tl.join(even, odd), [BLOCKS, 32, 16]), (0, 2, 1))


@triton.jit
def _words(data, bits, first, end, D: tl.constexpr, BLOCKS: tl.constexpr):
    """(the first word of every column [BLOCKS, 32], which blocks there are [BLOCKS, 1]), from row `first` on"""
    block = first // (BLOCK // D) + tl.arange(0, BLOCKS)[:, None]
    at = block.to(tl.int64) * bits * 32 + tl.arange(0, 32)[None, :]
    return data.to(tl.pointer_type(tl.uint16)) + at, block * (BLOCK // D) < end


@triton.jit
def _shifted(x, by):
    """The low 16 bits of x uint32, shifted up by `by`, down where it is below 0."""
    up = x << tl.minimum(tl.maximum(by, 0), 16).to(tl.uint32)
    down = x >> tl.minimum(tl.maximum(-by, 0), 31).to(tl.uint32)
    return tl.where(by >= 0, up, tl.where(by > -32, down, 0)) & 0xFFFF


@triton.jit
def _quarter(words, j: tl.constexpr, bits, there):
    """The j-th of 4 parts of the columns' streams, 4 · bits bits, uint32; from up to three words."""
    start = tl.full([1, 1], 4 * j, tl.int32) * bits
    skip = start % 16
    size = skip + 4 * bits
    at = words + start // 16 * 32
    low = tl.load(at, mask=there, other=0).to(tl.uint32)
    middle = tl.load(at + 32, mask=there & (size > 16), other=0).to(tl.uint32)
    high = tl.load(at + 64, mask=there & (size > 32), other=0).to(tl.uint32)
    return (low >> skip.to(tl.uint32)) | ((middle | (high << 16)) << (16 - skip).to(tl.uint32))


@triton.jit
def store_tail(out, q, bits, row, inside, D: tl.constexpr):
    """q uint8 [ROWS, D]: what does not fill a block, one after the other: 8 symbols take `bits` bytes."""
    ROWS: tl.constexpr = BLOCK // D
    eight = tl.reshape(q, [ROWS, D // 8, 8]).to(tl.uint64)
    group = tl.sum(eight << (tl.arange(0, 8)[None, None, :] * bits).to(tl.uint64), axis=2)
    at = out + (row[:, None] * (D // 8) + tl.arange(0, D // 8)[None, :]) * bits
    for byte in range(bits):
        tl.store(at + byte, (group & 0xFF).to(tl.uint8), mask=inside[:, None])
        group = group >> 8


@triton.jit
def load_tail(data, bits, row, inside, D: tl.constexpr):
    """The inverse of `store_tail`: uint8 [ROWS, D]."""
    start = (row[:, None] * D + tl.arange(0, D)[None, :]) * bits
    left = start % 8
    pair = tl.load(data + start // 8, mask=inside[:, None], other=0).to(tl.int32)
    pair |= tl.load(data + start // 8 + 1, mask=inside[:, None] & (left + bits > 8), other=0).to(tl.int32) << 8
    return ((pair >> left.to(tl.int32)) & ((1 << bits) - 1)).to(tl.uint8)

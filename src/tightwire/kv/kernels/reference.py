"""The readable twins of the native kernels, in numpy; they are the contract.

All arithmetic is IEEE fp32, in the order written here, unless fp64 is named (where it stands for a fused
multiply-add), so that the native kernels can agree bit for bit. bf16 values are carried as their uint16 bits.
"""

from __future__ import annotations

import numpy as np

from tightwire.kv.block import F32, U8, U16

BLOCK = 512  # symbols that are packed together


def powers_of_two(dim: int) -> list[int]:
    """dim as a sum of powers of two, largest first: 80 → [64, 16]."""
    return [1 << bit for bit in range(dim.bit_length() - 1, -1, -1) if dim >> bit & 1]


def walsh_blocks(x: F32) -> F32:
    """Unnormalised Walsh-Hadamard transform over the last axis, block by block of `powers_of_two`."""
    out, start = np.array(x, np.float32, order="C"), 0
    for n in powers_of_two(x.shape[-1]):
        h = 1
        while h < n:
            view = out[..., start : start + n].reshape(*x.shape[:-1], n // (2 * h), 2, h)
            a, b = view[..., 0, :], view[..., 1, :]
            both = np.stack((a + b, a - b), axis=-2)
            out[..., start : start + n] = both.reshape(*x.shape[:-1], n)
            h *= 2
        start += n
    return out


def floor_bf16(x: F32) -> U16:
    """The largest bf16 that is not above x."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    up = (bits >> 31).astype(bool) & ((bits & 0xFFFF) != 0)
    found: U16 = ((bits >> 16) + up).astype(np.uint16)
    return found


def ceil_bf16(x: F32) -> U16:
    """The smallest bf16 that is not below x, for x ≥ 0."""
    bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
    return ((bits + 0xFFFF) >> 16).astype(np.uint16)


def from_bf16(bits: U16) -> F32:
    """bf16 bits as fp32, exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantize(x: F32, group: int, levels: U16, symmetric: bool = False) -> tuple[U8, U16, U16]:
    """Min-max quantisation of groups of `group` neighbours along the last axis (the last group may be shorter).

    x `[S, rows, N]`, levels `[S]` → symbols uint8 of x's shape, lo and step bf16 bits `[S, rows, ceil(N / group)]`;
    symmetric: lo is empty. The product with the inverse step is exact (fp64) before it is rounded.
    """
    size = x.shape[-1]
    padding = -size % group
    if padding:  # repeating the last value changes no minimum and no maximum
        x = np.concatenate([x, np.repeat(x[..., -1:], padding, axis=-1)], axis=-1)
    cells = x.reshape(*x.shape[:-1], (size + padding) // group, group)
    top = levels.astype(np.float32)[:, None, None] - np.float32(1)
    with np.errstate(all="ignore"):  # what overflows or is NaN is seen in lo and step by the caller
        if cells.size == 0:
            lo, step = np.zeros((2, *cells.shape[:-1]), np.uint16)
        elif symmetric:
            step = ceil_bf16(np.abs(cells).max(axis=-1) * (np.float32(1) / half(levels)))
            lo = np.zeros(0, np.uint16)
        else:
            lo = floor_bf16(cells.min(axis=-1))
            lo = np.where(lo == 0x8000, np.uint16(0), lo)  # -0 is 0: which of them a minimum gives is chance
            step = ceil_bf16((cells.max(axis=-1) - from_bf16(lo)) * (np.float32(1) / top))
        step &= 0x7FFF  # -0 is 0
        step = np.where((step > 0) & (step < 0x0080), np.uint16(0x0080), step)  # smallest normal: finite inverse
        width = from_bf16(step)
        inverse = np.float32(1) / np.where(width > 0, width, np.float32(1))  # width 0: all values equal lo
        above = cells if symmetric else cells - from_bf16(lo)[..., None]
        q = np.rint(above.astype(np.float64) * inverse[..., None])
        if symmetric:
            q += half(levels)[..., None]
        symbols = np.nan_to_num(q).astype(np.uint8)  # step was rounded up, so q stays below levels
    flat = symbols.reshape(*x.shape[:-1], size + padding)[..., :size]
    return np.ascontiguousarray(flat), lo, step


def half(levels: U16) -> F32:
    """The symbol that stands for zero in symmetric quantisation, `[S, 1, 1]`."""
    found: F32 = ((levels - 1) // 2).astype(np.float32)[:, None, None]
    return found


def dequantize(symbols: U8, lo: U16, step: U16, group: int, levels: U16, symmetric: bool = False) -> F32:
    """The inverse of `quantize`: `lo + symbol * step` in fp32, shape of `symbols`."""
    size = symbols.shape[-1]
    shape = (*symbols.shape[:-1], -(-size // group))
    width = np.repeat(from_bf16(step.reshape(shape)), group, axis=-1)[..., :size]
    if symmetric:
        return (symbols.astype(np.float32) - half(levels)) * width
    base = np.repeat(from_bf16(lo.reshape(shape)), group, axis=-1)[..., :size]
    return symbols.astype(np.float32) * width + base


def pack_bits(symbols: U8, bits: int) -> U8:
    """symbols uint8 `[N]`, each below 2^bits → uint8 `[ceil(N * bits / 8)]`.

    Blocks of 512: the symbols are 16 rows of 32 columns; column c becomes one stream of `bits` little-endian 16-bit
    words (row r at bit r * bits), and the words w of all columns stand side by side: `[bits, 32]` words a block. What
    does not fill a block follows symbol by symbol, the first in the lowest bits."""
    whole = symbols.size // BLOCK * BLOCK
    planes = np.unpackbits(symbols[:, None], axis=1, bitorder="little")[:, :bits]
    columns = planes[:whole].reshape(-1, 16, 32, bits).transpose(0, 2, 1, 3)  # [block, column, row, bit]
    words = np.packbits(columns.reshape(-1, 32, 16 * bits), axis=-1, bitorder="little")  # [block, column, 2 * bits]
    words = words.reshape(-1, 32, bits, 2).transpose(0, 2, 1, 3)
    return np.concatenate([words.reshape(-1), np.packbits(planes[whole:].reshape(-1), bitorder="little")])


def unpack_bits(data: memoryview | U8, count: int, bits: int) -> U8:
    """The inverse of `pack_bits`."""
    whole = count // BLOCK * BLOCK
    packed = np.frombuffer(data, np.uint8)
    words = packed[: whole * bits // 8].reshape(-1, bits, 32, 2).transpose(0, 2, 1, 3)
    planes = np.zeros((count, 8), np.uint8)
    columns = np.unpackbits(words.reshape(-1, 32, 2 * bits), axis=-1, bitorder="little")
    planes[:whole, :bits] = columns.reshape(-1, 32, 16, bits).transpose(0, 2, 1, 3).reshape(whole, bits)
    rest = np.unpackbits(packed[whole * bits // 8 :], bitorder="little")[: (count - whole) * bits]
    planes[whole:, :bits] = rest.reshape(count - whole, bits)
    return np.packbits(planes, axis=1, bitorder="little").reshape(count)

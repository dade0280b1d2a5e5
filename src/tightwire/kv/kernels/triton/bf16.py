"""bf16 in integer registers: bits and fp32 values, rounded as `reference` does it.

A multiplication and an addition that the reference rounds separately must not become one (kernels are compiled with
`EXACT`), divisions are rounded (`div_rn`), and subnormals stay what they are (Triton 3.9 and later).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

EXACT = {"enable_fp_fusion": False}
_MAGIC = tl.constexpr(1.5 * 2.0**23)  # a value below 2^22 added to it leaves its nearest integer in the low bits


@triton.jit
def from_bf16(bits):
    """The low 16 of some integer's bits as fp32."""
    return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def to_bf16(x):
    """The nearest bf16, of two the even one, what is past the range clipped to its maximum: its bits, uint32."""
    bits = x.to(tl.uint32, bitcast=True)
    near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    near = tl.where((near & 0x7FFF) == 0x7F80, near - 1, near)
    return tl.where(x != x, 0x7FC0, near)


@triton.jit
def floor_bf16(x):
    """The largest bf16 not above x: its bits, int32."""
    bits = x.to(tl.uint32, bitcast=True)
    return (((bits >> 16) + ((bits >> 31) & ((bits & 0xFFFF) != 0).to(tl.uint32))) & 0xFFFF).to(tl.int32)


@triton.jit
def ceil_bf16(x):
    """The smallest bf16 not below x, for x ≥ 0: its bits, int32."""
    return ((x.to(tl.uint32, bitcast=True) + 0xFFFF) >> 16).to(tl.int32)


@triton.jit
def rint_of_product(a, b):
    """rint(a · b), the product exact, for 0 ≤ a · b < 256; uint8."""
    a, b = tl.broadcast(a, b)
    return (tl.fma(a, b, tl.full(a.shape, _MAGIC, tl.float32)).to(tl.int32, bitcast=True) & 0xFF).to(tl.uint8)

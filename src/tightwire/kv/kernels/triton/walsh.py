"""The Walsh-Hadamard transform of rows in registers, and the extremes of neighbours."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def rotate(x, ROWS: tl.constexpr, D: tl.constexpr):
    """Butterflies over [ROWS, D] in the order h = 1, 2, 4, …: those below 8 and the others, each within a thread."""
    low = _walsh(tl.permute(tl.reshape(x, [ROWS * D // 8, 8]), (1, 0)), 8, ROWS * D // 8)
    low = tl.reshape(tl.permute(low, (1, 0)), [ROWS, D // 8, 8])
    high = _walsh(tl.reshape(tl.permute(low, (1, 0, 2)), [D // 8, ROWS * 8]), D // 8, ROWS * 8)
    return tl.reshape(tl.permute(tl.reshape(high, [D // 8, ROWS, 8]), (1, 0, 2)), [ROWS, D])


@triton.jit
def _walsh(x, N: tl.constexpr, K: tl.constexpr):
    """`reference.walsh_blocks` over the first axis of [N, K]: neighbours (a, b) → a + b, a - b; then the sums and the
    differences by themselves. Triton deals the last axis but that of the split to threads, so no thread waits."""
    a, b = tl.split(tl.permute(tl.reshape(x, [N // 2, 2, K]), (0, 2, 1)))
    plus, minus = a + b, a - b
    if N > 2:
        plus, minus = _walsh(plus, N // 2, K), _walsh(minus, N // 2, K)
    return tl.reshape(tl.permute(tl.join(plus, minus), (0, 2, 1)), [N, K])


@triton.jit
def extremes(x, N: tl.constexpr):
    """(minimum, maximum) [N / 8] of every 8 neighbours, within a thread; NaN where one of them is."""
    a, b = tl.split(tl.permute(tl.reshape(x, [N // 8, 4, 2]), (1, 0, 2)))
    least, most = _less(a, b), _more(a, b)  # [4, N / 8]
    a, b = tl.split(tl.permute(tl.reshape(least, [2, 2, N // 8]), (0, 2, 1)))
    c, d = tl.split(tl.permute(tl.reshape(most, [2, 2, N // 8]), (0, 2, 1)))
    a, b = tl.split(tl.permute(_less(a, b), (1, 0)))
    c, d = tl.split(tl.permute(_more(c, d), (1, 0)))
    return _less(a, b), _more(c, d)


@triton.jit
def _less(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _more(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)

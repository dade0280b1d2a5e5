"""`outliers`: dense and sparse. A few values of every vector are sent exactly, beside the others, so that they do not
widen the range of a quantizer (KVQuant, arXiv 2401.18079, section 3.4; GEAR, arXiv 2403.05527, section 3).

Vectors are the channels over the tokens of the block, or the tokens over head_dim; n is their length. Of each,
k = permille · n / 1000 values are taken out (rounded, at least 1, below n / 2): those k from both ends whose removal
leaves the narrowest range. What goes on has the nearest remaining value in their place; `[L, H, T, D]` stays.
The inverse puts them back exactly, whatever the stages after it lose.

Side information: a byte that says how values are held (0 bf16, 1 fp16, 2 fp32: the smallest that is exact for all);
the k positions of each vector (1 byte each for n ≤ 256, else 2, else 4), in rising order; then their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tightwire.errors import FrameError
from tightwire.kv.block import F32
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import (
    STAGES,
    NotFiniteError,
    Place,
    Shape,
    Stage,
    Transform,
    read_array,
    require_bytes,
    require_choice,
    require_range,
)

_BF16, _FP16, _FP32 = range(3)
_HELD = ("u2", "f2", "f4")  # by that byte


@STAGES.register("outliers")
@dataclass(frozen=True)
class Outliers(Transform):
    """`permille` of each vector, 1 to 200; `by`: what a vector is."""

    name = "outliers"
    permille: int = 10
    by: Literal["channel", "token"] = "channel"

    def __post_init__(self) -> None:
        require_range("outliers: permille", self.permille, 1, 200)
        require_choice("outliers: by", self.by, ("channel", "token"))

    @classmethod
    def variants(cls) -> list[Stage]:
        return [cls(permille=5), cls(), cls(permille=20), cls(by="token"), cls(permille=20, by="token")]

    @property
    def sends_side(self) -> bool:
        return True

    def forward(self, x: F32, place: Place) -> tuple[F32, bytes]:
        if not np.isfinite(x).all():
            raise NotFiniteError("values hold NaN or Inf")
        rows = self._rows(x)
        n, k = rows.shape[-1], self._taken(rows.shape[-1])
        order = np.argsort(rows, axis=-1, kind="stable")
        # column j: lowest and highest of what remains when j are taken from below and k - j from above
        low = np.take_along_axis(rows, order[..., : k + 1], axis=-1)
        high = np.take_along_axis(rows, order[..., n - 1 - k :], axis=-1)
        below = np.argmin(high.astype(np.float64) - low, axis=-1)[..., None]
        rank = np.arange(k)
        taken = np.sort(np.take_along_axis(order, np.where(rank < below, rank, n - k + rank), axis=-1), axis=-1)
        held, values = _shortest(np.take_along_axis(rows, taken, axis=-1))
        y = np.clip(rows, np.take_along_axis(low, below, axis=-1), np.take_along_axis(high, below, axis=-1))
        return self._rows(y), bytes([held]) + taken.astype(_position(n)).tobytes() + values.tobytes()

    def inverse(self, y: F32, side: memoryview, place: Place, shape: Shape) -> F32:
        rows = self._rows(y).copy()
        n = rows.shape[-1]
        shape_taken = (*rows.shape[:-1], self._taken(n))
        count, position = int(np.prod(shape_taken)), _position(n)
        held = side[0] if len(side) else len(_HELD)
        if held >= len(_HELD):
            raise FrameError("payload", f"outliers are held as 0, 1 or 2, got {held}")
        require_bytes(f"{count} outliers", side, 1 + count * (position.itemsize + int(_HELD[held][1])))
        taken = read_array("positions of outliers", side, position, shape_taken, 1)
        values = read_array("outliers", side, _HELD[held], shape_taken, 1 + count * position.itemsize)
        values = reference.from_bf16(values) if held == _BF16 else values.astype(np.float32)
        if count and (taken.max() >= n or not np.isfinite(values).all()):
            raise FrameError("payload", f"an outlier is not finite, or not at a position below {n}")
        np.put_along_axis(rows, taken.astype(np.int64), values, axis=-1)
        return self._rows(rows)

    def _rows(self, x: F32) -> F32:
        """Vectors along the last axis, and back."""
        return x.swapaxes(2, 3) if self.by == "channel" else x

    def _taken(self, n: int) -> int:
        return min(max(1, (n * self.permille + 500) // 1000), (n - 1) // 2)


def _position(n: int) -> np.dtype[Any]:
    """The type of a position below n."""
    return np.dtype("u1" if n <= 2**8 else "<u2" if n <= 2**16 else "<u4")


def _shortest(values: F32) -> tuple[int, npt.NDArray[Any]]:
    """(how they are held, the values so)"""
    bits = np.ascontiguousarray(values).view(np.uint32)
    if not (bits & 0xFFFF).any():
        return _BF16, (bits >> 16).astype("<u2")
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if (half.astype(np.float32) == values).all():  # no value is NaN, and the sign of 0 survives
        return _FP16, half
    return _FP32, values.astype("<f4")

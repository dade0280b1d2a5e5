"""`equalize`: every channel is moved and scaled to a like range (SmoothQuant's idea, arXiv 2211.10438, section 4, for
one tensor), so that channels can share the parameters of a quantizer along head_dim.

y = (x - offset) · (1 / scale), back x = y · scale + offset, each operation rounded to fp32; offset and scale are bf16,
one for each layer, head and channel: the middle of its range, rounded, and the distance from there to its farthest
value, so |y| ≤ 1. The inverse is exact up to rounding; a quantizer's error is multiplied by the channel's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightwire.errors import ConfigError, FrameError
from tightwire.kv import tables
from tightwire.kv.block import F32, U16
from tightwire.kv.kernels import native, reference
from tightwire.kv.stages.base import OWN, STAGES, NotFiniteError, Place, Shape, Transform, read_array, require_bytes

_SMALLEST = np.float32(2.0**-126)  # its inverse is finite


@STAGES.register("equalize")
@dataclass(frozen=True)
class Equalize(Transform):
    """`table`: `own` (from the block, sent along: 4 bytes a channel) or the name of one of kind `equalize`."""

    name = "equalize"
    table: str = OWN

    @property
    def sends_side(self) -> bool:
        return self.table == OWN

    def calibrate(self, samples: Sequence[F32], model: str) -> tables.Table:
        """Arrays `offset` and `scale`, fp32 `[layers, heads, dim]`."""
        if not samples:
            raise ConfigError("equalize: no samples to calibrate from")
        low = np.min([x.min(axis=2) for x in samples], axis=0)
        high = np.max([x.max(axis=2) for x in samples], axis=0)
        offset, scale = _from_range(low, high)
        return tables.Table.make(
            self.name, model, offset=reference.from_bf16(offset), scale=reference.from_bf16(scale)
        )

    def forward(self, x: F32, place: Place) -> tuple[F32, bytes]:
        if self.table == OWN:
            bits = _from_range(x.min(axis=2), x.max(axis=2))
            side = bits[0].tobytes() + bits[1].tobytes()
            offset, scale = map(reference.from_bf16, bits)
        else:
            (offset, scale), side = self._held(x.shape, place), b""
        with np.errstate(over="ignore"):  # the quantizer refuses what is not finite
            return (x - offset[:, :, None]) * (np.float32(1) / scale[:, :, None]), side

    def inverse(self, y: F32, side: memoryview, place: Place, shape: Shape) -> F32:
        if self.table == OWN:
            channels = (shape[0], shape[1], shape[3])
            require_bytes("offset and scale of the channels", side, 4 * int(np.prod(channels)))
            bits: U16 = read_array("offset and scale", side, "u2", (2, *channels))
            if ((bits & 0x7F80) == 0x7F80).any():
                raise FrameError("payload", "a channel's offset or scale is not finite")
            offset, scale = map(reference.from_bf16, bits)
        else:
            offset, scale = self._held(shape, place)
        with np.errstate(over="ignore", invalid="ignore"):
            return y * scale[:, :, None] + offset[:, :, None]

    def weights(self, shape: Shape, place: Place) -> native.Weights:
        """What the native kernels need, with a table."""
        offset, scale = (part.reshape(-1, shape[3]) for part in self._held(shape, place))
        return native.Weights(np.float32(1) / scale, scale, offset)

    def _held(self, shape: tuple[int, ...], place: Place) -> tuple[F32, F32]:
        """(offset, scale) `[L, H, D]` of the table; MissingTableError when it does not cover them."""
        table = tables.find(self.table, self.name)
        first, layers = place.layer_start, shape[0]
        offset, scale = (np.asarray(table.array(name), np.float32) for name in ("offset", "scale"))
        if offset.shape[1:] != (shape[1], shape[3]) or offset.shape[0] < first + layers:
            raise tables.MissingTableError(
                f"table {self.table!r} is for {list(offset.shape)} [layers, heads, dim], not for layers {first} to "
                f"{first + layers} of [{shape[1]}, {shape[3]}]"
            )
        return offset[first : first + layers], scale[first : first + layers]


def _from_range(low: F32, high: F32) -> tuple[U16, U16]:
    """bf16 bits of the middle, rounded down, and of the distance to the ends (at least 2^-126, rounded up)."""
    with np.errstate(over="ignore", invalid="ignore"):
        offset = reference.floor_bf16((low * np.float32(0.5) + high * np.float32(0.5)).astype(np.float32))
        middle = reference.from_bf16(offset)
        scale = reference.ceil_bf16(np.maximum(np.maximum(high - middle, middle - low), _SMALLEST))
    if ((offset & 0x7F80) == 0x7F80).any() or (scale >= 0x7F80).any():
        raise NotFiniteError("a channel's range is too wide for bf16 parameters")
    return offset, scale

"""`deadzone`: one step for all channels, or one for each layer, with a wide zero; the entropy coder makes bits of it.

Behind an entropy coder equal steps are near the best for all channels, whatever their spread (Gish & Pierce,
Asymptotically efficient quantizing, 1968; with a wide zero: JPEG 2000, ISO 15444-1, Annex E): bits go where the spread
is, channels below the step cost almost none, and none has parameters of its own. `allocate` fixes the bits and takes the
error that comes; this fixes the error and takes the bits. It is for values around zero, as principal components are.

Δ = `step` % of the root mean square of the block times the layer's weight (a table's; 1 without), at least the largest
magnitude of the layer's head / 108, rounded to 5 significant bits. q = x / Δ with 0.4 added to its magnitude, cut towards
zero, so |error| ≤ 0.6 Δ. Segments as in `channels`; a segment's peak m is max |q|, rounded up to 3 significant bits; its
symbols are q + m, of 2m + 1 levels. Where m is 0 it has none (but the first, of 2 levels, where all are 0). lo = -m Δ has
8 significant bits: it is bf16 as Δ is. Payload parameters: Δ of each layer's head, bf16; then an index into the peaks, one
byte for each segment. Decoding needs no table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tightwire.errors import FrameError
from tightwire.kv import tables
from tightwire.kv.block import F32, U8, U16
from tightwire.kv.kernels import reference
from tightwire.kv.stages import subspace
from tightwire.kv.stages.base import (
    OWN,
    STAGES,
    NotFiniteError,
    Place,
    Quantized,
    Shape,
    Stage,
    read_array,
    require_range,
)
from tightwire.kv.stages.quantizers.channels import Channels, Parameters

PEAKS: U8 = np.array(
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112], np.uint8
)  # never changed: wire format
_LEVELS: U16 = np.maximum(2 * PEAKS.astype(np.uint16) + 1, 2)
_ROUNDING = np.float32(0.4)
_MOST = 108.0  # 1.6 % more for the rounding of the step is below the largest peak
_LEAST = 2.0**-126  # the smallest normal bf16
_FINE = 2.0**-64, 2.0**120
_LARGEST = 2.0**126  # what is larger might have a lo that is not finite


@STAGES.register("deadzone")
@dataclass(frozen=True)
class Deadzone(Channels):
    """`step`: percent of the root mean square; `channels`: how many share a peak; `table`: `own` (the same step in all
    layers) or the name of one of kind `deadzone`: `weight` fp32 `[layers]` (`sensitivity.steps`)."""

    name = "deadzone"
    step: int = 100
    channels: int = 8
    table: str = OWN

    def __post_init__(self) -> None:
        require_range("deadzone: step", self.step, 1, 1000)
        require_range("deadzone: channels", self.channels, 1, 65536)

    @classmethod
    def variants(cls) -> list[Stage]:
        return [cls(step) for step in (20, 40, 60, 80, 100, 150, 200)]

    def rows_quantized(self, rows: F32, low: F32, high: F32, shape: tuple[int, ...], place: Place) -> Quantized:
        heads = shape[0] * shape[1]
        largest = np.maximum(-low, high).max(axis=1)  # [S]
        if largest.max() > _LARGEST:
            raise NotFiniteError("values hold a range that bf16 parameters cannot express")
        of_head = largest.reshape(heads, -1).max(axis=1).astype(np.float64)
        wanted = self.step / 100 * _root_mean_square(rows.reshape(-1)) * np.repeat(self._weight(shape[0], place), shape[1])
        step = _short(np.maximum(np.maximum(wanted, of_head / _MOST), _LEAST))
        inverse = np.repeat((1 / step).astype(np.float32), len(rows) // heads)
        chosen = np.searchsorted(PEAKS, (largest * inverse + _ROUNDING).astype(np.uint8)).astype(np.uint8)
        coded = _coded(chosen)
        scaled = rows[coded] * inverse[coded, None, None]
        scaled += np.copysign(_ROUNDING, scaled)
        symbols = scaled.astype(np.int8).view(np.uint8) + PEAKS[chosen[coded]][:, None, None]  # modulo 256, as it should
        params = subspace.nearest_bf16(step.astype(np.float32)).tobytes() + chosen.tobytes()
        return Quantized(symbols.reshape(len(symbols), -1), _LEVELS[chosen[coded]], params)

    def read(self, data: memoryview, shape: Shape) -> tuple[U16, U8]:
        """(steps of heads, indices into the peaks of segments) of a payload, unchecked; FrameError where it is too short."""
        heads, segments = shape[0] * shape[1], self.segments(shape)
        step: U16 = read_array("the steps", data, "u2", (heads,))
        chosen: U8 = read_array("the peaks of the segments", data, "u1", (segments,), 2 * heads)
        return step, chosen

    def parameters(self, data: memoryview, shape: Shape) -> Parameters:
        step, chosen = self.read(data, shape)
        heads, segments = len(step), len(chosen)
        if chosen.max() >= len(PEAKS):
            raise FrameError("payload", f"{chosen.max()} is not an index into the {len(PEAKS)} peaks")
        if (step >= 0x7F80).any():
            raise FrameError("payload", "a head's step is negative or not finite")
        coded = _coded(chosen)
        each, chosen = np.repeat(step, segments // heads)[coded], chosen[coded]
        with np.errstate(over="ignore"):
            lo = reference.from_bf16(each) * -PEAKS[chosen].astype(np.float32)
        if not np.isfinite(lo).all():
            raise FrameError("payload", "the largest multiple of a head's step is not finite")
        width = self.width(shape[3])
        return Parameters(coded, _LEVELS[chosen], np.repeat(subspace.nearest_bf16(lo), width), np.repeat(each, width), 2 * heads + segments)

    def _weight(self, layers: int, place: Place) -> npt.NDArray[np.float64]:
        """Of these layers; MissingTableError when the table does not cover them."""
        if self.table == OWN:
            return np.ones(layers)
        weight = np.asarray(tables.find(self.table, self.name).array("weight"), np.float64)
        end = place.layer_start + layers
        if weight.ndim != 1 or len(weight) < end:
            raise tables.MissingTableError(
                f"table {self.table!r} is for {list(weight.shape)} layers, not for layers {place.layer_start} to {end}"
            )
        return weight[place.layer_start : end]


def _root_mean_square(x: F32) -> float:
    with np.errstate(over="ignore", under="ignore"):
        power = float(x @ x)
    if not _FINE[0] < power < _FINE[1]:  # for fp32
        power = float(np.einsum("n,n", x, x, dtype=np.float64))
    return float(np.sqrt(power / x.size))


def _coded(chosen: U8) -> npt.NDArray[np.bool_]:
    """Which segments have symbols: those with a peak, the first where none has one."""
    coded = chosen > 0
    coded[0] |= not coded.any()
    return coded


def _short(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`x` rounded to 5 significant bits."""
    mantissa, exponent = np.frexp(x)
    rounded: npt.NDArray[np.float64] = np.ldexp(np.rint(mantissa * 32) / 32, exponent)
    return rounded

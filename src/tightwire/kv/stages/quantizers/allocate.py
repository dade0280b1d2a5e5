"""`allocate`: levels for every (layer, head, group of channels), so that a budget of bits leaves the least distortion.

Reverse water-filling (Cover & Thomas, section 10.3.3) over a menu of level counts, as KVTC allocates bits to principal
components (arXiv 2511.01815, section on adaptive quantization). Segments as in `channels`. Each channel has lo and step
as `uniform` with axis channel has, and its bound: |error| ≤ step / 2.

A min-max quantizer leaves w / (levels - 1)² with w = the mean squared range of the segment's channels (a table's weights
multiply it). That is convex in log2 levels, so the best choice takes the steps through the menu in the order of
distortion saved for each bit until the budget is spent; every segment has 2 levels at least. The budget counts the mean
of log2 levels, not the parameters (32 bits for each channel). Payload parameters: the index into the menu, one byte for
each segment; then lo, then step of all channels, bf16. Decoding needs no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tightwire.errors import ConfigError, FrameError
from tightwire.kv import tables
from tightwire.kv.block import F32, U8
from tightwire.kv.kernels import native
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
from tightwire.kv.stages.quantizers import groups
from tightwire.kv.stages.quantizers.channels import Channels, Parameters

MENU = np.array([2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256], np.uint16)  # appended to, never changed: wire format
MENU_BITS = np.log2(MENU)
_SAVED = -np.diff(1 / (MENU - 1.0) ** 2) / np.diff(MENU_BITS)  # distortion for each bit of a step, for w = 1
_CELLS = groups.Cells("channel", 1)


@STAGES.register("allocate")
@dataclass(frozen=True)
class Allocate(Channels):
    """`centibits`: bits for each value, times 100; `channels`: how many share their number of levels; `table`: `own`
    (least squared error of this block) or the name of one of kind `allocate`."""

    name = "allocate"
    centibits: int = 250
    channels: int = 16
    table: str = OWN

    def __post_init__(self) -> None:
        require_range("allocate: centibits", self.centibits, 100, 800)
        require_range("allocate: channels", self.channels, 1, 65536)

    @classmethod
    def variants(cls) -> list[Stage]:
        return [cls(bits, channels) for bits in (150, 200, 250, 300, 400) for channels in (8, 16)]

    def calibrate(self, samples: Sequence[F32], model: str) -> tables.Table:
        """Array `weight` fp32 `[layers, heads, dim]`: 1 / mean square of the head over the samples, so that every head
        counts by its relative error. Measured sensitivities may stand there instead."""
        if not samples:
            raise ConfigError("allocate: no samples to calibrate from")
        power = np.mean([np.square(x, dtype=np.float64).mean(axis=(2, 3)) for x in samples], axis=0)
        weight = 1 / np.maximum(power, 1e-30)
        whole = np.repeat(weight[:, :, None], samples[0].shape[3], axis=2).astype(np.float32)
        return tables.Table.make(self.name, model, weight=whole)

    @property
    def budget(self) -> float:
        """Bits that the levels may take for each value, on average."""
        return self.centibits / 100 + 1e-9

    def rows_quantized(self, rows: F32, low: F32, high: F32, shape: tuple[int, ...], place: Place) -> Quantized:
        spread = (high.astype(np.float64) - low) ** 2
        if self.table != OWN:
            spread *= self._held(shape, place).reshape(spread.shape)
        chosen = spend(spread.mean(axis=-1), self.centibits / 100)
        levels = MENU[chosen]
        done = native.quantize_rows(rows.reshape(-1, rows.shape[-1]), low.reshape(-1), high.reshape(-1), levels)
        if done is None:
            raise NotFiniteError("values hold a range that bf16 parameters cannot express")
        symbols, lo, step = done
        return Quantized(symbols.reshape(len(rows), -1), levels, chosen.tobytes() + lo.tobytes() + step.tobytes())

    def parameters(self, data: memoryview, shape: Shape) -> Parameters:
        segments = self.segments(shape)
        size = segments + _CELLS.params_bytes(shape)
        chosen: U8 = read_array("the levels of the segments", data, "u1", (segments,))
        if chosen.max() >= len(MENU):
            raise FrameError("payload", f"{chosen.max()} is not an index into the {len(MENU)} level counts")
        if MENU_BITS[chosen].mean() > self.budget:
            raise FrameError("payload", f"the levels take more than {self.centibits / 100} bits for each value")
        lo, step = groups.read(data[segments:size], shape, _CELLS)
        return Parameters(np.ones(segments, bool), MENU[chosen], lo, step, size)

    def _held(self, shape: tuple[int, ...], place: Place) -> F32:
        """The table's weights `[L, H, D]`; MissingTableError when it does not cover them."""
        weight = np.asarray(tables.find(self.table, self.name).array("weight"), np.float32)
        first, layers = place.layer_start, shape[0]
        if weight.shape[1:] != (shape[1], shape[3]) or weight.shape[0] < first + layers:
            raise tables.MissingTableError(
                f"table {self.table!r} is for {list(weight.shape)} [layers, heads, dim], not for layers {first} to "
                f"{first + layers} of [{shape[1]}, {shape[3]}]"
            )
        return weight[first : first + layers]


def spend(w: npt.NDArray[np.float64], bits: float) -> U8:
    """Indexes into MENU, uint8 `[S]`, with a mean of log2 levels of at most `bits`, for distortions w / (levels - 1)².

    A segment's steps save ever less, so sorting them all, largest saving first, takes each segment's in their order.
    """
    saved = (w[:, None] * _SAVED).reshape(-1)
    order = np.argsort(-saved, kind="stable")
    order = order[saved[order] > 0]  # constant channels need no more than 2 levels
    cost = MENU_BITS[0] * len(w) + np.cumsum(np.diff(MENU_BITS)[order % len(_SAVED)])
    taken = order[cost <= bits * len(w) + 1e-9]
    return np.bincount(taken // len(_SAVED), minlength=len(w)).astype(np.uint8)

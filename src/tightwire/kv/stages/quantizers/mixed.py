"""`mixed`: min-max quantizer with two numbers of levels: most heads (or layers) get `low`, the sensitive ones `high`.

KVServe (arXiv 2605.13734, hybrid precision). Shapes and error bound are those of `uniform`, with the segment's own
number of levels. Parameters: a bit for each segment, set where it has `high` levels, in whole bytes, first segment in
the lowest bit; then lo and step. So decoding needs no table.

Who is sensitive: `own` ranks the heads of the block by the squared range of their values, mean over 16 tokens spread
over it (the error of a min-max quantizer grows with it); a table ranks all heads of the model, by `calibrate` (the same
score over all samples) or by measured loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from tightwire.errors import ConfigError, FrameError
from tightwire.kv import tables
from tightwire.kv.block import F32, U8, U16
from tightwire.kv.stages.base import (
    OWN,
    STAGES,
    Layout,
    Place,
    Quantized,
    Quantizer,
    Shape,
    Stage,
    read_array,
    require_choice,
    require_range,
)
from tightwire.kv.stages.quantizers import groups

_SAMPLED_TOKENS = 16


@STAGES.register("mixed")
@dataclass(frozen=True)
class Mixed(Quantizer):
    """`share` percent of the heads (`by=layer`: of the layers) get `low` levels, the others `high`; `first`, if above 0:
    instead of all this, the model's first layers get `high`; `axis` and `group` as in `uniform`; `table`: `own` or the
    name of one of kind `mixed`."""

    name = "mixed"
    high: int = 12
    low: int = 6
    share: int = 80
    by: Literal["head", "layer"] = "head"
    first: int = 0
    axis: groups.Axis = "token"
    group: int = 64
    table: str = OWN

    def __post_init__(self) -> None:
        require_range("mixed: high", self.high, 2, 256)
        require_range("mixed: low", self.low, 2, self.high)
        require_range("mixed: share", self.share, 0, 100)
        require_range("mixed: first", self.first, 0, 4096)
        require_range("mixed: group", self.group, 1, 65536)
        require_choice("mixed: by", self.by, ("head", "layer"))
        require_choice("mixed: axis", self.axis, groups.AXES)

    @classmethod
    def variants(cls) -> list[Stage]:
        pairs = ((8, 4), (8, 6), (10, 4), (10, 6), (12, 4), (12, 6), (16, 4), (16, 6), (16, 8), (24, 12), (32, 16))
        return [cls(high=high, low=low, share=share) for high, low in pairs for share in (50, 70, 80, 90)]

    def calibrate(self, samples: Sequence[F32], model: str) -> tables.Table:
        """Array `score` fp32 `[layers, heads]`: the own score, mean over the samples."""
        if not samples:
            raise ConfigError("mixed: no samples to calibrate from")
        scores = [_score(some_tokens(torch.from_numpy(x)).numpy()) for x in samples]
        return tables.Table.make(self.name, model, score=np.mean(scores, axis=0).astype(np.float32))

    @property
    def cells(self) -> groups.Cells:
        return groups.Cells(self.axis, self.group)

    def choose(self, some: F32, place: Place) -> tuple[bytes, U16]:
        """(the bits of the segments, their levels `[S]`) for values of which these are `some_tokens`."""
        layers, heads = some.shape[0], some.shape[1]
        if self.first:
            early = place.layer_start + np.arange(layers) < self.first
            return self._spread(np.packbits(np.repeat(early, heads), bitorder="little"), layers * heads)
        if self.table == OWN:
            score, first = _score(some), 0
        else:
            score, first = np.asarray(tables.find(self.table, self.name).array("score"), np.float32), place.layer_start
            if score.shape[1] != heads or score.shape[0] < first + layers:
                raise tables.MissingTableError(
                    f"table {self.table!r} is for {list(score.shape)} [layers, heads], "
                    f"not for layers {first} to {first + layers} with {heads} heads"
                )
        if self.by == "layer":
            score = np.repeat(score.mean(axis=1, keepdims=True), 1, axis=1)
        order = np.argsort(score, axis=None, kind="stable")
        sensitive = np.ones(score.size, bool)
        sensitive[order[: round(self.share / 100 * score.size)]] = False
        here = np.broadcast_to(sensitive.reshape(score.shape), (score.shape[0], heads))[first : first + layers]
        return self._spread(np.packbits(here.reshape(-1), bitorder="little"), layers * heads)

    def _spread(self, bits: U8, segments: int) -> tuple[bytes, U16]:
        high = np.unpackbits(bits, count=segments, bitorder="little").astype(bool)
        return bits.tobytes(), np.where(high, self.high, self.low).astype(np.uint16)

    def quantize(self, x: F32, place: Place) -> Quantized:
        head, levels = self.choose(some_tokens(torch.from_numpy(x)).numpy(), place)
        symbols, params = groups.quantize(x, levels, self.cells)
        return Quantized(symbols, levels, head + params)

    def layout(self, data: memoryview, shape: Shape, place: Place) -> Layout:
        segments = shape[0] * shape[1]
        bits: U8 = read_array("the bits of the segments", data, "u1", ((segments + 7) // 8,))
        if segments % 8 and int(bits[-1]) >> segments % 8:
            raise FrameError("payload", "the bits of the segments go on behind the last one")
        _, levels = self._spread(bits, segments)
        return Layout(levels, shape[2] * shape[3], len(bits) + self.cells.params_bytes(shape))

    def dequantize(self, q: Quantized, shape: Shape, place: Place) -> F32:
        params = memoryview(q.params)[(len(q.levels) + 7) // 8 :]
        return groups.dequantize(q.symbols, q.levels, params, shape, self.cells)


def some_tokens(x: torch.Tensor) -> torch.Tensor:
    """Up to 16 tokens of `[L, H, T, D]`, spread evenly."""
    tokens = torch.linspace(0, x.shape[2] - 1, min(_SAMPLED_TOKENS, x.shape[2])).round().long()
    return x[:, :, tokens]


def _score(some: F32) -> F32:
    """Mean squared range over head_dim, fp32 `[L, H]`."""
    spread = some.max(axis=-1).astype(np.float64) - some.min(axis=-1)
    with np.errstate(over="ignore", invalid="ignore"):  # the quantizer refuses what is not finite
        found: F32 = (spread**2).mean(axis=-1).astype(np.float32)
    return found

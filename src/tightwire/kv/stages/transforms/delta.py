"""`delta`: tokens as differences from an earlier token (CacheGen, arXiv 2310.07240, section 5.1: groups of 10 tokens).

The first of every `every` tokens of the block is an anchor and stays as it is. `anchor`: y[t] = x[t] - x[anchor];
`previous`: y[t] = x[t] - x[t-1] within the group. Shapes stay.

Open loop: differences are taken from the values themselves, not from what arrives, so errors of the stages after it add
up: that of a token is its own plus its anchor's (`anchor`), or the sum over the tokens of its group so far (`previous`,
up to `every` of them). By itself the inverse is exact up to fp32 rounding: for each difference, 2^-24 of it, and once
2^-24 of the value. NotFiniteError for magnitudes above 2^100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tightwire.kv.block import F32
from tightwire.kv.stages import subspace
from tightwire.kv.stages.base import STAGES, Place, Shape, Stage, Transform, require_choice, require_range


@STAGES.register("delta")
@dataclass(frozen=True)
class Delta(Transform):
    """`mode`: from which token; `every`: tokens of a group, 2 to 65536."""

    name = "delta"
    mode: Literal["anchor", "previous"] = "anchor"
    every: int = 10

    def __post_init__(self) -> None:
        require_choice("delta: mode", self.mode, ("anchor", "previous"))
        require_range("delta: every", self.every, 2, 65536)

    @classmethod
    def variants(cls) -> list[Stage]:
        return [cls(), cls(every=5), cls(mode="previous"), cls(mode="previous", every=4)]

    def forward(self, x: F32, place: Place) -> tuple[F32, bytes]:
        subspace.require_tame(x)
        y = x - (x[:, :, self._anchors(x)] if self.mode == "anchor" else np.roll(x, 1, axis=2))
        y[:, :, :: self.every] = x[:, :, :: self.every]
        return y, b""

    def inverse(self, y: F32, side: memoryview, place: Place, shape: Shape) -> F32:
        if self.mode == "anchor":
            x = y + y[:, :, self._anchors(y)]
            x[:, :, :: self.every] = y[:, :, :: self.every]
            return x
        layers, heads, tokens, dim = shape
        every = min(self.every, tokens)
        padded = np.pad(y, ((0, 0), (0, 0), (0, -tokens % every), (0, 0)))
        sums = np.cumsum(padded.reshape(layers, heads, -1, every, dim), axis=3, dtype=np.float64)
        return sums.reshape(layers, heads, -1, dim)[:, :, :tokens].astype(np.float32)

    def _anchors(self, x: F32) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The anchor of each token, `[T]`."""
        return np.arange(x.shape[2]) // self.every * self.every

"""`lowrank`: a low-rank approximation of what the stages after it lose (GEAR, arXiv 2403.05527, section 3).

For each layer and head, residual `[T, D]` ≈ left `[T, r]` · right `[r, D]`, r = min(rank, T, D). The rows of `right`
are the residual's principal directions, approached by power iteration, rounded to bf16; `left` are the least-squares
coordinates in them, then rounded to bf16. No other `left` for this `right` is better, so up to the rounding of `left`
(2^-9 of it) the error's norm never grows. Side information: right, then left: 2·r·(T + D) bytes for each layer and
head. NotFiniteError for a residual above 2^100.
"""

from __future__ import annotations

from dataclasses import dataclass

from tightwire.kv.block import F32
from tightwire.kv.stages import subspace
from tightwire.kv.stages.base import STAGES, Correction, Place, Stage, require_range


@STAGES.register("lowrank")
@dataclass(frozen=True)
class LowRank(Correction):
    """`rank` 1 to 64."""

    name = "lowrank"
    rank: int = 4

    def __post_init__(self) -> None:
        require_range("lowrank: rank", self.rank, 1, 64)

    @classmethod
    def variants(cls) -> list[Stage]:
        return [cls(rank=rank) for rank in (2, 4, 8)]

    def describe(self, residual: F32, place: Place) -> bytes:
        subspace.require_tame(residual)
        right_shape, _ = self._shapes(residual.shape)
        right_side = subspace.write(subspace.leading(residual, right_shape[2]))
        (right,) = subspace.read("right", right_side, right_shape)
        return right_side + subspace.write(subspace.coordinates(residual, right))

    def correct(self, y: F32, side: memoryview, place: Place) -> F32:
        right, left = subspace.read("the factors of the residual", side, *self._shapes(y.shape))
        return y + left @ right

    def _shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of right and left."""
        layers, heads, tokens, dim = shape
        rank = min(self.rank, tokens, dim)
        return (layers, heads, rank, dim), (layers, heads, tokens, rank)

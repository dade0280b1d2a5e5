"""`pca`: the values in their principal directions, the weak ones left out (KVTC, arXiv 2511.01815, section 3; for
projections of the weights, Palu, arXiv 2407.21118).

For each layer and head, or for each layer over the joined features of its heads: y = coordinates of x - mean in R of C
orthonormal directions, x ≈ y · basis + mean. C is D, or H·D; `[L, H, T, D]` becomes `[L, H, T, R]`, or `[L, 1, T, R]`.
What is lost is the part of x outside the directions: nothing but fp32 rounding when R = C. A quantizer along tokens
(`axis=channel`) suits y: its channels are sorted by their spread.

`own`: mean `[C]` and basis `[R, C]` are sent as bf16 bits, R at most T. Rounding makes the basis a bit oblique, so the
sender takes the least-squares coordinates in the basis as it was rounded, of x less the mean as it was rounded. Where
R < C it also tilts the directions, which loses about 2^-9 of x - mean.
Over heads the basis is large; that is what tables are for. NotFiniteError for magnitudes above 2^100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tightwire.errors import ConfigError
from tightwire.kv import tables
from tightwire.kv.block import F32
from tightwire.kv.stages import subspace
from tightwire.kv.stages.base import OWN, STAGES, Place, Shape, Stage, Transform, require_choice, require_range


@STAGES.register("pca")
@dataclass(frozen=True)
class Pca(Transform):
    """`over`: directions in one head's values, or in those of all heads of a layer; `keep` percent of the directions,
    at least one; `table`: `own` or the name of one of kind `pca` (made for the same `over` and no smaller `keep`)."""

    name = "pca"
    over: Literal["dim", "heads"] = "dim"
    keep: int = 50
    table: str = OWN

    def __post_init__(self) -> None:
        require_choice("pca: over", self.over, ("dim", "heads"))
        require_range("pca: keep", self.keep, 1, 100)

    @classmethod
    def variants(cls) -> list[Stage]:
        return [*(cls(keep=keep) for keep in (25, 50, 75)), *(cls(over="heads", keep=keep) for keep in (25, 50))]

    @property
    def sends_side(self) -> bool:
        return self.table == OWN

    def out_shape(self, shape: Shape) -> Shape:
        layers, groups, tokens, features = self._joined(shape)
        return layers, groups, tokens, self._kept(features, tokens if self.table == OWN else features)

    def calibrate(self, samples: Sequence[F32], model: str) -> tables.Table:
        """Arrays `mean` fp32 `[layers, groups, C]` and `basis` fp32 `[layers, groups, R, C]`; groups: heads, or 1."""
        if not samples:
            raise ConfigError("pca: no samples to calibrate from")
        rows = np.concatenate([self._join(x) for x in samples], axis=2)
        subspace.require_tame(rows)
        mean = rows.mean(axis=2, dtype=np.float64).astype(np.float32)
        basis = subspace.principal(rows - mean[:, :, None], self._kept(rows.shape[3], rows.shape[3]))
        return tables.Table.make(self.name, model, mean=mean, basis=basis)

    def forward(self, x: F32, place: Place) -> tuple[F32, bytes]:
        subspace.require_tame(x)
        rows, shape = self._join(x), (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
        if self.table != OWN:
            mean, basis = self._held(shape, place)
            return np.matmul(rows - mean[:, :, None], basis.swapaxes(-1, -2), dtype=np.float32), b""
        mean_shape, basis_shape = self._shapes(shape)
        mean_side = subspace.write(rows.mean(axis=2, dtype=np.float64).astype(np.float32))
        (mean,) = subspace.read("mean", mean_side, mean_shape)
        centred = rows - mean[:, :, None]
        basis_side = subspace.write(subspace.principal(centred, basis_shape[2]))
        (basis,) = subspace.read("basis", basis_side, basis_shape)
        return subspace.coordinates(centred, basis), mean_side + basis_side

    def inverse(self, y: F32, side: memoryview, place: Place, shape: Shape) -> F32:
        mean, basis = self.space(side, place, shape)
        rows = y @ basis
        rows += mean[:, :, None]
        layers, heads, tokens, dim = shape
        return rows if self.over == "dim" else rows.reshape(layers, tokens, heads, dim).swapaxes(1, 2)

    def space(self, side: memoryview, place: Place, shape: Shape) -> tuple[F32, F32]:
        """(mean `[layers, groups, C]`, basis `[layers, groups, R, C]`), as sent in `side` or from the table."""
        if self.table != OWN:
            return self._held(shape, place)
        mean, basis = subspace.read("mean and basis", side, *self._shapes(shape))
        return mean, basis

    def _kept(self, features: int, most: int) -> int:
        return min(max(1, features * self.keep // 100), most)

    def _joined(self, shape: Shape) -> Shape:
        """(layers, groups, T, C)"""
        layers, heads, tokens, dim = shape
        return shape if self.over == "dim" else (layers, 1, tokens, heads * dim)

    def _join(self, x: F32) -> F32:
        shape = self._joined((x.shape[0], x.shape[1], x.shape[2], x.shape[3]))
        return x if self.over == "dim" else x.swapaxes(1, 2).reshape(shape)

    def _shapes(self, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of mean and basis."""
        layers, groups, _, features = self._joined(shape)
        return (layers, groups, features), (layers, groups, self.out_shape(shape)[3], features)

    def _held(self, shape: Shape, place: Place) -> tuple[F32, F32]:
        """(mean, basis) of the table for these layers; MissingTableError when it does not cover them."""
        table = tables.find(self.table, self.name)
        mean, basis = (np.asarray(table.array(name), np.float32) for name in ("mean", "basis"))
        (layers, groups, features), (_, _, kept, _) = self._shapes(shape)
        end = place.layer_start + layers
        if mean.shape[1:] != (groups, features) or mean.shape[0] < end or basis.shape[2] < kept:
            raise tables.MissingTableError(
                f"table {self.table!r} has {basis.shape[2]} directions for {list(mean.shape)} [layers, groups, C], "
                f"not {kept} for layers {place.layer_start} to {end} of [{groups}, {features}]"
            )
        return mean[place.layer_start : end], basis[place.layer_start : end, :, :kept]

"""Sensitivity: how much quality is lost when one part of the KV alone is compressed and all else stays raw.

Parts: K and V as a whole, of each layer, of each head. loss = 1 − relative (`quality.record`). Heads' losses rank the heads
for `mixed`, and weigh the distortion of heads for `allocate`: √(loss ÷ mean squared error). The slope itself is that of one
distortion, and loss is far from linear in it; half of it in logarithms lost less than all or nothing (docs/quality.md).
Layers' losses give the steps of `deadzone`: bits fall by the same amount wherever a step grows by the same factor, so the
best steps cost the same loss in every layer: they go with (loss ÷ mean squared error)^-½, of which three quarters in
logarithms are taken, as the losses are those of few prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tightwire.errors import ConfigError
from tightwire.kv.quality import Part, Suite
from tightwire.kv.strategy import Strategy
from tightwire.kv.tables import Table

F64 = npt.NDArray[np.float64]
_LEAST_SLOPE = 1e-2  # relative to the largest, as below
_SHRUNK = 0.75  # of what the slopes say, in logarithms
_SMALLEST = 1e-3  # of a weight, relative to the largest: a head without measured loss is not free


class SideSensitivity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of K or V: the losses of all of it, of each layer `[L]`, of each head `[L][H]`, and the heads' mean squared errors
    `[L][H]` behind these."""

    whole: float
    layers: list[float]
    heads: list[list[float]]
    errors: list[list[float]]


class Sensitivity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`strategy`: what the parts were compressed with; `suite`, `model`: fingerprints."""

    strategy: str
    suite: str
    model: str
    k: SideSensitivity
    v: SideSensitivity

    def mixed_table(self, side: Literal["k", "v"]) -> Table:
        """Ranks for `mixed:table=…`: the heads that lose most get the high number of levels."""
        return Table.make("mixed", self.model, score=np.array(getattr(self, side).heads, np.float32))

    def allocate_table(self, side: Literal["k", "v"], head_dim: int) -> Table:
        """Weights for `allocate:table=…`, the same for all `head_dim` channels of a head. Right for chains whose
        transforms keep squared distances (none, `hadamard`, `rope`)."""
        found: SideSensitivity = getattr(self, side)
        loss, error = np.maximum(found.heads, 0.0), np.array(found.errors)
        weight = np.sqrt(np.divide(loss, error, out=np.zeros_like(loss), where=error > 0))
        if not weight.max() > 0:
            raise ConfigError(
                f"strategy={self.strategy!r} loses nothing in any head of {side.upper()}; take a coarser one"
            )
        weight = np.maximum(weight / weight.max(), _SMALLEST)
        return Table.make("allocate", self.model, weight=np.repeat(weight[:, :, None], head_dim, 2).astype(np.float32))

    def deadzone_table(self, side: Literal["k", "v"]) -> Table:
        """Steps of layers for `deadzone:table=…`."""
        found: SideSensitivity = getattr(self, side)
        return steps(found.layers, np.mean(found.errors, axis=1), self.model)


def steps(losses: Sequence[float], errors: npt.ArrayLike, model: str) -> Table:
    """The table of `deadzone` from the losses `[L]` and mean squared errors `[L]` of one side's layers, each alone: weights
    with a geometric mean of 1. All are 1 where nothing is lost."""
    loss, error = np.maximum(losses, 0.0), np.asarray(errors, np.float64)
    slope = np.divide(loss, error, out=np.zeros_like(loss), where=error > 0)
    slope = np.maximum(slope, _LEAST_SLOPE * slope.max())
    logs = -_SHRUNK / 2 * np.log(slope) if slope.max() > 0 else np.zeros_like(slope)
    return Table.make("deadzone", model, weight=np.exp(logs - logs.mean()).astype(np.float32))


def layers_alone(suite: Suite, strategy: Strategy, side: Literal["k", "v"]) -> tuple[list[float], list[float]]:
    """(losses, mean squared errors) `[L]` of one side's layers, one measurement each."""
    found = [_alone(suite, strategy, Part(side, layer)) for layer in range(suite.shape[0])]
    return [loss for loss, _ in found], [error for _, error in found]


def _alone(suite: Suite, strategy: Strategy, part: Part) -> tuple[float, float]:
    """(loss, mean squared error) when `part` alone is compressed."""
    quality, error = suite.measure_part(strategy, part)
    return 1 - quality.relative, error


def measure(
    suite: Suite, strategy: Strategy, progress: Callable[[int, int], None] = lambda done, total: None
) -> Sensitivity:
    """Of every part, one measurement each: 2 × (1 + L + L × H). `progress(done, total)` after each."""
    layers, heads = suite.shape
    total, done = 2 * (1 + layers + layers * heads), 0

    def alone(part: Part) -> tuple[float, float]:
        nonlocal done
        found = _alone(suite, strategy, part)
        done += 1
        progress(done, total)
        return found

    def side(name: Literal["k", "v"]) -> SideSensitivity:
        whole, _ = alone(Part(name))
        by_layer = [alone(Part(name, layer))[0] for layer in range(layers)]
        by_head = [[alone(Part(name, layer, head)) for head in range(heads)] for layer in range(layers)]
        losses, errors = ([[pair[index] for pair in row] for row in by_head] for index in (0, 1))
        return SideSensitivity(whole, by_layer, losses, errors)

    return Sensitivity(str(strategy), suite.fingerprint, suite.model.fingerprint, side("k"), side("v"))

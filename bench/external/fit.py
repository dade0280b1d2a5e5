"""A strategy of the space that was profiled on another model, as it is meant for the encoder.

Its calibrated tables are the encoder's own. `rope` is left out: it takes K out of its rotary embedding and puts it back,
and positions enter BERT with the words, so there is nothing to take out: K without it is K.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tightwire.kv.block import KVBlock, to_float32
from tightwire.kv.stages.base import OWN, Stage
from tightwire.kv.stages.transforms.equalize import Equalize
from tightwire.kv.stages.transforms.pca import Pca
from tightwire.kv.stages.transforms.rope import Rope
from tightwire.kv.strategy import Chain, Strategy

_CALIBRATED = (Pca(over="heads", keep=100), Equalize())


@dataclass(frozen=True)
class Fit:
    """`tables`: names by (stage, side)."""

    tables: dict[tuple[str, str], str]

    @classmethod
    def of(cls, block: KVBlock, model: str) -> Fit:
        """Calibrated from `block`."""
        return cls({
            (stage.name, side): stage.calibrate([to_float32(getattr(block, side))], model).name
            for stage in _CALIBRATED
            for side in ("k", "v")
        })  # fmt: skip

    def __call__(self, strategy: Strategy) -> Strategy:
        return Strategy(self._chain(strategy.k, "k"), self._chain(strategy.v, "v"), strategy.exact)

    def _chain(self, chain: Chain, side: str) -> Chain:
        return Chain(tuple(self._stage(stage, side) for stage in chain.stages if not isinstance(stage, Rope)))

    def _stage(self, stage: Stage, side: str) -> Stage:
        return stage if getattr(stage, "table", OWN) == OWN else replace(stage, table=self.tables[stage.name, side])  # type: ignore[type-var]

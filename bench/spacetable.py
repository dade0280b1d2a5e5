"""A whole space as it was measured: what `exhaustive_table.py` writes and `profiler_search.py` reads. JSON in xz."""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tightwire.kv.profiler.pareto import F64
from tightwire.kv.profiler.rates import Rates
from tightwire.kv.profiler.space import Space
from tightwire.kv.strategy import RAW, Strategy


class SideCost(msgspec.Struct, frozen=True):
    """CPU seconds for a side's values at either fidelity, when they are not known yet."""

    full_s: float
    few_s: float


class SpaceTable(msgspec.Struct, frozen=True):
    """Per point (in the order of `Space(strategies)`; lossless ones hold quality 1 and no seconds): qualities, proxy, and
    CPU seconds without its sides; per point also what its K side and its V side take. `rates_s`: for all rates."""

    strategies: list[str]
    rates: Rates
    rates_s: float
    full: list[float]
    few: list[float]
    proxy: list[float]
    full_s: list[float]
    few_s: list[float]
    k_s: list[SideCost]
    v_s: list[SideCost]
    provenance: dict[str, str]

    @classmethod
    def of(
        cls,
        space: Space,
        rates: Rates,
        rates_s: float,
        rows: Mapping[str, Any],
        blocks: Sequence[Any],
        provenance: dict[str, str],
    ) -> SpaceTable:
        costs = ({}, {})
        for block in blocks:
            for found, new in zip(costs, (block.k_s, block.v_s), strict=True):
                for name, cost in new.items():
                    found.setdefault(name, cost)
        lossless = [RAW.k.stages[:-1] == () and bool(flag) for flag in space.lossless]
        points = [space.strategies[index] for index in space.at]
        names = [str(point) for point in points]
        missing = [name for name, plain in zip(names, lossless, strict=True) if not plain and name not in rows]
        kept = [plain or name in rows for name, plain in zip(names, lossless, strict=True)]
        if missing:
            print(f"{len(missing)} points were not measured: they are left out")
        which = np.flatnonzero(np.array(kept)[space.point])
        strategies = [str(space.strategies[index]) for index in which]
        nothing = SideCost(0.0, 0.0)

        def column(name: str, digits: int, plain: float) -> list[float]:
            return [
                plain if free else round(getattr(rows[text], name), digits)
                for text, free, keep in zip(names, lossless, kept, strict=True)
                if keep
            ]

        def sides(found: Mapping[str, SideCost], k: bool) -> list[SideCost]:
            made = []
            for point, keep in zip(points, kept, strict=True):
                if keep:
                    alone = Strategy(point.k, RAW.v, point.exact) if k else Strategy(RAW.k, point.v, point.exact)
                    cost = found.get(str(alone), nothing)
                    made.append(SideCost(round(cost.full_s, 3), round(cost.few_s, 3)))
            return made

        return cls(
            strategies, rates, rates_s,
            column("full", 6, 1.0), column("few", 6, 1.0), column("proxy", 6, 0.0),
            column("full_s", 4, 0.0), column("few_s", 4, 0.0),
            sides(costs[0], True), sides(costs[1], False), provenance,
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> SpaceTable:
        return msgspec.json.decode(lzma.decompress(path.read_bytes()), type=cls)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(msgspec.json.encode(self), preset=9))

    def space(self) -> Space:
        return Space([Strategy.parse(text) for text in self.strategies])

    def seconds(self, fidelity: str) -> tuple[F64, F64, F64]:
        """(of the model, of the K side, of the V side) for each point."""
        own = np.array(self.full_s if fidelity == "full" else self.few_s)
        k, v = (np.array([getattr(cost, f"{fidelity}_s") for cost in costs]) for costs in (self.k_s, self.v_s))
        return own, k, v

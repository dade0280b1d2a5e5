"""A bench without a model: rates and qualities are formulas of the strategy. `python synthetic.py JOURNAL OUT [DELAY]`
runs a profile on it."""

import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import msgspec
import numpy as np

from tightwire.kv.profiler import engine
from tightwire.kv.profiler.journal import Sample
from tightwire.kv.profiler.rates import Rate, Rates
from tightwire.kv.profiler.search import Settings
from tightwire.kv.profiler.space import Space
from tightwire.kv.profiles import Profile
from tightwire.kv.stages.base import Quantizer
from tightwire.kv.strategy import RAW, Chain, Strategy

_SIDES = [
    *(f"uniform:levels={n}" for n in (3, 4, 6, 8, 12, 16)),
    *(f"hadamard+uniform:levels={n}" for n in (3, 4, 6, 8, 12, 16)),
    *(f"equalize+uniform:levels={n},axis=channel" for n in (3, 4, 6, 8, 12, 16)),
]
RAW_BYTES = 1 << 22


def space() -> Space:
    chains = [[Strategy.parse(f"{side}+{codec}").k for codec in ("rans", "pack")] for side in _SIDES]
    pairs = [Strategy(k, v) for ks, vs in product(chains, chains) for k, v in zip(ks, vs, strict=True)]
    return Space([RAW, *pairs])


class Synthetic:
    """Loss adds up over K and V and falls with the square of levels; K counts four times."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.space, self.delay_s, self.measured = space(), delay_s, list[tuple[str, Sample]]()
        self.published = {"uniform:levels=8,axis=group,group=64,form=asymmetric+pack": "plain-8"}
        self.fingerprint, self.provenance = "synthetic", {"device": "none"}

    def rates(self) -> Rates:
        k = {str(s.k): self._rate(s.k) for s in self.space.strategies}
        v = {str(s.v): self._rate(s.v) for s in self.space.strategies}
        return Rates(k, v, RAW_BYTES, 400, 2)

    def qualities(self, wanted: Sequence[tuple[Strategy, Sample]]) -> list[float]:
        found = []
        for strategy, sample in wanted:
            time.sleep(self.delay_s)
            self.measured.append((str(strategy), sample))
            found.append(self.quality(strategy, sample))
        return found

    def quality(self, strategy: Strategy, sample: Sample = "full") -> float:
        loss = 0.8 * self._rate(strategy.k).error + 0.2 * self._rate(strategy.v).error
        return float(np.exp(-loss * {"few": 1.1, "full": 1.0, "fresh": 1.02}[sample]))

    def profile(self, strategy: Strategy, quality: float) -> Profile:
        time.sleep(self.delay_s)
        return Profile(str(strategy), 2.0 + len(str(strategy)) / 100, 1e9, 2e9, quality)

    def _rate(self, chain: Chain) -> Rate:
        quantizer = next((stage for stage in chain.stages if isinstance(stage, Quantizer)), None)
        if quantizer is None:
            return Rate(RAW_BYTES // 2, 1e-4, 1e-4, 0.0)
        levels, first = quantizer.levels, chain.stages[0].name  # type: ignore[attr-defined]
        worse = {"uniform": 1.0, "hadamard": 0.7, "equalize": 0.5}[first]
        slow = {"uniform": 1.0, "hadamard": 1.3, "equalize": 3.0}[first] * (1.0 if chain.last.name == "pack" else 2.0)
        bits = np.log2(levels) * (1.0 if chain.last.name == "pack" else 0.93) + 0.5
        return Rate(int(RAW_BYTES / 2 * bits / 16), slow * 1e-3, slow * 1e-3, worse / (levels - 1) ** 2)


def main(journal: Path, out: Path, delay_s: float) -> None:
    outcome = engine.run(Synthetic(delay_s), Settings(30.0, seed=3, cold=6), journal, lambda progress: None)
    out.write_bytes(msgspec.json.encode(outcome.library))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))

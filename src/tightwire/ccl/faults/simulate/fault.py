"""What is injected, and what a diagnosis should say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tightwire.ccl.faults.simulate.layout import Layout

CLASSES = {
    "stop": "H1", "kill": "H1", "loop": "H1", "shape": "H2", "operation": "H2", "drop": "H3", "dead": "H3",
    "sleep": "S1", "slow": "S2", "slow-pair": "S2", "both": "S3",
}  # fmt: skip
Kind = Literal["stop", "kill", "loop", "shape", "operation", "drop", "dead", "sleep", "slow", "slow-pair", "both"]


@dataclass(frozen=True)
class Fault:
    """From step `step` on, and for slow ones up to `until`: `rank` stops, dies, loops, calls something else in its next
    data-parallel collective, loses what goes to `peer` (`drop`) or to anyone (`dead`), needs `severity` steps' time for
    one, or has a link (to `peer`) or a device that makes steps as long."""

    kind: Kind
    rank: int
    step: int
    peer: int | None = None
    severity: float = 2.0
    until: int | None = None

    @property
    def anomaly(self) -> str:
        return CLASSES[self.kind]

    @property
    def guilty_ranks(self) -> list[int]:
        return [] if self.kind in ("drop", "slow-pair") else [self.rank]

    @property
    def guilty_links(self) -> list[str]:
        if self.kind not in ("drop", "slow-pair") or self.peer is None:
            return []
        return [f"{min(self.rank, self.peer)}-{max(self.rank, self.peer)}"]

    def acts(self, step: int) -> bool:
        return step >= self.step and (self.until is None or step < self.until)


def draw(kind: Kind, layout: Layout, step: int, rng: np.random.Generator) -> Fault:
    """One at a random rank, with a random severity; a link is one between hosts in its data-parallel ring."""
    peers = np.roll(layout.ranks, -1, axis=1).ravel()
    candidates = np.arange(layout.world)
    if kind in ("drop", "slow-pair"):
        candidates = np.flatnonzero(layout.hosts != layout.hosts[peers])
    rank = int(candidates[rng.integers(len(candidates))])
    return Fault(kind, rank, step, int(peers[rank]), float(rng.uniform(1.6, 3.0)))

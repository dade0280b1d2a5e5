"""Which faults, in which clusters: drawn by a seed, each incident by a number of its own."""

from __future__ import annotations

import msgspec
import numpy as np

from tightwire.ccl.faults.simulate.fault import CLASSES, Fault, draw
from tightwire.ccl.faults.simulate.layout import Layout

ANOMALIES = ("H1", "H2", "H3", "S1", "S2", "S3")
MOST_FAULTS = 3
LAYOUTS = {
    256: (Layout(8, 4, 8), Layout(4, 4, 16, 4), Layout(8, 2, 16, expert=4), Layout(8, 1, 32)),
    1024: (Layout(8, 4, 32), Layout(4, 8, 32, 4), Layout(8, 4, 32, expert=4), Layout(8, 1, 128)),
    4096: (Layout(8, 8, 64), Layout(4, 8, 128, 4), Layout(8, 4, 128, expert=4), Layout(8, 1, 512)),
    16384: (Layout(8, 8, 256), Layout(8, 16, 128, expert=4)),
}


class Case(msgspec.Struct, frozen=True):
    """`number` within the seed and size; `layout` of that size's. The faults' steps count from when they are injected, and
    all begin at once."""

    number: int
    ranks: int
    layout: int
    faults: list[Fault]

    @property
    def anomaly(self) -> str:
        """What all faults together are."""
        found = {fault.anomaly for fault in self.faults}
        return found.pop() if len(found) == 1 else "S3"


def incidents(ranks: int, count: int, seed: int) -> list[Case]:
    """Each class with one, two and three faults before any comes again."""
    return [_incident(ranks, number, seed) for number in range(count)]


def _incident(ranks: int, number: int, seed: int) -> Case:
    rng = np.random.default_rng([seed, ranks, number])
    anomaly, faults = ANOMALIES[number % len(ANOMALIES)], 1 + number // len(ANOMALIES) % MOST_FAULTS
    turn = number // (len(ANOMALIES) * MOST_FAULTS)
    layout = (turn + number) % len(LAYOUTS[ranks])
    step = int(rng.integers(1, 4))
    found: list[Fault] = []
    taken: set[int] = set()
    for kind in _kinds(anomaly, faults, rng):
        fault = draw(kind, LAYOUTS[ranks][layout], step, rng)
        while {fault.rank, fault.peer} & taken:  # two links with a rank in common would be that rank's device
            fault = draw(kind, LAYOUTS[ranks][layout], step, rng)
        taken |= {fault.rank, fault.peer}
        found.append(fault)
    return Case(number, ranks, layout, found)


def _kinds(anomaly: str, count: int, rng: np.random.Generator) -> list[str]:
    """Of so many faults that are an `anomaly` together."""
    mine = [kind for kind in CLASSES if CLASSES[kind] == anomaly]
    if anomaly != "S3" or count == 1:
        return [str(kind) for kind in rng.choice(mine, count)]
    slow = ["sleep", str(rng.choice(["slow", "slow-pair"]))]
    return slow + [str(kind) for kind in rng.choice(["sleep", "slow", "slow-pair", "both"], count - 2)]

"""Which faults, in which clusters: drawn by a seed, each incident by a number of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np

from tightwire.ccl import score
from tightwire.ccl.faults.simulate.fault import CLASSES, Fault, draw
from tightwire.ccl.faults.simulate.layout import Layout

HANGS = ("H1", "H2", "H3")
SEVERAL = "several"  # classes of hangs at once
ANOMALIES = (*HANGS, "S1", "S2", "S3", SEVERAL)
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
        return found.pop() if len(found) == 1 else SEVERAL if found <= set(HANGS) else "S3"

    @property
    def truths(self) -> list[score.Truth]:
        """One for each class that is to be told by itself."""
        anomaly = self.anomaly
        classes = sorted({fault.anomaly for fault in self.faults}) if anomaly == SEVERAL else [anomaly]
        return [_truth(each, [f for f in self.faults if each in (f.anomaly, anomaly)]) for each in classes]


def incidents(ranks: int, count: int, seed: int, anomalies: Sequence[str] = ANOMALIES) -> list[Case]:
    """Each class with one, two and three faults before any comes again; without those that are not in `anomalies`."""
    numbers = (number for number in itertools.count() if ANOMALIES[number % len(ANOMALIES)] in anomalies)
    return [_incident(ranks, number, seed) for number in itertools.islice(numbers, count)]


def _incident(ranks: int, number: int, seed: int) -> Case:
    rng = np.random.default_rng([seed, ranks, number])
    anomaly, faults = ANOMALIES[number % len(ANOMALIES)], 1 + number // len(ANOMALIES) % MOST_FAULTS
    turn = number // (len(ANOMALIES) * MOST_FAULTS)
    layout = (turn + number) % len(LAYOUTS[ranks])
    step = int(rng.integers(1, 4))
    found: list[Fault] = []
    taken: set[int] = set()
    apart = anomaly in ("H3", SEVERAL)
    for kind in _kinds(anomaly, faults, rng):
        fault, ends = _drawn(kind, LAYOUTS[ranks][layout], step, rng, apart)
        while ends & taken:  # two links with a rank in common would be that rank's device
            fault, ends = _drawn(kind, LAYOUTS[ranks][layout], step, rng, apart)
        taken |= ends
        found.append(fault)
    return Case(number, ranks, layout, found)


def _drawn(
    kind: str, layout: Layout, step: int, rng: np.random.Generator, apart: bool
) -> tuple[Fault, set[int | None]]:
    """A fault and the ranks it touches; `apart`: or their replicas, by those that share experts. Within these the first to
    hang keeps the others from what would show that they are broken as well."""
    fault = draw(kind, layout, step, rng)
    ends: set[int | None] = {fault.rank, fault.peer}
    if not apart:
        return fault, ends
    return fault, {rank // layout.tensor % layout.data // layout.expert for rank in ends if rank is not None}


def _kinds(anomaly: str, count: int, rng: np.random.Generator) -> list[str]:
    """Of so many faults that are an `anomaly` together."""
    if anomaly == SEVERAL:  # two at least
        classes = [str(each) for each in rng.permutation(HANGS)[: max(count, 2)]]
        return [kind for each in classes for kind in _kinds(each, 1, rng)]
    mine = [kind for kind in CLASSES if CLASSES[kind] == anomaly]
    if anomaly != "S3" or count == 1:
        return [str(kind) for kind in rng.choice(mine, count)]
    slow = ["sleep", str(rng.choice(["slow", "slow-pair"]))]
    return slow + [str(kind) for kind in rng.choice(["sleep", "slow", "slow-pair", "both"], count - 2)]


def _truth(anomaly: str, faults: Sequence[Fault]) -> score.Truth:
    ranks = sorted({rank for fault in faults for rank in fault.guilty_ranks})
    links = sorted({link for fault in faults for link in fault.guilty_links})
    return score.Truth(anomaly, ranks, links)

"""Which faults, in which jobs, of how many ranks: drawn by a seed, each case by a number of its own."""

from __future__ import annotations

import itertools
import random

import msgspec

from tightwire.ccl.faults.inject import CLASSES

JOBS = ("ddp", "fsdp", "pipeline", "tensor")
FAULTS = tuple(fault for fault in CLASSES if fault not in ("dtype", "circle"))  # beyond those asked for
FIRST_STEP, LAST_STEP = 50, 90
SEVERITY = (1.7, 3.0)  # times as long as before


class Case(msgspec.Struct, frozen=True):
    """`number` within the seed; `rank` misbehaves from `step` on."""

    number: int
    fault: str
    job: str
    ranks: int
    rank: int
    step: int
    severity: float


class Clean(msgspec.Struct, frozen=True):
    """Nothing is wrong; `noisy`: beside another process that keeps a core busy, on and off."""

    number: int
    job: str
    ranks: int
    noisy: bool


def with_faults(runs: int, seed: int, sizes: list[int], faults: list[str], jobs: list[str]) -> list[Case]:
    """Each cell of the matrix once before any comes again. A case depends on the seed and its number alone."""
    cells = list(itertools.product(faults, jobs, sizes))
    found: list[Case] = []
    for turn in itertools.count():
        order = random.Random(f"{seed} cells {turn}").sample(cells, len(cells))
        for fault, job, ranks in order:
            if len(found) == runs:
                return found
            own = random.Random(f"{seed} case {len(found)}")
            found.append(
                Case(
                    len(found), fault, job, ranks, own.randrange(ranks), own.randrange(FIRST_STEP, LAST_STEP),
                    round(own.uniform(*SEVERITY), 2),
                )
            )  # fmt: skip
    return found


def without(runs: int, sizes: list[int], jobs: list[str]) -> list[Clean]:
    """Every second one beside a noisy neighbour."""
    kinds = itertools.cycle(itertools.product(sizes, jobs, (False, True)))
    return [Clean(number, job, ranks, noisy) for number, (ranks, job, noisy) in zip(range(runs), kinds, strict=False)]

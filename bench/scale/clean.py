"""Hours in which nothing is wrong: checkpoints, evaluations, uneven data, single spikes, links that vary; skewed clocks and
lost summaries as in the incidents. Every second of them is simulated and judged from summaries of every second."""

from __future__ import annotations

import time

import msgspec

from scale.cases import LAYOUTS
from scale.playing import Watched
from tightwire.ccl.faults.simulate.physics import Program
from tightwire.ccl.verdict import Verdict

HOUR_S = 3600.0
LAYER_S = (0.02, 0.1, 0.3)  # of work, by turns: steps from half a second to many


class Hour(msgspec.Struct, frozen=True):
    """A job of its own."""

    number: int
    ranks: int


class Spent(msgspec.Struct, frozen=True):
    """`said` in it: false alarms."""

    steps: int
    simulated_s: float
    wall_s: float
    said: list[Verdict]


def spend(hour: Hour, seed: int, seconds: float = HOUR_S) -> Spent:
    layouts = LAYOUTS[hour.ranks]
    layer_s = LAYER_S[hour.number % len(LAYER_S)]
    program = Program(
        layer_s=layer_s, jitter=0.15, uneven=0.3, spike_share=1e-5, spike_s=1.0, wire_jitter=0.2, checkpoint_every=100,
        checkpoint_s=6.0, evaluate_every=150,
    )  # fmt: skip
    began_s = time.perf_counter()
    watched = Watched(layouts[hour.number % len(layouts)], program, seed * 1000 + hour.number)
    said = []
    while watched.clock.now_s() < seconds:
        verdict, _ = watched.step()
        if verdict is not None:
            said.append(msgspec.structs.replace(verdict, waiting_ranks=[], evidence=verdict.evidence[:8]))
            if verdict.is_hang:
                break
    return Spent(watched.steps, watched.clock.now_s(), time.perf_counter() - began_s, said)

"""One incident in a simulated cluster that is under way already: each runs in a fork of the process that has watched the
cluster's first steps, and they are not run again."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import TypeVar

import msgspec

from scale.cases import Case
from tightwire.ccl import incident, score
from tightwire.ccl.connections import Connections
from tightwire.ccl.digest import Digest
from tightwire.ccl.faults.simulate.layout import Layout
from tightwire.ccl.faults.simulate.physics import Program
from tightwire.ccl.faults.simulate.stream import SimulatedCluster, SimulatedSource
from tightwire.ccl.verdict import Verdict
from tightwire.ccl.watcher import Watcher
from tightwire.core.clock import Clock, FakeClock

EVERY_S = 1.0  # a summary of each host
LOST, SKEW_S = 0.01, 0.05
PROGRAM = Program(layers=1, layer_s=0.02, uneven=0.1, wire_jitter=0.1, spike_share=1e-6)
KNOWN_STEPS, KNOWN_S = 40, 15.0  # watched before anything is injected, at least
HANG_S, SLOW_STEPS = 60.0, 50  # at most
REFINED_S, REFINED_STEPS = 12.0, 18  # after the first word about a hang, a slow job, more may be said
T = TypeVar("T")


class Played(msgspec.Struct, frozen=True):
    """`took_s` of the simulation from the first step with a fault to the last word; `verdict_s` the processor time of each
    look that ended in a verdict, without the simulation; `capture_s` that of the incident's record."""

    outcome: score.Outcome
    said: list[Verdict]
    took_s: float | None = None
    verdict_s: list[float] = []
    capture_s: float = 0.0
    wall_s: float = 0.0
    error: str = ""


class Timed(SimulatedSource):
    """`spent_s`: the processor time that the simulation took so far."""

    def __init__(self, cluster: SimulatedCluster, clock: Clock) -> None:
        super().__init__(cluster, clock)
        self.spent_s = 0.0

    def look(self) -> list[Digest]:
        return self._timed(super().look)

    def connections(self, pids: Mapping[int, int]) -> Connections:
        return self._timed(lambda: SimulatedSource.connections(self, pids))

    def _timed(self, call: Callable[[], T]) -> T:
        began_s = time.process_time()
        found = call()
        self.spent_s += time.process_time() - began_s
        return found


class Watched:
    """A cluster and who watches it."""

    def __init__(self, layout: Layout, program: Program, seed: int) -> None:
        self.clock = FakeClock()
        self.cluster = SimulatedCluster(layout, program, (), seed, SKEW_S, LOST)
        self.source = Timed(self.cluster, self.clock)
        self.watcher = Watcher(self.source, self.clock)

    @property
    def steps(self) -> int:
        """That are over."""
        return sum(end_s <= self.clock.now_s() for end_s in self.cluster.step_ends_s)

    def step(self) -> tuple[Verdict | None, float]:
        """One look: what it ended in, and the watcher's processor time."""
        self.clock.advance_s(EVERY_S)
        began_s, before_s = time.process_time(), self.source.spent_s
        said = self.watcher.step()
        return said, time.process_time() - began_s - (self.source.spent_s - before_s)


def warm(layout: Layout, seed: int) -> Watched:
    """For `KNOWN_STEPS` and `KNOWN_S`, in which the detector learns what is usual."""
    watched = Watched(layout, PROGRAM, seed)
    while watched.steps < KNOWN_STEPS or watched.clock.now_s() < KNOWN_S:
        said, _ = watched.step()
        if said is not None:
            raise RuntimeError(f"a false alarm while nothing is wrong: {said}")
    return watched


def play(watched: Watched, case: Case, seed: int) -> Played:
    """In a fork; `watched` stays as it is."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_play_and_tell, args=(watched, case, seed, sender))
    child.start()
    sender.close()
    try:
        return msgspec.json.decode(receiver.recv_bytes(), type=Played)
    except EOFError:
        return Played(score.Outcome(False, False, False), [], error="the process ended")
    finally:
        child.join()


def _play_and_tell(watched: Watched, case: Case, seed: int, sender: Connection) -> None:
    try:
        played = _play(watched, case, seed)
    except Exception:
        played = Played(score.Outcome(False, False, False), [], error=traceback.format_exc())
    sender.send_bytes(msgspec.json.encode(played))
    sender.close()
    os._exit(0)


def _play(watched: Watched, case: Case, seed: int) -> Played:
    began_s = time.perf_counter()
    first = watched.cluster.physics.steps + case.faults[0].step
    faults = [dataclasses.replace(fault, step=first) for fault in case.faults]
    watched.cluster.inject(faults, seed)
    said: list[Verdict] = []
    verdict_s: list[float] = []
    first_s = told_s = told_steps = None
    while watched.steps - first < SLOW_STEPS:
        now_s, ends_s = watched.clock.now_s(), watched.cluster.step_ends_s
        if first_s is None and len(ends_s) >= first and ends_s[first - 1] <= now_s:
            first_s = ends_s[first - 1]
        if told_s is not None and (
            now_s - told_s >= REFINED_S if said[0].is_hang else watched.steps - told_steps > REFINED_STEPS
        ):
            break
        if told_s is None and first_s is not None and watched.steps <= first and now_s - first_s > HANG_S:
            break
        verdict, spent_s = watched.step()
        if verdict is not None and all(_names(verdict) != _names(each) for each in said):
            verdict_s.append(spent_s)
            said.append(msgspec.structs.replace(verdict, waiting_ranks=[], evidence=verdict.evidence[:8]))
            if told_s is None:
                told_s, told_steps = now_s, watched.steps
    capture_s = time.process_time()
    if said:
        incident.capture(watched.watcher.collector, said[-1], [])
    capture_s = time.process_time() - capture_s
    took_s = said[-1].at_s - first_s if said and first_s is not None else None
    return Played(
        score.judge_several(case.truths, said), said, took_s, verdict_s, capture_s, time.perf_counter() - began_s
    )


def _names(verdict: Verdict) -> tuple[str, list[int], list[str], bool]:
    return verdict.anomaly, verdict.guilty_ranks, verdict.guilty_links, verdict.ended_s is not None

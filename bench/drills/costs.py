"""What watching costs a job that has nothing wrong: paired runs of one DDP job without and with the probe."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist

from drills.playing import SAMPLE
from tightwire import _ring
from tightwire.ccl import attach
from tightwire.ccl.probe.ring_writer import Writer as PythonWriter

RANKS, STEPS, WARM_UP = 8, 300, 30
RESAMPLES = 2000


class Costs(msgspec.Struct, frozen=True):
    """Of one run: the median step, the ranks' processor time in a step, their largest resident memory, the events that a
    rank recorded in a step, and the agent's share of a core."""

    step_s: float
    processor_s: float
    resident_bytes: int
    events: float = 0.0
    agent_share: float = 0.0


class Pair(msgspec.Struct, frozen=True):
    plain: Costs
    watched: Costs


def pair(number: int) -> Pair:
    """Which of the two comes first alternates."""
    order = (False, True) if number % 2 == 0 else (True, False)
    found = {watched: _run(watched) for watched in order}
    return Pair(found[False], found[True])


def _run(watched: bool) -> Costs:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "agent.json"
        job = [
            sys.executable, "-m", "tightwire.ccl.faults.launch", "--ranks", str(RANKS), "--hosts", "-m", SAMPLE,
            "--steps", str(STEPS), "--pause", "0", "--report", name,
        ]  # fmt: skip
        command = [sys.executable, "-m", "drills.watching", str(file), *job] if watched else job
        subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1], check=True
        )
        told = [json.loads(path.read_text()) for path in Path(name).glob("rank-*.json")]
        agent = json.loads(file.read_text()) if watched else {"written": [0], "core_share": 0.0}
    began = [times["began_s"] for times in told]
    steps = [b - a for each in began for a, b in zip(each[WARM_UP:], each[WARM_UP + 1 :], strict=False)]
    return Costs(
        statistics.median(steps),
        statistics.mean(each["processor_s"] for each in told) / STEPS,
        max(each["resident_bytes"] for each in told),
        statistics.mean(agent["written"]) / STEPS,
        agent["core_share"],
    )


def share_more(plain: list[float], watched: list[float]) -> tuple[float, float, float]:
    """By which share of itself the one grows to the other: median over the pairs, and its 95 % interval (bootstrap)."""
    shares = [after / before - 1 for before, after in zip(plain, watched, strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(shares, k=len(shares))) for _ in range(RESAMPLES))
    return statistics.median(shares), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def event_ns(python: bool = False) -> float:
    """One record into the ring by the native writer (or its twin in Python), called from Python."""
    with tempfile.TemporaryDirectory() as name:
        writer = (PythonWriter if python else _ring.Writer)(f"{name}/ring", 8192, 0, 1, os.getpid(), 0)
        slot, count, costs = writer.add_group(7), 20_000, []
        for _ in range(9):
            start = time.perf_counter_ns()
            for index in range(count):
                writer.entered(slot, 7, index, 1, 4096, 1, 5, 0)
            costs.append((time.perf_counter_ns() - start) / count)
    return statistics.median(costs)


def call_cost() -> tuple[float, float]:
    """(µs that the probe adds to one allreduce and its wait on the thread that makes it, entry and end recorded; µs that
    the call takes by itself), processor time. Attaches the probe to this process for good."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    tensor, options, count = torch.ones(1000), dist.AllreduceOptions(), 2000

    def cost_us() -> float:
        costs = []
        for _ in range(9):
            start = time.thread_time()
            for _ in range(count):
                dist.group.WORLD.allreduce([tensor], options).wait()
            costs.append((time.thread_time() - start) / count * 1e6)
        return statistics.median(costs)

    plain_us = cost_us()
    with tempfile.TemporaryDirectory() as name:
        attach(name)
        added_us = cost_us() - plain_us
    dist.destroy_process_group()
    return added_us, plain_us

"""A small real training job for demos and drills, with an optional fault at a chosen rank and step:

`torchrun --nproc-per-node 4 -m tightwire.ccl.faults.sample_job --steps 200 [--fault stop --rank 2 --step 50]`
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist

from tightwire.ccl.faults import cluster
from tightwire.ccl.faults.inject import FAULTS, LASTING, Rhythm, inject, lift
from tightwire.ccl.faults.workloads import BATCH, WIDTH, WORKLOADS

CHECKPOINT_EVERY, EVALUATION_EVERY, EVALUATION_ROUNDS = 60, 80, 10


class Tempo:
    """Measures this rank's steps; `file` gets the time at which each began."""

    def __init__(self, file: Path | None) -> None:
        self._file = None if file is None else file.open("w")
        self._marks: list[tuple[float, float, int]] = []

    def begin(self) -> None:
        self._marks.append((time.monotonic(), time.process_time(), cluster.sent_bytes()))
        if self._file is not None:
            self._file.write(f"{self._marks[-1][0]}\n")
            self._file.flush()

    def report(self, file: Path) -> None:
        """When its steps began, and what the whole rank used."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        told = {
            "began_s": [mark[0] for mark in self._marks],
            "processor_s": self._marks[-1][1] - self._marks[0][1],
            "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        }
        file.write_text(json.dumps(told))

    def rhythm(self) -> Rhythm:
        """The medians so far, of the later half."""
        marks = self._marks[len(self._marks) // 2 :]
        steps = list(itertools.pairwise(marks))
        step_s, processor_s, sent = (statistics.median(b[at] - a[at] for a, b in steps) for at in range(3))
        return Rhythm(step_s, processor_s, sent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=sorted(WORKLOADS), default="ddp", help="the way in which it is parallel")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds of other work in each step")
    parser.add_argument("--uneven", type=float, default=0.0, help="up to that share more or less of it, at random")
    parser.add_argument("--phases", action="store_true", help="with checkpoints on rank 0 and evaluations")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--step", type=int, default=20)
    parser.add_argument("--until", type=int, help="the step at which a fault that makes it slow is lifted again")
    parser.add_argument("--severity", type=float, default=2.0, help="how many times as long a step becomes, about")
    parser.add_argument("--truth", type=Path, help="where to write what was injected, and when")
    parser.add_argument("--report", type=Path, help="a folder, for each rank's times, processor time and memory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    rank, fault = dist.get_rank(), arguments.fault
    workload = WORKLOADS[arguments.job](rank, dist.get_world_size())
    aside = dist.new_group() if fault == "elsewhere" else None
    generator = torch.Generator().manual_seed(rank)
    guilty = fault is not None and rank == arguments.rank
    steps_file = arguments.truth.with_suffix(".steps") if guilty and arguments.truth is not None else None
    tempo, lag_s = Tempo(steps_file), 0.0
    for step in range(arguments.steps):
        tempo.begin()
        here = guilty and step == arguments.step
        if here:
            rhythm = tempo.rhythm() if fault in LASTING else None
            lag_s = inject(fault, rank, step, arguments.truth, arguments.severity, rhythm)
        if guilty and step == arguments.until:
            lift(fault)
            lag_s = 0.0
        time.sleep(lag_s)
        if here and fault == "elsewhere":
            dist.all_reduce(torch.ones(4), group=aside)
        if fault == "circle" and step == arguments.step:
            wait_crosswise(arguments.rank)
        loss = workload(torch.randn(BATCH, WIDTH, generator=generator))
        share_metrics(loss, fault if here else None)
        spread = arguments.uneven * float(2 * torch.rand((), generator=generator) - 1)
        time.sleep(arguments.pause * (1 + spread))
        if arguments.phases:
            other_phases(step, rank)
        if rank == 0 and step % 50 == 0:
            print(f"step {step} loss {loss:.3f}", flush=True)
    if arguments.report is not None:
        tempo.report(arguments.report / f"rank-{rank}.json")
    # gloo's thread needs Python's lock to let go of the last call's tensors, and the group's end waits for it with the lock
    time.sleep(0.1)
    dist.destroy_process_group()


def share_metrics(loss: float, fault: str | None) -> None:
    """What jobs do after each step: the mean loss over all ranks, then a setting from rank 0; `fault` is how this rank's
    calls differ from the others'."""
    metrics, setting = torch.full((5 if fault == "shape" else 4,), loss), torch.ones(1)
    if fault == "dtype":
        metrics = metrics.to(torch.int32)
    calls = [lambda: dist.all_reduce(metrics), lambda: dist.broadcast(setting, int(fault == "root"))]
    if fault == "operation":
        calls[0] = lambda: dist.reduce(metrics, 0)
    for call in reversed(calls) if fault == "order" else calls:
        call()


def wait_crosswise(first: int) -> None:
    """Rank `first` and the next one each wait for a message from the other, which would send its own after that."""
    rank, pair = dist.get_rank(), (first, (first + 1) % dist.get_world_size())
    if rank in pair:
        message, other = torch.ones(4), pair[rank == pair[0]]
        dist.recv(message, other)
        dist.send(message, other)


def other_phases(step: int, rank: int) -> None:
    """What interrupts training now and then: a checkpoint that one rank writes, an evaluation by all."""
    if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
        if rank == 0:
            time.sleep(1.0)
        dist.barrier()
    if step % EVALUATION_EVERY == EVALUATION_EVERY - 1:
        for _ in range(EVALUATION_ROUNDS):
            time.sleep(0.01 * (1 + rank))
            dist.all_reduce(torch.ones(2))


if __name__ == "__main__":
    main()

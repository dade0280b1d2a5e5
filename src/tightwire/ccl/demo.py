"""The ccl demo: a 4-rank DDP job, one rank frozen in the middle, the verdict and how long it took."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tightwire.ccl import watch
from tightwire.ccl.verdict import Verdict
from tightwire.core.records import Table

RANKS = 4


def run(on_verdict: Callable[[Verdict], None], seed: int | None = None) -> Table:
    """Freezes a random rank at a random step; the result as a table."""
    rng = random.Random(seed)
    rank, step = rng.randrange(RANKS), rng.randrange(40, 80)
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(folder) / "truth.json"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--standalone",
            "-m", "tightwire.ccl.faults.sample_job", "--steps", "100000",
            "--fault", "stop", "--rank", str(rank), "--step", str(step), "--truth", str(truth),
        ]  # fmt: skip
        with (Path(folder) / "job.log").open("wb") as log:  # torchrun tells at length that it was ended
            watched = watch.run(command, on_verdict, patience_s=0.0, output=log)
        told = json.loads(truth.read_text())
    verdict = watched.verdict
    assert verdict is not None, "the job is endless but for the verdict"
    stack = next((line.split(": ", 1)[1].split(" ← ")[0] for line in verdict.evidence if "stack" in line), "")
    state = next((line.split("(kernel state ")[1][0] for line in verdict.evidence if "kernel state" in line), "")
    row = [
        f"rank {told['rank']}, step {told['step']}", f"rank {', '.join(map(str, verdict.guilty_ranks))}",
        f"{verdict.anomaly}: {verdict.cause}", state, stack, f"{verdict.at_s - told['at_s']:.1f} s",
    ]  # fmt: skip
    return Table(
        "A 4-rank DDP job with one rank frozen (SIGSTOP)",
        ["injected", "named", "verdict", "kernel state", "Python stack", "after"],
        [row],
        ["after"],
        [f"the other ranks wait in {verdict.operation} number {verdict.sequence}; the job was then ended"],
    )

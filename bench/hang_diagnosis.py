"""Does `tightwire ccl run` name the right rank? Random rank and step by seed, through the real command.

H1 by SIGSTOP, SIGKILL and an endless Python loop, and clean runs; and what one event costs inside a rank.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drills.costs import call_cost
from harness import Result, parser, publish
from tightwire import _ring
from tightwire.ccl.probe import ring_writer

RANKS = 4
LIMIT_S = 300


def job(folder: Path, *arguments: str, steps: int) -> tuple[int | None, dict | None]:
    """(exit status, verdict); status None when the job was still there after `LIMIT_S`."""
    command = [
        sys.executable, "-m", "tightwire.cli", "ccl", "run", "--out", str(folder), "--patience", "0", "--",
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS),
        "-m", "tightwire.ccl.faults.sample_job", "--steps", str(steps), *arguments,
    ]  # fmt: skip
    status = None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            status = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # it hands the signal on and ends its job
    told = folder / "verdict.json"
    return status, json.loads(told.read_text()) if told.exists() else None


def fault_runs(fault: str, runs: int, rng: random.Random) -> list[Result]:
    right, times = 0, []
    for _ in range(runs):
        rank, step = rng.randrange(RANKS), rng.randrange(15, 120)
        with tempfile.TemporaryDirectory() as name:
            truth = Path(name) / "truth.json"
            status, verdict = job(
                Path(name) / "out", "--fault", fault, "--rank", str(rank), "--step", str(step), "--truth", str(truth),
                steps=100_000,
            )  # fmt: skip
            good = status == 3 and verdict is not None and (verdict["class"], verdict["guilty_ranks"]) == ("H1", [rank])
            right += good
            took_s = math.inf
            if verdict is not None and truth.exists():
                took_s = verdict["at_s"] - json.loads(truth.read_text())["at_s"]
                times.append(took_s)
            told = f"right, {took_s:.2f} s" if good else f"WRONG: status {status}, {verdict}"
            print(f"{fault}: rank {rank}, step {step}: {told}", flush=True)
    median_s, worst_s = (statistics.median(times), max(times)) if times else (math.inf, math.inf)
    return [
        Result(f"h1_{fault}.named_right", right / runs, "share", "higher", f"{runs} runs, random rank and step"),
        Result(f"h1_{fault}.time_to_verdict_s", median_s, "s", "lower", "median, from the fault"),
        Result(f"h1_{fault}.time_to_verdict_max_s", worst_s, "s", "lower", "worst"),
    ]


def clean_runs(runs: int) -> Result:
    accusations = 0
    for index in range(runs):
        with tempfile.TemporaryDirectory() as name:
            status, verdict = job(Path(name) / "out", steps=200)
            accusations += verdict is not None or status != 0
            print(f"clean {index + 1}: status {status}, {'accused' if verdict else 'nobody accused'}", flush=True)
    return Result("clean.accusations", accusations, "runs", "lower", f"of {runs} runs of 200 steps")


def event_cost(figure: str, make: Callable[..., Any], what: str) -> Result:
    with tempfile.TemporaryDirectory() as name:
        writer = make(f"{name}/ring", 8192, 0, 1, os.getpid(), 0)
        slot = writer.add_group(7)
        count, costs = 20_000, []
        for _ in range(9):
            start = time.perf_counter()
            for index in range(count):
                writer.entered(slot, 7, index, 1, 4096, 1, 5, 0)
            costs.append((time.perf_counter() - start) / count * 1e6)
    return Result(
        figure,
        statistics.median(costs),
        "us",
        "lower",
        f"one record into the ring by the {what}, called from Python",
    )


def probe_cost() -> Result:
    """What the probe adds to one call of torch.distributed on the thread that makes it; gloo's own threads do not count."""
    added_us, plain_us = call_cost()
    note = f"allreduce and its wait, entry and end recorded, processor time; the call itself takes {plain_us:.1f} us"
    return Result("probe.call_cost_us", added_us, "us", "lower", note)


def main() -> None:
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument("--runs", type=int, default=10, help="runs of each kind")
    arguments_parser.add_argument("--seed", type=int, default=1)
    arguments = arguments_parser.parse_args()
    rng = random.Random(arguments.seed)
    results = [
        event_cost("probe.event_cost_us", _ring.Writer, "native writer"),
        event_cost("probe.python_event_cost_us", ring_writer.Writer, "Python twin"),
    ]
    results.append(probe_cost())
    for fault in ("stop", "kill", "loop"):
        results += fault_runs(fault, arguments.runs, rng)
    results.append(clean_runs(arguments.runs))
    publish("hang_diagnosis", results, arguments.json)


if __name__ == "__main__":
    main()

"""Does `tightwire ccl run` name the right rank? Random rank and step by seed, through the real command.

H1 by SIGSTOP, SIGKILL and an endless Python loop, and clean runs; and what one event costs inside a rank.
"""

from __future__ import annotations

import json
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

from harness import Result, parser, publish
from tightwire import _ring
from tightwire.ccl.probe import ring_writer

RANKS = 4


def job(folder: Path, *arguments: str, steps: int) -> tuple[int, dict | None]:
    command = [
        sys.executable, "-m", "tightwire.cli", "ccl", "run", "--out", str(folder), "--patience", "0", "--",
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS),
        "-m", "tightwire.ccl.faults.sample_job", "--steps", str(steps), *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=180, check=False)
    told = folder / "verdict.json"
    return done.returncode, json.loads(told.read_text()) if told.exists() else None


def fault_runs(fault: str, runs: int, rng: random.Random) -> list[Result]:
    right, times = 0, []
    for _ in range(runs):
        rank, step = rng.randrange(RANKS), rng.randrange(15, 120)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            truth = folder / "truth.json"
            status, verdict = job(
                folder / "out",
                "--fault",
                fault,
                "--rank",
                str(rank),
                "--step",
                str(step),
                "--truth",
                str(truth),
                steps=100_000,
            )
            good = (
                verdict is not None and verdict["guilty_ranks"] == [rank] and verdict["class"] == "H1" and status == 3
            )
            right += good
            if verdict is not None:
                times.append(verdict["at_s"] - json.loads(truth.read_text())["at_s"])
            print(f"{fault}: rank {rank}, step {step}: {'right' if good else f'WRONG {status} {verdict}'}", flush=True)
    note = f"{runs} runs, random rank and step"
    return [
        Result(f"h1_{fault}.named_right", right / runs, "share", "higher", note),
        Result(
            f"h1_{fault}.time_to_verdict_s",
            statistics.median(times or [float("nan")]),
            "s",
            "lower",
            "median, from the fault",
        ),
        Result(f"h1_{fault}.time_to_verdict_max_s", max(times or [float("nan")]), "s", "lower", "worst"),
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
    for fault in ("stop", "kill", "loop"):
        results += fault_runs(fault, arguments.runs, rng)
    results.append(clean_runs(arguments.runs))
    publish("hang_diagnosis", results, arguments.json)


if __name__ == "__main__":
    main()

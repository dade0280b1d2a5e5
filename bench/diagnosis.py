"""The fault matrix: every class, injected into real jobs on hosts of their own (network namespaces; needs root), random
rank, step and severity by seed; and clean jobs with checkpoints, evaluations, uneven data and a noisy neighbour.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import Result, parser, publish
from tightwire import _ring
from tightwire.ccl import score, watch
from tightwire.ccl.faults.inject import CLASSES, LASTING
from tightwire.ccl.faults.workloads import WORKLOADS
from tightwire.ccl.verdict import Verdict

SAMPLE = "tightwire.ccl.faults.sample_job"
FAULTS = [fault for fault in CLASSES if fault != "dtype"]
MISSING = [
    "matrix cell: H1 blocked in another group", "overhead.step_share", "agent.core_share", "rank.memory_mb",
]  # fmt: skip
AFTER_STEPS, ENDLESS = 60, 100_000
FIRST_STEP, LAST_STEP = 50, 90
CLEAN_STEPS = 200


@dataclass(frozen=True)
class Case:
    fault: str
    job: str
    ranks: int
    rank: int
    step: int
    severity: float


@dataclass(frozen=True)
class Told:
    """`took` is in seconds from the injection, `steps` in steps of the guilty rank; infinite without a verdict."""

    outcome: score.Outcome
    took_s: float
    steps: float


def cases(runs: int, sizes: list[int], rng: random.Random) -> list[Case]:
    """As many as asked for: each cell of the matrix once before any comes again."""
    cells = list(itertools.product(FAULTS, WORKLOADS, sizes))
    order: list[tuple[str, str, int]] = []
    while len(order) < runs:
        order += rng.sample(cells, len(cells))
    return [
        Case(fault, job, ranks, rng.randrange(ranks), rng.randrange(FIRST_STEP, LAST_STEP), rng.uniform(1.7, 3.0))
        for fault, job, ranks in order[:runs]
    ]


def launched(ranks: int, *job: str) -> list[str]:
    return [sys.executable, "-m", "tightwire.ccl.faults.launch", "--ranks", str(ranks), "--hosts", "-m", SAMPLE, *job]


def run(case: Case) -> Told:
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as name:
        truth_file = Path(name) / "truth.json"
        steps = case.step + AFTER_STEPS if case.fault in LASTING else ENDLESS
        command = launched(
            case.ranks, "--job", case.job, "--steps", str(steps), "--fault", case.fault, "--rank", str(case.rank),
            "--step", str(case.step), "--severity", f"{case.severity:.2f}", "--truth", str(truth_file),
        )  # fmt: skip
        with (Path(name) / "job.log").open("wb") as log:
            watch.run(command, verdicts.append, patience_s=0.0, output=log)
        if not truth_file.exists():  # it ended before anything was injected
            print(f"ended too early: {verdicts} {Path(log.name).read_text()[-500:]}")
            return Told(score.Outcome(False, False, bool(verdicts)), math.inf, math.inf)
        told = json.loads(truth_file.read_text())
        began_s = [float(line) for line in truth_file.with_suffix(".steps").read_text().split()]
    truth = score.Truth(told["class"], told["guilty_ranks"], told["guilty_links"])
    said = [verdict for verdict in verdicts if verdict.ended_s is None]
    if not said:
        return Told(score.judge(truth, verdicts), math.inf, math.inf)
    at_s = said[-1].at_s
    return Told(score.judge(truth, verdicts), at_s - told["at_s"], sum(told["at_s"] < each < at_s for each in began_s))


def clean(ranks: int, job: str, noisy: bool) -> list[Verdict]:
    """What was said of a job in which nothing was wrong."""
    said: list[Verdict] = []
    with neighbour() if noisy else contextlib.nullcontext():
        watch.run(
            launched(ranks, "--job", job, "--steps", str(CLEAN_STEPS), "--phases", "--uneven", "0.5"), said.append,
            output=subprocess.DEVNULL,
        )  # fmt: skip
    return said


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """A process that keeps one core busy, on and off."""
    code = "import time\nwhile True:\n    until = time.time() + 0.7\n    while time.time() < until: pass\n    time.sleep(0.3)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            yield
        finally:
            process.kill()


def event_ns() -> float:
    """One record into the ring by the native writer, called from Python."""
    import time

    with tempfile.TemporaryDirectory() as name:
        writer = _ring.Writer(f"{name}/ring", 8192, 0, 1, os.getpid(), 0)
        slot, count, costs = writer.add_group(7), 20_000, []
        for _ in range(9):
            start = time.perf_counter_ns()
            for index in range(count):
                writer.entered(slot, 7, index, 1, 4096, 1, 5, 0)
            costs.append((time.perf_counter_ns() - start) / count)
    return statistics.median(costs)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that as many are not above."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else math.nan


def main() -> None:
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument("--runs", type=int, default=30, help="with a fault")
    arguments_parser.add_argument("--clean", type=int, default=4, help="runs without a fault")
    arguments_parser.add_argument("--seed", type=int, default=1)
    arguments_parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8], help="sizes of the jobs")
    arguments_parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    arguments = arguments_parser.parse_args()
    rng = random.Random(arguments.seed)
    chosen = [case for case in cases(arguments.runs * 4, arguments.ranks, rng) if case.fault in arguments.faults]
    told: list[tuple[Case, Told]] = []
    for case in chosen[: arguments.runs]:
        one = run(case)
        told.append((case, one))
        right = one.outcome.class_right and one.outcome.location_right
        print(f"{'right' if right else 'WRONG'} {case} {one}", flush=True)
    accusations = 0
    for index, job in zip(range(arguments.clean), itertools.cycle(WORKLOADS)):
        said = clean(arguments.ranks[0], job, index % 2 == 1)
        accusations += bool(said)
        print(f"clean {job}: {said or 'nobody accused'}", flush=True)
    for name in MISSING:
        print(f"missing: {name}")
    ran = {case.fault for case, _ in told}
    print(f"missing: cells of {', '.join(f for f in FAULTS if f not in ran) or 'no fault'} (raise --runs)")
    result = score.total([one.outcome for _, one in told])
    hangs = [one.took_s for case, one in told if case.fault not in LASTING]
    slow = [one.steps for case, one in told if case.fault in LASTING]
    note = f"{result.runs} runs, seed {arguments.seed}"
    publish(
        "diagnosis",
        [
            Result("matrix.runs", result.runs, "runs", "higher", note),
            Result("matrix.class_accuracy", result.class_accuracy, "share", "higher", note),
            Result("matrix.location_accuracy", result.location_accuracy, "share", "higher", "exact ranks or links"),
            Result("matrix.high_confidence_wrong", result.high_confidence_wrong, "runs", "lower", note),
            Result(
                "clean.runs", arguments.clean, "runs", "higher", f"{CLEAN_STEPS} steps, every second with a neighbour"
            ),
            Result("clean.accusations", accusations, "runs", "lower"),
            Result("hang.seconds_to_verdict.p95", percentile(hangs, 0.95), "s", "lower", f"{len(hangs)} runs"),
            Result("slow.steps_to_verdict.p95", percentile(slow, 0.95), "steps", "lower", f"{len(slow)} runs"),
            Result("ring.ns_per_event", event_ns(), "ns", "lower", "native writer, called from Python"),
        ],
        arguments.json,
    )


if __name__ == "__main__":
    main()

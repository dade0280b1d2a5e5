"""What the NCCL profiler plugin costs its host: 10⁷ calls as NCCL makes them, on one thread and on eight.

Compiles the test's driver, which loads the installed plugin. An event is one call (start, stop or a change of state), its
ring records included; the reference is the loop without a plugin's work: calls with handles that it does not follow.

    python bench/nccl_plugin.py --json FILE
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import harness
from harness import Result
from tightwire.ccl.sources import nccl_plugin

ROOT = Path(__file__).parents[1]
CALLS_PER_COLLECTIVE = 44  # Job::whole() of the driver: 2 of the collective, 6 of kernels, 4 of proxies, 32 of steps
RUNS = 5


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--calls", type=int, default=10_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver = folder / "driver"
        source = ROOT / "tests/ccl/nccl/driver.cpp"
        flags = ["-std=c++20", "-O2", "-DPLUGIN_FILE", f"-I{ROOT / 'native/nccl_profiler'}", "-lpthread", "-ldl"]
        subprocess.run(["c++", str(source), "-o", str(driver), *flags], check=True)
        times = args.calls // CALLS_PER_COLLECTIVE
        one = [drive(driver, folder, times, 1) for _ in range(RUNS)]
        eight = [drive(driver, folder, times // 8, 8) for _ in range(RUNS)]
        few = drive(driver, folder, times // 1000, 1)
        idle = statistics.median(drive(driver, folder, times, 1, TIGHTWIRE_CCL="/nowhere")[0] for _ in range(RUNS))
    per_call = statistics.median(seconds for seconds, _ in one) / (times * CALLS_PER_COLLECTIVE) * 1e9
    empty = idle / (times * CALLS_PER_COLLECTIVE) * 1e9
    threads = statistics.median(seconds for seconds, _ in eight) / (times // 8 * 8 * CALLS_PER_COLLECTIVE) * 1e9
    growth = one[0][1] - few[1]
    harness.publish(
        "nccl_plugin",
        [
            Result("plugin.ns_per_event", per_call - empty, "ns", "lower", f"{args.calls:,} calls on one thread, ring records included"),
            Result("plugin.ns_per_event.eight_threads", threads, "ns", "lower", "wall time of eight threads ÷ all their calls"),
            Result("driver.ns_per_event", empty, "ns", "lower", "the same calls where nothing is recorded"),
            Result("plugin.memory_growth_kb", growth, "KB", "lower", f"peak memory after {args.calls:,} calls less after a thousandth"),
        ],
        args.json,
    )


def drive(driver: Path, folder: Path, times: int, threads: int, **variables: str) -> tuple[float, int]:
    """(seconds of the calls, peak resident KB of the process)"""
    command = [str(driver), str(nccl_plugin.library()), "5", "busy", str(times), str(threads)]
    environment = {**os.environ, "TIGHTWIRE_CCL": str(folder), **variables}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"the driver ended with {process.returncode}")
    return float(told.split()[-1]), used.ru_maxrss


if __name__ == "__main__":
    main()

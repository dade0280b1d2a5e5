"""What every benchmark shares: `--json FILE`, a table, medians, and ratios within one run.

A result file is `{"bench", "commit", "machine", "results": [{"name", "value", "unit", "better", "note"}]}`.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table


class Result(msgspec.Struct, frozen=True):
    """One figure: `name` is stable, `better` says in which direction, `note` how it was obtained."""

    name: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    note: str = ""


class Report(msgspec.Struct, frozen=True):
    bench: str
    commit: str
    machine: dict[str, str | int]
    results: list[Result]


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser that already knows `--json FILE`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return made


def time_median_s(call: Callable[[], object], repeats: int = 9, warmups: int = 2) -> float:
    """Median wall time of `call` in seconds over `repeats` runs, after `warmups` that are not counted."""
    for _ in range(warmups):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def race(calls: Mapping[str, Callable[[], object]], repeats: int = 9, warmups: int = 2) -> dict[str, float]:
    """Median wall time of each call in seconds. They take turns, so that a machine that changes its pace while the
    benchmark runs changes it for all of them."""
    for _ in range(warmups):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def publish(bench: str, results: list[Result], json_path: Path | None) -> None:
    """Print `results` as a table and write them to `json_path` when one is given."""
    table = Table(title=bench)
    for column in ("figure", "value", "unit", "better", "note"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for result in results:
        table.add_row(result.name, f"{result.value:.4g}", result.unit, result.better, result.note)
    Console().print(table)
    if json_path is not None:
        report = Report(bench, _commit(), _machine(), results)
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        print(f"wrote {json_path}")


def _commit() -> str:
    here = Path(__file__).parent
    if shutil.which("git") is None:
        return "unknown"
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=False)
    return (found.stdout.strip() or "unknown") + ("+changes" if dirty.stdout.strip() else "")


def _machine() -> dict[str, str | int]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count() or 0, "python": platform.python_version(), "os": platform.system()}

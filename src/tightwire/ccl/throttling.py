"""Whether a process is held back by a processor quota: its control group (version 1 or 2) says so."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import msgspec

from tightwire.ccl.probe.process import CGROUPS, cpu_group


class Throttling(msgspec.Struct, frozen=True):
    """`group` may use `cores`; it was held back in that `share` of the periods of a short window."""

    group: str
    cores: float
    share: float


def watch(pid: int, window_s: float = 0.2, proc: Path = Path("/proc"), root: Path = CGROUPS) -> Throttling | None:
    """None where there is no quota. Takes `window_s`."""
    folder = cpu_group(pid, proc, root)
    cores = None if folder is None else _cores(folder)
    if folder is None or cores is None:
        return None
    before = _periods(folder)
    time.sleep(window_s)
    after = _periods(folder)
    periods = after[0] - before[0]
    name = f"/{folder.relative_to(root)}"
    return Throttling(name, cores, (after[1] - before[1]) / periods if periods > 0 else 0.0)


def _cores(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota.strip() not in ("max", "-1"):
            return int(quota) / int(period)
    return None


def _periods(folder: Path) -> tuple[int, int]:
    """(all, those in which it was held back)."""
    with contextlib.suppress(OSError, ValueError):
        told = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        return int(told["nr_periods"]), int(told["nr_throttled"])
    return 0, 0

"""A processor quota on one process: a control group (v1, `cpu.cfs_quota_us`) of its own. Needs root and Linux."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CPU = Path("/sys/fs/cgroup/cpu")
PERIOD_US, LEAST_US = 20_000, 1_000


def limit(pid: int, cores: float, root: Path = CPU) -> None:
    """Let `pid` use that many cores (also below one) from now on."""
    folder = _folder(pid, root)
    folder.mkdir(exist_ok=True)
    (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
    (folder / "cpu.cfs_quota_us").write_text(str(max(int(cores * PERIOD_US), LEAST_US)))
    (folder / "cgroup.procs").write_text(str(pid))


def lift(pid: int, root: Path = CPU) -> None:
    """No limit any more."""
    with contextlib.suppress(OSError):
        (_folder(pid, root) / "cpu.cfs_quota_us").write_text("-1")


def clean_up(pid: int, root: Path = CPU) -> None:
    """After the end of `pid`."""
    with contextlib.suppress(OSError):
        os.rmdir(_folder(pid, root))


def _folder(pid: int, root: Path) -> Path:
    return root / f"tightwire-{pid}"

"""What a host can say about a process that is suspected: kernel state, processor use, Python stack (py-spy)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from tightwire.ccl.probe import process

STACK_TIMEOUT_S = 5.0
WRAPPERS = ("tightwire/ccl/probe/", "torch/distributed/c10d_logger.py")  # around the call that matters


class Evidence(msgspec.Struct, frozen=True):
    """`cpu_share` of one core over a short window; `stack` of the main thread, innermost frame first."""

    state: str
    wait_channel: str
    cpu_share: float
    stack: list[str]


def collect(pid: int, pid_start: int, window_s: float = 0.2) -> Evidence | None:
    """None when the process is gone. Takes `window_s` and the time of one py-spy call; the process is not disturbed."""
    before = process.read(pid, pid_start)
    time.sleep(window_s)
    after = process.read(pid, pid_start)
    if before is None or after is None:
        return None
    return Evidence(after.state, process.wait_channel(pid), (after.cpu_s - before.cpu_s) / window_s, _stack(pid))


def _stack(pid: int) -> list[str]:
    beside = Path(sys.executable).with_name("py-spy")
    spy = str(beside) if beside.exists() else shutil.which("py-spy")
    if spy is None:
        return []
    command = [spy, "dump", "--nonblocking", "--json", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=STACK_TIMEOUT_S, check=False)
        threads: Any = msgspec.json.decode(done.stdout) if done.returncode == 0 else []
        main = next((t for t in threads if t.get("thread_name") == "MainThread"), threads[-1] if threads else None)
        frames = main["frames"] if main else []
        told = [f"{f['name']} ({f.get('short_filename') or f['filename']}:{f['line']})" for f in frames]
        return [frame for frame in told if not any(name in frame for name in WRAPPERS)][:20]
    except (subprocess.TimeoutExpired, OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return []  # a stack is a help, not a condition

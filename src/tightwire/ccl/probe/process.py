"""What the kernel says about a process, read from /proc: nothing needs its cooperation."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

import msgspec

CGROUPS = Path("/sys/fs/cgroup")
_MOST_BYTES = 64 * 1024
_TICKS = os.sysconf("SC_CLK_TCK")
STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "in uninterruptible I/O",
    "T": "stopped",
    "t": "traced",
    "Z": "dead",
    "X": "dead",
    "I": "idle",
}


class ProcessState(msgspec.Struct, frozen=True):
    """`state` is the kernel's letter; `cpu_s` the processor time used so far; `starved_s` how long its main thread was
    ready to run and got no processor, `throttled_s` how long its control group was held back by a quota; `io_bytes` what
    it read and wrote so far, of files and anything else."""

    state: str
    cpu_s: float
    starved_s: float = 0.0
    io_bytes: int = 0
    throttled_s: float = 0.0

    @property
    def dead(self) -> bool:
        return self.state in ("Z", "X")

    @property
    def stopped(self) -> bool:
        return self.state in ("T", "t")


def start_ticks(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When the process started, in clock ticks since boot; with the pid it names a process for good."""
    fields = _stat(pid, proc)
    return int(fields[19]) if fields else None


def read(pid: int, started: int, proc: Path = Path("/proc")) -> ProcessState | None:
    """None when the process that started at `started` is gone. Cheap: it is called for every rank at every look."""
    fields = _stat(pid, proc)
    if fields is None or (started and int(fields[19]) != started):
        return None
    used_s = (int(fields[11]) + int(fields[12])) / _TICKS
    return ProcessState(fields[0], used_s, _starved_s(pid, proc), _io_bytes(pid, proc), throttled_s(pid, proc))


def wait_channel(pid: int, proc: Path = Path("/proc")) -> str:
    """Where in the kernel it sleeps; empty when it does not, or when that is not told."""
    try:
        channel = _text(f"{proc}/{pid}/wchan").strip()
    except OSError:
        return ""
    return "" if channel == "0" else channel


def _text(path: str) -> str:
    """A small file of /proc, at the least cost: some of these are read for every rank at every look."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, _MOST_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)


def _starved_s(pid: int, proc: Path) -> float:
    try:
        return int(_text(f"{proc}/{pid}/schedstat").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):  # a kernel without schedstats
        return 0.0


def throttled_s(pid: int, proc: Path = Path("/proc"), root: Path = CGROUPS) -> float:
    """How long the control group of the process was held back so far; 0 where it has no quota."""
    folder = cpu_group(pid, proc, root)
    if folder is None:
        return 0.0
    with contextlib.suppress(OSError, ValueError):
        told = dict(line.split() for line in _text(f"{folder}/cpu.stat").splitlines())
        return (
            int(told["throttled_time"]) / 1e9 if "throttled_time" in told else int(told.get("throttled_usec", 0)) / 1e6
        )
    return 0.0


def cpu_group(pid: int, proc: Path = Path("/proc"), root: Path = CGROUPS) -> Path | None:
    """The folder of its control group for processors (version 1 or 2), unless that is the root."""
    try:
        return _cpu_group(_text(f"{proc}/{pid}/cgroup"), root)
    except (OSError, ValueError):
        return None


@functools.lru_cache
def _cpu_group(told: str, root: Path) -> Path | None:
    """From what /proc/PID/cgroup says: the same of most processes at most looks."""
    for line in told.splitlines():
        number, controllers, path = line.split(":", 2)
        if path == "/" or not (number == "0" or "cpu" in controllers.split(",")):
            continue
        folder = root / path.lstrip("/") if number == "0" else root / "cpu" / path.lstrip("/")
        if (folder / "cpu.stat").exists():
            return folder
    return None


def _io_bytes(pid: int, proc: Path) -> int:
    try:
        _, read, _, written = _text(f"{proc}/{pid}/io").split(maxsplit=4)[:4]  # rchar and wchar come first
        return int(read) + int(written)
    except (OSError, IndexError, ValueError):  # not ours to see
        return 0


def _stat(pid: int, proc: Path) -> list[str] | None:
    try:
        text = _text(f"{proc}/{pid}/stat")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name in brackets may hold anything

"""What the kernel says about a process, read from /proc: nothing needs its cooperation."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

import msgspec

CGROUPS = Path("/sys/fs/cgroup")
_MOST_BYTES = 16 * 1024  # of a file; those that are read are smaller
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
    fields = _fields(_read(f"{proc}/{pid}/stat"))
    return int(fields[19]) if fields else None


class Process:
    """The process that started at `started`, read again and again: its files in /proc stay open, which costs half, and no
    other process gets into its place there. Raises OSError when it is gone."""

    def __init__(self, pid: int, started: int, proc: Path = Path("/proc")) -> None:
        self._started = started
        self._stat = os.open(f"{proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        self._others = [_opened(f"{proc}/{pid}/{name}") for name in ("schedstat", "io", "cgroup")]

    def read(self) -> ProcessState | None:
        """None when it is gone. Cheap: it is called for every rank at every look."""
        fields = _fields(_text(self._stat))
        if not fields or (self._started and int(fields[19]) != self._started):
            return None
        schedstat, io, cgroup = (_text(file) for file in self._others)
        used_s = (int(fields[11]) + int(fields[12])) / _TICKS
        return ProcessState(fields[0], used_s, _starved_s(schedstat), _io_bytes(io), _throttled_s(cgroup, CGROUPS))

    def close(self) -> None:
        for file in (self._stat, *self._others):
            if file is not None:
                os.close(file)


def read(pid: int, started: int, proc: Path = Path("/proc")) -> ProcessState | None:
    """Once, of the process that started at `started`. None when it is gone."""
    try:
        with contextlib.closing(Process(pid, started, proc)) as process:
            return process.read()
    except OSError:
        return None


def wait_channel(pid: int, proc: Path = Path("/proc")) -> str:
    """Where in the kernel it sleeps; empty when it does not, or when that is not told."""
    channel = _read(f"{proc}/{pid}/wchan").strip()
    return "" if channel == "0" else channel


def throttled_s(pid: int, proc: Path = Path("/proc"), root: Path = CGROUPS) -> float:
    """How long the control group of the process was held back so far; 0 where it has no quota."""
    return _throttled_s(_read(f"{proc}/{pid}/cgroup"), root)


def cpu_group(pid: int, proc: Path = Path("/proc"), root: Path = CGROUPS) -> Path | None:
    """The folder of its control group for processors (version 1 or 2), unless that is the root."""
    return _cpu_group(_read(f"{proc}/{pid}/cgroup"), root)


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


def _throttled_s(cgroup: str, root: Path) -> float:
    folder = _cpu_group(cgroup, root)
    if folder is None:
        return 0.0
    told = dict(line.split() for line in _read(f"{folder}/cpu.stat").splitlines())
    if "throttled_time" in told:
        return int(told["throttled_time"]) / 1e9
    return int(told.get("throttled_usec", 0)) / 1e6


def _starved_s(schedstat: str) -> float:
    return int(schedstat.split()[1]) / 1e9 if schedstat else 0.0  # a kernel without schedstats


def _io_bytes(io: str) -> int:
    if not io:
        return 0  # not ours to see
    _, read, _, written = io.split(maxsplit=4)[:4]  # rchar and wchar come first
    return int(read) + int(written)


def _fields(stat: str) -> list[str]:
    return stat.rpartition(")")[2].split()  # the name in brackets may hold anything


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _text(file: int | None) -> str:
    """Of an open file of /proc or a control group; empty where it says nothing (any more)."""
    try:
        return "" if file is None else os.pread(file, _MOST_BYTES, 0).decode(errors="replace")
    except OSError:
        return ""


def _read(path: str) -> str:
    file = _opened(path)
    text = _text(file)
    if file is not None:
        os.close(file)
    return text

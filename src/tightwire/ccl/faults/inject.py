"""Faults that a process does to itself, with the truth written down first."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tightwire.ccl.faults import cluster, quota
from tightwire.ccl.faults.cluster import drop_packets_from

CLASSES = {
    "stop": "H1", "kill": "H1", "loop": "H1", "gil": "H1", "elsewhere": "H1", "circle": "H1", "shape": "H2", "dtype": "H2", "operation": "H2", "root": "H2",
    "order": "H2", "drop": "H3", "dead": "H3", "sleep": "S1", "quota": "S1", "slow": "S2", "slow-pair": "S2",
    "both": "S3",
}  # fmt: skip
FAULTS = tuple(CLASSES)
LASTING = ("sleep", "quota", "slow", "slow-pair", "both")  # until they are lifted
NETWORK = ("drop", "dead", "slow", "slow-pair", "both")  # need ranks on hosts of their own


@dataclass(frozen=True)
class Rhythm:
    """What a step of the job is like before the fault: its time, the processor time and the bytes sent by this rank."""

    step_s: float
    processor_s: float
    sent_bytes: float


def inject(
    fault: str, rank: int, step: int, truth: Path | None, severity: float = 2.0, rhythm: Rhythm | None = None
) -> float:
    """`stop`: SIGSTOP; `kill`: SIGKILL; `loop`: never returns; `gil`: nor does it let another
    thread run; `drop`: what the next rank sends to this one is lost,
    `dead`: what anyone sends to it (both need `launch --hosts`); `elsewhere`: it waits in another group, whose other ranks never come;
    `circle`: it and the next rank each wait for a message from the other. `sleep`, `quota`, `slow` (its interface), `slow-pair`
    (what it sends to the rank to which it sends most) and `both` make steps about `severity` times as long, going by `rhythm`. The others
    are calls that differ, left to the job. `truth` gets the fault, who is guilty and its time. Returns how long the job
    must sleep in each step from now on, in seconds."""
    world = int(os.environ["WORLD_SIZE"])
    other = cluster.busiest_peer() if fault == "slow-pair" else (rank + 1) % world
    if truth is not None:
        is_link = fault in ("drop", "slow-pair")
        told = {
            "fault": fault, "class": CLASSES[fault], "rank": rank, "step": step, "pid": os.getpid(),
            "guilty_ranks": [] if is_link else sorted({rank, other}) if fault == "circle" else [rank],
            "guilty_links": [f"{min(rank, other)}-{max(rank, other)}"] if is_link else [],
            "severity": severity, "step_s": None if rhythm is None else rhythm.step_s, "at_s": time.monotonic(),
        }  # fmt: skip
        truth.write_text(json.dumps(told))
    if fault in ("drop", "dead"):
        drop_packets_from([other] if fault == "drop" else [host for host in range(world) if host != rank])
    if fault == "loop":
        endless_loop()
    if fault == "gil":
        ctypes.PyDLL(None).pause()
    if fault in ("stop", "kill"):
        os.kill(os.getpid(), {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}[fault])
    return 0.0 if rhythm is None else _slow_down(fault, other, severity, rhythm)


def lift(fault: str) -> None:
    """End one of `LASTING`."""
    if fault == "quota":
        quota.lift(os.getpid())
    if fault in ("slow", "slow-pair", "both"):
        cluster.set_free()


def endless_loop() -> None:
    """Burns a core in Python and never gets to the next collective."""
    count = 0
    while True:
        count += 1


def _slow_down(fault: str, other: int, severity: float, rhythm: Rhythm) -> float:
    extra_s = (severity - 1) * rhythm.step_s
    if fault == "quota":
        quota.limit(os.getpid(), rhythm.processor_s / (rhythm.processor_s + extra_s))
    if fault in ("slow", "slow-pair", "both"):
        cluster.slow_down(rhythm.sent_bytes / extra_s, other if fault == "slow-pair" else None)
    return extra_s if fault in ("sleep", "both") else 0.0

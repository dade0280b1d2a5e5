"""Faults that a process does to itself, with the truth written down first."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from tightwire.ccl.faults.cluster import drop_packets_from

FAULTS = ("stop", "kill", "loop", "shape", "dtype", "operation", "root", "order", "drop", "dead")


def inject(fault: str, rank: int, step: int, truth: Path | None) -> None:
    """`stop`: SIGSTOP; `kill`: SIGKILL; `loop`: never returns; `drop`: what the next rank sends to this one is lost,
    `dead`: what anyone sends to it (both need `launch --hosts`). The others are calls that differ, left to the job. `truth` gets
    the fault, its rank and its time."""
    if truth is not None:
        told = {"fault": fault, "rank": rank, "step": step, "pid": os.getpid(), "at_s": time.monotonic()}
        truth.write_text(json.dumps(told))
    world = int(os.environ["WORLD_SIZE"])
    if fault in ("drop", "dead"):
        drop_packets_from(
            [(rank + 1) % world] if fault == "drop" else [other for other in range(world) if other != rank]
        )
    if fault == "loop":
        endless_loop()
    if fault in ("stop", "kill"):
        os.kill(os.getpid(), {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}[fault])


def endless_loop() -> None:
    """Burns a core in Python and never gets to the next collective."""
    count = 0
    while True:
        count += 1

"""Runs a command under observation, and does what a verdict asks for."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from tightwire.ccl.agent import Agent
from tightwire.ccl.host import ThisHost
from tightwire.ccl.unknown import doubted
from tightwire.ccl.verdict import Verdict
from tightwire.ccl.watcher import Watcher
from tightwire.core.clock import Clock, MonotonicClock
from tightwire.errors import ConfigError

logger = logging.getLogger(__name__)
OnHang = Literal["stop", "report"]


@dataclass(frozen=True)
class Watched:
    """`status` is the command's own exit status (128 + n after signal n); `verdict` the first on a hang; `ranks` how many
    were seen, `unseen` what these did that the probe does not see; `slow`: all verdicts on what made the job slow."""

    status: int
    verdict: Verdict | None
    ranks: int
    unseen: tuple[str, ...] = ()
    slow: tuple[Verdict, ...] = ()


def run(
    command: list[str],
    on_verdict: Callable[[Verdict], None],
    on_hang: OnHang = "stop",
    patience_s: float = 2.0,
    clock: Clock | None = None,
    on_start: Callable[[Watcher], None] | None = None,
    output: IO[bytes] | None = None,
    start: Callable[..., Any] = subprocess.Popen,
) -> Watched:
    """Run `command` with the probe switched on in all its ranks, what it prints into `output` where one is given; `start`
    makes its process as `Popen` does. Raises ConfigError when it cannot be started."""
    clock = clock or MonotonicClock()
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="tightwire-", dir=shared))
    try:
        environment = {**os.environ, "TIGHTWIRE_CCL": str(folder)}
        try:
            job = start(command, env=environment, start_new_session=True, stdout=output, stderr=output)
        except OSError as error:
            raise ConfigError(
                f"command {command[0]!r} cannot be started: {error}; give the command after --"
            ) from error
        with (
            forwarded(job) as interrupted,
            contextlib.closing(Agent(folder, clock)) as agent,
            contextlib.closing(ThisHost(agent)) as host,
        ):
            return _observe(
                job,
                agent,
                Watcher(host, clock, lambda: agent.unknown),
                clock,
                on_verdict,
                on_hang,
                patience_s,
                interrupted,
                on_start,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _observe(
    job: subprocess.Popen[bytes], agent: Agent, watcher: Watcher, clock: Clock, on_verdict: Callable[[Verdict], None],
    on_hang: OnHang, patience_s: float, interrupted: list[int], on_start: Callable[[Watcher], None] | None,
) -> Watched:  # fmt: skip
    hangs, slow = list[Verdict](), list[Verdict]()
    watching, undecided = True, False
    if on_start is not None:
        on_start(watcher)
    try:
        while True:
            status = job.poll()
            waits = undecided and watcher.hangs.open
            if hangs and on_hang == "stop" and not waits and clock.now_s() - hangs[-1].at_s > patience_s:
                _end(job, clock)
                watching = False
            elif watching and watcher.hangs.open and not interrupted:
                try:
                    said, undecided = watcher.step(), watcher.hangs.undecided
                except Exception:  # a fault of ours must never end the job
                    logger.exception("tightwire: watching failed; the job runs on unwatched")
                    watching, said, undecided = False, None, False
                if said is not None:
                    said = doubted(said, agent.unknown)
                    on_verdict(said)
                    (hangs if said.is_hang else slow).append(said)
            if status is not None:
                break
            watcher.wait()
    except BaseException:
        _end(job, clock)
        raise
    collector = watcher.collector
    status = status if status >= 0 else 128 - status
    return Watched(status, hangs[0] if hangs else None, len(collector.ranks), tuple(collector.unseen), tuple(slow))


def _end(job: subprocess.Popen[bytes], clock: Clock) -> None:
    """SIGTERM, then SIGKILL for what is left, to every process that the job started."""
    processes = family(job.pid)
    for number, wait_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGTERM:
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)  # a stopped process cannot die of SIGTERM
        until_s = clock.now_s() + wait_s
        while job.poll() is None and clock.now_s() < until_s:
            clock.sleep_s(0.05)


def family(pid: int) -> list[int]:
    """`pid` and all its descendants, children first; torchrun gives each rank a session of its own."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        queue += children.get(current, [])
    return found[::-1]


@contextlib.contextmanager
def forwarded(job: subprocess.Popen[bytes]):  # type: ignore[no-untyped-def]
    """SIGINT and SIGTERM go on to the job; the list holds those that came."""
    came: list[int] = []

    def forward(number: int, _frame: object) -> None:
        came.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, number)

    previous = {}
    with contextlib.suppress(ValueError):  # not in the main thread: signals are the caller's
        previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

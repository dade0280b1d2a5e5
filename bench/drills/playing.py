"""One run of a real job on hosts of its own (network namespaces; needs root), watched; and what was said of it."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from drills.cases import Case, Clean
from tightwire.ccl import score, watch
from tightwire.ccl.faults import launch
from tightwire.ccl.faults.inject import LASTING
from tightwire.ccl.verdict import Verdict

SAMPLE = "tightwire.ccl.faults.sample_job"
AFTER_STEPS, ENDLESS, CLEAN_STEPS = 60, 100_000, 200
LIMIT_S = 300.0
_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans come to this process


class Played(msgspec.Struct, frozen=True):
    """`error`: why the run itself failed, which counts as a wrong diagnosis. `took_s` from the injection and `steps` of
    the guilty rank until the last word; None without one."""

    outcome: score.Outcome
    said: list[Verdict]
    wall_s: float
    error: str = ""
    took_s: float | None = None
    steps: int | None = None


class Forked:
    """The launcher, as `subprocess.Popen` would start it, but as a fork of this process, which has imported already what
    jobs import. The ranks switch the probe on as any rank does."""

    def __init__(
        self, command: list[str], env: dict[str, str], start_new_session: bool, stdout: Any, stderr: Any
    ) -> None:
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                atexit._clear()  # what this process has to do at its end is not the job's
                if start_new_session:
                    os.setsid()
                _into(stdout, 1)
                _into(stderr, 2)
                os.environ.clear()
                os.environ.update(env)
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                sys.argv = command
                launch.main()
            except SystemExit as ended:
                os._exit(ended.code if isinstance(ended.code, int) else 1)
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
            finally:
                os._exit(1)

    def poll(self) -> int | None:
        """The status once it has ended, -n after signal n."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.02)
        return self._status or 0


def arguments(ranks: int, *job: str) -> list[str]:
    """What `launch` is given."""
    return ["launch", "--ranks", str(ranks), "--hosts", "-m", SAMPLE, *job]


def play(case: Case | Clean) -> Played:
    """In a process of its own, and never for ever: a run that fails is one that went wrong."""
    began_s = time.monotonic()
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as name:
        told, pid = Path(name) / "played.json", os.fork()
        if pid == 0:
            try:
                played = _faulty(case) if isinstance(case, Case) else _clean(case)
                told.write_bytes(msgspec.json.encode(played))
            except BaseException as error:
                told.with_suffix(".error").write_text(repr(error))
            finally:
                os._exit(0)
        late = _ended_late(pid, LIMIT_S)
        _end_orphans()
        if told.exists():
            return msgspec.json.decode(told.read_bytes(), type=Played)
        error = told.with_suffix(".error")
        why = f"not over after {LIMIT_S:.0f} s" if late else error.read_text() if error.exists() else "its watcher died"
    return Played(score.Outcome(False, False, False), [], time.monotonic() - began_s, why)


def _faulty(case: Case) -> Played:
    said: list[Verdict] = []
    with tempfile.TemporaryDirectory() as name:
        truth_file = Path(name) / "truth.json"
        steps = case.step + AFTER_STEPS if case.fault in LASTING else ENDLESS
        with (Path(name) / "job.log").open("w+b") as log:
            wall_s = _watched(
                case.ranks, said.append, log, "--job", case.job, "--steps", str(steps), "--fault", case.fault, "--rank",
                str(case.rank), "--step", str(case.step), "--severity", str(case.severity), "--truth", str(truth_file),
            )  # fmt: skip
            log.seek(0)
            printed = log.read()[-600:].decode(errors="replace")
        if not truth_file.exists():
            outcome = score.Outcome(False, False, any(verdict.confidence == "high" for verdict in said))
            return Played(outcome, said, wall_s, f"nothing was injected: {printed}")
        truth = json.loads(truth_file.read_text())
        began_s = [float(line) for line in truth_file.with_suffix(".steps").read_text().split()]
    outcome = score.judge(score.Truth(truth["class"], truth["guilty_ranks"], truth["guilty_links"]), said)
    last = next((verdict for verdict in reversed(said) if verdict.ended_s is None), None)
    if last is None:
        return Played(outcome, said, wall_s)
    steps_gone = sum(truth["at_s"] < each < last.at_s for each in began_s)
    return Played(outcome, said, wall_s, "", last.at_s - truth["at_s"], steps_gone)


def _clean(case: Clean) -> Played:
    """Steps with checkpoints, evaluations and uneven data. Right when nobody was accused."""
    said: list[Verdict] = []
    with _neighbour() if case.noisy else contextlib.nullcontext(), tempfile.TemporaryFile() as log:
        wall_s = _watched(
            case.ranks, said.append, log, "--job", case.job, "--steps", str(CLEAN_STEPS), "--phases", "--uneven", "0.5"
        )
        log.seek(0)
        through = b"step 150 " in log.read()
    outcome = score.Outcome(not said, not said, any(verdict.confidence == "high" for verdict in said))
    return Played(outcome, said, wall_s, "" if through or said else "the job did not get through")


def _watched(ranks: int, on_verdict: Callable[[Verdict], None], output: IO[bytes], *job: str) -> float:
    """How long it took."""
    began_s = time.monotonic()
    watch.run(arguments(ranks, *job), on_verdict, patience_s=0.0, output=output, start=Forked)
    return time.monotonic() - began_s


def _ended_late(pid: int, limit_s: float) -> bool:
    """Wait for a process; end it and all that it started after `limit_s`."""
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def _end_orphans() -> None:
    """What a run that failed has left behind; asked first, so that launchers take their hosts away."""
    for numbers, wait_s in (((signal.SIGTERM, signal.SIGCONT), 3.0), ((signal.SIGKILL,), 1.0)):
        left = watch.family(os.getpid())[:-1]
        for pid, number in ((pid, number) for pid in left for number in numbers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until_s = time.monotonic() + wait_s
        while left and time.monotonic() < until_s:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            left = [pid for pid in left if Path(f"/proc/{pid}").exists()]
            time.sleep(0.05)


@contextlib.contextmanager
def _neighbour() -> Iterator[None]:
    code = "import time\nwhile True:\n    until = time.time() + 0.7\n    while time.time() < until: pass\n    time.sleep(0.3)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            yield
        finally:
            process.kill()


def _into(file: Any, number: int) -> None:
    if file is not None:
        opened = os.open(os.devnull, os.O_WRONLY) if file == subprocess.DEVNULL else file.fileno()
        os.dup2(opened, number)

"""The order of deaths, and what a rank leaves behind when it is asked to end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tightwire.ccl.deaths import Deaths
from tightwire.ccl.probe.ring import Goodbye, read_state
from tightwire.core.clock import MonotonicClock


def test_the_order_is_known_to_an_observer_that_looks_late() -> None:
    processes = [subprocess.Popen(["sleep", "100"]) for _ in range(4)]
    deaths = Deaths()
    for process in processes:
        deaths.watch(process.pid)
    assert deaths.order(processes[0].pid) is None
    for process in (processes[i] for i in (2, 0, 3, 1)):
        process.kill()
        process.wait()
    assert [deaths.order(process.pid) for process in processes] == [1, 3, 0, 2]
    deaths.close()


def test_a_death_ends_the_wait() -> None:
    process = subprocess.Popen(["sleep", "100"])
    deaths = Deaths()
    deaths.watch(process.pid)
    process.kill()
    start = time.monotonic()
    deaths.wait(60.0, MonotonicClock())
    assert time.monotonic() - start < 50
    process.wait()
    deaths.close()


LEAVING = """
import os, signal, sys, time
from tightwire._ring import Writer
writer = Writer(sys.argv[1], 8, 0, 1, os.getpid(), 0)
if sys.argv[2] == "own":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
writer.note_sigterm()
if sys.argv[2] == "child":  # a forked child that is ended must not speak for its parent
    child = os.fork()
    if child == 0:
        time.sleep(60)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    sys.exit(0)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("case", "status", "goodbye"), [("plain", -signal.SIGTERM, Goodbye.ASKED), ("own", 5, 0), ("child", 0, 0)]
)
def test_sigterm_is_noted_and_its_effect_unchanged(case: str, status: int, goodbye: int, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING, str(tmp_path / "ring"), case], timeout=60, check=False)
    assert done.returncode == status
    assert read_state(tmp_path / "ring").goodbye == goodbye

"""Dumps of real gloo jobs with a known fault, pickle and JSON, and a job watched while it hangs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tightwire.ccl.analyzer import timeline as slow
from tightwire.ccl.analyzer.dumps import diagnose
from tightwire.ccl.sources import flight_recorder, timeline
from tightwire.ccl.verdict import Verdict

pytestmark = pytest.mark.job
JOB = Path(__file__).parent / "gloo_job.py"


def run(out: Path, fault: str, guilty: int, at: int) -> None:
    command = [sys.executable, str(JOB), str(out), fault, str(guilty), str(at)]
    subprocess.run(command, capture_output=True, timeout=240, check=False)


def judged(folder: Path) -> list[Verdict]:
    found = flight_recorder.read(folder)
    return diagnose(found.dumps, found.unread, found.damaged)


@pytest.mark.parametrize(
    ("fault", "guilty", "at", "anomaly"),
    [("stopped", 1, 2, "H1"), ("within", 3, 0, "H1"), ("died", 3, 2, "H1"), ("operation", 2, 1, "H2")],
)
def test_the_guilty_rank_of_a_real_job(tmp_path: Path, fault: str, guilty: int, at: int, anomaly: str) -> None:
    run(tmp_path / "job", fault, guilty, at)
    for kind in ("pickle", "json"):
        (verdict,) = judged(tmp_path / "job" / kind)
        assert (verdict.anomaly, verdict.guilty_ranks) == (anomaly, [guilty]), (kind, verdict)


def test_a_profilers_traces_name_the_rank_that_computes_longer(tmp_path: Path) -> None:
    run(tmp_path / "job", "slow", 2, 0)
    (verdict,) = slow.diagnose(timeline.read(tmp_path / "job" / "trace", timeline.Columns()))
    assert (verdict.anomaly, verdict.guilty_ranks) == ("S1", [2])


def test_watch_says_it_while_the_job_hangs(tmp_path: Path) -> None:
    out = tmp_path / "job"
    job = subprocess.Popen([sys.executable, str(JOB), str(out), "live", "1", "3"], stderr=subprocess.DEVNULL)
    try:
        while not (out / "at").exists():
            assert job.poll() is None
            time.sleep(0.1)
        command = [
            sys.executable,
            "-m",
            "tightwire.cli",
            "ccl",
            "watch",
            str(out),
            "--every",
            "1",
            "--looks",
            "4",
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        job.terminate()
        job.wait()
    assert done.returncode == 3, done.stderr
    (told,) = map(json.loads, done.stdout.splitlines())
    assert (told["class"], told["guilty_ranks"]) == ("H1", [1])

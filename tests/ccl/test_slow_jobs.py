"""Real jobs that become slow: the rank or the device is named, and the job runs on to its own end; a simulated
job of the same shape with the same fault gets the same verdict."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.ccl.faults.clusters import watched as watched_cluster
from tightwire.ccl import score, watch
from tightwire.ccl.faults.simulate.fault import Fault
from tightwire.ccl.faults.simulate.layout import Layout
from tightwire.ccl.verdict import Verdict

pytestmark = pytest.mark.job


@pytest.mark.parametrize(("fault", "job"), [("sleep", "ddp"), ("slow", "tensor")])
def test_what_makes_a_real_job_slow_is_named(fault: str, job: str, tmp_path: Path) -> None:
    hosts = os.geteuid() == 0
    if fault == "slow" and not hosts:
        pytest.skip("a slow interface needs root")
    truth_file, said = tmp_path / "truth.json", []
    command = [
        sys.executable, "-m", "tightwire.ccl.faults.launch", "--ranks", "4", *(["--hosts"] if hosts else []),
        "-m", "tightwire.ccl.faults.sample_job", "--job", job, "--steps", "110", "--fault", fault, "--rank", "2",
        "--step", "60", "--severity", "3", "--truth", str(truth_file),
    ]  # fmt: skip
    with (tmp_path / "job.log").open("wb") as log:
        watched = watch.run(command, said.append, output=log)
    assert (watched.status, watched.verdict) == (0, None), (tmp_path / "job.log").read_text()
    told = json.loads(truth_file.read_text())
    truth = score.Truth(told["class"], told["guilty_ranks"], told["guilty_links"])
    assert tuple(said) == watched.slow
    assert score.judge(truth, said) == score.Outcome(True, True, False), said
    layout = Layout(tensor=2, data=2, per_host=1) if job == "tensor" else Layout(data=4, per_host=1)
    simulated, _ = watched_cluster(Fault(fault, 2, 60, severity=3.0), layout=layout, until_s=40.0)
    assert (simulated[-1][1].anomaly, simulated[-1][1].guilty_ranks) == (said[-1].anomaly, said[-1].guilty_ranks)


def test_a_recovered_verdict_is_no_hang() -> None:
    verdict = Verdict("S1", [2], "high", "", "", "", 0, [], [], 1.0, 2.0, ended_s=3.0)
    assert not verdict.is_hang
    assert Verdict("H1", [2], "high", "", "", "", 0, [], [], 1.0, 2.0).is_hang

"""4-rank gloo jobs with real faults: the right rank, its class and evidence, in time; clean jobs accuse nobody."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.ccl.jobs import RANKS, SCRIPTS, run_job

pytestmark = pytest.mark.job
SAMPLE = ("-m", "tightwire.ccl.faults.sample_job")

CHECKER = """
import os, sys, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
group = dist.new_group([0, 1, 2, 3])
open(sys.argv[1] + f"/pid-{rank}", "w").write(str(os.getpid()))
for step in range(int(sys.argv[2])):
    x = torch.ones(1000)
    dist.all_reduce(x, group=group if step % 2 else None)
    assert x[0] == 4
    dist.barrier()
    time.sleep(0.05)
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("fault", "rank", "says"),
    [("stop", 2, "kernel state T"), ("kill", 1, "is dead"), ("loop", 3, "endless_loop")],
)
def test_the_faulty_rank_is_named(fault: str, rank: int, says: str, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    status, verdict, printed = run_job(
        tmp_path / "out", *SAMPLE, "--steps", "100000", "--fault", fault, "--rank", str(rank), "--step", "30",
        "--truth", str(truth), torchrun=fault == "kill",
    )  # fmt: skip
    assert status == 3, printed
    assert verdict["guilty_ranks"] == [rank]
    assert verdict["class"] == "H1"
    assert says in " ".join(verdict["evidence"])
    assert verdict["at_s"] - json.loads(truth.read_text())["at_s"] < 15
    assert set(verdict["waiting_ranks"]) <= set(range(RANKS)) - {rank}
    assert f"rank {rank}" in printed


@pytest.mark.parametrize(("fault", "says"), [("order", "the order differs"), ("shape", "20 bytes on rank 1")])
def test_a_rank_that_calls_something_else_is_named(fault: str, says: str, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    status, verdict, printed = run_job(
        tmp_path / "out", *SAMPLE, "--steps", "100000", "--fault", fault, "--rank", "1", "--step", "20", "--truth",
        str(truth),
    )  # fmt: skip
    assert status == 3, printed
    assert (verdict["class"], verdict["guilty_ranks"], verdict["confidence"]) == ("H2", [1], "high")
    assert says in " ".join(verdict["evidence"])
    assert verdict["at_s"] - json.loads(truth.read_text())["at_s"] < 15


def test_two_classes_that_begin_at_once_are_both_told(tmp_path: Path) -> None:
    status, first, printed = run_job(tmp_path / "out", str(SCRIPTS / "two_hangs.py"), ranks=5)
    assert status == 3, printed
    second = json.loads((tmp_path / "out-2" / "verdict.json").read_text())
    assert [(each["class"], each["guilty_ranks"], each["confidence"]) for each in (first, second)] == [
        ("H2", [1], "high"),
        ("H1", [4], "high"),
    ]
    assert second["waiting_ranks"] == [3]
    assert second["at_s"] - first["since_s"] < 12
    assert not (tmp_path / "out-3").exists()


def test_a_clean_job_accuses_nobody_and_keeps_its_status(tmp_path: Path) -> None:
    status, verdict, printed = run_job(tmp_path / "out", *SAMPLE, "--steps", "60")
    assert (status, verdict) == (0, None), printed
    assert "loss" in printed


def test_a_job_that_fails_by_itself_keeps_its_status_and_nobody_is_accused(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch, torch.distributed as d\nd.init_process_group('gloo')\nd.barrier()\nraise SystemExit(7)\n"
    )
    status, verdict, printed = run_job(tmp_path / "out", str(script), torchrun=True)
    assert status == 1, printed  # torchrun's own
    assert verdict is None


def test_a_backend_that_is_not_seen_runs_on_and_is_told(tmp_path: Path) -> None:
    status, verdict, printed = run_job(tmp_path / "out", str(SCRIPTS / "own_group.py"))
    assert (status, verdict) == (0, None), printed
    assert printed.count("fine") == RANKS
    assert "not seen: group 'unnamed' is a __main__.OwnGroup" in printed


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_fault_from_outside_at_any_moment(number: int, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(CHECKER)

    def strike() -> None:
        path = tmp_path / "pid-0"
        deadline = time.monotonic() + 180
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(2)
        os.kill(int(path.read_text()), number)

    thread = threading.Thread(target=strike)
    thread.start()
    status, verdict, printed = run_job(tmp_path / "out", str(script), str(tmp_path), "100000")
    thread.join()
    assert status == 3, printed
    assert verdict["guilty_ranks"] == [0]

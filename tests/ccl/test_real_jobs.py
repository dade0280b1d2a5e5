"""4-rank gloo jobs with real faults: the right rank, its class and evidence, in time; clean jobs accuse nobody."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.ccl.jobs import RANKS, run_job

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
        "--truth", str(truth),
    )  # fmt: skip
    assert status == 3, printed
    assert verdict["guilty_ranks"] == [rank]
    assert verdict["class"] == "H1"
    assert says in " ".join(verdict["evidence"])
    assert verdict["at_s"] - json.loads(truth.read_text())["at_s"] < 15
    assert set(verdict["waiting_ranks"]) <= set(range(RANKS)) - {rank}
    assert f"rank {rank}" in printed


def test_a_clean_job_accuses_nobody_and_keeps_its_status(tmp_path: Path) -> None:
    status, verdict, printed = run_job(tmp_path / "out", *SAMPLE, "--steps", "60")
    assert (status, verdict) == (0, None), printed
    assert "loss" in printed


def test_a_job_that_fails_by_itself_keeps_its_status_and_nobody_is_accused(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch, torch.distributed as d\nd.init_process_group('gloo')\nd.barrier()\nraise SystemExit(7)\n"
    )
    status, verdict, printed = run_job(tmp_path / "out", str(script))
    assert status == 1, printed  # torchrun's own
    assert verdict is None


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


SEEN = """
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import tightwire.ccl, sys
from tightwire.ccl.probe.ring import read_records
from tightwire.core.events import operation
from pathlib import Path
from collections import Counter
assert tightwire.ccl.attach(sys.argv[1])
dist.init_process_group("gloo")
rank = dist.get_rank()
model = DistributedDataParallel(torch.nn.Linear(8, 8))
for _ in range(5):
    model(torch.ones(4, 8)).sum().backward()
x = torch.ones(4)
work = dist.all_reduce(x, async_op=True)
work.wait()
assert x[0] == 4
parts = [torch.zeros(4) for _ in range(4)]
dist.all_gather(parts, x)
assert all(part[0] == 4 for part in parts)
pair = dist.new_group([0, 1])
if rank < 2:
    y = torch.full((2,), float(rank))
    dist.broadcast(y, 1, group=pair)
    assert y[0] == 1
objects = [None] * 4
dist.all_gather_object(objects, rank)
assert objects == [0, 1, 2, 3]
assert dist.get_backend() == "gloo"
dist.barrier()
dist.destroy_process_group()
records, lost = read_records(Path(sys.argv[1]) / f"rank-{rank}.ring")
entered = Counter(operation(int(r["op"])) for r in records if r["kind"] == 1)
done = Counter(operation(int(r["op"])) for r in records if r["kind"] == 4)
assert lost == 0 and entered == done, (entered, done)
assert entered["allreduce"] >= 6, entered
assert entered["allgather"] >= 1 and entered["barrier"] >= 1, entered
print("seen", rank, flush=True)
"""


def test_every_call_is_seen_and_changes_nothing(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SEEN)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", str(script), str(tmp_path / "rings")],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("seen") == RANKS

"""A fault in a job that knows nothing of it: at the right call, of the right kind, with the truth written down."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ccl.jobs import LAUNCH
from tightwire.ccl.faults.drill import RHYTHM_FROM, Injector, Order

JOB = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 10))
while True:
    model(torch.randn(8, 64)).sum().backward()
"""


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")


def injector(fault: str, truth: Path, slept: list[float] | None = None, call: int = 3) -> Injector:
    ticks = (0.1 * tick for tick in itertools.count())
    order = Order(fault, str(truth), call, severity=2.0)
    return Injector(order, 1, clock=lambda: next(ticks), sleep=(slept if slept is not None else []).append)


@pytest.mark.parametrize(
    ("fault", "name", "shape", "dtype"),
    [
        ("shape", "allreduce_", 5, torch.float32),
        ("dtype", "allreduce_", 4, torch.int32),
        ("operation", "broadcast_", 4, torch.float32),
    ],
)
def test_the_ordered_call_differs_and_no_other(
    fault: str, name: str, shape: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    truth, tensors = tmp_path / "truth.json", [torch.ones(4)]
    args = (tensors, "group", "sum", None, True, -1)
    made = injector(fault, truth)
    for _ in range(2):
        assert made.on_call("allreduce_", args) == ("allreduce_", args)
        assert not truth.exists()
    assert made.on_call("barrier", (None, "group")) == ("barrier", (None, "group"))
    there, given = made.on_call("allreduce_", args)
    assert (there, given[0][0].numel(), given[0][0].dtype, given[1]) == (name, shape, dtype, "group")
    told = json.loads(truth.read_text())
    assert (told["class"], told["guilty_ranks"], told["fault"]) == ("H2", [1], fault)
    assert made.on_call("allreduce_", args) == ("allreduce_", args)


def test_a_rank_gets_slow_by_the_rhythm_of_its_own_calls(tmp_path: Path) -> None:
    slept: list[float] = []
    made = injector("sleep", tmp_path / "truth.json", slept, call=1)
    args = ([torch.ones(4)], "group")
    for _ in range(RHYTHM_FROM + 3):
        made.on_call("allreduce_", args)
    made.on_call("allreduce_", ([torch.ones(9)], "group"))  # another call site
    assert slept == pytest.approx([0.1] * 3)
    assert json.loads((tmp_path / "truth.json").read_text())["class"] == "S1"


def drill(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tightwire.cli", "ccl", "drill", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.job
@pytest.mark.parametrize("fault", ["stop", "operation"])
def test_a_job_of_ones_own(fault: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(JOB)
    done = drill(fault, "--rank", "2", "--call", "60", "--", sys.executable, *LAUNCH, "3", str(script))
    assert done.returncode == 0, done.stderr
    assert f"({fault}), rank 2" in done.stderr
    assert "rank 2" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tired",), "is unknown; give one of stop,"),
        (("order", "--", "train.py"), "cannot be played in a job of your own"),
        (("drop", "--", "train.py"), "launch --ranks 4 --hosts"),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_remedy(arguments: tuple[str, ...], says: str) -> None:
    done = drill(*arguments)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())

"""The probe sees every call that gloo has, from Python and from C++, begins and ends; and changes nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.ccl.jobs import LAUNCH, SCRIPTS

from tightwire.ccl.probe import native
from tightwire.ccl.probe.calls import CALLS
from tightwire.core.events import OPERATION_CODES

FAILS_ON_GLOO = {"allgather_coalesced"}
NO_CALLS = {
    "Device", "Options", "abort", "allocate_tensor", "create_default_device", "create_device",
    "eager_connect_single_device", "mem_allocator", "memory_stats", "name", "options", "rank", "resume",
    "setUsePgForSymmMemRendezvous", "set_timeout", "shrink", "shutdown", "size", "suspend",
}  # fmt: skip


@pytest.fixture(params=["native", "python"])
def kernel(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and native.module() is None:
        pytest.skip("built without torch beside it")
    return request.param


def play(folder: Path, script: str, kernel: str) -> dict:
    done = subprocess.run(
        [sys.executable, *LAUNCH, "2", str(SCRIPTS / script), str(folder), kernel], capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return json.loads(done.stdout)


def test_the_table_is_what_torch_and_gloo_have() -> None:
    schemas = [schema for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("c10d::")]
    grouped = {s.name[6:]: s for s in schemas if any(argument.name == "process_group" for argument in s.arguments)}
    assert set(CALLS) == set(grouped)
    for name, call in CALLS.items():
        assert call.operation in OPERATION_CODES
        assert {call.share, call.partner} - {None} <= {argument.name for argument in grouped[name].arguments}
    own = {name for name in dir(dist.ProcessGroupGloo) if not name.startswith("__") and "support" not in name}
    private = {name for name in own if name.startswith("_") and not name.endswith("_base")}
    assert own - private - NO_CALLS <= {call.operation for call in CALLS.values()}


@pytest.mark.job
def test_every_call_that_plain_gloo_supports_is_seen_to_begin_and_to_end(kernel: str, tmp_path: Path) -> None:
    seen = play(tmp_path, "every_call.py", kernel)
    assert seen["observed"] == seen["plain"]
    called = {word for name in seen["plain"] for word in name.split()} & set(OPERATION_CODES)
    assert called == set(OPERATION_CODES) - {"unknown", "kv_transfer"} - FAILS_ON_GLOO
    for name in called:
        assert seen["ENTERED"][name] == seen["DONE"][name] >= 1
    assert set(seen["FAILED"]) == FAILS_ON_GLOO
    assert seen["ENTERED"]["allreduce"] == 5  # two plain, one functional, one of a sub-group, one under inference_mode


@pytest.mark.job
def test_parallel_training_is_seen_and_computes_the_same(kernel: str, tmp_path: Path) -> None:
    seen = play(tmp_path, "parallel.py", kernel)
    assert seen["observed"] == seen["plain"]
    assert seen["ENTERED"] == seen["DONE"]
    assert seen["counts"]["ddp"]["allreduce"] >= 3
    assert min(seen["counts"]["fsdp2"][name] for name in ("_allgather_base", "_reduce_scatter_base")) >= 3
    assert min(seen["counts"]["pipeline"][name] for name in ("send", "recv")) >= 12

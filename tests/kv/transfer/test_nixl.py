"""Frames that NIXL writes from one process into another's memory, over its TCP transport."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("nixl", reason="NIXL is not installed: pip install 'tightwire[nixl]'")
PIECES = 8
TCP = {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "lo"}


def played(case: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.kv.transfer.nixl_ends", case]
    done = subprocess.run(command, env=os.environ | TCP, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("case", ["plain", "no memory"])
def test_blocks_arrive_as_they_were(case: str) -> None:
    told = played(case)
    for name in ("raw", "four"):
        assert told[name]["sent"] is None
        assert told[name]["error"] is None
        assert told[name]["missing"] == []
        assert told[name]["blocks"] == PIECES
    assert told["raw"]["same"]
    assert told["raw"]["written"] == (0 if case == "no memory" else PIECES)
    assert told["four"]["written"] == (0 if case == "no memory" else 2 * PIECES)


def test_a_receiver_that_was_killed_and_comes_back_gets_memory_written_again() -> None:
    told = played("killed")
    assert told["first"]
    for name in ("raw", "four"):
        assert told[name]["sent"] is None
        assert told[name]["error"] is None
    assert told["raw"]["same"]
    assert told["four"]["written"] > 0

"""Runs real 4-rank jobs through the real command."""

import json
import subprocess
import sys
from pathlib import Path

RANKS = 4
SCRIPTS = Path(__file__).parent / "scripts"
LAUNCH = ("-m", "tightwire.ccl.faults.launch", "--ranks")


def run_job(
    out: Path, *job: str, timeout_s: float = 240, torchrun: bool = False, ranks: int = RANKS
) -> tuple[int, dict | None, str]:
    """(exit status of `tightwire ccl run`, verdict or None, what it printed). With forks of one process as ranks, which
    is fast, or with `torchrun`."""
    standard = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    command = [
        sys.executable, "-m", "tightwire.cli", "ccl", "run", "--out", str(out), "--patience", "0.5", "--",
        sys.executable, *(standard if torchrun else LAUNCH), str(ranks), *job,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    told = out / "verdict.json"
    return done.returncode, json.loads(told.read_text()) if told.exists() else None, done.stdout + done.stderr

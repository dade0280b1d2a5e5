"""Location accuracy on Flight Recorder dumps with known truth, ours beside torchfrtrace on the same files.

    python bench/flight_recorder.py --gloo 20 --sets 400 --json FILE

Simulated sets of all schema versions; real 4-rank gloo jobs with a fault; and `--dumps DIR --truth 12,14` for a set of
one's own. torchfrtrace names the ranks that it calls missing or culprit.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
from tightwire.ccl.analyzer.dumps import diagnose
from tightwire.ccl.sources import flight_recorder
from tightwire.ccl.sources.flight_recorder import simulate

_JOB = """
import os, sys, threading, time
import torch, torch.distributed as dist
from torch._C._distributed_c10d import _dump_fr_trace
out, fault, guilty, at = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
rows = [dist.new_group([0, 2]), dist.new_group([1, 3])]
def dump():
    if not (fault == "died" and rank == guilty):
        open(f"{out}/_dump_{rank}", "wb").write(_dump_fr_trace())
    os._exit(0)
threading.Timer(5, dump).start()
for step in range(at + 3):
    bad = rank == guilty and step == at
    if bad and fault in ("stopped", "died"):
        time.sleep(60)
    dist.all_reduce(torch.ones(64), group=pairs[rank // 2])
    dist.all_reduce(torch.ones(32), group=rows[rank % 2])
    if bad and fault == "operation":
        dist.barrier()
    else:
        dist.all_reduce(torch.ones(16))
time.sleep(60)
"""
_NAMED = re.compile(r"missing ranks: \{([\d, ]+)\}|Culprit rank (\d+)")
Truth = list[tuple[Path, str, list[int]]]


def simulated(root: Path, count: int, first: int) -> Truth:
    found = []
    for seed in range(first, first + count):
        case = simulate.case(seed)
        simulate.write(case, root / f"simulated{seed}")
        found.append((root / f"simulated{seed}", case.anomaly, case.guilty))
    return found


def gloo(root: Path, count: int, seed: int) -> Truth:
    """Real jobs; the dumps of one that found no time to hang are left out."""
    script, found = root / "job.py", []
    script.write_text(_JOB)
    rng = random.Random(seed)
    for n in range(count):
        fault, guilty, at = ("stopped", "died", "operation")[n % 3], rng.randrange(4), rng.randrange(3, 20)
        folder = root / f"gloo{n}"
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "--master-port", str(29600 + n),
             str(script), str(folder), fault, str(guilty), str(at)],
            env={**os.environ, "TORCH_FR_BUFFER_SIZE": "2000", "OMP_NUM_THREADS": "1"}, capture_output=True, check=False,
        )  # fmt: skip
        if len(list(folder.iterdir())) >= 3:
            found.append((folder, "H2" if fault == "operation" else "H1", [guilty]))
    return found


def ours(folder: Path) -> tuple[list[int], set[str]]:
    found = flight_recorder.read(folder)
    verdicts = diagnose(found.dumps, found.unread, found.damaged)
    return sorted({r for v in verdicts for r in v.guilty_ranks}), {v.anomaly for v in verdicts}


def torchfrtrace(folder: Path) -> list[int]:
    """Who it names; nobody where it gives up."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.flight_recorder.fr_trace", str(folder), "--allow-incomplete-ranks"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    return sorted({int(r) for m in _NAMED.finditer(text) for r in (m[1] or m[2]).split(",")})


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--sets", type=int, default=400, help="simulated sets")
    parser.add_argument("--gloo", type=int, default=0, help="real gloo jobs, about 15 s each")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--peer", type=int, default=40, help="simulated sets that torchfrtrace also sees")
    parser.add_argument("--dumps", type=Path, help="a set with a known truth")
    parser.add_argument("--truth", default="", help="its guilty ranks: 12,14")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        kinds = {"simulated": simulated(root, given.sets, given.seed), "gloo": gloo(root, given.gloo, given.seed)}
        if given.dumps:
            kinds["given"] = [(given.dumps, "", [int(r) for r in given.truth.split(",")])]
        results = []
        right = total = 0
        for kind, sets in kinds.items():
            if not sets:
                continue
            answers = [ours(folder) for folder, _, _ in sets]
            hits = sum(a[0] == guilty for a, (_, _, guilty) in zip(answers, sets, strict=True))
            same = sum(a[1] == {anomaly} for a, (_, anomaly, _) in zip(answers, sets, strict=True))
            seen = sets[: given.peer]
            theirs = sum(torchfrtrace(folder) == guilty for folder, _, guilty in seen)
            note = f"{len(sets)} sets, seed {given.seed}"
            results.append(harness.Result(f"{kind}.location_accuracy", hits / len(sets), "", "higher", note))
            if kind != "given":
                results.append(harness.Result(f"{kind}.class_accuracy", same / len(sets), "", "higher", note))
            results.append(
                harness.Result(
                    f"{kind}.torchfrtrace_location_accuracy", theirs / len(seen), "", "higher", f"{len(seen)} sets"
                )
            )
            right, total = right + hits, total + len(sets)
        results.insert(0, harness.Result("dumps.location_accuracy", right / total, "", "higher", f"{total} sets"))
        harness.publish("flight_recorder", results, given.json)


if __name__ == "__main__":
    main()

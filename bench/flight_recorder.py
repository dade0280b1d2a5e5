"""Location accuracy on Flight Recorder dumps with known truth, ours beside torchfrtrace on the same files.

    python bench/flight_recorder.py --gloo 20 --sets 400 --json FILE

Simulated sets of all schema versions; sets of real 4-rank NCCL jobs (tests/ccl/sources/nccl_dumps); real 4-rank gloo jobs with a fault (their dumps as pickle, as
JSON, and with the ranks of the groups filled in); and `--dumps DIR --truth 12,14` for a set of
one's own. torchfrtrace names the ranks that it calls missing or culprit.
"""

from __future__ import annotations

import pickle
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

_JOB = Path(__file__).parent.parent / "tests" / "ccl" / "sources" / "gloo_job.py"
_NCCL = _JOB.with_name("nccl_dumps")
_NCCL_TRUTH = {
    "stopped": ("H1", 2), "within": ("H1", 3), "died": ("H1", 3), "operation": ("H2", 3), "shape": ("H2", 1), "device": ("H3", 1),
}  # fmt: skip
_FAULTS = {"stopped": "H1", "within": "H1", "died": "H1", "operation": "H2", "shape": "H2", "dtype": "H2"}
_GROUPS = {"0": "[0, 1, 2, 3]", "1": "[0, 1]", "2": "[2, 3]", "3": "[0, 2]", "4": "[1, 3]"}  # of that job
_NAMED = re.compile(r"missing ranks: \{([\d, ]+)\}|Culprit rank (\d+)")
Truth = list[tuple[Path, str, list[int]]]


def simulated(root: Path, count: int, first: int) -> Truth:
    found = []
    for seed in range(first, first + count):
        case = simulate.case(seed)
        simulate.write(case, root / f"simulated{seed}")
        found.append((root / f"simulated{seed}", case.anomaly, case.guilty))
    return found


def gloo(root: Path, count: int, seed: int) -> dict[str, Truth]:
    """Real jobs: as pickle, as JSON, and as pickle with the groups' ranks filled in, which gloo leaves out and torchfrtrace
    cannot do without. Those in which nothing was dumped are left out."""
    sets: dict[str, Truth] = {"gloo": [], "gloo_json": [], "gloo_filled_in": []}
    rng = random.Random(seed)
    for n in range(count):
        fault, guilty, at = list(_FAULTS)[n % len(_FAULTS)], rng.randrange(4), rng.randrange(0, 20)
        folder = root / f"gloo{n}"
        command = [sys.executable, str(_JOB), str(folder), fault, str(guilty), str(at)]
        subprocess.run(command, capture_output=True, check=False)
        (folder / "filled").mkdir()
        for path in (folder / "pickle").iterdir():
            dump = pickle.loads(path.read_bytes())  # our own
            dump["pg_config"] = {name: {"name": name, "desc": "", "ranks": ranks} for name, ranks in _GROUPS.items()}
            (folder / "filled" / path.name).write_bytes(pickle.dumps(dump, protocol=2))
        if list((folder / "pickle").iterdir()):
            for kind, name in zip(sets, ("pickle", "json", "filled"), strict=True):
                sets[kind].append((folder / name, _FAULTS[fault], [guilty]))
    return sets


def ours(folder: Path) -> tuple[list[int], set[str]]:
    found = flight_recorder.read(folder)
    verdicts = diagnose(found.dumps, found.unread, found.damaged)
    return sorted({r for v in verdicts for r in v.guilty_ranks}), {v.anomaly for v in verdicts}


def torchfrtrace(folder: Path) -> list[int] | None:
    """Who it names; None where it ends in an error of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.flight_recorder.fr_trace", str(folder), "--allow-incomplete-ranks",
         "--prefix", _prefix(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    named = sorted({int(r) for m in _NAMED.finditer(text) for r in (m[1] or m[2]).split(",")})
    return None if done.returncode != 0 else named


def _prefix(folder: Path) -> str:
    """What stands before the rank in the names of the dumps."""
    return next((m[1] for path in sorted(folder.iterdir()) if (m := re.fullmatch(r"(\D+)\d+", path.name))), "none")


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
        kinds = {"simulated": simulated(root, given.sets, given.seed), **gloo(root, given.gloo, given.seed)}
        kinds["nccl"] = [(_NCCL / fault, anomaly, [rank]) for fault, (anomaly, rank) in _NCCL_TRUTH.items()]
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
            peers = [torchfrtrace(folder) for folder, _, _ in seen]
            theirs = sum(peer == guilty for peer, (_, _, guilty) in zip(peers, seen, strict=True))
            right, total = right + hits, total + len(sets)
            note = f"{len(sets)} sets, seed {given.seed}"
            results.append(harness.Result(f"{kind}.location_accuracy", hits / len(sets), "", "higher", note))
            if kind != "given":
                results.append(harness.Result(f"{kind}.class_accuracy", same / len(sets), "", "higher", note))
            if not seen:
                continue
            results.append(
                harness.Result(
                    f"{kind}.torchfrtrace_location_accuracy", theirs / len(seen), "", "higher", f"{len(seen)} sets"
                )
            )
            errors = sum(peer is None for peer in peers) / len(seen)
            results.append(harness.Result(f"{kind}.torchfrtrace_errors", errors, "", "lower", "ends in a traceback"))
        results.insert(0, harness.Result("dumps.location_accuracy", right / total, "", "higher", f"{total} sets"))
        harness.publish("flight_recorder", results, given.json)


if __name__ == "__main__":
    main()

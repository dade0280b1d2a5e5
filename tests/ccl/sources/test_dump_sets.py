"""Sets of dumps whose truth is known: exactly the guilty are named, nobody else."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tightwire.ccl.analyzer.dumps import diagnose
from tightwire.ccl.sources import flight_recorder
from tightwire.ccl.sources.flight_recorder import simulate
from tightwire.ccl.sources.flight_recorder.folder import rank_of
from tightwire.ccl.verdict import Verdict
from tightwire.errors import ConfigError

SEEDS = 80


def judged(folder: Path) -> list[Verdict]:
    found = flight_recorder.read(folder)
    return diagnose(found.dumps, found.unread, found.damaged)


def named(verdicts: list[Verdict]) -> list[int]:
    return sorted({rank for verdict in verdicts for rank in verdict.guilty_ranks})


def seed_of(fault: str, nth: int = 0) -> int:
    return simulate.FAULTS.index(fault) + nth * len(simulate.FAULTS)


def test_simulated_sets_of_every_fault_and_version(tmp_path: Path) -> None:
    wrong = []
    for seed in range(SEEDS):
        case = simulate.case(seed)
        simulate.write(case, tmp_path / str(seed))
        if named(judged(tmp_path / str(seed))) != case.guilty:
            wrong.append(case)
    assert len(wrong) <= SEEDS * 3 // 100, wrong


@pytest.mark.parametrize("fault", ["size", "dtype", "operation"])
def test_the_differing_field_is_said(tmp_path: Path, fault: str) -> None:
    case = simulate.case(seed_of(fault))
    simulate.write(case, tmp_path)
    (verdict,) = judged(tmp_path)
    assert verdict.anomaly == "H2"
    assert verdict.cause == f"different {fault}"


NCCL = {  # of nccl_job.py, on a GPU
    "stopped": ("H1", 2, "not entered"),
    "within": ("H1", 3, "not entered"),
    "died": ("H1", 3, "no dump"),
    "operation": ("H2", 3, "different operation"),
    "shape": ("H2", 1, "different size"),
    "device": ("H3", 1, "device"),
}


@pytest.mark.parametrize("fault", NCCL)
def test_dumps_of_real_nccl_jobs(fault: str) -> None:
    anomaly, guilty, cause = NCCL[fault]
    (verdict,) = judged(Path(__file__).with_name("nccl_dumps") / fault)
    assert (verdict.anomaly, verdict.guilty_ranks, verdict.confidence) == (anomaly, [guilty], "high")
    assert cause in verdict.cause


def test_a_mismatch_that_went_through_is_told_and_nobody_waits() -> None:
    """NCCL completed an all_reduce of 4 and 1 MiB; the job went on."""
    (verdict,) = judged(Path(__file__).with_name("nccl_dumps") / "shape")
    assert verdict.waiting_ranks == []
    assert (verdict.group, verdict.operation, verdict.sequence) == ("default_pg", "all_reduce", 5)
    assert any("completed on all" in line for line in verdict.evidence)


def test_a_dead_rank_has_no_dump(tmp_path: Path) -> None:
    case = simulate.case(seed_of("died"))
    simulate.write(case, tmp_path)
    (verdict,) = judged(tmp_path)
    assert verdict.guilty_ranks == [case.rank]
    assert any("no dump" in line for line in verdict.evidence)


def test_a_malicious_file_is_reported_and_the_others_are_judged(tmp_path: Path) -> None:
    case = simulate.case(seed_of("stopped"))
    simulate.write(case, tmp_path)
    other = next(rank for rank in range(case.world) if rank != case.rank)
    for path in tmp_path.glob(f"nccl_trace_rank_{other}*"):
        path.unlink()
    (tmp_path / f"nccl_trace_rank_{other}").write_bytes(b"cos\nsystem\n(S'touch made'\ntR.")
    verdicts = judged(tmp_path)
    assert case.rank in named(verdicts)
    assert any("asks for os.system" in line for verdict in verdicts for line in verdict.evidence)


def test_nothing_unfinished_is_no_verdict(tmp_path: Path) -> None:
    entry = {
        "record_id": 0,
        "process_group": ("0", "default_pg"),
        "collective_seq_id": 1,
        "profiling_name": "nccl:all_reduce",
        "state": "completed",
    }
    dump = {"version": "2.4", "pg_config": {"0": {"ranks": "[0, 1]"}}, "entries": [entry]}
    for rank in range(2):
        (tmp_path / f"_dump_{rank}").write_bytes(pickle.dumps(dump))
    assert judged(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "rank"),
    [("_dump_3", 3), ("nccl_trace_rank_12", 12), ("rank_7.json", 7), ("host2_gloo_4.pkl", 4), ("notes.txt", None)],
)
def test_a_name_says_the_rank(name: str, rank: int | None) -> None:
    assert rank_of(name) == rank


def test_an_empty_folder_is_a_setting_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no dumps"):
        flight_recorder.read(tmp_path)


def test_works_without_torch(tmp_path: Path) -> None:
    case = simulate.case(0)
    simulate.write(case, tmp_path)
    script = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from tightwire.cli import main\n"
        f"sys.argv = ['tightwire', 'ccl', 'diagnose', {str(tmp_path)!r}, '--json']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert f'"guilty_ranks": [\n      {case.rank}\n    ]' in done.stdout, done.stderr

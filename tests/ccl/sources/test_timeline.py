"""Timelines: what tables and traces say, in which units, and who is slow."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightwire.ccl.analyzer.timeline import diagnose
from tightwire.ccl.sources.timeline import Columns, Operation, read
from tightwire.ccl.sources.timeline.operations import timeline
from tightwire.ccl.verdict import Verdict
from tightwire.errors import ConfigError

RANKS, STEPS, COMPUTE_S, MOVE_S, MORE_S = 8, 30, 0.1, 0.02, 0.06


def job(fault: str = "", guilty: int = 0, since: int = 0, until: int = STEPS, apart_s: float = 0.0) -> list[Operation]:
    """Pairs and two rows of ranks; `late` computes longer, `link` delays a pair's transfers, `host` a pair's computing."""
    rng = random.Random(guilty)
    now_s, ahead_s = [100.0] * RANKS, [rng.uniform(-apart_s, apart_s) for _ in range(RANKS)]
    found: list[Operation] = []

    def together(ranks: tuple[int, ...], group: str, op: str, step: int, move_s: float) -> None:
        start_s = [now_s[rank] for rank in ranks]
        end_s = max(start_s) + move_s * rng.uniform(1, 1.1)
        for rank, begun_s in zip(ranks, start_s, strict=True):
            now_s[rank] = end_s
            found.append(Operation(rank, group, op, begun_s + ahead_s[rank], end_s + ahead_s[rank], step=step))

    for step in range(STEPS):
        on = since <= step < until
        for rank in range(RANKS):
            slow = on and ((fault == "late" and rank == guilty) or (fault == "host" and rank // 2 == guilty // 2))
            now_s[rank] += COMPUTE_S * rng.uniform(1, 1.05) + (MORE_S if slow else 0.0)
        for low in range(0, RANKS, 2):
            held = on and fault == "link" and guilty // 2 == low // 2
            together((low, low + 1), f"pair{low}", "all_gather", step, MOVE_S / 4 + (MORE_S if held else 0.0))
        for first in range(2):
            together(tuple(range(first, RANKS, 2)), f"row{first}", "all_reduce", step, MOVE_S)
    return found


def told(operations: list[Operation]) -> list[tuple[str, list[int], list[str]]]:
    return [(v.anomaly, v.guilty_ranks, v.guilty_links) for v in diagnose(timeline(operations))]


@pytest.mark.parametrize("guilty", range(RANKS))
@pytest.mark.parametrize("apart_s", [0.0, 0.05])
def test_a_late_rank(guilty: int, apart_s: float) -> None:
    assert told(job("late", guilty, apart_s=apart_s)) == [("S1", [guilty], [])]
    assert told(job("late", guilty, since=15, apart_s=apart_s)) == [("S1", [guilty], [])]
    assert told(job(apart_s=apart_s)) == []


def test_two_ranks_that_are_slow_together_are_not_late_to_each_other() -> None:
    assert told(job("host", 4)) == [("S1", [4, 5], [])]


def test_a_slow_link_of_a_pair_beside_pairs_that_do_the_same() -> None:
    assert told(job("link", 3)) == [("S2", [], ["2-3"])]


def test_what_is_over_says_when() -> None:
    (verdict,) = diagnose(timeline(job("late", 5, since=8, until=18)))
    assert verdict.ended_s is not None
    assert verdict.since_s < verdict.ended_s < verdict.at_s


def write(path: Path, rows: list[tuple[object, ...]], names: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def judged(path: Path, columns: str = "") -> list[Verdict]:
    return diagnose(read(path, Columns.parse(columns)))


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
def test_a_table_in_each_unit(tmp_path: Path, unit: str, scale: float) -> None:
    rows = [
        (e.rank, e.step, e.op, round(e.start_s * scale, 3), round(e.end_s * scale, 3), e.group) for e in job("late", 6)
    ]
    names = ["r", "step", "op", f"begin_{unit}", "finish", "group"]
    (verdict,) = judged(write(tmp_path / "t.csv", rows, names), f"rank=r,end=finish:{unit}")
    assert verdict.guilty_ranks == [6]
    assert verdict.since_s == pytest.approx(job()[0].start_s + COMPUTE_S, abs=0.1)


def test_a_parquet_table(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    columns = list(zip(*[(e.rank, e.step, e.op, e.start_s, e.end_s, e.group) for e in job("late", 6)], strict=True))
    names = ["rank", "step", "op", "start", "end", "group"]
    parquet.write_table(arrow.table(dict(zip(names, map(list, columns), strict=True))), tmp_path / "t.parquet")
    assert [v.guilty_ranks for v in judged(tmp_path / "t.parquet")] == [[6]]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="pip install 'tightwire\\[timeline\\]'"):
        read(tmp_path / "t.parquet", Columns())


def test_kernels_of_nccl_in_traces_of_each_rank(tmp_path: Path) -> None:
    ranks = {f"pair{low}": [low, low + 1] for low in range(0, RANKS, 2)} | {
        f"row{n}": list(range(n, RANKS, 2)) for n in range(2)
    }
    for rank in range(RANKS):
        events = [
            {
                "ph": "X", "cat": "kernel", "name": "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgs)",
                "ts": e.start_s * 1e6, "dur": (e.end_s - e.start_s) * 1e6, "pid": 0, "tid": 7,
                "args": {
                    "Collective name": e.op, "Process Group Name": e.group, "In msg nelems": 64, "dtype": "Float",
                    "Process Group Ranks": str(ranks[e.group]), "Group size": len(ranks[e.group]),
                },
            }
            for e in job("late", 3)
            if e.rank == rank
        ]  # fmt: skip
        data = json.dumps({"distributedInfo": {"rank": rank}, "traceEvents": events}).encode()
        name = f"host_{rank}.json" + (".gz" if rank % 2 else "")
        (tmp_path / name).write_bytes(gzip.compress(data) if rank % 2 else data)
    assert [(v.anomaly, v.guilty_ranks) for v in judged(tmp_path)] == [("S1", [3])]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("begin=x", "no mapping"),
        ("start=x", "no column 'x'"),
        ("start=op", "no time"),
        ("step=op:us", "only of a time"),
    ],
)
def test_a_wrong_mapping_is_a_setting_to_mend(tmp_path: Path, columns: str, message: str) -> None:
    path = write(tmp_path / "t.csv", [(0, "a", 1.0, 2.0), (1, "a", 1.0, 2.0)], ["rank", "op", "start", "end"])
    with pytest.raises(ConfigError, match=message):
        judged(path, columns)


@given(st.binary(max_size=300), st.sampled_from(["t.json", "t.csv", "t.json.gz"]))
def test_any_bytes_give_a_timeline_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("t") / name
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        read(path, Columns())

"""Dumps of simulated jobs with known truth: tensor, data and pipeline groups, an injected fault, every schema version.

Each rank's host enqueues calls, up to `depth` ahead; its device takes them in order; a call ends when it is everybody's
next and all made the same. What stands when nothing moves any more is what the dumps say.
"""

from __future__ import annotations

import json
import pickle
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FAULTS = ("stopped", "died", "size", "dtype", "operation", "device", "account", "transfer")
CLASSES = {"stopped": "H1", "died": "H1", "size": "H2", "dtype": "H2", "operation": "H2"}
VERSIONS = tuple(f"2.{minor}" for minor in range(1, 11))
_START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Call:
    """One call of one rank; `pair` is (source, target), global ranks."""

    group: tuple[int, ...]
    name: str
    op: str
    elements: int
    dtype: str = "Float"
    pair: tuple[int, int] | None = None
    number: int = 0


@dataclass(frozen=True)
class Case:
    """A job of tensor × data × pipeline ranks, its fault at `rank` in call `at`, and how its dumps are written."""

    seed: int
    tensor: int
    data: int
    pipeline: int
    fault: str
    rank: int
    at: int
    depth: int
    version: str
    timing: bool
    active_only: bool
    as_json: bool
    ring: int

    @property
    def world(self) -> int:
        return self.tensor * self.data * self.pipeline

    @property
    def anomaly(self) -> str:
        return CLASSES.get(self.fault, "H3")

    @property
    def guilty(self) -> list[int]:
        """Who should be named: nobody, where dumps cannot tell."""
        hidden = self.fault == "transfer" or (self.fault == "device" and not self.timing)
        return [] if hidden else [self.rank]


@dataclass
class _Rank:
    program: list[Call]
    enqueued: int = 0
    completed: int = 0
    told: int = 0  # completed, by its own account
    stops: int | None = None  # the host makes no call from here on
    stands: int | None = None  # the device does not start this call
    silent: int | None = None  # the account of completions ends here
    numbers: dict[str, int] = field(default_factory=dict)


def case(seed: int) -> Case:
    """A case of that seed."""
    rng = random.Random(seed)
    tensor, data, pipeline = rng.choice([(4, 1, 1), (2, 2, 1), (2, 2, 2), (4, 2, 1), (2, 4, 1), (1, 4, 1), (2, 2, 4)])
    fault = FAULTS[seed % len(FAULTS)]
    shape = Case(
        seed, tensor, data, pipeline, fault, 0, 0, rng.choice([1, 2, 6, 20]), rng.choice(VERSIONS), rng.random() < 0.5,
        rng.random() < 0.3, rng.random() < 0.3, rng.choice([40, 2000]),
    )  # fmt: skip
    rank = rng.randrange(shape.world)
    program = _program(shape, rank)
    at = rng.randrange(len(program) // 2, len(program) - len(program) // 8)
    if fault in ("size", "dtype", "operation", "account"):
        wide = [n for n in range(at, len(program)) if program[n].pair is None and len(program[n].group) > 2]
        if fault != "account" and not wide:  # with two ranks it cannot be told who is right
            return case(seed + 1_000_003 * len(FAULTS))
        at = wide[0] if wide and fault != "account" else at
    return replace(shape, rank=rank, at=at)


def write(case: Case, folder: Path) -> None:
    """Run the case and write one dump per rank."""
    ranks = _run(case)
    folder.mkdir(parents=True, exist_ok=True)
    for number, rank in enumerate(ranks):
        if case.fault == "died" and number == case.rank:
            continue
        dump = _dump(case, number, rank)
        name = f"nccl_trace_rank_{number}"
        if case.as_json:
            (folder / f"{name}.json").write_text(json.dumps(dump))
        else:
            (folder / name).write_bytes(pickle.dumps(dump, protocol=2))


def _program(case: Case, rank: int) -> list[Call]:
    t, d = case.tensor, case.data
    stage, within = divmod(rank, t * d)
    lane, slot = within // t, within % t
    base = stage * t * d
    tp = tuple(base + lane * t + i for i in range(t))
    dp = tuple(base + i * t + slot for i in range(d))
    pp = tuple(s * t * d + within for s in range(case.pipeline))
    calls: list[Call] = []
    for _ in range(8):
        if stage:
            calls.append(Call(pp, f"pp{within}", "recv", 4096, pair=(pp[stage - 1], rank)))
        for _ in range(3):
            if t > 1:
                calls.append(Call(tp, f"tp{stage}.{lane}", "_all_gather_base", 1024))
                calls.append(Call(tp, f"tp{stage}.{lane}", "_reduce_scatter_base", 1024))
        if stage + 1 < case.pipeline:
            calls.append(Call(pp, f"pp{within}", "send", 4096, pair=(rank, pp[stage + 1])))
        if d > 1:
            calls.append(Call(dp, f"dp{stage}.{slot}", "all_reduce", 8192))
        calls.append(Call(tuple(range(case.world)), "0", "all_reduce", 1))
    counts: dict[str, int] = {}
    numbered = []
    for call in calls:
        key = call.name if call.pair is None else f"{call.name} {call.pair}"
        counts[key] = counts.get(key, 0) + 1
        numbered.append(replace(call, number=counts[key]))
    return numbered


def _run(case: Case) -> list[_Rank]:
    ranks = [_Rank(_program(case, number)) for number in range(case.world)]
    guilty, at = ranks[case.rank], case.at
    if case.fault in ("stopped", "died"):
        guilty.stops = at
    elif case.fault == "device":
        guilty.stands = at
    elif case.fault == "account":
        guilty.silent, guilty.stops = at, at + 3 + case.depth
    elif case.fault in ("size", "dtype", "operation"):
        right = guilty.program[at]
        other = "reduce_scatter" if right.op == "all_reduce" else "all_reduce"
        guilty.program[at] = {
            "size": replace(right, elements=right.elements + 8),
            "dtype": replace(right, dtype="BFloat16"),
            "operation": replace(right, op=other),
        }[case.fault]
    broken: Call | None = guilty.program[at] if case.fault == "transfer" else None
    moved = True
    while moved:
        moved = False
        for rank in ranks:
            limit = min(
                len(rank.program), rank.completed + case.depth, rank.stops if rank.stops is not None else 1 << 30
            )
            moved |= limit > rank.enqueued
            rank.enqueued = max(rank.enqueued, limit)
        for rank in ranks:
            call = _next(rank)
            if call is None or (broken is not None and (call.name, call.number) == (broken.name, broken.number)):
                continue
            partners = [ranks[q] for q in (call.pair or call.group)]
            others = [_next(q) for q in partners]
            if all(o is not None and _same(o, call) for o in others):
                for partner in partners:
                    partner.completed += 1
                    moved = True
    return ranks


def _next(rank: _Rank) -> Call | None:
    if rank.completed >= rank.enqueued or rank.completed == rank.stands:
        return None
    return rank.program[rank.completed]


def _same(one: Call, other: Call) -> bool:
    if one.pair is not None or other.pair is not None:
        return (one.name, one.pair, one.number) == (other.name, other.pair, other.number)
    return one == other


def _dump(case: Case, number: int, rank: _Rank) -> dict[str, Any]:
    minor = int(case.version.split(".")[1])
    told = rank.completed if rank.silent is None else min(rank.completed, rank.silent)
    groups: dict[str, int] = {}
    for call in rank.program:
        groups.setdefault(call.name, len(groups))
    collective, pairs = dict.fromkeys(groups, 0), dict.fromkeys(groups, 0)
    status = {
        str(n): {"last_enqueued_collective": -1, "last_started_collective": -1, "last_completed_collective": -1}
        for n in groups.values()
    }
    entries = []
    for index, call in enumerate(rank.program[: rank.enqueued]):
        counts = collective if call.pair is None else pairs
        counts[call.name] += 1
        done = index < told
        running = case.timing and index == told and index != rank.stands and rank.silent is None
        entry = status[str(groups[call.name])]
        entry["last_enqueued_collective"] = counts[call.name]
        if done:
            entry["last_completed_collective"] = counts[call.name]
        made = _entry(case, number, call, index, groups[call.name], collective[call.name], pairs[call.name])
        made["state"] = "completed" if done else "started" if running else "scheduled"
        made["retired"] = done
        made["time_discovered_completed_ns"] = made["time_created_ns"] + 1000 if done else None
        if minor < 2:
            made.pop("is_p2p"), made.pop("timeout_ms")
        if not (done and case.active_only):
            entries.append(made)
    config = {c.name: {"name": c.name, "desc": c.name[:2], "ranks": str(list(c.group))} for c in rank.program}
    dump: dict[str, Any] = {"version": case.version, "pg_config": config}
    if minor >= 3:
        dump["pg_status"] = status
    dump["entries"] = entries[-case.ring :]
    return dump


def _entry(case: Case, number: int, call: Call, index: int, group: int, collective: int, pair: int) -> dict[str, Any]:
    name = call.op
    if call.pair is not None:
        source, target = (call.group.index(q) for q in call.pair)
        name = f"send {source}->{target}" if call.op == "send" else f"recv {target}<-{source}"
    parts = len(call.group)
    taken = call.elements * (parts if call.op == "_reduce_scatter_base" else 1)
    given = call.elements * (parts if call.op == "_all_gather_base" else 1)
    created = _START_NS + index * 1_000_000 + number * 1000
    return {
        "record_id": index,
        "pg_id": group,
        "process_group": (call.name, call.name[:2]),
        "collective_seq_id": collective,
        "p2p_seq_id": pair,
        "op_id": collective + pair,
        "profiling_name": f"nccl:{name}",
        "time_created_ns": created,
        "input_sizes": [[taken]],
        "input_dtypes": [call.dtype],
        "output_sizes": [[given]],
        "output_dtypes": [call.dtype],
        "time_discovered_started_ns": None,
        "timeout_ms": 600000,
        "is_p2p": call.pair is not None,
        "frames": [{"name": "forward", "filename": "train.py", "line": 10 + index % 7}],
    }

"""A dump of one rank, as typed records: schemas 1.x to 2.10 of PyTorch's Flight Recorder, pickle and JSON.

| since | field |
|---|---|
| 2.0 | `process_group` is (name, description), `pg_config` |
| 2.1 | `collective_seq_id`, `p2p_seq_id`, `op_id` instead of `seq_id` |
| 2.2 … 2.4 | `is_p2p`, `timeout_ms`, `pg_status` |
| 2.5 … 2.10 | `thread_id`, `comm_lib_version`; NCCL and gloo |

Whatever a version lacks has a default; what is there and makes no sense is DumpError.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from tightwire.ccl.sources.flight_recorder import plain_json, plain_pickle
from tightwire.ccl.sources.flight_recorder.plain_pickle import DumpError

MOST_VALUES = 5_000_000  # sizes and frames of one dump; a full ring of 2,000 entries holds some hundred thousand
_PAIR = re.compile(r"(\d+)\s*(->|<-)\s*(\d+)")


@dataclass(slots=True)
class Entry:
    """One operation of one rank. `pair` is (source, target) as ranks of the group; elements are counted, not shaped."""

    record: int
    group: str
    description: str
    group_id: int
    sequence: int
    p2p_sequence: int
    op_id: int
    backend: str
    op: str
    pair: tuple[int, int] | None
    is_p2p: bool
    in_elements: int
    out_elements: int
    in_dtypes: tuple[str, ...]
    out_dtypes: tuple[str, ...]
    started: bool
    done: bool
    created_ns: int
    frames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The last operation of a group that was enqueued and that was completed; None where the dump does not say."""

    enqueued: int | None
    completed: int | None


@dataclass(slots=True)
class Dump:
    """`groups`: name → global ranks (empty: all). `whole` is false for a file that ended too early."""

    version: str = ""
    entries: list[Entry] = field(default_factory=list)
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    status: dict[int, Status] = field(default_factory=dict)
    rank: int | None = None
    whole: bool = True


def parse(data: bytes) -> Dump:
    """A dump from the bytes of its file. Raises DumpError."""
    if not data:
        raise DumpError("the file is empty")
    if data.lstrip()[:1] == b"{":
        raw, whole = plain_json.loads(data)
    else:
        raw, whole = plain_pickle.loads(data)
    if not isinstance(raw, dict) or not ({"entries", "pg_status", "pg_config"} & raw.keys()):
        raise DumpError("it has neither entries nor pg_status nor pg_config")
    try:
        return _dump(raw, whole)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as broken:
        raise DumpError(f"a field makes no sense: {broken}"[:300]) from broken


def _dump(raw: dict[Any, Any], whole: bool) -> Dump:
    budget = [MOST_VALUES]
    entries = []
    for entry in _list(raw.get("entries") or []):
        if not whole and not {"process_group", "profiling_name", "state"} <= entry.keys():
            continue  # the file ended inside of it
        entries.append(_entry(entry, budget))
    entries.sort(key=lambda e: e.record)
    _coalesce(entries)
    groups = {}
    for name, config in (raw.get("pg_config") or {}).items():
        if isinstance(config, dict) and "ranks" in config:
            groups[str(name)] = _ranks(config["ranks"])
    status = {}
    for key, value in (raw.get("pg_status") or {}).items():
        if isinstance(value, dict):
            status[int(key)] = Status(
                _sequence(value.get("last_enqueued_collective")), _sequence(value.get("last_completed_collective"))
            )
    rank = raw.get("rank")
    return Dump(str(raw.get("version", "")), entries, groups, status, rank if type(rank) is int else None, whole)


def _entry(raw: dict[str, Any], budget: list[int]) -> Entry:
    group = raw.get("process_group", "")
    name, description = (str(group[0]), str(group[1])) if isinstance(group, list | tuple) else (str(group), "")
    backend, _, call = str(raw["profiling_name"]).rpartition(":")
    op, _, rest = call.partition(" ")
    found = _PAIR.search(rest)
    pair = None
    if found:
        one, arrow, other = int(found[1]), found[2], int(found[3])
        pair = (one, other) if arrow == "->" else (other, one)
    state = str(raw.get("state", "scheduled"))
    sequence = raw.get("collective_seq_id", raw.get("seq_id", 0))
    return Entry(
        record=_int(raw.get("record_id", raw.get("id", 0))),
        group=name,
        description="" if description == "undefined" else description,
        group_id=_int(raw.get("pg_id", 0)),
        sequence=_int(sequence),
        p2p_sequence=_int(raw.get("p2p_seq_id", 0)),
        op_id=_int(raw.get("op_id", sequence)),
        backend=backend,
        op=op,
        pair=pair,
        is_p2p=bool(raw.get("is_p2p", False)) or op in ("send", "recv"),
        in_elements=_elements(raw.get("input_sizes"), budget),
        out_elements=_elements(raw.get("output_sizes"), budget),
        in_dtypes=_dtypes(raw.get("input_dtypes"), budget),
        out_dtypes=_dtypes(raw.get("output_dtypes"), budget),
        started=state in ("started", "completed") or bool(raw.get("time_discovered_started_ns")),
        done=state == "completed"
        or bool(raw.get("time_discovered_completed_ns"))
        or (bool(raw.get("retired", False)) and backend != "nccl"),  # NCCL's retire when they time out, too
        created_ns=_int(raw.get("time_created_ns") or 0),
        frames=_frames(raw.get("frames"), budget),
    )


def _coalesce(entries: list[Entry]) -> None:
    """The members of a coalesced call have no events of their own: they are where the call is."""
    calls: dict[tuple[str, int, int], Entry] = {}
    for entry in reversed(entries):
        key = (entry.group, entry.sequence, entry.p2p_sequence)
        if entry.op.lower().endswith("coalesced"):
            calls[key] = entry
        elif key in calls:
            entry.started, entry.done = calls[key].started, calls[key].done


def _elements(sizes: Any, budget: list[int]) -> int:
    total = 0
    for shape in _list(sizes or []):
        dimensions = _list(shape) if isinstance(shape, list | tuple) else [shape]
        budget[0] -= 1 + len(dimensions)
        if budget[0] < 0:
            raise DumpError(f"it holds more than {MOST_VALUES} values")
        total += math.prod(_int(dimension) for dimension in dimensions) if len(dimensions) <= 64 else 0
    return total


def _dtypes(names: Any, budget: list[int]) -> tuple[str, ...]:
    budget[0] -= len(_list(names or []))
    return tuple(sorted({str(name) for name in _list(names or [])})) if budget[0] >= 0 else ()


def _frames(frames: Any, budget: list[int]) -> tuple[str, ...]:
    """`name (file:line)`, innermost first."""
    lines = []
    for frame in _list(frames or []):
        budget[0] -= 1
        if isinstance(frame, dict) and budget[0] >= 0:
            lines.append(f"{frame.get('name')} ({frame.get('filename')}:{frame.get('line')})")
    return tuple(lines)


def _ranks(ranks: Any) -> tuple[int, ...]:
    if isinstance(ranks, str):
        ranks = [int(rank) for rank in re.findall(r"\d+", ranks)]
    return tuple(_int(rank) for rank in _list(ranks))


def _sequence(value: Any) -> int | None:
    return None if value is None or _int(value) < 0 else _int(value)


def _int(value: Any) -> int:
    if type(value) is int and abs(value) < 1 << 63:
        return value
    if isinstance(value, str):
        return int(value)
    raise TypeError(f"{str(value)[:50]!r} is no number")


def _list(value: Any) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return value
    raise TypeError(f"{str(value)[:50]!r} is no list")

"""One file or a folder of them, by what their names end in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tightwire.ccl.sources.timeline import chrome, table
from tightwire.ccl.sources.timeline.columns import Columns
from tightwire.ccl.sources.timeline.operations import Operation, Timeline, timeline
from tightwire.errors import ConfigError

TRACES = (".json", ".json.gz")
TABLES = {".csv": table.read_csv, ".parquet": table.read_parquet, ".pq": table.read_parquet}
_RANK = re.compile(r"rank[_\-.]?(\d+)", re.IGNORECASE)
_LAST = re.compile(r"(\d+)(?:\.[a-z]+)*$")


def read(path: Path, columns: Columns) -> Timeline:
    """All operations of `path`. Raises ConfigError."""
    if not path.exists():
        raise ConfigError(f"timeline: {str(path)!r} does not exist; give a trace or table, or a folder of them")
    endings = (*TRACES, *TABLES)
    files = (
        sorted(each for each in path.rglob("*") if each.is_file() and each.name.endswith(endings))
        if path.is_dir()
        else [path]
    )
    found: list[Operation] = []
    ends = True
    for file in files:
        reader = next((read for ending, read in TABLES.items() if file.name.endswith(ending)), None)
        if reader is None and not file.name.endswith(TRACES):
            raise ConfigError(f"timeline: {file.name} ends in none of {', '.join(endings)}")
        rank = rank_of(file.name)
        try:
            if reader is None:
                operations, real = chrome.read(file, rank)
                found, ends = found + operations, ends and real
            else:
                found += reader(file, columns, rank)
        except OSError as broken:
            raise ConfigError(f"timeline: {file.name} cannot be read: {broken}") from broken
    if len({each.rank for each in found}) < 2:
        raise ConfigError(
            f"timeline: {str(path)!r} holds operations of {len({e.rank for e in found})} rank(s); ranks are compared with each "
            "other, so give the folder that holds the files of all of them"
        )
    named, notes = _named(found)
    return timeline(named, notes, ends and not notes)


def rank_of(name: str) -> int | None:
    """The rank that a file's name says: after `rank`, else its last number."""
    found = _RANK.search(name) or _LAST.search(name)
    return int(found[1]) if found else None


def _named(found: Iterable[Operation]) -> tuple[list[Operation], list[str]]:
    """Operations that do not say their group: the n-th calls of all ranks are taken for one, if all made the same."""
    by_rank: dict[int, list[Operation]] = defaultdict(list)
    named: list[Operation] = []
    for each in sorted(found, key=lambda e: e.start_s):
        (by_rank[each.rank] if each.group == chrome.UNTOLD else named).append(each)
    if not by_rank:
        return named, []
    calls = {tuple(each.op for each in calls) for calls in by_rank.values()}
    if len(calls) > 1:
        raise ConfigError(
            "timeline: the traces do not say which group an operation belongs to, and the ranks made different calls; give a "
            "table with a column for the group, or traces of NCCL"
        )
    untold = [
        each._replace(group="all ranks", sequence=number) for own in by_rank.values() for number, each in enumerate(own)
    ]
    return [*named, *untold], [
        "the traces do not say the groups of operations: the n-th calls of all ranks are compared"
    ]

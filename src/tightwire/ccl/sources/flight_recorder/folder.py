"""A folder of dumps, one file per rank: the rank is the last number of the name (`_dump_3`, `nccl_trace_rank_3.json`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tightwire.ccl.sources.flight_recorder.dump import Dump, parse
from tightwire.ccl.sources.flight_recorder.plain_pickle import DumpError
from tightwire.errors import ConfigError

MOST_BYTES = 512 << 20
_NAME = re.compile(r"(\d+)(\.(json|pkl|pickle|bin|dump|trace|pt))?$")
_RANK = re.compile(r"rank[_\-.]?(\d+)")


@dataclass(slots=True)
class DumpSet:
    """`dumps` by rank; `unread`: what could not be used, file by file, in words; `damaged`: the ranks of those files."""

    dumps: dict[int, Dump] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)


def rank_of(name: str) -> int | None:
    """The rank that a file's name says; None when the file is no dump."""
    found = _NAME.search(name) or (_RANK.search(name) if name.endswith((".json", ".pkl", ".pickle", ".bin")) else None)
    return int(found[1]) if found else None


def read(folder: Path) -> DumpSet:
    """All dumps in `folder` and below. Raises ConfigError when there are none."""
    if not folder.is_dir():
        raise ConfigError(f"folder {str(folder)!r} does not exist; give the folder that holds the dumps")
    found = DumpSet()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        rank = rank_of(path.name)
        if rank is None:
            continue
        try:
            if path.stat().st_size > MOST_BYTES:
                raise DumpError(f"it is larger than {MOST_BYTES >> 20} MiB")
            dump = parse(path.read_bytes())
        except (DumpError, OSError) as refused:
            found.unread.append(f"{path.name}: {refused}")
            found.damaged.add(rank)
            continue
        rank = dump.rank if dump.rank is not None else rank
        if not dump.whole:
            found.unread.append(f"{path.name}: it ends too early; read as far as it goes")
        if rank in found.dumps:
            found.unread.append(f"{path.name}: a second dump of rank {rank}; the one with more entries counts")
            if len(found.dumps[rank].entries) >= len(dump.entries):
                continue
        found.dumps[rank] = dump
    if not found.dumps and not found.unread:
        raise ConfigError(
            f"folder {str(folder)!r} holds no dumps; their names end in the rank, like _dump_3 or nccl_trace_rank_3.json"
        )
    found.damaged -= found.dumps.keys()
    return found

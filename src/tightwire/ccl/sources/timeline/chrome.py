"""Collectives from a trace of torch.profiler (Kineto), or from a Chrome trace with the same names and arguments.

| found | is taken |
|---|---|
| `nccl…` kernels, with arguments or those of their call | start and end on the device |
| else `gloo:…` annotations | from the call to its end; they do not say their group |
| else `record_param_comms` | the call on the host |

`ProfilerStep#N` tells the steps. Format: "Trace Event Format", times in microseconds.
"""

from __future__ import annotations

import gzip
import re
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tightwire.ccl.sources.timeline.operations import Operation
from tightwire.errors import ConfigError

MOST_BYTES = 4 << 30  # of an unpacked trace
UNTOLD = ""  # the group of operations that do not say it
_STEP = re.compile(r"ProfilerStep\s*#(\d+)$")
_HOST, _CALL = "record_param_comms", "External id"
_WIDTHS = {
    "double": 8, "long": 8, "float": 4, "int": 4, "half": 2, "bfloat16": 2, "short": 2, "byte": 1, "char": 1, "bool": 1
}  # fmt: skip
_WAITS = ("wait", "init")  # not operations


def read(path: Path, rank: int | None) -> tuple[list[Operation], bool]:
    """The operations of the trace's rank (as it says itself, else `rank`), and whether their ends are those of the
    operations, not only of the calls on the host. Raises ConfigError."""
    raw = _json(path)
    events = raw.get("traceEvents") if isinstance(raw, dict) else raw
    if not isinstance(events, list):
        raise ConfigError(f"{path.name} is no Chrome trace: it has no list of traceEvents")
    spans = [e for e in events if isinstance(e, dict) and e.get("ph") == "X" and _is_number(e.get("ts"), e.get("dur"))]
    known = raw.get("distributedInfo") if isinstance(raw, dict) else None
    own = known.get("rank") if isinstance(known, dict) else None
    rank = own if type(own) is int else rank
    base_s = float(raw.get("baseTimeNanoseconds", 0) or 0) / 1e9 if isinstance(raw, dict) else 0.0
    host = [e for e in spans if e.get("name") == _HOST and _args(e).get("Collective name") not in (None, *_WAITS)]
    calls = {_args(e)[_CALL]: _args(e) for e in host if isinstance(_args(e).get(_CALL), int)}
    kernels = [e for e in spans if str(e.get("name", "")).lower().startswith("nccl") and _told(e, calls)]
    gloo = [e for e in spans if str(e.get("name", "")).startswith("gloo:")]
    starts, numbers = _steps(spans)
    found = []
    for event in kernels or gloo or host:
        args = _told(event, calls) or _args(event)
        of = args.get("Rank", rank)
        if type(of) is not int:
            raise ConfigError(f"{path.name} does not say its rank; end its name in it, like trace_rank_3.json")
        at = bisect_right(starts, event["ts"]) - 1
        start_s = base_s + event["ts"] / 1e6
        found.append(
            Operation(
                of, _group(args), str(args.get("Collective name") or event["name"].partition(":")[2]), start_s,
                start_s + event["dur"] / 1e6, _size(args), numbers[at] if at >= 0 else None, None, _ranks(args),
            )
        )  # fmt: skip
    return found, bool(kernels or gloo)


def _json(path: Path) -> Any:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            unpack = zlib.decompressobj(wbits=31)
            data = unpack.decompress(data, MOST_BYTES)
            if unpack.unconsumed_tail:
                raise ConfigError(f"{path.name} unpacks to more than {MOST_BYTES >> 30} GiB")
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, zlib.error, gzip.BadGzipFile) as broken:
        raise ConfigError(f"{path.name} is no Chrome trace: {broken}") from broken


def _steps(spans: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[int]]:
    """Where steps start, and their numbers."""
    found = sorted((e["ts"], int(m[1])) for e in spans if (m := _STEP.match(str(e.get("name", "")))))
    return [ts for ts, _ in found], [number for _, number in found]


def _group(args: Mapping[str, Any]) -> str:
    name, description = args.get("Process Group Name"), args.get("Process Group Description")
    described = description if description not in (None, "", "undefined") else None
    return str(described or name or UNTOLD) if name is None or described is None else f"{described} {name}"


def _ranks(args: Mapping[str, Any]) -> tuple[int, ...]:
    """Empty where they are not told, or cut short."""
    told = args.get("Process Group Ranks")
    if isinstance(told, str) and "..." not in told:
        told = [int(rank) for rank in re.findall(r"\d+", told)]
    ranks = tuple(rank for rank in told if type(rank) is int) if isinstance(told, list) else ()
    size = args.get("Group size")
    return ranks if type(size) is not int or len(ranks) == size else ()


def _size(args: Mapping[str, Any]) -> int:
    """Bytes."""
    count = args.get("In msg nelems", 0)
    width = _WIDTHS.get(str(args.get("dtype", "")).lower(), 1)
    return count * width if type(count) is int and count >= 0 else 0


def _told(event: Mapping[str, Any], calls: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The arguments of a collective: its kernel's own, or those of the call that launched it; nothing if neither tells."""
    args = _args(event)
    call = args.get(_CALL)
    return args if args.get("Collective name") else calls.get(call, {}) if isinstance(call, int) else {}


def _args(event: Mapping[str, Any]) -> Mapping[str, Any]:
    args = event.get("args")
    return args if isinstance(args, dict) else {}


def _is_number(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

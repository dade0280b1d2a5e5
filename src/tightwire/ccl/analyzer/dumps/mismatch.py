"""H2 in dumps: the ranks of a group entered one operation with different calls.

Roots are not recorded, and sizes that may rightly differ between ranks are not compared. The minority is guilty; where
there is none, the one whose call is not what followed its last two calls before.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tightwire.ccl.analyzer.dumps import gloo
from tightwire.ccl.analyzer.dumps.alignment import Group, Job, Position
from tightwire.ccl.sources.flight_recorder.dump import Entry

Signature = tuple[str, int, int, tuple[str, ...], tuple[str, ...]]
_HISTORY = 256
_FIELDS = ("operation", "size", "size", "dtype", "dtype")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """`guilty` (nobody where it cannot be told) called `found` where `others` called `expected`."""

    group: Group
    sequence: int
    guilty: tuple[int, ...]
    others: tuple[int, ...]
    found: Entry
    expected: Entry
    field: str

    @property
    def completed(self) -> bool:
        return self.found.done and self.expected.done and self.found.backend != gloo.NAME


def find(job: Job) -> list[Mismatch]:
    """The first mismatch of each group that is stuck at it or later, or has failed in it. Where nothing is stuck, the first
    that went through: NCCL may complete a call whose sizes differ."""
    found = []
    stuck = any(position.open is not None for of in job.positions.values() for position in of.values())
    for group, of in job.positions.items():
        for sequence in _stuck_until(of) or ([] if stuck else _all_calls(of)):
            camps = _camps(of, sequence)
            if len(camps) > 1:
                found.append(_judge(group, of, sequence, camps))
                break
    return found


def _stuck_until(of: dict[int, Position]) -> list[int]:
    """The numbers up to the last in which somebody is stuck; on gloo, which records a failed call like one that was
    completed, the one that is everybody's last."""
    stuck = [position.open for position in of.values() if position.open is not None]
    if stuck:
        return sorted({n for position in of.values() for n in position.calls if n <= max(stuck)})
    last = {position.last or 0 for position in of.values()}
    entries = [position.entry(number) for position in of.values() for number in last]
    alike = len(last) == 1 and all(entry is not None and entry.backend == gloo.NAME for entry in entries)
    return list(last) if alike else []


def _all_calls(of: dict[int, Position]) -> list[int]:
    return sorted({number for position in of.values() for number in position.calls})


def call(entry: Entry) -> str:
    """An entry in words."""
    dtypes = "/".join(dict.fromkeys(entry.in_dtypes + entry.out_dtypes))
    sizes = f"{entry.in_elements} → {entry.out_elements} elements" if entry.in_elements or entry.out_elements else ""
    inside = ", ".join(part for part in (sizes, dtypes) if part)
    return f"{entry.op.strip('_')} ({inside})" if inside else entry.op.strip("_")


def _signature(entry: Entry) -> Signature:
    op = entry.op.strip("_").lower().removesuffix("_oop")
    ins: int | None = entry.in_elements
    outs: int | None = entry.out_elements
    dtypes = (entry.in_dtypes, entry.out_dtypes)
    if op.startswith(("all_to_all", "alltoall")):
        ins = outs = None
    elif op == "all_gather":
        ins = None
    elif op in ("gather", "reduce"):
        outs, dtypes = None, (entry.in_dtypes, ())
    elif op in ("scatter", "broadcast"):
        ins, dtypes = None, ((), entry.out_dtypes)
    elif op == "reduce_scatter":
        outs = None
    elif op.endswith("coalesced") or op in ("barrier", "all_reduce_barrier"):
        ins = outs = None
        dtypes = ((), ())
    return (op, -1 if ins is None else ins, -1 if outs is None else outs, *dtypes)


def _at(position: Position, sequence: int) -> Signature | None:
    entry = position.entry(sequence)
    return _signature(entry) if entry is not None else None


def _camps(of: dict[int, Position], sequence: int) -> list[tuple[int, ...]]:
    by_call: dict[Signature, list[int]] = defaultdict(list)
    for rank, position in of.items():
        signature = _at(position, sequence)
        if signature is not None:
            by_call[signature].append(rank)
    return sorted((tuple(sorted(ranks)) for ranks in by_call.values()), key=lambda ranks: (-len(ranks), ranks))


def _judge(group: Group, of: dict[int, Position], sequence: int, camps: list[tuple[int, ...]]) -> Mismatch:
    total = sum(map(len, camps))
    right: tuple[int, ...] | None = camps[0]
    if 2 * len(camps[0]) <= total:
        usual = [camp for camp in camps if _as_usual(of[camp[0]], sequence)]
        right = usual[0] if len(usual) == 1 else None
    guilty = tuple(sorted(r for camp in camps if camp != right for r in camp)) if right is not None else ()
    others = right if right is not None else camps[0]
    wrong = guilty[0] if guilty else camps[1][0]
    found, expected = of[wrong].entry(sequence), of[others[0]].entry(sequence)
    assert found is not None
    assert expected is not None
    return Mismatch(group, sequence, guilty, others, found, expected, _field(of[wrong], of[others[0]], sequence))


def _as_usual(position: Position, sequence: int) -> bool:
    history = [_at(position, n) for n in range(sequence, sequence - _HISTORY, -1)]
    now, past = history[0], history[1:]
    for length in (2, 1):
        context = past[:length]
        if len(context) < length or None in context:
            continue
        for back in range(1, len(past) - length):
            if past[back : back + length] == context:
                return past[back - 1] == now
    return False


def _field(wrong: Position, right: Position, sequence: int) -> str:
    mine, theirs = _at(wrong, sequence), _at(right, sequence)
    assert mine is not None
    assert theirs is not None
    ahead, after = _at(right, sequence + 1), _at(wrong, sequence + 1)
    known = any(_at(right, before) == mine for before in range(sequence - 1, sequence - _HISTORY, -1))
    if (ahead == mine and after in (None, theirs)) or (known and after == theirs and ahead in (None, mine)):
        return "order"
    return next(name for name, one, other in zip(_FIELDS, mine, theirs, strict=True) if one != other)

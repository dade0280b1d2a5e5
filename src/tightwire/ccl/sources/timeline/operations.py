"""Operations of all ranks in columns, whatever recorded them.

Shapes: N operations, G groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
NO_STEP = -1


class Operation(NamedTuple):
    """One operation of one rank: `group` is its name, `ranks` its members where the record tells them, `step` the training
    step and `sequence` its number in the group where it tells those; times are seconds of the rank's clock."""

    rank: int
    group: str
    op: str
    start_s: float
    end_s: float
    size: int = 0
    step: int | None = None
    sequence: int | None = None
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Timeline:
    """`group` indexes `groups` and `members`, `op` indexes `ops`; `step` is NO_STEP where it is not told; `sequence` numbers
    the operations of a group alike on all ranks; `ends` is false where the ends say nothing about the clocks: those of
    calls on the host, which the operations may outlive, or of several groups taken for one. Sorted by rank and start; all columns [N]."""

    rank: Ints
    group: Ints
    op: Ints
    step: Ints
    sequence: Ints
    start_s: Floats
    end_s: Floats
    size: Ints
    groups: list[str]
    members: list[tuple[int, ...]]
    ops: list[str]
    notes: list[str]
    ends: bool = True


def timeline(operations: Iterable[Operation], notes: Iterable[str] = (), ends: bool = True) -> Timeline:
    """The columns of `operations`, in any order. A group is its name and its ranks, as names repeat; where the ranks are
    not told, those that used the name."""
    found = sorted(operations, key=lambda each: (each.rank, each.start_s))
    used: dict[str, set[int]] = defaultdict(set)
    for each in found:
        used[each.group].add(each.rank)
    ranks_of = {name: tuple(sorted(ranks)) for name, ranks in used.items()}
    groups: dict[tuple[str, tuple[int, ...]], int] = {}
    ops: dict[str, int] = {}
    group = [groups.setdefault((e.group, e.ranks or ranks_of[e.group]), len(groups)) for e in found]
    op = [ops.setdefault(e.op, len(ops)) for e in found]
    columns = Timeline(
        rank=np.array([e.rank for e in found], np.int64),
        group=np.array(group, np.int64),
        op=np.array(op, np.int64),
        step=np.array([NO_STEP if e.step is None else e.step for e in found], np.int64),
        sequence=np.zeros(len(found), np.int64),
        start_s=np.array([e.start_s for e in found], np.float64),
        end_s=np.array([e.end_s for e in found], np.float64),
        size=np.array([e.size for e in found], np.int64),
        groups=[name for name, _ in groups],
        members=[ranks for _, ranks in groups],
        ops=list(ops),
        notes=list(notes),
        ends=ends,
    )
    told = np.array([-1 if e.sequence is None else e.sequence for e in found], np.int64)
    columns.sequence[:] = told if len(found) and (told >= 0).all() else _numbers(columns)
    return columns


def _numbers(columns: Timeline) -> Ints:
    """Each rank's operations of a group in order; within their step where steps are told, as records may begin amid one."""
    stepped = (columns.step != NO_STEP).all()
    steps = columns.step if stepped else np.zeros_like(columns.step)
    order = np.lexsort((columns.start_s, steps, columns.group, columns.rank))
    keys = np.stack([columns.rank[order], columns.group[order], steps[order]])
    fresh = np.ones(len(order), bool)
    fresh[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    starts = np.flatnonzero(fresh)
    within = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    numbers = np.zeros(len(order), np.int64)
    most = int(within.max(initial=0)) + 1
    numbers[order] = (steps[order] - int(steps.min(initial=0))) * most + within
    return numbers

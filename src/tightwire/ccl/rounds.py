"""What the ranks of a group did, aligned: round n of a group is its operation number n on all ranks.

A bounded window of each group is kept, in columns: cell [slot, column] is what the slot's rank did in the round that has
that column (sequence number modulo C); what is told of a rank at once lies close together. Sans-IO: calls in, rounds out;
linear in calls, which go through `native/rounds`: they are most of what a collector does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tightwire import _rounds  # type: ignore[attr-defined]
from tightwire.ccl.batch import Batch, Rows
from tightwire.ccl.kinds import Kinds
from tightwire.ccl.slots import Bools, Ints, Slots
from tightwire.core.events import DTYPES, operation

MOST_COLUMNS, LEAST_COLUMNS = 512, 64  # powers of two
CELLS = 2**22  # before fewer rounds of each group are kept
NO_PARTNER = 0xFFFFFFFF
CELL = np.dtype([("entered", "<f8"), ("ended", "<f8"), ("own", "<f4"), ("kind", "<u4")])
FAILED = np.uint32(1 << 31)  # of a cell's kind: it ended in error


@dataclass(frozen=True, slots=True)
class Signature:
    """What a rank called: operation, bytes, dtype and shape of what all ranks give alike, root or peer (as a rank of the
    group; None where there is none)."""

    op: int
    size_bytes: int
    dtype: int
    shape: int
    partner: int | None

    def __str__(self) -> str:
        name = operation(self.op)
        parts = [f"{self.size_bytes} bytes of {dtype_name(self.dtype)}"] if self.size_bytes else []
        parts += [f"root {self.partner}"] if self.partner is not None else []
        return f"{name} ({', '.join(parts)})" if parts else name


@dataclass(slots=True)
class Round:
    """One operation of a group: by rank, what it called, when it entered and when that ended (seconds of its host's
    clock), and who ended it in error."""

    group: int
    sequence: int
    called: dict[int, Signature] = field(default_factory=dict)
    entered_s: dict[int, float] = field(default_factory=dict)
    ended_s: dict[int, float] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)


class Rounds:
    """All groups' recent rounds. `newest` [G, C] is the sequence number of the round that has a column, `ended` how many
    of its ranks ended it, `unread` whether such an end came since somebody set it to false; `cells` [S, C] are of `CELL`,
    `marks` [S, C] twice their sequence number, and one more where the call has ended."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.kinds = Kinds()
        self.columns = MOST_COLUMNS
        self.cells = np.zeros((0, self.columns), CELL)
        self.marks, self.newest, self.ended, self._first = (np.zeros((0, self.columns), np.uint32) for _ in range(4))
        self.unread = np.zeros((0, self.columns), bool)
        self._mixed: dict[tuple[int, int], None] = {}

    def grow(self) -> None:
        """After `slots` grew."""
        columns = self.columns
        while columns > LEAST_COLUMNS and columns * len(self.slots.ranks) > CELLS:
            columns //= 2
        if columns < self.columns:
            self._keep(columns)
        self.cells, self.marks = (longer(each, len(self.slots.ranks)) for each in (self.cells, self.marks))
        self.newest, self.ended, self.unread, self._first = (
            longer(each, len(self.slots.facts)) for each in (self.newest, self.ended, self.unread, self._first)
        )

    def take(self, batch: Batch, slots: Ints, known: Bools) -> None:
        """A batch's calls; `slots` and whether they are `known` of its frames."""
        if not len(self.slots.ranks):
            return  # calls came before the groups they are in
        self._make_room(len(batch.kinds))
        numbers = self.kinds.numbers(batch.kinds)
        mixed = _rounds.take(
            np.frombuffer(batch.calls, np.uint8), np.ascontiguousarray(batch.ranks["calls"]), batch.at_s, batch.first_frame,
            batch.first_kind, numbers, slots, known.view(np.uint8), self.slots.group_of,
            self.slots.pair.view(np.uint8), self.kinds.of_group, self.kinds.of_pair, self.newest, self.ended,
            self.unread.view(np.uint8), self._first, self.marks, self.cells.reshape(-1).view(np.uint8),
        )  # fmt: skip
        self._mixed |= dict.fromkeys(mixed)

    def _make_room(self, more: int) -> None:
        """For kinds of calls: those that no round has any more are forgotten."""
        if self.kinds.full(more):
            used = np.concatenate([self.cells["kind"].reshape(-1) & ~FAILED, self._first.reshape(-1)])
            number = self.kinds.keep(used)
            self.cells["kind"] = number[self.cells["kind"] & ~FAILED] | (self.cells["kind"] & FAILED)
            self._first[...] = number[self._first]

    def mixed(self) -> list[tuple[int, int]]:
        """Rounds, by their group's number and sequence, in which ranks turned out to have called different things since
        the last time."""
        found, self._mixed = list(self._mixed), {}
        return found

    def get(self, group: int, sequence: int) -> Round | None:
        """By the group's number. None when it is forgotten or not known yet."""
        column = sequence % self.columns
        if group >= len(self.slots.facts) or self.newest[group, column] != sequence:
            return None
        place = self.slots.of(group)
        here = np.flatnonzero(self.marks[place, column] // 2 == sequence)
        rows, ranks = self.cells[place, column][here], self.slots.ranks[place][here].tolist()
        found = Round(self.slots.facts[group].group, sequence)
        found.called = dict(zip(ranks, self._signatures(rows), strict=True))
        found.entered_s = dict(zip(ranks, rows["entered"].tolist(), strict=True))
        found.ended_s = {rank: at_s for rank, at_s in zip(ranks, rows["ended"].tolist(), strict=True) if at_s == at_s}
        found.failed = {rank for rank, kind in zip(ranks, rows["kind"].tolist(), strict=True) if kind & int(FAILED)}
        return found

    def history(self, group: int, rank: int) -> dict[int, Signature]:
        """What one rank called in a group, by sequence number, the newest first."""
        place = self.slots.of(group)
        slot = place.start + int(np.flatnonzero(self.slots.ranks[place] == rank)[0])
        sequence = self.marks[slot] // 2
        here = np.flatnonzero((sequence == self.newest[group]) & (sequence > 0))
        here = here[np.argsort(sequence[here])[::-1]]
        return dict(zip(sequence[here].tolist(), self._signatures(self.cells[slot, here]), strict=True))

    def calls(self, rank: int) -> list[tuple[float, int, Signature]]:
        """What one rank called: when it entered (seconds of its host's clock), the group, what."""
        found = []
        for slot in np.flatnonzero(self.slots.ranks == rank).tolist():
            group = int(self.slots.group_of[slot])
            sequence = self.marks[slot] // 2
            here = np.flatnonzero((sequence == self.newest[group]) & (sequence > 0))
            rows, name = self.cells[slot, here], self.slots.facts[group].group
            entered_s, called = rows["entered"].tolist(), self._signatures(rows)
            found += [(at_s, name, signature) for at_s, signature in zip(entered_s, called, strict=True)]
        return found

    def lately(self, since_s: float, most: int) -> list[tuple[int, int, int, int, int, float, float, bool]]:
        """What ranks did, in the order of entry: rank, group, sequence number, operation, bytes, when it entered and ended
        (NaN: not yet), whether in error. The newest `most` that ended after `since_s`, and all that have not."""
        slots, entered, ended = self.slots, self.cells["entered"], self.cells["ended"]
        fresh = (self.marks > 1) & (self.marks // 2 == self.newest[slots.group_of])
        over = fresh & (ended >= since_s)
        times_s = entered[over]
        if len(times_s) > most:
            over &= entered >= np.partition(times_s, -most)[-most]
        slot, column = np.nonzero(over | (fresh & np.isnan(ended)))
        rows = self.cells[slot, column]
        order = np.argsort(rows["entered"], kind="stable")
        rows, column, slot = rows.take(order), column[order], slot[order]
        kinds = self.kinds.rows[rows["kind"] & ~FAILED]
        groups = np.array([facts.group for facts in slots.facts], np.uint64)[slots.group_of[slot]]
        columns = (
            slots.ranks[slot], groups, self.marks[slot, column] // 2, kinds["op"], kinds["bytes"], rows["entered"],
            rows["ended"], (rows["kind"] & FAILED) > 0,
        )  # fmt: skip
        return list(zip(*(each.tolist() for each in columns), strict=True))

    def forget(self) -> None:
        """A new process took a rank, as when a launcher starts the job again: all numbers start again."""
        for each in (self.cells, self.marks, self.newest, self.ended, self.unread, self._first):
            each[...] = np.zeros((), each.dtype)
        self._mixed.clear()

    def _signatures(self, rows: Rows) -> list[Signature]:
        kinds = self.kinds.rows[rows["kind"] & ~FAILED]
        return [
            Signature(op, size, dtype, shape, None if partner == NO_PARTNER else partner)
            for size, shape, op, partner, dtype in kinds.tolist()
        ]

    def _keep(self, columns: int) -> None:
        """Only so many of each group's rounds."""
        newest = self.newest.astype(np.int64)
        fresh = newest > np.maximum(newest.max(axis=1, initial=0, keepdims=True) - columns, 0)
        wide = fresh[self.slots.group_of[: len(self.cells)]]
        self.newest, self.ended, self.unread, self._first = (
            _folded(each, fresh, columns) for each in (self.newest, self.ended, self.unread, self._first)
        )
        self.cells, self.marks = (_folded(each, wide, columns) for each in (self.cells, self.marks))
        self.columns = columns


def longer(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """`array` with rows of zeros up to `length`."""
    return np.concatenate([array, np.zeros((length - len(array), array.shape[1]), array.dtype)])


def _folded(array: npt.NDArray[Any], fresh: Bools, columns: int) -> npt.NDArray[Any]:
    """Only those `fresh`, in so many columns."""
    found = np.zeros((len(array), columns), array.dtype)
    row, column = np.nonzero(fresh)
    found[row, column % columns] = array[row, column]
    return found


def dtype_name(code: int) -> str:
    return DTYPES[code] if 0 <= code < len(DTYPES) else DTYPES[0]

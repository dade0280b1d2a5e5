"""The kernel alone; what rounds hold after random looks is in test_digest and test_packing."""

from typing import Any

import numpy as np
import pytest

from tightwire import _rounds  # type: ignore[attr-defined]
from tightwire.ccl.digest import CALL, UNKNOWN
from tightwire.ccl.rounds import CELL

COLUMNS = 4


class Tables:
    """Of one group of two ranks, which call what is of kind 0, 1 (another size) or 2."""

    def __init__(self) -> None:
        self.newest, self.ended, self.first = (np.zeros((1, COLUMNS), np.uint32) for _ in range(3))
        self.unread = np.zeros((1, COLUMNS), np.uint8)
        self.marks = np.zeros((2, COLUMNS), np.uint32)
        self.cells = np.zeros((2, COLUMNS), CELL)

    def take(self, rows: list[tuple[int, ...]], counts: tuple[int, int], **other: Any) -> list[tuple[int, int]]:
        given: dict[str, Any] = {
            "calls": np.array(rows, CALL).view(np.uint8), "counts": np.array(counts, np.uint32),
            "at_s": np.array([100.0, 200.0]), "first_frame": np.array([0, 1]), "first_kind": np.array([0, 0]),
            "kinds": np.array([0, 1, 2], np.uint32), "slots": np.array([0, 1]), "known": np.ones(2, np.uint8),
            "group_of": np.zeros(2, np.int64), "pair": np.zeros(1, np.uint8), "of_group": np.array([5, 6, 5], np.uint64),
            "of_pair": np.array([5, 6, 7], np.uint64), "newest": self.newest, "ended": self.ended, "unread": self.unread,
            "first": self.first, "marks": self.marks, "cells": self.cells.reshape(-1).view(np.uint8), **other,
        }  # fmt: skip
        found: list[tuple[int, int]] = _rounds.take(**given)
        return found


def call(sequence: int, kind: int = 0, ended_us: int = UNKNOWN, failed: int = 0, frame: int = 0) -> tuple[int, ...]:
    return (sequence, 3_000_000, ended_us, 500, kind, frame, failed)


def test_calls_become_cells_on_their_hosts_clock() -> None:
    tables = Tables()
    assert tables.take([call(1), call(1, ended_us=1_000_000, failed=1)], (1, 1)) == []
    assert tables.cells["entered"][:, 1].tolist() == [97.0, 197.0]
    assert np.isnan(tables.cells["ended"][0, 1])
    assert tables.cells["ended"][1, 1] == 199.0
    assert tables.cells["kind"][1, 1] == 1 << 31
    assert tables.marks[:, 1].tolist() == [2, 3]
    assert (tables.newest[0, 1], tables.ended[0, 1], tables.unread[0, 1]) == (1, 1, 1)
    tables.take([call(1, ended_us=0), call(1, ended_us=0)], (1, 1))
    assert tables.cells["ended"][:, 1].tolist() == [100.0, 199.0]  # what has ended stays as it is
    assert tables.ended[0, 1] == 2


def test_a_later_round_takes_the_column_and_an_older_one_is_passed_over() -> None:
    tables = Tables()
    tables.take([call(1, ended_us=0), call(1, ended_us=0)], (1, 1))
    tables.take([call(1 + COLUMNS)], (1, 0))
    assert (tables.newest[0, 1], tables.ended[0, 1]) == (1 + COLUMNS, 0)
    tables.take([call(1)], (0, 1))
    assert tables.marks[:, 1].tolist() == [2 * (1 + COLUMNS), 3]


@pytest.mark.parametrize(("kind", "pair", "mixed"), [(0, 0, []), (1, 0, [(0, 1)]), (2, 0, []), (2, 1, [(0, 1)])])
def test_what_is_not_comparable_with_the_first_call_is_told_once(kind: int, pair: int, mixed: object) -> None:
    tables = Tables()
    pairs = np.array([pair], np.uint8)
    assert tables.take([call(1), call(1, kind)], (1, 1), pair=pairs) == mixed
    assert tables.take([call(1, ended_us=0), call(1, kind, ended_us=0)], (1, 1), pair=pairs) == []


@pytest.mark.parametrize(
    ("rows", "counts", "other"),
    [
        ([call(1, kind=3)], (1, 0), {}),
        ([call(1, frame=2)], (1, 0), {}),
        ([call(1)], (1, 1), {}),
        ([call(1)], (0, 0), {}),
        ([call(1)], (1, 0), {"slots": np.array([9, 9])}),
        ([call(1)], (1, 0), {"kinds": np.array([9, 9, 9], np.uint32)}),
        ([call(1)], (1, 0), {"group_of": np.array([7, 7])}),
        ([call(1)], (1, 0), {"marks": np.zeros((1, COLUMNS), np.uint32)}),
    ],
)
def test_what_does_not_fit_is_refused(rows: list[Any], counts: Any, other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"call|there|slots"):
        Tables().take(rows, counts, **other)

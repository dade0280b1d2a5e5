"""Whom a processor quota makes slow, and for how long it holds whom back beyond what is usual."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from tightwire.ccl.analyzer.slow.processor import ProcessorTime, slowed
from tightwire.ccl.digest import RANK


@dataclass
class Standing:
    """Of ranks that are held back or get no processor for so long until `at_s`, all told."""

    at_s: float
    held_s: list[float]
    starved_s: list[float]
    known: np.ndarray = field(init=False)
    seen_s: np.ndarray = field(init=False)
    rows: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.known = np.ones(len(self.held_s), bool)
        self.seen_s = np.full(len(self.held_s), self.at_s)
        self.rows = np.zeros(len(self.held_s), RANK)
        self.rows["state"], self.rows["throttled_s"] = b"R", self.held_s
        self.rows["starved_s"] = self.rows["throttled_s"] + self.starved_s


def seen(*told: tuple[float, list[float]], starved: bool = False) -> ProcessorTime:
    found = ProcessorTime()
    for at_s, times_s in told:
        none = [0.0] * len(times_s)
        found.take(Standing(at_s, *(none, times_s) if starved else (times_s, none)))
    return found


@pytest.mark.parametrize(
    ("now_s", "starved_s"),
    [
        ([1.5, 1.5, 1.5], [0.0, 0.0, 0.0]),  # as ever
        ([3.0, 1.5, 1.5], [1.5, 0.0, 0.0]),  # one of them more than the others
        ([3.0, 2.8, 3.1], [1.5, 1.3, 1.6]),  # the machine has become busy: chance decides who is late
    ],
)
def test_the_machine_keeps_a_rank_waiting_more_than_the_others_or_than_before(now_s: list[float], starved_s: list[float]) -> None:
    found = seen((0.0, [0.0] * 3), (4.0, [1.0] * 3), (6.0, now_s), starved=True)
    assert found.starved_s(4.5) == pytest.approx(starved_s)
    assert ProcessorTime().starved_s(0.0).size == 0


def test_only_what_a_quota_holds_back_beyond_the_usual_counts() -> None:
    found = seen((0.0, [0.0, 0.0]), (4.0, [0.4, 0.0]), (6.0, [0.6, 0.8]))
    assert found.held_back_s(4.5) == pytest.approx([0.0, 0.8])


def test_without_a_time_before_all_of_it_counts() -> None:
    found = seen((3.0, [1.0, 1.0]), (5.0, [1.5, 1.0]))
    assert found.held_back_s(1.0) == pytest.approx([0.5, 0.0])
    assert found.held_back_s(3.5) == pytest.approx([0.5, 0.0])


def test_of_who_came_later_nothing_is_known() -> None:
    found = seen((0.0, [0.0]), (1.0, [0.0, 5.0]), (2.0, [0.2, 5.5]))
    assert found.held_back_s(0.0) == pytest.approx([0.2, 0.0])
    assert found.held_back_s(1.0) == pytest.approx([0.2, 0.5])
    assert ProcessorTime().held_back_s(0.0).size == 0


@pytest.mark.parametrize(
    ("held", "longer", "often", "ranks"),
    [
        (0.15, 0.14, 0.5, (1,)),  # a mild one: the kernel says so itself
        (0.05, 0.14, 0.5, ()),
        (0.15, 0.05, 0.5, ()),  # nothing is lost
        (0.3, 0.3, 0.1, ()),  # in one step of all
        (0.3, 0.8, 0.9, (1,)),
        (0.2, 0.8, 0.9, ()),  # most is lost to something else
    ],
)
def test_a_quota_is_told_where_it_holds_back_again_and_again(
    held: float, longer: float, often: float, ranks: tuple[int, ...]
) -> None:
    assert slowed(np.array([0.0, held, 0.0]), longer, often) == ranks

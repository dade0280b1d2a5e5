"""What stands beside a hang that is known, and what only follows from it."""

import numpy as np
import pytest
from tests.ccl.analyzer.test_not_entered import RHYTHM, STUCK, feed, sample

from tightwire.ccl.analyzer import beside, wait_for
from tightwire.ccl.analyzer.inconsistent import Inconsistency
from tightwire.ccl.analyzer.not_entered import HEARD_S, How, Suspect
from tightwire.ccl.collector import Collector
from tightwire.ccl.probe.ring import Goodbye
from tightwire.ccl.rounds import Round, Signature

SUM, GATHER = Signature(1, 16, 1, 7, None), Signature(2, 16, 1, 7, None)
TOLD_S = 3.5


def named(collector: Collector, rank: int, how: How, since_s: float, mixed: tuple[Round, ...] = ()) -> bool:
    suspect = Suspect(rank, how, None, (0, 1), since_s)
    return bool(beside.suspects([suspect], collector, wait_for.waits(collector), mixed, TOLD_S))


def test_who_did_not_wait_when_it_went_may_have_gone_by_itself_and_be_heard_of_later() -> None:
    collector, _ = feed(*RHYTHM, (3.0, STUCK))  # rank 2 waits for nobody, 3 does
    assert named(collector, 2, "left", TOLD_S + HEARD_S)
    assert not named(collector, 2, "left", TOLD_S + HEARD_S + 1.5)  # the longest pause was 1 s
    assert named(collector, 3, "stopped", TOLD_S)
    assert not named(collector, 3, "stopped", TOLD_S + 0.1)


@pytest.mark.parametrize("goodbye", [Goodbye.NONE, Goodbye.ERROR])
def test_who_dies_after_others_left_in_error_may_have_died_of_that(goodbye: Goodbye) -> None:
    collector, _ = feed(*RHYTHM, (3.0, [sample(0, {1: (21, 20)}, None, goodbye), *STUCK[1:]]))
    assert named(collector, 2, "left", TOLD_S) == (goodbye == Goodbye.NONE)
    assert named(collector, 2, "elsewhere", TOLD_S)


def test_who_called_a_round_that_differs_or_failed_is_a_victim() -> None:
    collector, _ = feed(*RHYTHM, (3.0, [sample(0, {1: (21, 21)}, failed=1), *STUCK[1:]]))
    mixed = Round(1, 21, {2: GATHER, 3: SUM})
    assert not named(collector, 0, "elsewhere", TOLD_S)
    assert named(collector, 2, "elsewhere", TOLD_S)
    assert not named(collector, 2, "elsewhere", TOLD_S, (mixed,))


@pytest.mark.parametrize(
    ("failed", "here", "counts"), [(0, set(), True), (1, {3}, True), (1, set(), False), (2, {3}, False)]
)
def test_calls_that_differ_after_a_failure_are_how_the_job_deals_with_it(
    failed: int, here: set[int], counts: bool
) -> None:
    collector, _ = feed(*RHYTHM, (3.0, [*STUCK[:3], sample(3, {1: (21, 20)}, failed=failed)]))
    called = Round(1, 21, {0: SUM, 1: SUM, 3: GATHER}, dict.fromkeys((0, 1, 3), 3.0), failed=here)
    found = Inconsistency(called, (3,), (0, 1), GATHER, SUM, "operation", 3.0)
    assert beside.differing([found], collector) == ([found] if counts else [])


def test_somebody_is_undecided_who_is_missed_and_of_whom_nothing_is_said() -> None:
    collector, _ = feed(*RHYTHM, (3.0, STUCK))
    waiting = wait_for.waits(collector)
    assert beside.undecided(waiting, collector, (), ())
    assert not beside.undecided(waiting, collector, (), (2,))
    assert not beside.undecided(waiting, collector, (Round(1, 20, {2: GATHER}),), ())
    gone, _ = feed(*RHYTHM, (3.0, [*STUCK[:2], sample(2, {1: (20, 20)}, None), STUCK[3]]))
    assert not beside.undecided(wait_for.waits(gone), gone, (), ())
    assert np.flatnonzero(gone.standing.dead).tolist() == [2]

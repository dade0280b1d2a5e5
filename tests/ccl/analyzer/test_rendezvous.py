"""Who did not come to `init_process_group`, on synthetic summaries and a fake clock."""

import pytest
from tests.ccl.analyzer.test_not_entered import feed, sample

from tightwire.ccl.analyzer import not_entered, rendezvous, wait_for
from tightwire.ccl.summary import GroupFacts, RankSample
from tightwire.core.events import RENDEZVOUS

MEETING = GroupFacts(7, RENDEZVOUS, [0, 1, 2, 3])
COME, NOT_COME = {7: (1, 0)}, {}


def found(*samples: RankSample, at_s: float = 70.0, earlier: list[RankSample] | None = None) -> rendezvous.Missing | None:
    collector, now_s = feed((1.0, earlier or list(samples)), (at_s, list(samples)), facts=[MEETING])
    assert not_entered.find(collector, wait_for.waits(collector), now_s) == []
    return rendezvous.find(collector, now_s)


def test_the_rank_that_runs_and_does_not_come_is_named() -> None:
    missing = found(sample(0, COME), sample(1, COME), sample(2, NOT_COME, "R"), sample(3, COME))
    assert missing is not None
    told = rendezvous.verdict(missing, {}, 70.0)
    assert (told.anomaly, told.guilty_ranks, told.waiting_ranks, told.confidence) == ("H1", [2], [0, 1, 3], "high")


def test_a_rank_of_which_nothing_was_seen_is_named_at_low_confidence() -> None:
    missing = found(sample(0, COME), sample(1, COME), sample(2, COME))
    assert missing is not None
    told = rendezvous.verdict(missing, {}, 70.0)
    assert (told.guilty_ranks, told.confidence) == ([3], "low")
    assert "nothing was seen of rank 3" in told.evidence[-1]


def test_nobody_early_nor_when_all_came_nor_while_a_rank_reads_its_data() -> None:
    late = [sample(0, COME), sample(1, COME), sample(2, NOT_COME, "R"), sample(3, COME)]
    assert found(*late, at_s=50.0) is None
    assert found(*(sample(rank, COME) for rank in range(4))) is None
    reading = [*late[:2], sample(2, NOT_COME, "D", io_bytes=2**30), late[3]]
    assert found(*reading, earlier=late) is None


@pytest.mark.parametrize(("state", "goodbye"), [(None, 0), ("T", 0), ("S", 2)])
def test_who_died_or_is_stopped_is_no_case_for_this_class(state: str | None, goodbye: int) -> None:
    collector, now_s = feed(
        (1.0, [sample(0, COME), sample(1, NOT_COME, state, goodbye), sample(2, COME), sample(3, COME)]),
        (70.0, [sample(0, COME), sample(1, NOT_COME, state, goodbye), sample(2, COME), sample(3, COME)]),
        facts=[MEETING],
    )
    assert rendezvous.find(collector, now_s) is None

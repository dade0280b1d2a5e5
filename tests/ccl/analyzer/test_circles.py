"""Ranks that wait for each other: who is named, on synthetic summaries and a fake clock."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ccl.analyzer.test_not_entered import PIPE, RHYTHM, feed, sample

from tightwire.ccl.analyzer import circles, not_entered, wait_for
from tightwire.ccl.analyzer.circles import _circle
from tightwire.ccl.collector import Collector
from tightwire.ccl.packing import Packer
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.core.events import RECORD, Kind

ASIDE, OTHER_PIPE = GroupFacts(3, "aside", [0, 1, 2, 3]), GroupFacts(4, "other pipe", [2, 3])
CROSSED = [
    sample(0, {1: (21, 20)}), sample(1, {1: (21, 20)}), sample(2, {1: (20, 20), 2: (1, 0)}),
    sample(3, {1: (20, 20), 4: (1, 0)}),
]  # fmt: skip
ELSEWHERE = [
    sample(0, {1: (21, 20)}), sample(1, {1: (21, 20)}), sample(2, {1: (20, 20), 3: (1, 0)}), sample(3, {1: (21, 20)}),
]  # fmt: skip


def stand(last: list[RankSample], at_s: float = 12.0) -> tuple[Collector, float]:
    return feed(*RHYTHM, (3.0, last), (at_s, last), facts=[PIPE, ASIDE, OTHER_PIPE])


def verdict(collector: Collector, now_s: float) -> circles.Verdict | None:
    found = circles.find(collector, wait_for.waits(collector), now_s)
    return None if found is None else circles.verdict(found, collector.groups, {}, now_s)


def called(collector: Collector, rank: int, *calls: tuple[int, int]) -> None:
    """Rank called these (group, operation), one after the other; each group counts for itself."""
    records = np.zeros(len(calls), RECORD)
    for at, (group, op) in enumerate(calls):
        sequence = sum(earlier == group for earlier, _ in calls[: at + 1])
        records[at] = ((at + 1) * 10**6, group, sequence, 16, 0, op, 0xFFFFFFFF, Kind.ENTERED, 1, 0, 0)
    counts = {group: (sum(each == group for each, _ in calls), 0) for group, _ in calls}
    told = msgspec.structs.replace(sample(rank, counts), records=records.tobytes())
    collector.take([Packer().digest(Summary("host", 0.1, [told], []))])  # of before: only the calls are new


def test_two_ranks_that_wait_for_each_other_are_both_named_with_what_each_waits_in() -> None:
    collector, now_s = stand(CROSSED)
    assert not_entered.find(collector, wait_for.waits(collector), now_s) == []
    told = verdict(collector, now_s)
    assert told is not None
    assert (told.anomaly, told.guilty_ranks, told.waiting_ranks, told.confidence) == ("H1", [2, 3], [0, 1], "high")
    assert "rank 2 waits in allreduce number 1 of group 'pipe' for rank 3" in told.evidence[0]
    assert "rank 3 waits in allreduce number 1 of group 'other pipe' for rank 2" in told.evidence[1]


def test_one_of_two_is_named_alone_only_for_its_earlier_calls_and_at_low_confidence() -> None:
    collector, now_s = stand(CROSSED)
    called(collector, 2, (1, 1), (2, 1), (1, 1), (2, 1), (1, 1), (2, 1))  # the pipe comes after the world, as always
    called(collector, 3, (1, 1), (2, 1), (1, 1), (2, 1), (1, 1), (4, 1))
    told = verdict(collector, now_s)
    assert told is not None
    assert (told.guilty_ranks, told.confidence) == ([3], "low")


@pytest.mark.parametrize(("departed", "confidence"), [(True, "high"), (False, "low")])
def test_the_rank_that_all_others_wait_for_while_it_waits_for_them_in_another_group(
    departed: bool, confidence: str
) -> None:
    collector, now_s = stand(ELSEWHERE)
    called(collector, 2, *[(1, 1)] * 20, (3, 1) if departed else (1, 1))
    told = verdict(collector, now_s)
    assert told is not None
    assert (told.guilty_ranks, told.waiting_ranks, told.confidence) == ([2], [0, 1, 3], confidence)
    assert told.group == "world"


def test_a_circle_needs_patience_and_ranks_that_really_wait() -> None:
    assert verdict(*stand(CROSSED, at_s=9.0)) is None
    burning = [*CROSSED[:3], sample(3, {1: (20, 20), 4: (1, 0)}, state="R")]
    assert verdict(*stand(burning)) is None
    writing = [*CROSSED[:3], sample(3, {1: (20, 20), 4: (1, 0)}, io_bytes=2**30)]
    assert verdict(*feed(*RHYTHM, (3.0, CROSSED), (12.0, writing), facts=[PIPE, OTHER_PIPE])) is None


def test_chains_are_no_circles() -> None:
    chain = [
        sample(0, {1: (21, 20)}),
        sample(1, {1: (21, 20)}),
        sample(2, {1: (20, 20), 2: (1, 0)}),
        sample(3, {1: (20, 20)}),
    ]
    assert verdict(*stand(chain)) is None


@given(st.dictionaries(st.integers(0, 9), st.frozensets(st.integers(0, 9), max_size=4), max_size=10))
def test_a_circle_is_found_exactly_where_there_is_one(edges: dict[int, frozenset[int]]) -> None:
    edges = {rank: missing - {rank} for rank, missing in edges.items()}
    found = _circle(edges)
    assert all(after in edges[rank] for rank, after in zip(found, [*found[1:], *found[:1]], strict=True))
    reach = {rank: set(missing) for rank, missing in edges.items()}
    for _ in edges:
        for rank in reach:
            reach[rank] |= {far for near in reach[rank] & set(reach) for far in reach[near]}
    assert bool(found) == any(rank in far for rank, far in reach.items())

"""What ranks did comes through packer, digests and collector as it was, and lost digests change nothing but what is known."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ccl.digests import FACTS, RANKS, Action, Ranks, looks
from tightwire.ccl import digest
from tightwire.ccl.collector import Collector
from tightwire.ccl.packing import REFRESHED, Packer

NOTHING: tuple[list[Action], ...] = ([],) * RANKS
US = 2e-6  # a call's times are whole microseconds before the digest's


def known(collector: Collector) -> dict[tuple[int, int, int], tuple[float, float, float, int, bool]]:
    """By rank, group and sequence: when it entered, its own time, when it ended, bytes, whether in error."""
    found = {}
    for number, facts in enumerate(collector.slots.facts):
        for sequence in range(1, 26):
            round_ = collector.rounds.get(number, sequence)
            for rank, called in round_.called.items() if round_ is not None else ():
                place = collector.slots.of(number).start + facts.ranks.index(rank)
                own_s = float(collector.rounds.cells["own"][place, sequence % collector.rounds.columns])
                found[rank, facts.group, sequence] = (
                    round_.entered_s[rank], own_s, round_.ended_s.get(rank, math.nan), called.size_bytes,
                    rank in round_.failed,
                )  # fmt: skip
    return found


@given(looks)
def test_all_is_told_as_it_was(acted: list[tuple[list[Action], ...]]) -> None:
    ranks, packer, collector = Ranks(), Packer(), Collector()
    for each in acted:
        collector.take([digest.decode(digest.encode(packer.digest(ranks.look(each))))])
    told = known(collector)
    assert told.keys() == ranks.did.keys()
    for key, did in ranks.did.items():
        entered_s, own_s, ended_s, size_bytes, failed = told[key]
        assert entered_s == pytest.approx(did.entered_ns / 1e9, abs=US)
        assert (math.isnan(own_s), math.isnan(ended_s)) == (did.own_ns is None, did.ended_ns is None)
        assert did.own_ns is None or own_s == pytest.approx(did.own_ns / 1e9, abs=US, rel=1e-6)
        assert did.ended_ns is None or ended_s == pytest.approx(did.ended_ns / 1e9, abs=US)
        assert (size_bytes, failed) == (did.size_bytes, did.failed)


@given(looks, st.data())
def test_what_is_lost_is_not_known_and_where_ranks_are_is_known_again(
    acted: list[tuple[list[Action], ...]], data: st.DataObject
) -> None:
    ranks, packer, collector = Ranks(), Packer(), Collector()
    lost = data.draw(st.lists(st.booleans(), min_size=len(acted), max_size=len(acted)))
    for each, gone in zip(acted + [NOTHING] * (2 * REFRESHED), lost + [False] * (2 * REFRESHED), strict=True):
        told = packer.digest(ranks.look(each))
        if not gone:
            collector.take([told])
    for group in FACTS:
        for rank in group.ranks:
            frame, view = ranks.frame(rank, group.group), collector.ranks[rank]
            assert view.entered(group.group) == frame.entered_seq
    for key, (entered_s, _, ended_s, _, _) in known(collector).items():
        did = ranks.did[key]
        assert entered_s == pytest.approx(did.entered_ns / 1e9, abs=US)
        assert math.isnan(ended_s) or ended_s == pytest.approx((did.ended_ns or 0) / 1e9, abs=US)


def test_where_nothing_changes_little_is_told() -> None:
    ranks, packer = Ranks(), Packer()
    first = packer.digest(ranks.look(([(0, 0, 1)],) * RANKS))
    told = [packer.digest(ranks.look(NOTHING)) for _ in range(REFRESHED)]
    assert min(len(each.frames) + len(each.calls) for each in told) == 0
    assert len(first.frames) > 0
    again = [each for each in told if each.frames]
    assert 1 <= sum(each.whole for each in again) <= len(again) < REFRESHED  # and yet all of it now and then
    packer.renew()
    assert packer.digest(ranks.look(NOTHING)).whole


def test_groups_are_described_by_the_host_of_their_first_rank_unless_it_is_alone() -> None:
    summary = Ranks().look(NOTHING)
    second = msgspec.structs.replace(summary, ranks=summary.ranks[2:])
    assert Packer().digest(second).groups == []
    assert Packer(alone=True).digest(second).groups == FACTS


@given(looks, looks)
def test_a_collector_that_knows_nothing_follows_from_a_whole_digest_on(
    before: list[tuple[list[Action], ...]], after: list[tuple[list[Action], ...]]
) -> None:
    ranks, packer, collector = Ranks(), Packer(), Collector()
    for each in before:
        packer.digest(ranks.look(each))
    packer.renew()
    for each in after:
        collector.take([packer.digest(ranks.look(each))])
    for group in FACTS:
        for rank in group.ranks:
            frame, view = ranks.frame(rank, group.group), collector.ranks[rank]
            assert view.entered(group.group) == frame.entered_seq
    open_now = {key for key, did in ranks.did.items() if did.ended_ns is None}
    assert open_now <= known(collector).keys()

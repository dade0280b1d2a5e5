"""H3 on synthetic connections: a link, a device, or nothing that the transport could be blamed for."""

import pytest
from tests.ccl.analyzer.test_not_entered import RHYTHM, WORLD, feed, sample

from tightwire.ccl.analyzer import judge, not_entered, stopped, wait_for
from tightwire.ccl.connections import columns
from tightwire.ccl.inet_diag import Socket
from tightwire.ccl.transport import Connection

HUNG = [sample(rank, {1: (21, 20)}) for rank in range(4)]  # all have entered, nobody gets out


def end(
    rank: int, peer: int, queued: int = 96, acked: int | None = 500, tries: int = 3, resending: bool = True
) -> Connection:
    return Connection(rank, peer, Socket(0, f"{rank}:1", f"{peer}:1", queued, resending, tries, acked, 500))


def looked(before: list[Connection], after: list[Connection]) -> stopped.Stopped | None:
    collector, now_s = feed(*RHYTHM, (3.0, HUNG), (7.0, HUNG))
    waits = stopped.stuck(wait_for.waits(collector), now_s)
    assert len(waits) == 4
    return stopped.find(waits, columns(before), columns(after))


def test_one_silent_pair_is_a_link() -> None:
    ends = [end(2, 3), end(3, 2), end(0, 1, queued=0)]
    found = looked(ends, ends)
    assert (found.pairs, found.devices) == (((2, 3),), ())
    verdict = judge.stopped(found, {1: WORLD}, 7.0)
    assert (verdict.anomaly, verdict.guilty_ranks, verdict.guilty_links) == ("H3", [], ["2-3"])
    assert any("rank 2 → rank 3" in line and "96 bytes" in line for line in verdict.evidence)


def test_silent_pairs_that_share_a_rank_are_its_device() -> None:
    ends = [end(1, 2), end(2, 3)]
    assert looked(ends, ends).devices == (2,)
    apart = [end(0, 1), end(2, 3)]
    found = looked(apart, apart)
    assert (found.pairs, found.devices) == (((0, 1), (2, 3)), ())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (end(2, 3, acked=400), end(2, 3)),  # it moves, if slowly
        (end(2, 3, queued=0), end(2, 3)),  # only just handed over
        (end(2, 3), end(2, 3, queued=0)),
        (end(2, 3, resending=False), end(2, 3, resending=False)),  # the receiver does not read
        (end(2, 3, tries=5), end(2, 3, tries=1)),  # answered meanwhile
    ],
)
def test_what_moves_or_waits_for_its_receiver_is_not_blamed(before: Connection, after: Connection) -> None:
    assert looked([before], [after]) is None


def test_without_byte_counts_the_queue_and_the_tries_tell() -> None:
    ends = [end(2, 3, acked=None)]
    assert looked(ends, ends).pairs == ((2, 3),)


def test_nobody_is_stuck_in_transfer_while_a_rank_is_missing_or_all_move() -> None:
    missing = [*HUNG[:2], sample(2, {1: (20, 20)}), HUNG[3]]
    for samples, at_s in ((missing, 9.0), (HUNG, 4.0)):
        collector, now_s = feed(*RHYTHM, (3.0, samples), (at_s, samples))
        assert stopped.stuck(wait_for.waits(collector), now_s).rank.tolist() == []


def test_a_rank_that_waits_for_the_transport_is_not_accused_of_not_entering() -> None:
    # 0 and 1 got out and wait in the next round; 2 and 3 are still in the last one
    torn = [sample(rank, {1: (22, 21) if rank < 2 else (21, 20)}) for rank in range(4)]
    collector, now_s = feed(*RHYTHM, (3.0, torn), (15.0, torn))
    assert not_entered.find(collector, wait_for.waits(collector), now_s) == []

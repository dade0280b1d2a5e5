"""Who is where, from digests; a job that starts anew, and the dead of its earlier starts."""

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.ccl.fleet.helpers import digest, sample
from tightwire.ccl.digest import RANK, Digest
from tightwire.ccl.fleet.roster import SETTING_UP_S, Place, Roster
from tightwire.ccl.summary import RankSample

TICKS = 100
FIRST, SECOND = 1000 * TICKS, 1100 * TICKS  # starts of processes, in ticks of the host's clock
AHEAD_S = 5000.0  # our clock


def told(host: str, at_s: float, *ranks: RankSample) -> tuple[Digest, float]:
    """As `Host.release` gives it: of that time on the host's clock, moved to ours."""
    return msgspec.structs.replace(digest(at_s, *ranks, host=host), at_s=at_s + AHEAD_S), AHEAD_S


def ranks_of(found: Digest) -> list[int]:
    return np.frombuffer(found.ranks, RANK)["rank"].tolist()


def test_who_is_where() -> None:
    roster = Roster()
    assert not roster.over
    kept, anew = roster.take(
        [told("a", 1001.0, sample(0, pid_start=FIRST), sample(1, pid_start=FIRST)), told("b", 1001.5, sample(2, pid_start=FIRST))]
    )
    assert ([ranks_of(each) for each in kept], anew) == ([[0, 1], [2]], False)
    assert roster.places[2] == Place("b", 1002, FIRST, True)
    assert roster.processes[1] == (1001, FIRST)
    assert roster.of_host("a") == [0, 1]
    roster.take([told("a", 1002.0, sample(0, 3, pid_start=FIRST, alive=False, at_s=1001.0), sample(1, pid_start=FIRST))])
    assert roster.of_host("a") == [1]
    assert not roster.over


def test_a_job_whose_ranks_are_all_gone_is_over() -> None:
    roster = Roster()
    roster.take([told("a", 1001.0, sample(0, pid_start=FIRST))])
    roster.take([told("a", 1002.0, sample(0, 2, pid_start=FIRST, alive=False, at_s=1001.5))])
    assert roster.over


def test_another_process_in_a_ranks_place_begins_the_job_anew() -> None:
    roster = Roster()
    roster.take([told("a", 1001.0, sample(0, pid_start=FIRST)), told("b", 1001.0, sample(1, pid_start=FIRST))])
    kept, anew = roster.take(
        [
            told("b", 1100.5, sample(1, 9, pid_start=FIRST, alive=False, at_s=1099.0)),
            told("a", 1101.0, sample(0, pid_start=SECOND)),
            told("b", 1101.5, sample(1, 9, pid_start=FIRST, alive=False, at_s=1099.0)),  # of the start before
        ]
    )
    assert ([ranks_of(each) for each in kept], anew) == ([[0], []], True)
    assert set(roster.places) == {0}
    kept, anew = roster.take([told("b", 1102.0, sample(1, pid_start=SECOND + 5))])
    assert ([ranks_of(each) for each in kept], anew) == ([[1]], False)


def test_a_smaller_job_is_not_blamed_for_the_dead_of_a_larger_one_in_the_same_folder() -> None:
    roster = Roster()
    dead = sample(3, 7, pid_start=FIRST, alive=False, at_s=1050.0)
    never_entered = sample(2, pid_start=FIRST, alive=False)
    kept, _ = roster.take([told("a", 1101.0, sample(0, pid_start=SECOND), dead, never_entered)])
    assert [ranks_of(each) for each in kept] == [[0]]
    fresh = sample(2, pid_start=SECOND - int(SETTING_UP_S * TICKS) + TICKS, alive=False)  # died while others were started
    kept, _ = roster.take([told("a", 1102.0, sample(0, pid_start=SECOND), fresh)])
    assert [ranks_of(each) for each in kept] == [[0, 2]]


starts = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([FIRST, SECOND]), st.booleans()), max_size=6)


@given(st.lists(st.tuples(st.sampled_from("ab"), starts), max_size=8))
def test_it_is_the_same_in_one_slice_and_in_many(looks: list[tuple[str, list[tuple[int, int, bool]]]]) -> None:
    """Whatever agents say; but no process is on two hosts."""
    given_ = []
    for number, (host, ranks) in enumerate(looks):
        each = {rank: sample(rank, pid_start=start + (host == "b"), alive=alive) for rank, start, alive in ranks}
        given_.append(told(host, 1200.0 + number, *each.values()))
    once, by_turns = Roster(), Roster()
    _, anew = once.take(given_)
    anews = [by_turns.take([each])[1] for each in given_]
    assert anew == any(anews)
    assert once.places == by_turns.places

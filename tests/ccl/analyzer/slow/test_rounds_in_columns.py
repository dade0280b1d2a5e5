"""Events into rounds, rounds into steps: who came late by its own doing, how long the bytes took, whose clock is ahead."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightwire.ccl.analyzer.slow import excess
from tightwire.ccl.analyzer.slow.account import LEARNT, WARM_UP, Account, _usual
from tightwire.ccl.analyzer.slow.clocks import Clocks
from tightwire.ccl.analyzer.slow.timing import PATIENCE_S, Timer, Timing
from tightwire.ccl.collector import Collector
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.core.events import RECORD, Kind

WORLD = GroupFacts(7, "world", [0, 1, 2, 3])
ALLREDUCE = 1


def record(kind: Kind, at_s: float, sequence: int, group: int = 7, size: int = 64) -> np.ndarray:
    made = np.zeros(1, RECORD)
    made["time_ns"], made["seq"], made["kind"], made["group"] = round(at_s * 1e9), sequence, kind, group
    made["op"], made["bytes"] = ALLREDUCE, size
    return made


def timed(
    entries: list[list[float]],
    ends: list[list[float]],
    skew_s: tuple[float, ...] = (0.0,) * 4,
    lead_s: np.ndarray | None = None,
) -> Timing:
    """Of one group: when each rank entered and left each round."""
    collector = Collector()
    records = {}
    for rank in range(4):
        records[rank] = []
        for sequence, (entered, ended) in enumerate(zip(entries, ends, strict=True), start=1):
            records[rank] += [record(Kind.ENTERED, entered[rank] + skew_s[rank], sequence)]
            records[rank] += [record(Kind.DONE, ended[rank] + skew_s[rank], sequence)]
    told(collector, records)
    timing = Timer(collector.rounds).take(0.0, np.zeros(4) if lead_s is None else lead_s)
    assert timing is not None
    return timing


def told(collector: Collector, records: dict[int, list[np.ndarray]], at_s: float = 1000.0) -> None:
    samples = []
    for rank, made in records.items():
        entered, done = (sum(int(each["kind"][0]) == kind for each in made) for kind in (Kind.ENTERED, Kind.DONE))
        frame, data = GroupFrame(7, entered, 0, done, ALLREDUCE), b"".join(each.tobytes() for each in made)
        samples.append(RankSample(rank, 4, 9, 1, 0, len(made), [frame], ProcessState("R", 1.0), None, data))
    collector.take([Packer().digest(Summary("host", at_s, samples, [WORLD]))])


def lower_median(values: list[float]) -> float:
    there = sorted(value for value in values if value == value)
    return there[(len(there) - 1) // 2]


@given(st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_members_are_timed_as_the_definitions_say(seed: int) -> None:
    """Some of whom nothing is known, some that have not left, clocks that are ahead."""
    rng = np.random.default_rng(seed)
    rounds, lead_s = 6, rng.normal(0, 0.1, 4)
    entries = np.cumsum(rng.exponential(0.1, (rounds, 4)) + 0.3, axis=0)
    ends = entries.max(axis=1, keepdims=True) + rng.exponential(0.05, (rounds, 4))
    collector, records = Collector(), {}
    known = [rank for rank in range(4) if rank < 3 or rng.random() < 0.7]
    for rank in known:
        records[rank] = []
        for sequence in range(1, rounds + 1):
            records[rank] += [record(Kind.ENTERED, entries[sequence - 1, rank], sequence), record(Kind.DONE, ends[sequence - 1, rank], sequence)]
    told(collector, records)
    timer = Timer(collector.rounds)
    timing = timer.take(0.0, lead_s)
    if len(known) < 4:
        assert timing is None
        timing = timer.take(PATIENCE_S, lead_s)
    assert timing is not None
    own_s = timing.own_s.reshape(rounds, 4)
    for number in range(rounds):
        entered = [entries[number, rank] - lead_s[rank] if rank in known else np.nan for rank in range(4)]
        left = [ends[number, rank] - lead_s[rank] if rank in known else np.nan for rank in range(4)]
        late = [max(at - lower_median(entered), 0.0) if at == at else 0.0 for at in entered]
        assert timing.begin_s[number] == pytest.approx(np.nanmax(entered), abs=3e-6)
        assert timing.over_s[number] == pytest.approx(max(np.nanmin(left), np.nanmax(entered)), abs=3e-6)
        row = slice(4 * number, 4 * number + 4)
        np.testing.assert_allclose(timing.left_s[row], left, atol=3e-6)
        np.testing.assert_allclose(timing.stay_s[row], np.array(left) - entered, atol=3e-6)
        np.testing.assert_allclose(timing.late_s[row], np.minimum(late, own_s[number]), atol=3e-6)
        assert timing.rank[row].tolist() == [0, 1, 2, 3]
    assert own_s[1:, known].any()
    assert not own_s[:, [rank for rank in range(4) if rank not in known]].any()


def test_lateness_is_a_ranks_own_doing_only_as_far_as_it_was_away() -> None:
    # in round 2 rank 2 comes 0.5 s late; in round 3 rank 1 does, but it left round 2 only 0.1 s before
    timing = timed(
        [[1.0] * 4, [2.0, 2.0, 2.5, 2.0], [3.0, 3.5, 3.0, 3.0]], [[1.1] * 4, [2.6, 3.4, 2.6, 2.6], [3.6] * 4]
    )
    late = timing.late_s.reshape(3, 4)
    assert late[1] == pytest.approx([0, 0, 0.5, 0])
    assert late[2] == pytest.approx([0, 0.1, 0, 0])
    assert timing.transfer_s == pytest.approx([0.1, 0.1, 0.1])


def test_a_round_waits_for_the_rest_of_its_ranks_and_then_goes_without() -> None:
    collector = Collector()
    timer = Timer(collector.rounds)
    told(collector, {rank: [record(Kind.ENTERED, 1.0, 1), record(Kind.DONE, 1.5, 1)] for rank in range(3)})
    timings = [timer.take(0.5 * look, np.zeros(4)) for look in range(12)]
    assert [timing is not None for timing in timings] == [look * 0.5 >= PATIENCE_S and look == 6 for look in range(12)]


def test_a_round_that_is_known_after_a_later_one_is_waited_for_and_timed_alike() -> None:
    collector = Collector()
    timer, leads = Timer(collector.rounds), np.zeros(4)
    records = {rank: [] for rank in range(4)}
    for rank, made in records.items():
        for sequence in (1, 3) if rank == 3 else (1, 2, 3):
            made += [record(Kind.ENTERED, sequence, sequence), record(Kind.DONE, sequence + 0.5, sequence)]
    told(collector, records)
    for at_s, sequences, settled_s in ((0.0, [1, 3], 2.5), (PATIENCE_S, [2], np.inf)):
        timing = timer.take(at_s, leads)
        assert timing.sequence.tolist() == sequences
        assert timing.transfer_s == pytest.approx([0.5] * len(sequences))
        assert timer.settled_s(at_s) == settled_s


def test_nobody_waits_for_rounds_of_which_half_is_missing() -> None:
    collector = Collector()
    timer = Timer(collector.rounds)
    told(collector, {rank: [record(Kind.ENTERED, 1.0, 1), record(Kind.DONE, 1.5, 1)] for rank in range(2)})
    assert timer.take(0.0, np.zeros(4)) is None
    assert timer.settled_s(0.0) == np.inf


def test_records_of_groups_that_nobody_named_are_passed_over() -> None:
    collector = Collector()
    told(collector, {0: [record(Kind.ENTERED, 1.0, 1, group=99), record(Kind.DONE, 1.0, 1, group=99)]})
    assert Timer(collector.rounds).take(9.0, np.zeros(4)) is None


@settings(max_examples=30, deadline=None)
@given(skew_s=st.tuples(*[st.floats(0, 1.0)] * 4))
def test_clocks_are_aligned_from_what_all_leave_together(skew_s: tuple[float, ...]) -> None:
    clocks = Clocks()
    clocks.grow(4)
    for batch in range(60):
        start = float(batch + 1)
        timing = timed([[start] * 4], [[start + 0.1] * 4], skew_s, clocks.lead_s)
        clocks.take(timing, np.arange(4))
    assert clocks.lead_s - clocks.lead_s[0] == pytest.approx(np.array(skew_s) - skew_s[0], abs=1e-4)


def accounted(late_s: list[float], transfer_s: list[float]) -> Account:
    """Steps of one second in which rank 2 comes late by so much, and the transfer takes that long."""
    at_s, entries, ends = 1.0, [], []
    for late, transfer in zip(late_s, transfer_s, strict=True):
        entries.append([at_s + 0.9, at_s + 0.9, at_s + 0.9 + late, at_s + 0.9])
        at_s += 0.9 + late + transfer
        ends.append([at_s] * 4)
    account = Account()
    for first in range(0, len(entries), 8):  # as they come
        timing = timed(entries, ends)
        keep = (timing.sequence > first) & (timing.sequence <= first + 8)
        members = np.repeat(keep, 4)
        account.take(
            Timing(
                timing.group[keep], timing.sequence[keep], timing.site[keep], timing.begin_s[keep], timing.over_s[keep],
                timing.transfer_s[keep], timing.bytes[keep], 4 * np.arange(keep.sum()), timing.round[members] - first, timing.slot[members],
                timing.rank[members], timing.late_s[members], timing.own_s[members], timing.stay_s[members],
                timing.left_s[members], timing.together[keep],
            ),
            np.zeros(0, np.int64),
            np.inf,
        )  # fmt: skip
    return account


QUIET = WARM_UP + LEARNT + 6


@pytest.mark.parametrize(
    ("late_s", "transfer_s", "ranks", "groups"),
    [
        (0.0, 0.1, [], []),
        (0.6, 0.1, [2], []),
        (0.0, 0.8, [], [0]),
        (0.6, 0.8, [2], [0]),
        (0.05, 0.12, [], []),
    ],
)
def test_who_loses_time_again_and_again_stands_out(
    late_s: float, transfer_s: float, ranks: list[int], groups: list[int]
) -> None:
    account = accounted([0.0] * QUIET + [late_s] * 16, [0.1] * QUIET + [transfer_s] * 16)
    measured = excess.measure(account, excess.window(account.base.step_s))
    assert (measured.slow_ranks, measured.slow_groups) == (ranks, groups)
    assert account.base.step_s == pytest.approx(1.0)


def of_groups(group: list[int], over_s: list[float], transfer_s: list[float]) -> Timing:
    """Rounds of one rank each; group 0 moves most bytes."""
    count = len(group)
    groups, over = np.array(group), np.array(over_s)
    zeros, numbers = np.zeros(count), np.arange(count)
    return Timing(
        groups, numbers, np.zeros(count, np.uint64), over, over, np.array(transfer_s), np.where(groups == 0, 1e6, 1e3), numbers, numbers,
        numbers, numbers * 0, zeros, zeros, zeros, over, np.ones(count, bool),
    )  # fmt: skip


def known_in(steps: list[int], slow_from: int, count: int) -> Account:
    """Steps of a second; of group 1, which takes 0.1 s and then 0.5 s, only the rounds of some `steps` are known."""
    account = Account()
    for first, last in ((0, slow_from), (slow_from, count)):  # what is usual is learnt from the first
        mine = [step for step in steps if first <= step < last]
        group = [0] * (last - first) + [1] * len(mine)
        over_s = [*(step + 1.0 for step in range(first, last)), *(step + 1.5 for step in mine)]
        transfer_s = [0.1] * (last - first) + [0.1 if last == slow_from else 0.5] * len(mine)
        account.take(of_groups(group, over_s, transfer_s), np.zeros(0, np.int64), np.inf)
    return account


@pytest.mark.parametrize(("every", "slow"), [(1, [1]), (2, [1]), (4, [])])
def test_a_step_in_which_a_group_was_not_heard_of_says_nothing_about_it(every: int, slow: list[int]) -> None:
    steps = [step for step in range(50) if step < 30 or step % every == 0]
    account = known_in(steps, 30, 50)
    assert [bool(np.isnan(row[1])) for row in account.transfer_s] == [step not in steps for step in range(48)]
    assert excess.measure(account, 16).slow_groups == slow


def test_what_a_group_usually_takes_is_known_when_it_was_heard_of() -> None:
    account = known_in([1], 22, 24)
    assert np.isnan(account.base.transfer_s[1])
    account.transfer_s.append(np.array([0.1, 0.3]))
    account.follow()
    assert account.base.transfer_s[1] == 0.3


def test_a_step_is_accounted_when_no_round_of_it_is_waited_for() -> None:
    account, nothing = Account(), np.zeros(0, np.int64)
    at_s = [float(at) for at in range(1, 31)]
    group, over_s = [0] * 30 + [1] * 19, at_s + [at + 0.6 for at in at_s[:19]]
    assert account.take(of_groups(group, over_s, [0.1] * 49), nothing, 20.5) == 19
    assert account.take(of_groups([1], [20.6], [0.4]), nothing, np.inf) == 9
    assert account.transfer_s[19].tolist() == pytest.approx([0.1, 0.4])


def test_an_end_that_comes_after_its_step_was_accounted_makes_no_other() -> None:
    account, nothing = Account(), np.zeros(0, np.int64)
    at_s = [float(at) for at in range(1, 31) if at != 9]
    account.take(of_groups([0] * 29, at_s, [0.1] * 29), nothing, np.inf)
    assert account.take(of_groups([0, 0], [9.0, 31.0], [0.1, 0.1]), nothing, np.inf) == 1
    assert list(account.length_s) == [2.0 if end_s == 10.0 else 1.0 for end_s in account.end_s]


def test_who_was_not_heard_of_worked_as_usual() -> None:
    own_s = np.array([[1.0, 0.0, 0.0], [3.0, 5.0, 0.0], [2.0, 0.0, 0.0]])
    assert _usual(own_s).tolist() == [2.0, 5.0, 3.5]
    assert _usual(np.zeros((3, 2))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("own", "work", "slow"),
    [
        ([0, 1.2, 0, 0], [0, 1.2, 0.9, 0.1], [1, 2]),  # 2 works longer as well, and waits for 1
        ([0, 1.2, 0, 0], [0, 1.2, 0.25, 0.1], [1]),  # too little beside that
        ([0, 0, 0, 0], [0, 0, 0.9, 0], []),  # nobody waits for anybody
        ([0, 1.2, 0.4, 0.2], [0, 1.2, 0.4, 0.2], [1, 2]),
    ],
)
def test_a_slow_rank_may_hide_another(own: list[float], work: list[float], slow: list[int]) -> None:
    found = excess.Excess(10, 1.0, np.array(own), np.array(work), np.zeros(1))
    assert found.slow_ranks == slow


def test_single_spikes_are_no_slowness() -> None:
    spiky = [0.0, 0.0, 5.0] * 6
    account = accounted([0.0] * QUIET + spiky, [0.1] * (QUIET + len(spiky)))
    assert excess.measure(account, 10).slow_ranks == []


def test_there_is_no_opinion_before_the_baseline_is_learnt() -> None:
    account = accounted([0.0] * 8, [0.1] * 8)
    assert account.base is None
    assert excess.measure(account, 4) is None

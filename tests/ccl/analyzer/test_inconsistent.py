"""H2 on synthetic records: who differs, in what, and when it is too early to say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightwire.ccl.analyzer import inconsistent, judge
from tightwire.ccl.collector import Collector
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.rounds import MOST_COLUMNS, NO_PARTNER, Rounds
from tightwire.ccl.summary import GroupFacts, RankSample, Summary
from tightwire.core.events import DTYPE_CODES, OPERATION_CODES, RECORD, Kind

WORLD = GroupFacts(1, "world", [0, 1, 2, 3])
PAIR = GroupFacts(1, "pair", [0, 1])
REDUCE = ("allreduce", 16, "float32", None)
BROADCAST = ("broadcast", 4, "float32", 0)
GATHER = ("allgather", 16, "float32", None)


def record(sequence: int, call: tuple, kind: Kind = Kind.ENTERED, at_s: float = 1.0) -> tuple:
    name, size, dtype, root = call
    partner = NO_PARTNER if root is None else root
    return (int(at_s * 1e9), 1, sequence, size, 7, OPERATION_CODES[name], partner, kind, DTYPE_CODES[dtype], 0, 0)


def played(calls: dict[int, list[tuple]], ended: bool = False, facts: GroupFacts = WORLD) -> Rounds:
    """Each rank makes its calls from number 1 on."""
    collector = Collector()
    told(collector, calls, facts, ended)
    return collector.rounds


def told(
    collector: Collector, calls: dict[int, list[tuple]], facts: GroupFacts = WORLD, ended: bool = False,
    first: int = 1, at_s: float = 90.0, pid_start: int = 1,
) -> None:  # fmt: skip
    """What the ranks' agent says about their calls number `first` and on."""
    samples = []
    for rank, made in calls.items():
        rows = []
        for n, call in enumerate(made, first):
            rows += [record(n, call, at_s=1.0 + n)] + ([record(n, call, Kind.DONE, 1.5 + n)] if ended else [])
        last = first - 1 + len(made)
        frame = GroupFrame(1, last, 0, last if ended else 0, 1)
        process, data = ProcessState("R", 1.0), np.array(rows, RECORD).tobytes()
        samples.append(RankSample(rank, 4, 100 + rank, pid_start, 0, last + len(rows), [frame], process, None, data))
    collector.take([Packer().digest(Summary("host", at_s, samples, [facts]))])


def found(rounds: Rounds, sequence: int, now_s: float = 100.0, gone: tuple = ()) -> object:
    facts = rounds.slots.facts[0]
    return inconsistent.find(rounds.get(0, sequence), rounds, facts, gone, now_s)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (("allreduce", 20, "float32", None), "size"),
        (("allreduce", 16, "int32", None), "dtype"),
        (("reduce", 16, "float32", 0), "operation"),
        (BROADCAST, "order"),
    ],
)
def test_the_one_that_differs_is_named_with_both_values(wrong: tuple, field: str) -> None:
    usual = [REDUCE, BROADCAST] * 5
    rounds = played({0: [*usual, REDUCE], 1: [*usual, REDUCE], 2: [*usual, wrong], 3: [*usual, REDUCE]})
    assert all(found(rounds, n) is None for n in range(1, 11))
    result = found(rounds, 11)
    assert (result.guilty, result.others, result.field) == ((2,), (0, 1, 3), field)
    verdict = judge.inconsistent([result], {1: WORLD}, {}, 100.0)
    assert (verdict.anomaly, verdict.guilty_ranks, verdict.confidence) == ("H2", [2], "high")
    told = " ".join(verdict.evidence)
    assert str(result.found) in told
    assert str(result.expected) in told


def test_another_root() -> None:
    calls = {rank: [("broadcast", 4, "float32", int(rank == 1))] for rank in range(4)}
    assert (found(played(calls), 1).guilty, found(played(calls), 1).field) == ((1,), "root")


def test_of_two_ranks_the_one_off_its_own_pattern_is_guilty() -> None:
    usual = [REDUCE, BROADCAST] * 5
    rounds = played({0: [*usual, REDUCE], 1: [*usual, BROADCAST]}, facts=PAIR)
    assert found(rounds, 11).guilty == (1,)


def test_without_majority_and_pattern_nobody_is_named_and_not_at_once() -> None:
    rounds = played({0: [REDUCE], 1: [BROADCAST]}, facts=PAIR)
    assert found(rounds, 1, now_s=5.0) is None
    result = found(rounds, 1)
    assert result.guilty == ()
    verdict = judge.inconsistent([result], {}, {}, 100.0)
    assert (verdict.guilty_ranks, verdict.confidence) == ([], "low")


def test_the_rest_of_the_group_is_waited_for_unless_a_rank_is_gone() -> None:
    rounds = played({0: [REDUCE], 1: [REDUCE], 2: [BROADCAST]})
    assert found(rounds, 1, now_s=2.5) is None
    assert found(rounds, 1, now_s=2.5, gone=(1,)).guilty == (2,)
    assert found(rounds, 1, now_s=3.5).guilty == (2,)


def test_sizes_that_may_differ_are_no_fault_unless_nobody_gets_out() -> None:
    uneven = {rank: [("allgather", 16 + rank // 3, "float32", None)] for rank in range(4)}
    assert found(played(uneven, ended=True), 1) is None
    assert found(played(uneven), 1, now_s=5.0) is None  # on its way
    assert found(played(uneven), 1).guilty == (3,)
    exchange = {rank: [("alltoall_base", rank, "float32", None)] for rank in range(4)}
    assert found(played(exchange), 1) is None


def test_the_ends_of_a_pair_are_compared_by_size_only_and_only_when_stuck() -> None:
    pair = GroupFacts(1, "0→1", [0, 1], point_to_point=True)
    usual = {0: [("send", 16, "float32", 1)] * 3, 1: [("recv", 16, "float32", 0)] * 3}
    assert found(played(usual, facts=pair), 3) is None
    usual[1].append(("recv", 16, "float32", 0))
    usual[0].append(("send", 20, "float32", 1))
    assert found(played(usual, facts=pair), 4, now_s=6.0) is None
    assert found(played(usual, facts=pair), 4).guilty == (0,)
    assert found(played(usual, ended=True, facts=pair), 4) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([REDUCE, BROADCAST, GATHER]), min_size=1, max_size=30), st.data())
def test_any_program_with_one_deviating_rank(program: list[tuple], data: st.DataObject) -> None:
    guilty, at = data.draw(st.integers(0, 3)), data.draw(st.integers(0, len(program) - 1))
    calls = {rank: list(program) for rank in range(4)}
    assert not any(found(played(calls), n + 1) for n in range(len(program)))
    calls[guilty][at] = ("allreduce", 99, "float32", None)
    rounds = played(calls)
    assert [found(rounds, n + 1) is not None for n in range(len(program))] == [n == at for n in range(len(program))]
    assert found(rounds, at + 1).guilty == (guilty,)


def test_only_a_window_is_kept_and_a_late_rank_does_not_reopen_it() -> None:
    collector = Collector()
    told(collector, {0: [REDUCE] * (MOST_COLUMNS + 50)})
    rounds = collector.rounds
    assert np.count_nonzero(rounds.newest[0]) == MOST_COLUMNS
    told(collector, {1: [REDUCE]}, first=3, at_s=91.0)
    assert rounds.get(0, 3) is None
    assert np.count_nonzero(rounds.newest[0]) == MOST_COLUMNS


def test_what_ranks_call_differently_is_heard_once() -> None:
    rounds = played({0: [REDUCE, REDUCE], 1: [REDUCE, GATHER]})
    assert rounds.mixed() == [(0, 2)]
    assert rounds.mixed() == []


def test_a_job_that_starts_again_is_not_compared_with_its_former_self() -> None:
    collector = Collector()
    told(collector, {rank: [REDUCE] * 3 for rank in range(4)})
    told(collector, {0: [BROADCAST]}, at_s=91.0, pid_start=2)
    assert found(collector.rounds, 1) is None
    assert collector.restarts == 1

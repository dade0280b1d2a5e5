"""The analyzer on synthetic summaries and a fake clock: exact and instant."""

import pytest

from tightwire.ccl.analyzer import judge, not_entered, wait_for
from tightwire.ccl.collector import Collector
from tightwire.ccl.evidence import Evidence
from tightwire.ccl.packing import Packer
from tightwire.ccl.probe.process import ProcessState
from tightwire.ccl.probe.ring import GroupFrame
from tightwire.ccl.summary import GroupFacts, RankSample, Summary

WORLD, PIPE = GroupFacts(1, "world", [0, 1, 2, 3]), GroupFacts(2, "pipe", [2, 3])


def sample(
    rank: int, counts: dict[int, tuple[int, int]], state: str | None = "S", goodbye: int = 0, failed: int = 0,
    died: int | None = None, starved_s: float = 0.0, waiting: dict[int, int] | None = None,
    io_bytes: int = 0, used_s: float = 0.0,
) -> RankSample:  # fmt: skip
    frames = [
        GroupFrame(group, entered, 0, done, 1, failed, (waiting or {}).get(group, 0))
        for group, (entered, done) in counts.items()
    ]
    process = None if state is None else ProcessState(state, 1.0 + used_s, starved_s, io_bytes)
    written = sum(entered + done for entered, done in counts.values())
    return RankSample(rank, 4, 100 + rank, 1, goodbye, written, frames, process, died)


def feed(*moments: tuple[float, list[RankSample]], facts: list[GroupFacts] | None = None) -> tuple[Collector, float]:
    collector, packer = Collector(), Packer()
    for at_s, samples in moments:
        collector.take([packer.digest(Summary("host", at_s, samples, [WORLD, *(facts or [PIPE])]))])
    return collector, moments[-1][0]


def suspects(
    *moments: tuple[float, list[RankSample]], facts: list[GroupFacts] | None = None, whole: bool = False
) -> list[not_entered.Suspect]:
    collector, now_s = feed(*moments, facts=facts)
    return not_entered.find(collector, wait_for.waits(collector), now_s, whole=whole)


def running(step: int) -> list[RankSample]:
    return [sample(rank, {1: (step, step)}) for rank in range(4)]


STUCK = [sample(0, {1: (21, 20)}), sample(1, {1: (21, 20)}), sample(2, {1: (20, 20)}, "R"), sample(3, {1: (21, 20)})]
RHYTHM = tuple((t / 10, running(t)) for t in range(1, 21))


def test_nobody_while_all_progress_or_the_pause_is_short() -> None:
    assert suspects(*RHYTHM) == []
    assert suspects(*RHYTHM, (3.0, STUCK), (9.0, STUCK)) == []


def test_the_one_who_does_not_come_is_named() -> None:
    found = suspects(*RHYTHM, (3.0, STUCK), (11.5, STUCK))
    assert [(s.rank, s.how, s.waiting_ranks) for s in found] == [(2, "elsewhere", (0, 1, 3))]


def test_a_slow_job_gets_more_patience() -> None:
    slow = tuple((5.0 * t, running(t)) for t in range(1, 21))
    assert suspects(*slow, (103.0, STUCK), (115.0, STUCK)) == []
    assert [s.rank for s in suspects(*slow, (103.0, STUCK), (130.0, STUCK))] == [2]


def test_warm_up_gets_more_patience() -> None:
    first = [sample(0, {1: (2, 1)}), sample(1, {1: (2, 1)}), sample(2, {1: (1, 1)}), sample(3, {1: (2, 1)})]
    assert suspects((1.0, first), (11.0, first)) == []
    assert [s.rank for s in suspects((1.0, first), (25.0, first))] == [2]


def test_the_cause_is_followed_through_groups() -> None:
    # 0 and 1 wait for 2 in the world; 2 waits for 3 in its pipeline; 3 waits for nobody
    stuck = [
        sample(0, {1: (21, 20)}), sample(1, {1: (21, 20)}), sample(2, {1: (20, 20), 2: (8, 7)}),
        sample(3, {1: (20, 20), 2: (7, 7)}),
    ]  # fmt: skip
    found = suspects(*RHYTHM, (3.0, stuck), (12.0, stuck))
    assert [s.rank for s in found] == [3]


def test_who_waits_in_a_group_that_nobody_has_described_is_not_accused() -> None:
    # 2 waits for somebody in group 7, of which only its number is known; 3 waits for nobody
    stuck = [*STUCK[:2], sample(2, {1: (20, 20), 7: (8, 7)}), STUCK[3]]
    moments = (*RHYTHM, (3.0, stuck), (12.0, stuck))
    assert suspects(*moments) == []
    other = GroupFacts(7, "other", [2, 4])
    assert suspects(*moments, facts=[other]) == []  # 4 was never heard of
    out = [*STUCK[:2], sample(2, {1: (20, 20), 7: (8, 8)}), STUCK[3]]
    assert [s.rank for s in suspects(*moments, (13.0, out), (45.0, out))] == [2]


def test_where_all_wait_for_a_rank_of_which_nothing_was_heard_it_is_named_with_low_confidence() -> None:
    heard = [sample(rank, {1: (21, 20)}) for rank in range(3)]
    moments = (*tuple((t / 10, running(t)[:3]) for t in range(1, 21)), (3.0, heard), (11.5, heard))
    assert suspects(*moments, whole=True) == []
    moments += ((19.5, heard),)
    assert suspects(*moments) == []  # of one host's view alone
    found = suspects(*moments, whole=True)
    assert [(s.rank, s.how, s.waiting_ranks) for s in found] == [(3, "unseen", (0, 1, 2))]
    collector, now_s = feed(*moments)
    verdict = judge.not_entered(found, collector.ranks, collector.groups, {}, now_s)
    assert (verdict.anomaly, verdict.guilty_ranks, verdict.confidence) == ("H1", [3], "low")
    assert "no agent or probe has told of rank 3" in verdict.evidence[0]


def test_who_is_seen_to_be_elsewhere_is_named_and_not_who_was_never_heard_of() -> None:
    known = [*STUCK[:2], sample(2, {1: (20, 20)}, "R")]
    moments = (*tuple((t / 10, running(t)[:3]) for t in range(1, 21)), (3.0, known), (30.0, known))
    assert [(s.rank, s.how) for s in suspects(*moments, whole=True)] == [(2, "elsewhere")]


@pytest.mark.parametrize("inside", [False, True])
def test_a_stopped_rank_is_named_soon_also_inside_the_operation(inside: bool) -> None:
    stuck = list(STUCK)
    stuck[2] = sample(2, {1: (21, 20)} if inside else {1: (20, 20)}, "T")
    assert suspects(*RHYTHM, (3.0, stuck), (4.0, stuck)) == []
    found = suspects(*RHYTHM, (3.0, stuck), (5.0, stuck))
    assert [(s.rank, s.how) for s in found] == [(2, "stopped")]


def test_the_first_to_die_is_named_not_its_victims() -> None:
    dead = list(STUCK)
    dead[2] = sample(2, {1: (20, 20)}, None)
    then = [
        sample(0, {1: (21, 21)}, "S", goodbye=2, failed=1),
        sample(1, {1: (21, 20)}, None),
        dead[2],
        sample(3, {1: (21, 20)}, None),
    ]
    assert [s.rank for s in suspects(*RHYTHM, (3.0, dead))] == [2]
    assert [s.rank for s in suspects(*RHYTHM, (3.0, dead), (3.2, then))] == [2]


def test_the_order_of_deaths_names_the_first_even_when_all_are_found_dead_at_once() -> None:
    dead = [sample(rank, {1: (21 - (rank == 2), 20)}, None, goodbye=3, died=rank + 1) for rank in range(4)]
    dead[2] = sample(2, {1: (20, 20)}, None, died=0)
    assert [s.rank for s in suspects(*RHYTHM, (3.0, dead))] == [2]
    dead[2] = sample(2, {1: (20, 20)}, None, died=5)  # SIGKILL after SIGTERM: the launcher lost its patience
    assert suspects(*RHYTHM, (3.0, dead)) == []


def test_who_was_asked_to_end_is_not_accused() -> None:
    ending = [sample(0, {1: (20, 20)}, None, goodbye=1, died=0), sample(1, {1: (20, 19)}, None, goodbye=3, died=1)]
    assert suspects(*RHYTHM, (3.0, [*ending, *running(20)[2:]])) == []


def test_a_rank_that_gets_no_processor_gets_more_patience_but_not_for_ever() -> None:
    starved = [*STUCK[:2], sample(2, {1: (20, 20)}, "R", starved_s=9.0), STUCK[3]]
    assert suspects(*RHYTHM, (3.0, STUCK), (11.5, starved)) == []
    assert [s.rank for s in suspects(*RHYTHM, (3.0, STUCK), (15.1, starved))] == [2]


def looping(used_s: float, starved_s: float) -> list[RankSample]:
    return [*STUCK[:2], sample(2, {1: (20, 20)}, "R", starved_s=starved_s, used_s=used_s), STUCK[3]]


@pytest.mark.parametrize(("share", "named_s"), [(0.95, 8.0), (0.5, 8.0), (0.25, 8.0), (0.2, 9.0), (0.1, 12.0)])
def test_a_rank_that_had_processor_time_enough_gets_no_more_patience_on_a_busy_machine(
    share: float, named_s: float
) -> None:
    def after(silent_s: float) -> list[not_entered.Suspect]:
        now = looping(share * silent_s, (1 - share) * silent_s)
        return suspects(*RHYTHM, (2.1, looping(0.0, 0.0)), (2.0 + silent_s, now))

    assert after(named_s - 0.2) == []
    assert [s.rank for s in after(named_s + 0.2)] == [2]


def test_enough_is_more_in_a_job_with_long_pauses() -> None:
    slow = tuple((4.0 * t, running(t)) for t in range(1, 21))  # 12 s of patience, and 6 s of a processor
    assert suspects(*slow, (80.1, looping(0.0, 0.0)), (91.0, looping(11.0, 0.0))) == []
    assert suspects(*slow, (80.1, looping(0.0, 0.0)), (95.0, looping(3.0, 12.0))) == []
    assert [s.rank for s in suspects(*slow, (80.1, looping(0.0, 0.0)), (95.0, looping(6.0, 9.0)))] == [2]


def test_what_its_other_threads_used_was_not_the_main_thread_s() -> None:
    # many threads at work, and the main one waits for a processor nine tenths of the time
    assert suspects(*RHYTHM, (3.0, looping(0.0, 0.0)), (11.5, looping(30.0, 8.6))) == []


def test_a_rank_that_writes_a_checkpoint_is_let_finish() -> None:
    def writing(megabytes: int) -> list[RankSample]:
        return [*STUCK[:2], sample(2, {1: (20, 20)}, "D", io_bytes=megabytes << 20), STUCK[3]]

    moments = [(3.0 + second, writing(5 * second)) for second in range(21)]
    assert all(suspects(*RHYTHM, *moments[:count]) == [] for count in range(1, 22))
    assert suspects(*RHYTHM, *moments, (27.0, writing(100))) == []
    assert [s.rank for s in suspects(*RHYTHM, *moments, (32.0, writing(100)))] == [2]
    idle = [(3.0 + second, writing(0)) for second in range(10)]
    assert [s.rank for s in suspects(*RHYTHM, *idle)] == [2]


def test_victims_that_report_first_are_not_accused() -> None:
    victims = [sample(0, {1: (21, 21)}, "S", goodbye=2, failed=1), *STUCK[1:]]
    assert suspects(*RHYTHM, (3.0, victims)) == []


def test_an_orderly_end_accuses_nobody() -> None:
    ended = [sample(0, {1: (20, 20)}, None, goodbye=1), *running(20)[1:]]
    assert suspects(*RHYTHM, (3.0, ended), (60.0, ended)) == []
    killed = [sample(rank, {1: (20, 20)}, None) for rank in range(4)]
    assert suspects(*RHYTHM, (3.0, killed)) == []


def test_an_exception_on_one_rank_is_named() -> None:
    raised = [*STUCK[:2], sample(2, {1: (20, 20)}, "S", goodbye=2), STUCK[3]]
    assert [(s.rank, s.how) for s in suspects(*RHYTHM, (3.0, raised))] == [(2, "left")]


def test_old_and_repeated_summaries_change_nothing() -> None:
    late = (1.5, running(15))
    assert suspects(*RHYTHM, (3.0, STUCK), late, (11.5, STUCK), (11.5, STUCK))[0].rank == 2


def test_the_verdict_tells_what_a_person_needs() -> None:
    collector, now_s = feed(*RHYTHM, (3.0, STUCK), (11.5, STUCK))
    found = not_entered.find(collector, wait_for.waits(collector), now_s)
    evidence = {2: Evidence("R", "", 0.99, ["loop (train.py:7)", "main (train.py:30)"])}
    verdict = judge.not_entered(found, collector.ranks, collector.groups, evidence, now_s)
    assert verdict.guilty_ranks == [2]
    assert verdict.group == "world"
    assert (verdict.operation, verdict.sequence) == ("allreduce", 21)
    assert verdict.cause == "running in Python, not communicating"
    assert any("loop (train.py:7)" in line for line in verdict.evidence)
    assert verdict.time_to_verdict_s == pytest.approx(9.5)


def test_a_slow_start_is_no_rhythm() -> None:
    late = tuple((20.0 + at_s, samples) for at_s, samples in RHYTHM)
    empty = [sample(rank, {}) for rank in range(4)]
    assert [s.rank for s in suspects((0.0, empty), *late, (23.0, STUCK), (31.5, STUCK))] == [2]


def test_a_rank_stopped_before_any_collective_is_named_but_not_a_suspended_job() -> None:
    one = [sample(rank, {}, "T" if rank == 1 else "S") for rank in range(4)]
    assert suspects((1.0, one), (5.0, one)) == []
    assert [(s.rank, s.how) for s in suspects((1.0, one), (6.5, one))] == [(1, "stopped")]
    everyone = [sample(rank, {}, "T") for rank in range(4)]
    assert suspects((1.0, everyone), (60.0, everyone)) == []


def test_a_pipeline_and_its_data_parallel_groups_lead_to_one_root() -> None:
    # stages 0→1 and 2→3, replicas {0, 2} and {1, 3}: 0 loops; 1 waits for its activations, 2 and 3 for their replicas
    facts = [GroupFacts(2, "0→1", [0, 1], True), GroupFacts(3, "dp", [0, 2]), GroupFacts(4, "dp", [1, 3])]
    before = [sample(rank, {1: (20, 20)}) for rank in range(4)]
    stuck = [
        sample(0, {1: (20, 20), 2: (5, 5), 3: (7, 7)}), sample(1, {1: (20, 20), 2: (6, 5), 4: (7, 7)}, waiting={2: 6}),
        sample(2, {1: (20, 20), 3: (8, 7)}), sample(3, {1: (20, 20), 4: (8, 7)}),
    ]  # fmt: skip
    found = suspects(*RHYTHM, (3.0, before), (4.0, stuck), (15.0, stuck), facts=facts)
    assert [(s.rank, s.waiting_ranks) for s in found] == [(0, (1, 2, 3))]


def test_a_receive_that_is_only_posted_excuses_nobody() -> None:
    facts = [GroupFacts(2, "1→2", [1, 2], True)]
    posted = [*STUCK[:2], sample(2, {1: (20, 20), 2: (6, 5)}, "R"), STUCK[3]]
    assert [s.rank for s in suspects(*RHYTHM, (3.0, posted), (12.0, posted), facts=facts)] == [2]
    waited = [*STUCK[:2], sample(2, {1: (20, 20), 2: (6, 5)}, waiting={2: 6}), STUCK[3]]
    # 1 waits in the world for 2, which waits for 1 to send: a circle, in which nobody stands at the end
    assert suspects(*RHYTHM, (3.0, waited), (12.0, waited), facts=facts) == []


def test_several_faults_have_several_roots() -> None:
    # two groups that know nothing of each other
    facts = [GroupFacts(2, "a", [0, 1]), GroupFacts(3, "b", [2, 3])]
    stuck = [sample(0, {2: (30, 30)}), sample(1, {2: (31, 30)}), sample(2, {3: (31, 30)}), sample(3, {3: (30, 30)})]
    steps = tuple((t / 10, [sample(r, {2 + r // 2: (t, t)}) for r in range(4)]) for t in range(1, 31))
    found = suspects(*steps, (4.0, stuck), (12.5, stuck), facts=facts)
    assert [s.rank for s in found] == [0, 3]
    stopped = [sample(0, {2: (30, 30)}, "T"), stuck[1], stuck[2], sample(3, {3: (30, 30)}, "T")]
    later = [stopped[0], *stuck[1:]]
    found = suspects(*steps, (4.0, later), (5.3, stopped), (5.6, stopped), facts=facts)
    assert [(s.rank, s.how) for s in found] == [(0, "stopped"), (3, "stopped")]
    found = suspects(*steps, (4.0, later), (5.6, later), facts=facts)
    assert [(s.rank, s.how) for s in found] == [(0, "stopped")]
    found = suspects(*steps, (4.0, later), (12.5, later), facts=facts)  # 3 has been silent for long enough as well
    assert [(s.rank, s.how) for s in found] == [(0, "stopped"), (3, "elsewhere")]
    victim = [*later[:3], sample(3, {3: (30, 30)}, failed=1)]
    found = suspects(*steps, (4.0, victim), (12.5, victim), facts=facts)
    assert [(s.rank, s.how) for s in found] == [(0, "stopped")]

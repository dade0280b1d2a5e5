"""Every class in simulated tensor, pipeline and data parallel training, judged by the real watcher; and nobody where
nothing is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ccl.faults.clusters import LAYOUT, watched
from tightwire.ccl import score
from tightwire.ccl.faults.simulate.fault import CLASSES, Fault, draw
from tightwire.ccl.faults.simulate.layout import Layout
from tightwire.ccl.faults.simulate.physics import Physics, Program
from tightwire.core.events import Kind

SLOW = [kind for kind, anomaly in CLASSES.items() if anomaly.startswith("S")]
MOST_STEPS = 30


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_is_told_with_its_place(kind: str) -> None:
    fault = draw(kind, LAYOUT, 45, np.random.default_rng(list(CLASSES).index(kind)))
    said, _ = watched(fault, skew_s=0.05, lost=0.01)
    truth = score.Truth(fault.anomaly, fault.guilty_ranks, fault.guilty_links)
    assert score.judge(truth, [verdict for _, verdict in said]) == score.Outcome(True, True, False)
    if kind in SLOW:
        assert said[0][0] - fault.step <= MOST_STEPS


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), skew_s=st.floats(0, 0.05), lost=st.sampled_from([0.0, 0.01]))
def test_nobody_is_accused_of_checkpoints_evaluations_uneven_data_and_spikes(
    seed: int, skew_s: float, lost: float
) -> None:
    program = Program(
        jitter=0.2, uneven=0.4, spike_share=0.002, spike_s=0.5, checkpoint_every=40, checkpoint_s=5.0, evaluate_every=50
    )
    said, cluster = watched(program=program, seed=seed, skew_s=skew_s, lost=lost, until_s=45.0)
    assert said == []
    assert len(cluster.step_ends_s) > 100


def test_a_recovery_ends_the_incident() -> None:
    said, cluster = watched(Fault("sleep", 5, 45, severity=2.0, until=70), until_s=35.0)
    assert [(verdict.anomaly, verdict.guilty_ranks, verdict.ended_s is None) for _, verdict in said] == [
        ("S1", [5], True),
        ("S1", [5], False),
    ]
    ended = said[1][1]
    assert ended.ended_s == pytest.approx(
        cluster.step_ends_s[69], abs=5 * (cluster.step_ends_s[69] - cluster.step_ends_s[68])
    )
    assert "recovered" in ended.cause


def test_two_slow_ranks_are_both_named() -> None:
    said, _ = watched(Fault("sleep", 2, 45, severity=2.0), Fault("sleep", 13, 45, severity=2.0))
    assert said[-1][1].guilty_ranks == [2, 13]


def test_a_rank_that_waits_in_its_pipeline_is_no_culprit() -> None:
    layout = Layout(tensor=1, pipeline=4, data=2, per_host=1)
    said, _ = watched(Fault("sleep", 0, 45, severity=2.5), layout=layout)
    assert [verdict.guilty_ranks for _, verdict in said] == [[0]]


@settings(max_examples=15, deadline=None)
@given(tensor=st.integers(1, 3), pipeline=st.integers(1, 3), data=st.integers(1, 4), seed=st.integers(0, 99))
def test_all_ranks_of_a_group_count_alike_and_what_begins_ends(
    tensor: int, pipeline: int, data: int, seed: int
) -> None:
    layout = Layout(tensor, pipeline, data, 2, expert=2 if data % 2 == 0 else 1)
    physics = Physics(layout, Program(), (), np.random.default_rng(seed))
    for _ in range(2):
        records, ranks = physics.step()
        for facts in layout.facts:
            mine = records["group"] == facts.group
            for kind in (Kind.ENTERED, Kind.DONE):
                seen = [
                    sorted(records["seq"][mine & (records["kind"] == kind) & (ranks == rank)]) for rank in facts.ranks
                ]
                assert all(each == seen[0] for each in seen)
        for rank in range(layout.world):
            assert (np.diff(records["time_ns"][ranks == rank].astype(np.int64)) >= 0).all()


@pytest.mark.parametrize("kind", ["loop", "dead", "sleep", "slow"])
def test_experts_are_no_excuse(kind: str) -> None:
    fault = Fault(kind, 9, 45, 13)
    said, _ = watched(fault, layout=Layout(tensor=2, pipeline=1, data=8, per_host=2, expert=4), lost=0.01)
    assert score.judge(score.Truth(fault.anomaly, [9]), [verdict for _, verdict in said]).location_right


@pytest.mark.parametrize("seed", [1, 2])
def test_steps_are_known_though_lost_summaries_hold_up_the_large_groups(seed: int) -> None:
    layout, program = (
        Layout(tensor=8, pipeline=1, data=32, per_host=8),
        Program(layers=1, layer_s=0.02, uneven=0.1, wire_jitter=0.1),
    )
    said, cluster = watched(
        Fault("sleep", 72, 90, severity=2.5),
        layout=layout,
        program=program,
        seed=seed,
        until_s=40.0,
        skew_s=0.05,
        lost=0.01,
        every_s=1.0,
    )
    assert [verdict.guilty_ranks for _, verdict in said] == [[72]]
    usual_ms = 1e3 * np.median(np.diff(cluster.step_ends_s[:90]))
    (told,) = (line for line in said[0][1].evidence if "its usual" in line)
    assert float(told.split("its usual ")[1].split(" ms")[0]) == pytest.approx(usual_ms, rel=0.2)


@pytest.mark.parametrize("seed", [1, 3])
def test_a_slow_device_beside_a_slow_rank_is_known_at_once_though_summaries_are_lost(seed: int) -> None:
    faults = Fault("sleep", 40, 60, severity=1.7), Fault("slow", 130, 60, severity=2.6)
    layout, program = Layout(2, 2, 64, 2), Program(layers=1, layer_s=0.05, uneven=0.1, wire_jitter=0.1)
    said, _ = watched(
        *faults, layout=layout, program=program, seed=seed, until_s=80.0, skew_s=0.05, lost=0.01, every_s=1.0
    )
    assert [(verdict.anomaly, verdict.guilty_ranks) for _, verdict in said] == [("S3", [40, 130])]


def test_a_seed_is_a_story() -> None:
    one, _ = watched(Fault("slow", 3, 45), seed=3, until_s=20.0)
    other, _ = watched(Fault("slow", 3, 45), seed=3, until_s=20.0)
    assert one == other != []

import random

import msgspec
import pytest
from tests.kv.control.library import FOUR, LIBRARY, RAW, REQUEST, ROUGH, TEN, as_predicted, link

from tightwire.core.clock import FakeClock
from tightwire.core.links import LinkVerdict
from tightwire.errors import ConfigError
from tightwire.kv.control.controller import Controller, log_errors
from tightwire.kv.control.records import Decision, Outcome, Record, Request, Share
from tightwire.kv.control.settings import Settings
from tightwire.kv.profiles import Profile, ProfileLibrary

CALM = Settings(explore_share=0.0, sample_share=0.0)


def made(
    profiles: list[Profile] | None = None, settings: Settings = CALM, clock: FakeClock | None = None
) -> Controller:
    library = LIBRARY if profiles is None else ProfileLibrary("m", profiles, {})
    return Controller(library, settings, clock or FakeClock(), random.Random(1))


def refused(decision: Decision) -> dict[str, str | None]:
    return {c.strategy: c.refused for c in decision.candidates}


def test_slow_link_compresses_fast_link_does_not_and_quality_is_kept() -> None:
    controller = made()
    slow = controller.decide(REQUEST, link(1e6))
    assert slow.chosen == TEN.strategy
    assert slow.second == FOUR.strategy
    assert "second" in slow.reason
    assert "budget" in str(refused(slow)[ROUGH.strategy])
    assert controller.decide(REQUEST, link(1e10)).chosen == "raw"
    unknown = controller.decide(REQUEST, None)
    assert (unknown.chosen, unknown.probe) == ("raw", True)


def test_every_class_has_its_budget_and_an_unknown_one_the_most_careful() -> None:
    controller = made(settings=Settings(0.9, {"chat": 0.4, "code": 0.985}, explore_share=0.0))
    for request, chosen in (
        (Request(10_000_000, 8, workload="chat"), ROUGH),
        (Request(10_000_000, 8, workload="code"), FOUR),
        (Request(10_000_000, 8, workload="?"), FOUR),
        (Request(10_000_000, 8, workload="chat", quality_budget=0.999), RAW),
    ):
        assert controller.decide(request, link(1e6)).chosen == chosen.strategy


def test_as_fast_the_better_quality_is_taken() -> None:
    finer = Profile("hadamard+uniform:levels=24+pack", 3.5, 2e9, 2e9, 0.999)
    request = Request(10_000_000, 8, prefill_s=100.0)  # hides all of them, but not raw
    assert made([RAW, TEN, finer]).decide(request, link(2e5)).chosen == finer.strategy


def test_an_encoder_without_a_core_of_its_own_must_be_cheap() -> None:
    """Where prefill hides the wire, what encoding takes from it decides."""
    request = Request(10_000_000, 8, prefill_s=0.1)
    controller = made([RAW, FOUR, TEN])
    assert controller.decide(request, link(2.4e7)).chosen == TEN.strategy  # FOUR takes 0.117 s on the wire
    assert controller.decide(request, link(3e7)).chosen == FOUR.strategy
    shared = msgspec.structs.replace(request, one_core=True)
    assert controller.decide(shared, link(2.4e7)).chosen == FOUR.strategy  # TEN: 0.1 s and 0.025 s of encoding


@pytest.mark.parametrize(("wrong", "rate"), [(0.25, 2.5e8), (4.0, 6e8)])
def test_a_wrong_profile_is_corrected_by_observation(wrong: float, rate: float) -> None:
    """Speeds profiled too fast are corrected when they are met, those too slow because they are tried on a piece."""
    truth = Profile(FOUR.strategy, 3.55, 5e8, 5e8, 1.0)
    best = made([RAW, truth]).decide(REQUEST, link(rate)).chosen
    controller = made([RAW, Profile(FOUR.strategy, 3.55, 5e8 * wrong, 5e8 * wrong, 1.0)], Settings())
    chosen = []
    for _ in range(10):
        decision = controller.decide(REQUEST, link(rate))
        chosen.append(decision.chosen)
        factor = 1.0 if decision.chosen == "raw" else wrong
        controller.observe(decision, as_predicted(decision, factor, factor, tried=wrong))
    assert chosen[-3:] == [best] * 3


def test_nothing_is_tried_where_an_slo_is_at_risk_and_after_it_was_broken() -> None:
    clock = FakeClock()
    unknown = Profile("hadamard+uniform:levels=14+rans", 4.6, 4e8, 4e8, 0.99)
    controller = made([RAW, FOUR, unknown], Settings(cooldown_s=5.0), clock)
    free = controller.decide(REQUEST, link(1e8))
    assert free.trial is not None
    assert free.trial.strategy == unknown.strategy
    assert "may be faster" in free.reason
    tight = msgspec.structs.replace(REQUEST, slo_s=0.0296)
    assert controller.decide(tight, link(1e8)).trial is None
    for _ in range(2):  # kept by prediction, broken in truth
        decision = controller.decide(tight, link(1e8))
        assert decision.chosen == FOUR.strategy
        controller.observe(decision, Outcome(0.005, 0.03, 0.005, 0.2, 2_800_000, busy=True))
    cooled = controller.decide(tight, link(1e8))
    assert "promises" in str(refused(cooled)[FOUR.strategy])
    assert cooled.trial is None
    clock.advance_s(6.0)
    assert refused(controller.decide(tight, link(1e8)))[FOUR.strategy] is None


def test_what_is_tried_keeps_the_budget() -> None:
    """ROUGH would be by far the fastest."""
    controller = made(settings=Settings())
    for _ in range(50):
        decision = controller.decide(REQUEST, link(1e6))
        assert decision.trial is None or decision.trial.strategy != ROUGH.strategy
        controller.observe(decision, as_predicted(decision))


def test_a_verdict_about_the_link_reaches_the_decision() -> None:
    controller = made()
    fast = link(1e10)
    assert controller.decide(REQUEST, fast).chosen == "raw"
    controller.link_verdict(LinkVerdict("a-b", "slow", "counters", 1e6))
    slow = controller.decide(REQUEST, fast)
    assert (slow.chosen, slow.link_bytes_per_s, slow.probe) == (TEN.strategy, 1e6, True)
    controller.observe(slow, as_predicted(slow))
    assert controller.decide(REQUEST, fast).chosen == "raw"  # the link has spoken for itself
    controller.link_verdict(LinkVerdict("a-b", "hung", "no acknowledgements"))
    dead = controller.decide(REQUEST, fast)
    assert not dead.send
    assert "no acknowledgements" in dead.reason
    controller.link_verdict(LinkVerdict("a-b", "healthy"))
    assert controller.decide(REQUEST, fast).send


def test_what_waits_before_us_is_waited_for() -> None:
    controller = made()
    free = controller.decide(REQUEST, link(1e7))
    behind = controller.decide(msgspec.structs.replace(REQUEST, queued_bytes=50_000_000), link(1e7))
    assert free.candidate is not None
    assert behind.candidate is not None
    assert behind.candidate.corrected.total_s == pytest.approx(free.candidate.corrected.total_s + 5.0, abs=0.1)


def test_failures_teach_nothing_and_records_are_kept_and_written() -> None:
    controller = made(settings=Settings(keep=2, explore_share=0.0))
    decision = controller.decide(REQUEST, link(1e6))
    controller.observe(decision, Outcome(0, 0, 0, 9, 0, failed=True))
    record = controller.observe(decision, as_predicted(decision, total=1.1))
    assert controller.encode.factor == pytest.approx([1.0] * 4)
    assert record.error == pytest.approx(0.1, abs=0.02)
    assert log_errors(controller.records) == pytest.approx([0.095], abs=0.02)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record
    controller.observe(decision, as_predicted(decision))
    assert len(tuple(controller.records)) == 2


def test_wrong_settings_are_named() -> None:
    for wrong, match in (
        ({"quality_budget": 1.5}, "quality_budget"),
        ({"workload_budgets": {"code": -1.0}}, "code"),
        ({"keep": 0}, "keep"),
        ({"slo_s": 0.0}, "slo_s"),
    ):
        with pytest.raises(ConfigError, match=match):
            Settings(**wrong)
    with pytest.raises(ConfigError, match="ratio"):
        Profile("raw", 0.0, 1.0, 1.0, 1.0)
    with pytest.raises(ConfigError, match="error"):
        Profile("raw", 1.0, 1.0, 1.0, 1.0, (2.0, 1.0))
    with pytest.raises(ConfigError, match="raw once"):
        ProfileLibrary("m", [FOUR], {})


def test_what_is_left_is_decided_again_when_the_link_changed() -> None:
    clock = FakeClock()
    controller = made(clock=clock)
    first = controller.decide(REQUEST, link(1e10))
    assert first.chosen == "raw"
    clock.sleep_s(0.5)
    assert controller.revise(first, 5_000_000, 0.0, link(0.9e10)) is None  # that is drift
    assert controller.revise(first, 5_000_000, 0.0, None) is None
    assert controller.revise(first, 0, 0.0, link(1e6)) is None  # nothing is left
    again = controller.revise(first, 5_000_000, 0.0, link(1e6))
    assert again is not None
    assert (again.chosen, again.revises, again.at_s) == (TEN.strategy, "raw", 0.5)  # not ROUGH: the budget still holds
    assert (again.request.raw_bytes, again.request.chunks) == (5_000_000, 4)
    assert "50% still to send" in again.reason
    assert controller.revise(again, 4_000_000, 0.0, link(1e6)) is None
    back = controller.revise(again, 4_000_000, 0.0, link(1e10))
    assert back is not None
    assert back.chosen == "raw"


def test_a_change_that_gains_little_is_not_made() -> None:
    controller = made([RAW, FOUR])
    first = controller.decide(REQUEST, link(1e6))
    assert first.chosen == FOUR.strategy
    assert controller.revise(first, 9_000_000, 0.0, link(2e6)) is None  # still the best
    assert controller.revise(first, 9_000_000, 100.0, link(1e10)) is None  # compute hides all of them


def test_every_strategy_of_a_mixed_transfer_is_learnt_and_its_total_is_nobodys() -> None:
    controller = made()
    decision = controller.decide(REQUEST, link(1e6))
    raw, ten = decision.candidates[0].predicted, decision.candidates[2].predicted
    shares = [
        Share("raw", 4_000_000, 4_000_000, 3 * 0.4 * raw.encode_s, 0.4 * raw.decode_s),
        Share(TEN.strategy, 6_000_000, 1_000_000, 0.6 * ten.encode_s, 0.6 * ten.decode_s),
    ]
    fixed_s = controller.fixed.seconds
    record = controller.observe(decision, Outcome(5.0, 9.0, 5.0, 30.0, 123, shares=shares))
    assert record.error is None
    assert controller.encode.factor[0] > 1.5 > controller.encode.factor[2]
    assert controller.decode.factor[2] == pytest.approx(1.0, abs=0.05)
    assert controller.ratio.value[2] > 4.5
    assert controller.fixed.seconds == fixed_s

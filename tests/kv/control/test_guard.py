import random
from dataclasses import replace

import pytest
from tests.kv.control.library import FOUR, LIBRARY, RAW, REQUEST, TEN, link

from tightwire.core.clock import FakeClock
from tightwire.kv import refmodel
from tightwire.kv.block import KVBlock
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.error import attention_error, strategy_error
from tightwire.kv.control.guard import Guard
from tightwire.kv.control.settings import Settings
from tightwire.kv.demo import prompts
from tightwire.kv.engines.transformers import Engine
from tightwire.kv.profiles import ProfileLibrary, measure
from tightwire.kv.strategy import Strategy

WITHIN = 10  # sampled requests


def guard(share: float = 1.0) -> Guard:
    return Guard([RAW, FOUR, TEN], share, random.Random(2))


def test_errors_within_their_range_demote_nobody() -> None:
    watched, rng = guard(), random.Random(3)
    for _ in range(2000):
        assert not watched.observe(FOUR.strategy, rng.choice([0.01] * 30 + [0.03]))  # one in 31 is above
    assert not watched.demoted


@pytest.mark.parametrize("error", [0.03, float("nan"), float("inf")])
def test_errors_out_of_range_demote_soon_and_only_those_concerned(error: float) -> None:
    watched = guard()
    seen = next(n for n in range(1, 20) if watched.observe(FOUR.strategy, error))
    assert seen <= WITHIN
    assert set(watched.demoted) == {FOUR.strategy}
    assert not watched.wants(FOUR.strategy)
    watched.restore(FOUR.strategy)
    assert watched.wants(FOUR.strategy)


def test_a_suspicion_is_followed_up_at_once() -> None:
    watched = guard(share=0.0)
    assert not watched.wants(FOUR.strategy)
    watched.observe(FOUR.strategy, 1.0)
    assert watched.wants(FOUR.strategy)
    assert not watched.wants("raw")
    watched.observe(FOUR.strategy, 0.01)
    watched.observe(FOUR.strategy, 0.01)
    watched.observe(FOUR.strategy, 0.01)
    assert not watched.wants(FOUR.strategy)


def test_a_demoted_strategy_is_not_chosen() -> None:
    controller = Controller(LIBRARY, Settings(explore_share=0.0, sample_share=1.0), FakeClock(), random.Random(1))
    for _ in range(WITHIN):
        decision = controller.decide(REQUEST, link(1e6))
        if controller.wants_sample(decision):
            controller.sampled(decision, 1.0)
    refused = {c.strategy: c.refused for c in controller.decide(REQUEST, link(1e6)).candidates}
    assert "demoted" in str(refused[TEN.strategy])


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(refmodel.path())


def scaled(block: KVBlock, k: float, v: float) -> KVBlock:
    """The KV of a model whose activations have drifted: larger keys in every eighth channel, values likewise."""
    keys, values = block.k.clone(), block.v.clone()
    keys[..., ::8] *= k
    values[..., ::8] *= v
    return replace(block, k=keys, v=values)


def test_shifted_kv_of_a_real_model_is_noticed_and_the_budget_holds(engine: Engine) -> None:
    """Every lossy strategy that shifted KV hurts is refused after 10 samples of it; unshifted KV demotes none."""
    texts = prompts.make(6, 400)
    blocks = [chunk for ids in texts for chunk in engine.prefill(ids[:-1]).token_chunks(128)]
    calibration, live = blocks[:12], blocks[12:]
    strategies = [Strategy.parse(text) for text in ("raw", "uniform:levels=16+pack", "hadamard+uniform:levels=16+pack")]
    library = ProfileLibrary("m", measure(strategies, calibration, lambda _: 1.0, repeats=1), {})
    for factor, demoted in ((1.0, set()), (8.0, {str(s) for s in strategies[1:]})):
        controller = Controller(library, Settings(explore_share=0.0, sample_share=1.0), FakeClock(), random.Random(1))
        samples: dict[str, int] = {}
        for number in range(40):
            decision = controller.decide(REQUEST, link(1e6))
            if not controller.wants_sample(decision):
                continue
            block = scaled(live[number % len(live)], factor, factor)
            if block.tokens == 128:
                samples[decision.chosen] = samples.get(decision.chosen, 0) + 1
                controller.sampled(decision, strategy_error(block, decision.strategy))
        assert set(controller.guard.demoted) == demoted
        assert all(samples[name] <= WITHIN for name in demoted)
        assert controller.decide(REQUEST, link(1e6)).chosen == "raw" or not demoted


def test_equal_kv_has_no_error(engine: Engine) -> None:
    block = engine.prefill(prompts.make(1, 128)[0])
    assert attention_error(block, block) == 0.0
    coarse, fine = (strategy_error(block, Strategy.parse(f"uniform:levels={n}+pack")) for n in (4, 64))
    assert coarse > 10 * fine > 0

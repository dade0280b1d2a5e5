import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.kv.control.library import FOUR, LIBRARY, RAW, REQUEST, TEN, link

from tightwire.core.clock import FakeClock
from tightwire.kv import refmodel
from tightwire.kv.block import KVBlock, to_float32
from tightwire.kv.control.controller import Controller
from tightwire.kv.control.error import attention_error, strategy_error
from tightwire.kv.control.guard import Guard
from tightwire.kv.control.settings import Settings
from tightwire.kv.demo import prompts
from tightwire.kv.engines.transformers import Engine
from tightwire.kv.profiles import ProfileLibrary, measure
from tightwire.kv.quality.likelihood import through
from tightwire.kv.stages.transforms.pca import Pca
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
    torch.set_num_threads(1)  # small matrices: more of them only wait for each other
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


@pytest.fixture
def calibrated(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Strategy:
    """Keeps what the model's own prompts need of K and V, and little else."""
    monkeypatch.setenv("TIGHTWIRE_TABLES", str(tmp_path))
    blocks, sides = [engine.prefill(ids[:-1]) for ids in prompts.make(4, 400, seed=8)], []
    for side in ("k", "v"):
        samples = [to_float32(getattr(block, side)) for block in blocks]
        table = Pca(over="heads", keep=100).calibrate(samples, engine.fingerprint)
        table.save(tmp_path)
        sides.append(f"pca:over=heads,keep=35,table={table.name}+uniform:levels=16,axis=channel+pack")
    return Strategy.parse("/".join(sides))


def kept(engine: Engine, strategy: Strategy, texts: list[list[int]], given: int = 300) -> float:
    """exp(−KL) of what the model expects at each place after the `given` first tokens: of raw KV, against `strategy`."""
    found = []
    for ids in texts:
        kv = engine.prefill(ids[: given - 1])
        raw, lossy = (
            engine.log_probabilities(ids[:given], each, ids[given:]) for each in (kv, through(kv, strategy, 128))
        )
        found.append(float((raw.exp() * (raw - lossy)).sum(dim=-1).mean().neg().exp()))
    return sum(found) / len(found)


def test_other_text_is_noticed_and_the_budget_holds(engine: Engine, calibrated: Strategy) -> None:
    """Numbers instead of prose and tables: what was calibrated on those is refused, and what takes its place keeps the
    budget by what the model expects, which the calibrated one does not."""
    budget, plain = 0.9, Strategy.parse("hadamard+uniform:levels=16+pack")
    rng = random.Random(5)
    numbers = [" ".join(str(rng.randrange(10**6)) for _ in range(300)) for _ in range(4)]
    usual = prompts.make(4, 400)
    other = [engine.tokenizer(text)["input_ids"][:400] for text in numbers]

    blocks = [chunk for ids in usual for chunk in engine.prefill(ids[:-1]).token_chunks(128)]
    strategies = [Strategy.parse("raw"), plain, calibrated]
    profiles = measure(strategies, blocks, lambda strategy: kept(engine, strategy, usual), repeats=1)
    controller = Controller(
        ProfileLibrary("m", profiles, {}),
        Settings(budget, explore_share=0.0, sample_share=1.0),
        FakeClock(),
        random.Random(1),
    )
    first = controller.decide(REQUEST, link(1e5))
    assert first.strategy == calibrated
    live = [block for ids in other for block in engine.prefill(ids[:-1]).token_chunks(128) if block.tokens == 128]
    sampled = 0
    for block in live[:WITHIN]:
        decision = controller.decide(REQUEST, link(1e5))
        if decision.strategy == calibrated and controller.wants_sample(decision):
            sampled += 1
            controller.sampled(decision, strategy_error(block, decision.strategy))
    assert set(controller.guard.demoted) == {first.chosen}
    assert 0 < sampled <= WITHIN
    for block in live:
        decision = controller.decide(REQUEST, link(1e5))
        assert decision.strategy == plain  # which is no worse on this text than on the usual one
        controller.sampled(decision, strategy_error(block, plain))
    assert kept(engine, calibrated, other) < budget <= kept(engine, plain, other)


def test_equal_kv_has_no_error(engine: Engine) -> None:
    block = engine.prefill(prompts.make(1, 128)[0])
    assert attention_error(block, block) == 0.0
    coarse, fine = (strategy_error(block, Strategy.parse(f"uniform:levels={n}+pack")) for n in (4, 64))
    assert coarse > 10 * fine > 0

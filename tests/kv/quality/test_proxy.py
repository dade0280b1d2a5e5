"""The proxy against attention written out."""

import pytest
import torch

from tightwire.kv.quality import Suite, rank_correlation
from tightwire.kv.quality.proxy import PROMPTS, Proxy
from tightwire.kv.quality.sides import Group, Sides
from tightwire.kv.strategy import RAW, Strategy


def test_error_is_that_of_attention_written_out() -> None:
    torch.manual_seed(0)
    k, v = torch.randn(2, 3, 2, 2, 20, 16).to(torch.bfloat16)
    queries = [[torch.randn(3, 4, 5, 16) for _ in range(2)]]
    groups = [Group(k, v)]
    sides = Sides(Proxy.sample(groups), 8, 2**20, "")
    proxy = Proxy(queries, groups, sides)
    strategy = Strategy.parse("uniform:levels=5+pack")
    (k_off,), (v_off,) = sides.arrived(strategy)
    errors = []
    for prompt in range(PROMPTS):
        for layer in range(2):
            for head in range(2):
                outs = []
                for keys, values in ((k, v), (k_off, v_off)):
                    here = [x[prompt, layer, head].float() for x in (keys, values)]
                    q = queries[0][layer][prompt, 2 * head : 2 * head + 2].reshape(10, 16)
                    outs.append(torch.softmax(q @ here[0].T / 4, dim=-1) @ here[1])
                errors.append(((outs[1] - outs[0]).square().sum() / outs[0].square().sum()).item())
    assert proxy.error(strategy) == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert proxy.error(RAW) == 0


def test_it_ranks_strategies_as_the_loss_does(suite: Suite) -> None:
    sides = (
        "uniform:levels={}",
        "hadamard+uniform:levels={}",
        "uniform:levels={},axis=channel",
        "rope+uniform:levels={}",
    )
    chains = [f"{side.format(levels)}+pack" for side in sides for levels in (3, 6, 16)]
    strategies = [Strategy.parse(f"{k}/{v}") for k, v in zip(chains, chains[5:] + chains[:5], strict=True)]
    lost = [1 - suite.measure(strategy).relative for strategy in strategies]
    assert rank_correlation([suite.proxy(strategy) for strategy in strategies], lost) > 0.75


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 100, 1000, 1001]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9487, abs=1e-4)  # ranks 1.5, 1.5, 3, 4

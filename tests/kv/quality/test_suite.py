"""A suite against the slow way, on the reference model and on one of another architecture."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from tightwire.errors import ConfigError
from tightwire.kv import refmodel
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.presets import presets
from tightwire.kv.quality import Suite
from tightwire.kv.quality.sides import Group, Sides
from tightwire.kv.strategy import RAW, Strategy

TEXTS = (
    "uniform:levels=6+rans/uniform:levels=4,axis=channel+pack",
    "hadamard+uniform:levels=16,axis=group,group=128+pack@first=1,last=1,sinks=4,recent=40",
    "uniform:levels=8+zstd@recent=2000",
    "exponent/uniform:levels=3+pack",
    "raw",
    *(name for name in presets() if name not in ("kvtc-16x", "gear-4")),
)


def named(text: str) -> Strategy:
    found = presets().get(text)
    return found.strategy if found else Strategy.parse(text)


@pytest.mark.parametrize("text", TEXTS)
def test_what_arrives_and_its_bytes_are_those_of_real_frames(suite: Suite, text: str) -> None:
    strategy = named(text)
    k, v = suite._sides.arrived(strategy)
    raw_bytes = frame_bytes = 0
    for number, group in enumerate(suite._sides.groups):
        for prompt in range(group.k.shape[0]):
            chunks = KVBlock(group.k[prompt], group.v[prompt]).token_chunks(96)
            frames = [encode_block(chunk, strategy, suite.model.fingerprint) for chunk in chunks]
            raw_bytes += sum(chunk.raw_bytes for chunk in chunks)
            frame_bytes += sum(map(len, frames))
            blocks = [decode_block(frame) for frame in frames]
            assert torch.equal(torch.cat([b.k for b in blocks], dim=2), k[number][prompt])
            assert torch.equal(torch.cat([b.v for b in blocks], dim=2), v[number][prompt])
    assert suite.ratio(strategy) == raw_bytes / frame_bytes


def test_what_cannot_be_encoded_arrives_raw_with_its_other_side() -> None:
    torch.manual_seed(0)
    k, v = torch.randn(2, 1, 2, 2, 8, 64).to(torch.bfloat16)
    k[0, 0, 0, 5, 3] = float("nan")
    strategy = Strategy.parse("uniform:levels=4+pack")
    sides = Sides([Group(k, v)], 4, 2**20, "")
    (k_back,), (v_back,) = sides.arrived(strategy)
    assert torch.equal(v_back[:, :, :, 4:], v[:, :, :, 4:])
    assert not torch.equal(v_back[:, :, :, :4], v[:, :, :, :4])
    assert torch.equal(k_back[:, :, :, 4:].nan_to_num(7), k[:, :, :, 4:].nan_to_num(7))


def test_a_bounded_cache_gives_the_same() -> None:
    torch.manual_seed(0)
    k, v = torch.randn(2, 1, 2, 2, 8, 64).to(torch.bfloat16)
    small, large = (Sides([Group(k, v)], 4, size, "") for size in (1, 2**30))
    texts = ("uniform:levels=4+pack", "uniform:levels=8+pack", "uniform:levels=4+zstd", "uniform:levels=4+pack")
    for strategy in map(Strategy.parse, texts):
        for ours, theirs in zip(small.arrived(strategy), large.arrived(strategy), strict=True):
            assert torch.equal(ours[0], theirs[0])
        assert small.ratio(strategy) == large.ratio(strategy)
        assert len(small._held) == 1


@pytest.mark.parametrize("name", ["suite", "qwen2"])
def test_log_probabilities_are_those_of_the_model_itself(name: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(name)
    folder = refmodel.path() if name == "suite" else made
    suite = made if isinstance(made, Suite) else Suite.of(made, lengths=(200,), prompts=2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    k, v = suite._sides.arrived(Strategy.parse("uniform:levels=5+pack"))
    found = suite._log_probabilities(k, v)
    for number, asked in enumerate(suite._asked):
        cache = DynamicCache()
        for layer in range(suite.model.layers):
            cache.update(k[number][:, layer].float(), v[number][:, layer].float(), layer)
        with torch.inference_mode():
            expected = torch.log_softmax(model(asked.fed, past_key_values=cache).logits, dim=-1)
        assert torch.allclose(found[number], expected, atol=2e-4)


def test_raw_loses_nothing_and_fewer_levels_lose_more(suite: Suite) -> None:
    raw = suite.measure(RAW)
    assert (raw.relative, raw.relative_ci) == (1.0, (1.0, 1.0))
    assert (raw.kl.value, raw.perplexity.value, raw.agreement.value) == (0.0, 1.0, 1.0)
    assert suite.measure(Strategy.parse("exponent")).relative == 1.0
    assert suite.proxy(RAW) == 0
    strategies = [Strategy.parse(f"uniform:levels={levels}+pack") for levels in (64, 16, 8, 4, 2)]
    relative = [suite.measure(strategy).relative for strategy in strategies]
    errors = [suite.proxy(strategy) for strategy in strategies]
    assert relative == sorted(relative, reverse=True)
    assert errors == sorted(errors)
    assert relative[0] > 0.999
    assert relative[-1] < 0.8


def test_it_is_the_same_every_time(suite: Suite) -> None:
    strategy = Strategy.parse("hadamard+uniform:levels=6+pack")
    first = suite.measure(strategy)
    suite.measure(Strategy.parse("uniform:levels=2+pack"))
    assert suite.measure(strategy) == first
    again = Suite.of(lengths=(64, 160), prompts=2, chunk_tokens=96)
    assert again.fingerprint == suite.fingerprint
    assert again.measure(strategy) == first
    assert Suite.of(lengths=(64, 160), prompts=2, chunk_tokens=96, seed=1).fingerprint != suite.fingerprint


def test_few_prompts_are_among_the_many(suite: Suite) -> None:
    few = Suite.of(lengths=(64, 160), fidelity="few", chunk_tokens=96)
    assert few.fingerprint != suite.fingerprint
    for ours, theirs in zip(few._asked, suite._asked, strict=True):
        counted = theirs.counts[: few.prompts].any(dim=0)
        assert torch.equal(ours.answer, theirs.answer[: few.prompts][:, counted])


def test_another_architecture_runs_unchanged(qwen2: Path) -> None:
    suite = Suite.of(qwen2, lengths=(200,), prompts=2)
    rough, fine = (suite.measure(Strategy.parse(f"uniform:levels={n}+pack")) for n in (3, 64))
    assert rough.relative < fine.relative < 1
    assert (
        0 < suite.proxy(Strategy.parse("uniform:levels=64+pack")) < suite.proxy(Strategy.parse("uniform:levels=3+pack"))
    )
    assert all(cell.raw == 0 and cell.relative is None for cell in rough.exact)  # random weights know no answer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lengths": ()}, "lengths="),
        ({"lengths": (64, 64)}, "lengths="),
        ({"lengths": (20,)}, "length=20"),
        ({"prompts": 0}, "prompts=0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Suite.of(**settings)  # type: ignore[arg-type]

"""The reference model that ships: it loads, it is small, and it has learnt text and lookup."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tightwire.errors import ConfigError
from tightwire.kv import refmodel
from tightwire.kv.refmodel import tasks
from tightwire.kv.refmodel.prompts import prompts

pytest.importorskip("transformers")
from tokenizers import Tokenizer

from tightwire.kv.refmodel import corpus, evaluate, train
from tightwire.kv.refmodel.model import ARCHITECTURES
from tightwire.kv.refmodel.muon import Muon
from tightwire.kv.refmodel.rows import ANSWER, CUE, Rows


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return evaluate.load()


def test_the_folder_is_a_small_llama(loaded: tuple[Any, Any]) -> None:
    config = loaded[0].config
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.head_dim == 64
    assert config.num_key_value_heads < config.num_attention_heads
    assert sum(file.stat().st_size for file in refmodel.path().iterdir()) <= 20e6


def test_heldout_text_is_much_less_surprising_than_by_token_counts(loaded: tuple[Any, Any]) -> None:
    counts = json.loads((refmodel.path() / "unigram.json").read_text())
    text = refmodel.heldout()[:16_000]
    unigram = evaluate.unigram_perplexity(loaded[1], text, counts)
    assert evaluate.perplexity(*loaded, text) < 0.5 * unigram


@pytest.mark.parametrize(("length", "n"), [(512, 10), (2048, 4)])
@pytest.mark.parametrize("task", ["lookup", "copy", "recall"])
def test_answers_are_right(loaded: tuple[Any, Any], task: str, length: int, n: int) -> None:
    assert evaluate.accuracy(*loaded, evaluate.task_table()[task], length, n, seed=2026) >= 0.75


@pytest.mark.parametrize("length", [64, 2048])
def test_what_a_copy_row_asks_for_followed_the_same_cue_before(loaded: tuple[Any, Any], length: int) -> None:
    heldout = loaded[1].encode(refmodel.heldout(), add_special_tokens=False)
    rows = Rows(random.Random(length), loaded[1], [heldout], loaded[1].bos_token_id)
    for _ in range(50):
        row = rows.make("copy", length, symbols=1000)
        assert len(row.ids) == len(row.weights) == length
        asked = [place for place, weight in enumerate(row.weights) if weight == ANSWER]
        assert asked
        grams = {tuple(row.ids[end - CUE : end + 1]): end for end in range(len(row.ids) - 1, CUE, -1)}
        for place in asked:
            assert grams[tuple(row.ids[place - CUE : place + 1])] < place


def test_stages_grow_and_start_early_enough() -> None:
    longest = [max(stage.lengths) for stage in train.STAGES]
    assert longest == sorted(longest)
    assert longest[-1] == 2048
    assert [train.next_level(0, stage.begin, skill=0.0) for stage in train.STAGES] == list(range(len(longest)))
    assert train.next_level(0, 0.0, skill=0.95) == 1
    assert train.next_level(len(longest) - 1, 0.0, skill=0.95) == len(longest) - 1


@pytest.mark.parametrize("text", ["The pass code of lemon is 482.", "Ä\t1234  \n\n naïve \U0001f40b;", ""])
def test_tokenizer_round_trips(loaded: tuple[Any, Any], text: str) -> None:
    ids = loaded[1].encode(text)
    assert ids[0] == loaded[1].bos_token_id
    assert loaded[1].decode(ids, skip_special_tokens=True) == text


def test_keys_and_values_are_single_tokens(loaded: tuple[Any, Any]) -> None:
    for piece in [f" {number:03d}" for number in range(1000)] + [f" {word}" for word in tasks.WORDS]:
        assert len(loaded[1].encode(piece, add_special_tokens=False)) == 1


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("name", ["lookup", "copy", "recall"])
def test_tasks_are_seeded_and_of_the_wanted_length(loaded: tuple[Any, Any], name: str, length: int) -> None:
    task = evaluate.task_table()[name]
    first, again, other = (task(random.Random(seed), loaded[1], length) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert 0.9 * length <= len(first.prompt_ids) <= 1.05 * length


def test_a_lookup_answer_stands_in_its_prompt(loaded: tuple[Any, Any]) -> None:
    example = tasks.lookup(random.Random(5), loaded[1], 128)
    key = example.prompt_ids[-2]
    first = example.prompt_ids.index(key)
    assert first < len(example.prompt_ids) - 2
    assert example.prompt_ids[first + 2] == example.answer_ids[0]


@pytest.mark.parametrize("tokens", [128, 512, 1500])
def test_prompts_have_about_the_wanted_length_and_hold_their_answer(loaded: tuple[Any, Any], tokens: int) -> None:
    made = prompts(4, tokens, seed=3)
    assert made == prompts(4, tokens, seed=3)
    for prompt in made:
        assert prompt.answer in prompt.text
        assert 0.75 * tokens <= len(loaded[1].encode(prompt.text)) <= 1.25 * tokens


def test_too_short_is_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="at least"):
        tasks.lookup(random.Random(0), loaded[1], 4)
    with pytest.raises(ConfigError, match="at least"):
        prompts(1, 8)


def test_another_architecture_and_vocabulary_is_trained_by_the_same_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = refmodel.heldout()
    monkeypatch.setattr(corpus, "fetch", lambda _: corpus.Corpus((text[:40_000],), text[40_000:]))
    train.main([
        "--out", str(tmp_path), "--arch", "qwen2", "--vocabulary", "2000", "--context", "64", "--seed", "2",
        "--tokens", "1024", "--batch", "256", "--fp32", "--device", "cpu",
    ])  # fmt: skip
    model, tokenizer = evaluate.load(tmp_path)
    trained = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))  # not transformers' own for Qwen2
    assert tokenizer(text[:2000])["input_ids"] == trained.encode(text[:2000]).ids
    assert model.config.architectures == ["Qwen2ForCausalLM"]
    assert model.config.vocab_size == 2000
    assert model.config.rope_parameters["rope_theta"] == ARCHITECTURES["qwen2"].theta
    for layer in model.model.layers:
        assert layer.self_attn.k_proj.bias.abs().max() > 0


def test_muon_in_fp32_steps_as_torchs_does() -> None:
    torch.manual_seed(0)
    start = torch.randn(40, 100)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    muon = Muon([ours], lr=0.01, weight_decay=0.05)
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.grad = torch.randn(40, 100)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # theirs rounds to bf16
    assert moved > 0.1

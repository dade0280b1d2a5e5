"""Prompts for two tokenizers that have little in common."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.kv.quality import models
from tightwire.errors import ConfigError
from tightwire.kv import refmodel
from tightwire.kv.quality.prompts import COPY_TOKENS, TEXT_TOKENS, Prompts
from tightwire.kv.refmodel import heldout

TOKENIZERS: dict[str, Any] = {"ours": AutoTokenizer.from_pretrained(refmodel.path()), "bytes": models.tokenizer()}
PROMPTS = {name: Prompts(tokenizer) for name, tokenizer in TOKENIZERS.items()}


@given(
    st.sampled_from(sorted(TOKENIZERS)),
    st.sampled_from(["text", "lookup", "copy", "recall"]),
    st.integers(200, 700),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_prompts_have_the_length_and_hold_their_answer(name: str, task: str, length: int, seed: int) -> None:
    tokenizer = TOKENIZERS[name]
    example = PROMPTS[name].tasks[task](random.Random(seed), length)
    prompt, answer = tokenizer.decode(example.prompt_ids), tokenizer.decode(example.answer_ids)
    assert len(example.prompt_ids) == length
    assert prompt.startswith("<s>") == (name == "ours")
    if task == "text":
        assert len(example.answer_ids) == TEXT_TOKENS
        prose = heldout()
        assert (prompt.removeprefix("<s>") + answer).lstrip("\ufffd")[:150] in prose + prose
    if task == "lookup":
        key = prompt.rsplit(" Find: key ", 1)[1].removesuffix(" ->")
        assert prompt.count(f" key {key} ->{answer};") == 1
    if task == "copy":
        body, cue = list(example.prompt_ids[:-4]), list(example.prompt_ids[-4:])
        wanted = cue + list(example.answer_ids)
        assert len(example.answer_ids) == COPY_TOKENS
        assert any(body[i : i + len(wanted)] == wanted for i in range(len(body)))
    if task == "recall":
        asked = prompt.rsplit("\n", 1)[1]
        assert prompt.count("The pass code of") == 4
        assert asked + answer + "." in prompt


def test_more_prompts_begin_with_the_same_ones() -> None:
    few, many = (PROMPTS["ours"].make("recall", 128, count, seed=3) for count in (2, 5))
    assert many[:2] == few
    assert PROMPTS["ours"].make("recall", 128, 2, seed=4) != few


@pytest.mark.parametrize("task", ["lookup", "copy", "recall"])
def test_too_short_is_said(task: str) -> None:
    with pytest.raises(ConfigError, match="length=6 "):
        PROMPTS["ours"].make(task, 6, 1, seed=0)

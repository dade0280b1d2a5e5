"""Prompts of the demo as token ids of the reference model: held-out prose with a question at the end."""

from __future__ import annotations

from typing import Any

from tightwire.kv import refmodel
from tightwire.kv.engines.tokenizer import load_tokenizer
from tightwire.kv.refmodel.prompts import prompts


def make(count: int, tokens: int, seed: int = 1) -> list[list[int]]:
    """`count` prompts of about `tokens` tokens each."""
    tokenizer: Any = load_tokenizer(refmodel.path())
    return [list(tokenizer(prompt.text)["input_ids"]) for prompt in prompts(count, tokens, seed)]

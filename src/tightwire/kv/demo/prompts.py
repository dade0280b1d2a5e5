"""Prompts of the demo as token ids of the reference model: held-out prose with a question at the end."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from tightwire.kv import refmodel
from tightwire.kv.refmodel.prompts import prompts


def make(count: int, tokens: int, seed: int = 1) -> list[list[int]]:
    """`count` prompts of about `tokens` tokens each."""
    tokenizer: Any = AutoTokenizer.from_pretrained(refmodel.path())
    return [list(tokenizer(prompt.text)["input_ids"]) for prompt in prompts(count, tokens, seed)]

"""Realistic prompts with a known answer: held-out prose, a table, and a question at the end.

Made for demonstrations and for comparing a continuation under raw KV with one under compressed KV.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tightwire.errors import ConfigError
from tightwire.kv.refmodel import heldout
from tightwire.kv.refmodel.tasks import ENTRY_TOKENS, FACT_TOKENS, lookup_text, recall_text

_LEAST_TOKENS = 64
_TOKENS_PER_WORD = 1.7  # of the held-out prose under the model's own tokenizer


@dataclass(frozen=True)
class Prompt:
    """`text` to be encoded with the model's tokenizer; a right continuation begins with `answer`."""

    text: str
    answer: str


def prompts(n: int, tokens: int, seed: int = 0) -> list[Prompt]:
    """`n` prompts of about `tokens` tokens (within a few per cent), half of them lookup, half recall.

    Lookup: prose, then a table of keys, then one key. Recall: pass codes hidden in prose, one asked for.
    Raises ConfigError below 64 tokens.
    """
    if tokens < _LEAST_TOKENS:
        raise ConfigError(f"tokens={tokens} is too short for a prompt; ask for at least {_LEAST_TOKENS}")
    rng = random.Random(seed)
    words = heldout().split(" ")
    made = []
    for number in range(n):
        table = tokens // 2 if number % 2 == 0 else 0
        facts = min(3, tokens // 32)
        extra = table if table else facts * FACT_TOKENS + 8
        count = max(facts, int((tokens - extra) / _TOKENS_PER_WORD))
        start = rng.randrange(len(words))
        prose = " ".join(words[(start + place) % len(words)] for place in range(count))
        if table:
            question, answer = lookup_text(rng, min(table // ENTRY_TOKENS - 1, 1000))
            made.append(Prompt(prose + question, answer))
        else:
            made.append(Prompt(*recall_text(rng, prose, facts)))
    return made

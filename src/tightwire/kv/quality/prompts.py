"""Prompts of an exact number of tokens, for any tokenizer: held-out text, and tasks with a known answer.

Pieces are tokenized apart and joined as tokens; an answer's tokens are those that follow the question in one text, so
that they are what the model meets elsewhere in the prompt. What a task leaves empty is filled with prose in front.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tightwire.errors import ConfigError
from tightwire.kv.refmodel import heldout
from tightwire.kv.refmodel.tasks import WORDS, Example, entry, fact

TEXT_TOKENS = 16
COPY_TOKENS = 8
_CUE_TOKENS = 4
_FACTS = 3


class Prompts:
    """Makes examples of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        plain = self._encode("the")
        whole = list(tokenizer.encode("the"))
        self._start = whole[: len(whole) - len(plain)] if whole[len(whole) - len(plain) :] == plain else []
        self._prose = self._encode(heldout())
        self._pool = self._encode("".join(f" {word}" for word in WORDS) + "".join(f" {n:03d}" for n in range(1000)))
        self.tasks: dict[str, Callable[[random.Random, int], Example]] = {
            "text": self.text, "lookup": self.lookup, "copy": self.copy, "recall": self.recall,
        }  # fmt: skip

    def make(self, task: str, length: int, count: int, seed: int) -> list[Example]:
        """`count` examples with prompts of exactly `length` tokens; the first ones are the same for every `count`."""
        rng = random.Random(f"{seed} {task} {length}")
        return [self.tasks[task](rng, length) for _ in range(count)]

    def text(self, rng: random.Random, length: int) -> Example:
        """Held-out prose, and how it goes on."""
        body = self._some_prose(rng, length - len(self._start) + TEXT_TOKENS)
        return Example((*self._start, *body[:-TEXT_TOKENS]), tuple(body[-TEXT_TOKENS:]))

    def lookup(self, rng: random.Random, length: int) -> Example:
        """A table of keys, one of which is asked for."""
        keys = rng.sample(range(1000), 1000)
        pairs = [(key, rng.choice(WORDS)) for key in keys]
        rows = [self._encode(entry(key, word)) for key, word in pairs]
        longest = max(len(self._encode(f" Find: key {key:03d} ->")) for key in keys[:8])
        room, count = length - len(self._start) - longest, 0
        while count < len(rows) and room >= len(rows[count]):
            room -= len(rows[count])
            count += 1
        asked = rng.randrange(self._enough(count, length))
        question, answer = self._split(f" Find: key {pairs[asked][0]:03d} ->", f" {pairs[asked][1]}")
        return self._filled(rng, [token for row in rows[:count] for token in row] + question, answer, length)

    def copy(self, rng: random.Random, length: int) -> Example:
        """Random words and numbers whose last tokens occurred once before: what followed?"""
        count = length - len(self._start) - _CUE_TOKENS
        body = [rng.choice(self._pool) for _ in range(max(count, 0))]
        start = rng.randrange(self._enough(count - _CUE_TOKENS - COPY_TOKENS, length))
        cue = body[start : start + _CUE_TOKENS]
        after = start + _CUE_TOKENS
        return Example((*self._start, *body, *cue), tuple(body[after : after + COPY_TOKENS]))

    def recall(self, rng: random.Random, length: int) -> Example:
        """Pass codes hidden in prose, one of which is asked for."""
        names = rng.sample(WORDS, _FACTS)
        numbers = [rng.randrange(1000) for _ in names]
        facts = [self._encode(fact(name, number)) for name, number in zip(names, numbers, strict=True)]
        asked = rng.randrange(_FACTS)
        question, answer = self._split(f"\nThe pass code of {names[asked]} is", f" {numbers[asked]:03d}")
        room = length - len(self._start) - len(question) - sum(map(len, facts))
        prose = self._some_prose(rng, self._enough(room, length))
        body, last = [], 0
        for cut, told in zip(sorted(rng.randrange(room) for _ in facts), facts, strict=True):
            body += prose[last:cut] + told
            last = cut
        return Example((*self._start, *body, *prose[last:], *question), tuple(answer))

    def _filled(self, rng: random.Random, body: list[int], answer: list[int], length: int) -> Example:
        room = length - len(self._start) - len(body)
        return Example((*self._start, *self._some_prose(rng, self._enough(room + 1, length) - 1), *body), tuple(answer))

    def _some_prose(self, rng: random.Random, count: int) -> list[int]:
        start = rng.randrange(len(self._prose))
        return [self._prose[(start + place) % len(self._prose)] for place in range(count)]

    def _split(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Tokens of the question and of the answer after it, cut where the question's own tokens end."""
        alone, whole = self._encode(question), self._encode(question + answer)
        same = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), len(alone))
        return whole[:same], whole[same:]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _enough(self, room: int, length: int) -> int:
        if room < 1:
            raise ConfigError(f"length={length} tokens is too short for this tokenizer's prompts; ask for more")
        return room

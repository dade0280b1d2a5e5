"""Seeded tasks whose answers are known: copy, lookup and recall at a wanted prompt length.

An `Example` is what is asked of a model: after `prompt_ids` a greedy continuation should begin with
`answer_ids`. Pure functions of a `random.Random` and a tokenizer; training and evaluation share them.
Prompts start with the tokenizer's `<s>`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from tightwire.errors import ConfigError

_WORDS = """lemon stone river paper candle garden window silver copper hammer basket button bottle blanket
    pocket mirror ladder needle ribbon saddle tunnel valley walnut yellow anchor barrel bridge butter
    camera carpet castle cheese cherry circle coffee cotton desert dinner doctor dragon engine feather
    finger flower forest guitar harbor helmet island jacket jungle kettle kitten lantern leather market
    meadow mango monkey muffin museum napkin orange oyster palace parrot pencil pepper pillow pirate
    planet potato puzzle rabbit rocket salmon school shadow singer spider spoon statue summer sunset
    tablet temple throne ticket tomato turtle velvet violin wagon whale winter wizard zebra apple
    beach bread brush cabin chair cloud clock coral crown daisy eagle fence flute glove grape horse
    hotel juice knife lamp maple olive onion piano plate queen"""
WORDS = tuple(_WORDS.split())
ENTRY_TOKENS = 5
FACT_TOKENS = 10


class Encoder(Protocol):
    """What is needed of a tokenizer (a transformers tokenizer has it)."""

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]: ...


@dataclass(frozen=True)
class Example:
    """`prompt_ids` (with `<s>` first) and the `answer_ids` that should follow."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


def entry(key: int, word: str) -> str:
    """One row of a lookup table: five tokens, the key the second and the value the fourth."""
    return f" key {key:03d} -> {word};"


def fact(name: str, number: int) -> str:
    """A sentence to be remembered: the number is its last but one token."""
    return f" The pass code of {name} is {number:03d}."


def _check(length: int, least: int) -> None:
    if length < least:
        raise ConfigError(f"length {length} tokens is too short for this task; ask for at least {least}")


def lookup_text(rng: random.Random, entries: int) -> tuple[str, str]:
    """(prompt, answer) as text: `entries` distinct keys with values, then one of the keys again."""
    keys = rng.sample(range(1000), entries)
    words = [rng.choice(WORDS) for _ in keys]
    asked = rng.randrange(entries)
    table = "".join(entry(key, word) for key, word in zip(keys, words, strict=True))
    return f"{table} Find: key {keys[asked]:03d} ->", f" {words[asked]}"


def lookup(rng: random.Random, tokenizer: Encoder, length: int) -> Example:
    """A table of as many `key 482 -> lemon;` as fit `length` tokens, then one of its keys is asked for."""
    _check(length, 16)
    prompt, answer = lookup_text(rng, min((length - 6) // ENTRY_TOKENS, 1000))
    return Example(tuple(tokenizer.encode(prompt)), tuple(tokenizer.encode(answer, add_special_tokens=False)))


def copy(rng: random.Random, tokenizer: Encoder, length: int, answer_tokens: int = 8) -> Example:
    """Random words and numbers of `length` tokens whose last four occurred once before: what followed?"""
    _check(length, 4 * answer_tokens)
    (bos, *pool) = tokenizer.encode("".join(f" {w}" for w in WORDS) + "".join(f" {n:03d}" for n in range(1000)))
    body = [rng.choice(pool) for _ in range(length - 5)]
    start = rng.randrange(0, len(body) - 4 - answer_tokens)
    cue = body[start : start + 4]
    return Example((bos, *body, *cue), tuple(body[start + 4 : start + 4 + answer_tokens]))


def recall_text(rng: random.Random, prose: str, facts: int = 3) -> tuple[str, str]:
    """(prompt, answer) as text: `facts` pass codes hidden between words of `prose`, one asked for."""
    names = rng.sample(WORDS, facts)
    numbers = [rng.randrange(1000) for _ in names]
    words = prose.split(" ")
    for place, name, number in zip(sorted(rng.sample(range(len(words)), facts))[::-1], names, numbers, strict=True):
        words[place] += fact(name, number)
    asked = rng.randrange(facts)
    return f"{' '.join(words)}\nThe pass code of {names[asked]} is", f" {numbers[asked]:03d}"


def recall(rng: random.Random, tokenizer: Encoder, length: int, prose: str) -> Example:
    """Pass codes hidden in a random part of `prose`, about `length` tokens in all (rarely above)."""
    _check(length, 64)
    facts = min(3, length // 32)
    words = prose.split(" ")
    # The share of tokens per word is measured on the part itself.
    start = rng.randrange(max(1, len(words) - length))
    part = words[start : start + length]
    room = length - facts * FACT_TOKENS - 8
    costs = [len(tokenizer.encode(" " + word, add_special_tokens=False)) for word in part]
    count = 0
    while count < len(part) and room >= costs[count]:
        room -= costs[count]
        count += 1
    prompt, answer = recall_text(rng, " ".join(part[:count]), facts)
    return Example(tuple(tokenizer.encode(prompt)), tuple(tokenizer.encode(answer, add_special_tokens=False)))

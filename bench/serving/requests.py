"""Requests of a serving benchmark: prompts of the reference model, with lengths from a trace in Mooncake's format."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tightwire.errors import ConfigError
from tightwire.kv import refmodel
from tightwire.kv.refmodel.prompts import prompts

OUTPUT_TOKENS = 16


@dataclass(frozen=True)
class Job:
    """`ids` to prefill, `count` tokens to generate; a right continuation begins with `answer` (token ids)."""

    ids: list[int]
    count: int
    answer: list[int]

    def right(self, tokens: list[int]) -> bool:
        return tokens[: len(self.answer)] == self.answer


def lengths(trace: Path | None, count: int, mean: int, most: int, seed: int) -> list[int]:
    """Prompt lengths in tokens, `mean` on average and at most `most`: those of consecutive requests of `trace` (JSON
    lines with `input_length`), scaled; without one, of a lognormal distribution as wide as the published trace's."""
    if trace is None:
        rng = random.Random(seed)
        found = [rng.lognormvariate(0, 0.8) for _ in range(count)]
    else:
        try:
            with trace.open() as lines:
                found = [float(json.loads(line)["input_length"]) for line, _ in zip(lines, range(count), strict=False)]
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"trace={str(trace)!r}: {error!r}; give JSON lines with input_length") from error
    scale = mean * len(found) / sum(found)
    return [int(min(max(length * scale, mean / 4), most)) for length in found]


def make(sizes: list[int], seed: int, output: int = OUTPUT_TOKENS) -> list[Job]:
    """A job of about as many prompt tokens for each of `sizes`; all differ from their first words on."""
    tokenizer: Any = AutoTokenizer.from_pretrained(refmodel.path())
    jobs = []
    for number, size in enumerate(sizes):
        made = prompts(2, size, seed * 100_003 + number)[number % 2]
        answer = tokenizer(made.answer, add_special_tokens=False)["input_ids"]
        jobs.append(Job(list(tokenizer(made.text)["input_ids"]), output, list(answer)))
    return jobs

"""What the reference model can do: `python -m tightwire.kv.refmodel.evaluate [FOLDER] [--json FILE]`.

Held-out perplexity against the unigram one (token counts of the training text, one added to each), and the
share of exactly right greedy answers for lookup, copy and recall at several prompt lengths.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tightwire.kv.engines.tokenizer import load_tokenizer
from tightwire.kv.refmodel import heldout, path, tasks

LENGTHS = (128, 256, 512, 1024, 2048)
_BATCH_TOKENS = 16_384
Task = Callable[[random.Random, tasks.Encoder, int], tasks.Example]


def load(folder: Path | None = None) -> tuple[Any, Any]:
    """(model in float32, tokenizer) from `folder`, by default the one that ships with the package."""
    folder = folder or path()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, load_tokenizer(folder)


def task_table() -> dict[str, Task]:
    """The tasks by name, recall with the held-out prose filled in."""
    prose = heldout()
    return {
        "lookup": tasks.lookup,
        "copy": tasks.copy,
        "recall": lambda rng, tokenizer, length: tasks.recall(rng, tokenizer, length, prose),
    }


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any, text: str, window: int = 512) -> float:
    """exp of the mean loss per token of `text`, read in windows that each start with `<s>`."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    size = window - 1
    total, count = 0.0, 0
    for start in range(0, len(ids), size):
        part = torch.tensor([[tokenizer.bos_token_id, *ids[start : start + size]]])
        logits = model(input_ids=part, use_cache=False).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, part[0, 1:], reduction="sum").item()
        count += part.shape[1] - 1
    return math.exp(total / count)


def unigram_perplexity(tokenizer: Any, text: str, counts: list[int]) -> float:
    """Perplexity of `text` when every token is predicted by its share of the training text alone."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole = math.log(sum(counts) + len(counts))
    return math.exp(sum(whole - math.log(counts[i] + 1) for i in ids) / len(ids))


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, task: Task, length: int, n: int, seed: int) -> float:
    """Share of `n` examples whose greedy continuation is exactly the answer.

    The answer is fed along with the prompt: all its tokens are the arg max iff greedy decoding gives them.
    """
    rng = random.Random(seed)
    examples = [task(rng, tokenizer, length) for _ in range(n)]
    right = 0
    for start in range(0, n, size := max(1, _BATCH_TOKENS // length)):
        batch = examples[start : start + size]
        longest = max(len(e.prompt_ids) + len(e.answer_ids) for e in batch)
        # Padding stands after the answer, where causal attention cannot see it.
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
        for row, e in enumerate(batch):
            whole = torch.tensor(e.prompt_ids + e.answer_ids)
            ids[row, : len(whole)] = whole
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        for row, e in enumerate(batch):
            first = len(e.prompt_ids) - 1
            logits = model.lm_head(hidden[row, first : first + len(e.answer_ids)])
            right += logits.argmax(-1).tolist() == list(e.answer_ids)
    return right / n


def evaluate(folder: Path | None = None, n: int = 100, seed: int = 1) -> dict[str, float]:
    """All figures by name: `perplexity`, `unigram_perplexity` and `lookup_512`-like accuracies (0 to 1)."""
    model, tokenizer = load(folder)
    counts = json.loads(((folder or path()) / "unigram.json").read_text())
    text = heldout()
    figures = {
        "perplexity": perplexity(model, tokenizer, text),
        "unigram_perplexity": unigram_perplexity(tokenizer, text, counts),
    }
    for name, task in task_table().items():
        for length in LENGTHS:
            figures[f"{name}_{length}"] = accuracy(model, tokenizer, task, length, n, seed)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tightwire.kv.refmodel.evaluate", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="a model folder (default: the one that ships)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--n", type=int, default=100, help="examples per task and length")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    figures = evaluate(args.folder, args.n, args.seed)
    for name, value in figures.items():
        print(f"{name:20} {value:8.3f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

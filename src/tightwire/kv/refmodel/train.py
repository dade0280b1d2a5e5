"""Train the reference model, or one unlike it: `python -m tightwire.kv.refmodel.train --out DIR [--arch qwen2]`.

Deterministic by `--seed` unless `--minutes` cuts the run short (then the schedule follows the clock).
Writes a Hugging Face folder into DIR every two minutes and, for `--resume`, `DIR/state.pt`.
`--from FOLDER` starts from that folder's weights, architecture and tokenizer, in the last stage.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tightwire.kv.refmodel import corpus as corpora
from tightwire.kv.refmodel.model import ARCHITECTURES, new_model, save
from tightwire.kv.refmodel.muon import Muon
from tightwire.kv.refmodel.rows import Row, Rows
from tightwire.kv.refmodel.tokenizer import BOS, save_tokenizer, train_tokenizer

TASKS = ("text", "copy", "lookup", "recall")


class Stage(NamedTuple):
    """Begins after the share `begin` of the run at the latest; each step draws one of `lengths`, tokens per row."""

    begin: float
    lengths: tuple[int, ...]
    symbols: int  # different keys of a lookup
    mix: tuple[float, ...]  # shares of TASKS


# A stage below 512 tokens is left as soon as lookup is right nine times in ten.
STAGES = (
    Stage(0.00, (64,), 50, (0.15, 0.40, 0.45, 0.00)),
    Stage(0.20, (128,), 300, (0.20, 0.30, 0.45, 0.05)),
    Stage(0.30, (256,), 1000, (0.30, 0.15, 0.45, 0.10)),
    Stage(0.40, (512,), 1000, (0.40, 0.20, 0.25, 0.15)),
    Stage(0.60, (1024,), 1000, (0.40, 0.20, 0.25, 0.15)),
    Stage(0.80, (2048, 2048, 2048, 1024, 256), 1000, (0.25, 0.40, 0.25, 0.10)),
)
CONTEXTS = sorted({length for stage in STAGES for length in stage.lengths})
MASTERED = 0.9
WARMUP, DECAY = 0.02, 0.35


def next_level(level: int, done: float, skill: float) -> int:
    """The stage to be in: by the share `done` of the run, or earlier by `skill` at lookup."""
    if skill > MASTERED and max(STAGES[level].lengths) < 512:
        return level + 1
    return max(level, max(number for number, stage in enumerate(STAGES) if done >= stage.begin))


def rate(done: float) -> float:
    """Warm-up, stable, linear decay: the share of the full learning rate."""
    return min(done / WARMUP, 1.0, (1.0 - done) / DECAY + 0.01)


def train(args: argparse.Namespace) -> None:
    """The run that `args` describes; raises ConfigError where the corpus cannot be fetched."""
    torch.manual_seed(args.seed)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.start:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(args.start) / name, out)
    corpus = corpora.fetch(Path(args.cache))
    if not (out / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer([text[:3_000_000] for text in corpus.train], args.vocabulary), out)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out)  # transformers has one of its own for Qwen2
    encode = partial(tokenizer, add_special_tokens=False, verbose=False)
    documents = [encode(text)["input_ids"] for text in corpus.train]
    counts = torch.bincount(torch.tensor([i for d in documents for i in d]), minlength=len(tokenizer))
    (out / "unigram.json").write_text(json.dumps(counts.tolist()) + "\n")
    rows = Rows(random.Random(args.seed), tokenizer, documents, BOS)
    if args.start:
        model = AutoModelForCausalLM.from_pretrained(args.start, dtype=torch.float32)
    else:
        model = new_model(ARCHITECTURES[args.arch], len(tokenizer))
    model.to(device).train()
    optimizers = new_optimizers(model, args.lr, bf16=not args.fp32)
    tokens, step, spent_s, skill = 0, 0, 0.0, 0.0
    level = len(STAGES) - 1 if args.start else 0
    if args.resume and (out / "state.pt").exists():
        state = torch.load(out / "state.pt", weights_only=False)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        tokens, step, spent_s, level, skill, rows.rng = state["place"]
    began_s, saved_s = time.monotonic() - spent_s, time.monotonic()
    while True:
        spent_s = time.monotonic() - began_s
        done = max(tokens / args.tokens, spent_s / (60 * args.minutes) if args.minutes else 0.0)
        if done >= 1.0:
            break
        if (reached := next_level(level, done, skill)) > level:
            level, skill = reached, 0.0
        stage = STAGES[level]
        length = min(rows.rng.choice(stage.lengths), args.context)
        names = rows.rng.choices(TASKS, weights=stage.mix, k=args.batch // length)
        batch = [rows.make(name, length, stage.symbols) for name in names]
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = args.lr * rate(done)
        figures = update(model, batch, names, device, bf16=not args.fp32)
        skill += 0.1 * (figures.get("lookup", skill) - skill)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens, step = tokens + len(batch) * length, step + 1
        if step % 20 == 0:
            head = f"step {step} tokens {tokens} minutes {spent_s / 60:.1f} length {length}"
            print(head, *(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)
        if time.monotonic() - saved_s > 120:
            saved_s = time.monotonic()
            save(model, out)
            torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                        "place": (tokens, step, spent_s, level, skill, rows.rng)},
                       out / "state.pt")  # fmt: skip
    save(model, out)


def new_optimizers(model: PreTrainedModel, lr: float, *, bf16: bool) -> tuple[torch.optim.Optimizer, ...]:
    """(of the matrices, of embeddings, norms and biases)."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = partial(torch.optim.Muon, adjust_lr_fn="match_rms_adamw") if bf16 else Muon
    return muon(matrices, lr=lr, weight_decay=0.05), torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)


def update(model: PreTrainedModel, batch: list[Row], names: list[str], device: str, *, bf16: bool) -> dict[str, float]:
    """Gradients of one batch; returns its loss on text and the share of right answers by task."""
    ids = torch.tensor([row.ids for row in batch], device=device)
    weights = torch.tensor([row.weights for row in batch], device=device)[:, 1:]
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        kept = weights > 0
        logits = model.lm_head(hidden[kept])
    target, weight = ids[:, 1:][kept], weights[kept]
    losses = torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")
    ((losses * weight).sum() / weight.sum()).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    task = torch.tensor([TASKS.index(name) for name in names], device=device)[:, None].expand_as(kept)[kept]
    right, figures = logits.argmax(-1) == target, {}
    if (text := weight == 1.0).any():
        figures["text_loss"] = losses[text].mean().item()
    for number, name in enumerate(TASKS[1:], start=1):
        if (asked := (task == number) & (weight > 1.0)).any():
            figures[name] = right[asked].float().mean().item()
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tightwire.kv.refmodel.train", description=__doc__)
    parser.add_argument("--out", required=True, help="folder for the model and the training state")
    parser.add_argument("--cache", default="corpus", help="folder for the downloaded text")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="llama", help="llama: the reference model")
    parser.add_argument("--vocabulary", type=int, default=3072, help="entries of the tokenizer, at least 2048")
    parser.add_argument("--context", type=int, choices=CONTEXTS, default=CONTEXTS[-1], help="longest rows, in tokens")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, schedule included")
    parser.add_argument("--tokens", type=int, default=40_000_000, help="stop after so many tokens")
    parser.add_argument("--batch", type=int, default=4096, help="tokens per step")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="start", help="a model folder whose weights and tokenizer to go on from")
    parser.add_argument("--fp32", action="store_true", help="no bf16: faster on CPUs without bf16 units")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="go on from state.pt in the output folder")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()

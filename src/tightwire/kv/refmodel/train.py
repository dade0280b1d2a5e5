"""Train the reference model: `python -m tightwire.kv.refmodel.train --out DIR --cache DIR [--minutes N]`.

Deterministic by `--seed` unless `--minutes` cuts the run short (then the schedule follows the clock).
Writes a Hugging Face folder into DIR every two minutes and, for `--resume`, `DIR/state.pt`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tightwire.kv.refmodel import corpus as corpora
from tightwire.kv.refmodel.rows import Rows
from tightwire.kv.refmodel.tokenizer import BOS, EOS, PAD, VOCABULARY, save_tokenizer, train_tokenizer

TASKS = ("text", "copy", "lookup", "recall")
# (share of the run after which a stage begins at the latest, tokens per row, key symbols, task weights).
# A stage below 512 tokens is left as soon as lookup is right nine times in ten.
STAGES = (
    (0.00, 64, 50, (0.15, 0.40, 0.45, 0.00)),
    (0.20, 128, 300, (0.20, 0.30, 0.45, 0.05)),
    (0.30, 256, 1000, (0.30, 0.15, 0.45, 0.10)),
    (0.40, 512, 1000, (0.45, 0.10, 0.30, 0.15)),
    (0.80, 1024, 1000, (0.50, 0.10, 0.25, 0.15)),
)
MASTERED = 0.9
WARMUP, DECAY = 0.02, 0.35


def new_model() -> LlamaForCausalLM:
    """The untrained model: 3.7 M parameters, 4 layers, 4 query and 2 KV heads of 64."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    look_back(model)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM) -> None:
    """Start the first layer's heads as "attend 1, 2, 1, 3 tokens back": the slow half of in-context lookup.

    Coordinate 0 of every embedding starts as the same constant c. Where q and k read only that coordinate,
    with amplitude a in the rotary pairs i of frequency w_i, the score at distance d is
    a^2 * sum_i cos((d - back) * w_i): greatest at d = back. Training moves all of it freely afterwards.
    """
    pairs, half, amplitude = 5, 32, 1.25
    model.model.embed_tokens.weight[:, 0] = 0.1
    attention = model.model.layers[0].self_attn
    for head, back in enumerate((1, 2, 1, 3)):
        for pair in range(pairs):
            angle = back * 100_000.0 ** (-pair / half)
            attention.k_proj.weight[64 * (head // 2) + pair, 0] = amplitude
            attention.q_proj.weight[64 * head + pair, 0] = amplitude * math.cos(angle)
            attention.q_proj.weight[64 * head + pair + half, 0] = -amplitude * math.sin(angle)


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write bf16 weights and a config that transformers 4 and 5 and vLLM read."""
    half = new_model().to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"rope_theta": 100_000.0}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def next_level(level: int, done: float, skill: float) -> int:
    """The stage to be in: by the share `done` of the run, or earlier by `skill` at lookup."""
    if skill > MASTERED and STAGES[level][1] < 512:
        return level + 1
    return max(level, max(number for number, stage in enumerate(STAGES) if done >= stage[0]))


def rate(done: float) -> float:
    """Warm-up, stable, linear decay: the share of the full learning rate."""
    return min(done / WARMUP, 1.0, (1.0 - done) / DECAY + 0.01)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    corpus = corpora.fetch(Path(args.cache))
    if not (out / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer([text[:3_000_000] for text in corpus.train]), out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    documents = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in corpus.train]
    counts = torch.bincount(torch.tensor([i for d in documents for i in d]), minlength=VOCABULARY)
    (out / "unigram.json").write_text(json.dumps(counts.tolist()) + "\n")
    rows = Rows(random.Random(args.seed), tokenizer, documents, BOS)
    model = new_model().to(device).train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    rates = ((torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"), args.lr),
             (torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0), args.lr))  # fmt: skip
    tokens, step, spent_s, level, skill = 0, 0, 0.0, 0, 0.0
    if args.resume and (out / "state.pt").exists():
        state = torch.load(out / "state.pt", weights_only=False)
        model.load_state_dict(state["model"])
        for (optimizer, _), saved in zip(rates, state["optimizers"], strict=True):
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
        _, length, symbols, mix = STAGES[level]
        names = rows.rng.choices(TASKS, weights=mix, k=args.batch // length)
        batch = [rows.make(name, length, symbols) for name in names]
        for optimizer, full in rates:
            optimizer.param_groups[0]["lr"] = full * rate(done)
        figures = update(model, batch, names, device)
        skill += 0.1 * (figures.get("lookup", skill) - skill)
        for optimizer, _ in rates:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens, step = tokens + len(batch) * length, step + 1
        if step % 20 == 0:
            head = f"step {step} tokens {tokens} minutes {spent_s / 60:.1f} length {length}"
            print(head, *(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)
        if time.monotonic() - saved_s > 120:
            saved_s = time.monotonic()
            save(model, out)
            torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o, _ in rates],
                        "place": (tokens, step, spent_s, level, skill, rows.rng)},
                       out / "state.pt")  # fmt: skip
    save(model, out)


def update(model: LlamaForCausalLM, batch: list[Any], names: list[str], device: str) -> dict[str, float]:
    """Gradients of one batch; returns its loss on text and the share of right answers by task."""
    ids = torch.tensor([row.ids for row in batch], device=device)
    weights = torch.tensor([row.weights for row in batch], device=device)[:, 1:]
    with torch.autocast(device, dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        kept = weights > 0
        logits = model.lm_head(hidden[kept])
    target, weight = ids[:, 1:][kept], weights[kept]
    losses = torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")
    ((losses * weight).sum() / weight.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    task = torch.tensor([TASKS.index(name) for name in names], device=device)[:, None].expand_as(kept)[kept]
    right, figures = logits.argmax(-1) == target, {}
    if (text := weight == 1.0).any():
        figures["text_loss"] = losses[text].mean().item()
    for number, name in enumerate(TASKS[1:], start=1):
        if (asked := (task == number) & (weight > 1.0)).any():
            figures[name] = right[asked].float().mean().item()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tightwire.kv.refmodel.train", description=__doc__)
    parser.add_argument("--out", required=True, help="folder for the model and the training state")
    parser.add_argument("--cache", default="corpus", help="folder for the downloaded text")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, schedule included")
    parser.add_argument("--tokens", type=int, default=40_000_000, help="stop after so many tokens")
    parser.add_argument("--batch", type=int, default=4096, help="tokens per step")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="go on from state.pt in the output folder")
    train(parser.parse_args())


if __name__ == "__main__":
    main()

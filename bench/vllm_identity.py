"""Raw through the connector against vLLM without it: tokens and log-probabilities of real engines, bit for bit.

Every prompt is answered three ways: by an engine without a connector; by a decode engine (blocks of 128 tokens) that a
prefill engine (blocks of 32) pushes to, several at a time; and by an engine that finds its prefix in a folder.

    python bench/vllm_identity.py --json FILE [--prompts 200]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
from harness import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/kv/engines"))
from vllm_host import Engine, prompt

COUNT, AT_A_TIME, CHUNK, MAX_TOKENS = 8, 8, 128, 500
Answer = dict[str, Any]


def answers(engine: Engine, prompts: list[list[int]], prefill: Engine | None = None) -> list[Answer]:
    """Of `engine`, `AT_A_TIME` in flight; with `prefill`, which gets each prompt after `engine` was asked."""
    found: list[Answer] = []
    for start in range(0, len(prompts), AT_A_TIME):
        batch = [(f"{start + i}", ids) for i, ids in enumerate(prompts[start : start + AT_A_TIME])]
        params = {name: {"transfer_id": name} if prefill else None for name, _ in batch}
        for name, ids in batch:
            engine.add(name, ids, COUNT, params[name])
        for name, ids in batch:
            if prefill is not None:
                prefill.add(name, ids, 1, params[name])
        found += [engine.wait(name, 300) for name, _ in batch]
        for name, _ in batch:
            if prefill is not None:
                prefill.wait(name, 300)
    return found


def same(a: list[Answer], b: list[Answer], key: str) -> float:
    return sum(x[key] == y[key] for x, y in zip(a, b, strict=True)) / len(a)


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(args, Path(folder))
    harness.publish("vllm_identity", results, args.json)


def run(args: argparse.Namespace, folder: Path) -> list[Result]:
    rng = random.Random(args.seed)
    prompts = [prompt(args.seed * 100_003 + i, rng.randint(2, MAX_TOKENS)) for i in range(args.prompts)]
    with Engine(folder / "plain.log", block_size=32) as engine:
        right = answers(engine, prompts)
    with (
        Engine(folder / "decode.log", role="kv_consumer", extra={"timeout_s": 60}, block_size=128) as decode,
        Engine(
            folder / "prefill.log", role="kv_producer", extra={"endpoint": decode.endpoint}, block_size=32
        ) as prefill,
    ):
        pushed = answers(decode, prompts, prefill)
        pushed_stats = decode.stats()
    extra = {"store": f"file://{folder}/store"}
    with Engine(folder / "shared.log", role="kv_both", extra=extra, block_size=32) as shared:
        answers(shared, prompts)
        shared.ask(forget=True)
        fetched = answers(shared, prompts)
        fetched_stats = shared.stats()
    asked = sum(len(ids) - 1 for ids in prompts)
    stored = sum(len(ids) // CHUNK * CHUNK - (len(ids) % CHUNK == 0) for ids in prompts if len(ids) > CHUNK)
    note = f"{len(prompts)} prompts of 2-{MAX_TOKENS} tokens, {COUNT} tokens each, {AT_A_TIME} in flight"
    return [
        Result("pushed.same_tokens", same(right, pushed, "tokens"), "share", "higher", note),
        Result("pushed.same_logprobs", same(right, pushed, "logprobs"), "share", "higher", "equal in every bit"),
        Result("pushed.loaded", pushed_stats["tokens_loaded"] / asked, "share", "higher", "of the tokens of prompts"),
        Result("fetched.same_tokens", same(right, fetched, "tokens"), "share", "higher", "prefixes from a folder"),
        Result("fetched.same_logprobs", same(right, fetched, "logprobs"), "share", "higher", "equal in every bit"),
        Result("fetched.loaded", fetched_stats["tokens_loaded"] / stored, "share", "higher", "of the tokens in whole chunks"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()

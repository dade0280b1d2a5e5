"""What the presets reach on the reference model's KV: ratio, and error of K and V. Sizes and errors, no times.

Blocks `[4 layers, 2 heads, 1024 tokens, 64]` bf16 of stretches of the held-out prose; means over them. Ratio: raw bytes /
frame bytes. Error: norm of the difference / norm of the values, protected parts included. `rope` gets the model's theta.
`--markdown` prints the rows of docs/strategies.md.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from harness import Result, parser, publish
from tightwire.kv import refmodel
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.engines.transformers import Engine
from tightwire.kv.presets import presets
from tightwire.kv.stages.transforms.rope import Rope
from tightwire.kv.strategy import Chain, Strategy

TOKENS = 1024


def blocks(engine: Engine, count: int) -> list[KVBlock]:
    """The KV of `count` stretches, spread over the text."""
    text = refmodel.heldout()
    pieces = [text[start : start + 8000] for start in np.linspace(0, len(text) - 8000, count, dtype=int)]
    return [engine.prefill(engine.tokenizer(piece)["input_ids"][:TOKENS]) for piece in pieces]


def for_model(strategy: Strategy, theta: int) -> Strategy:
    """With the model's own theta wherever a chain turns K back."""
    k, v = (
        Chain(tuple(replace(stage, theta=theta) if isinstance(stage, Rope) else stage for stage in chain.stages))
        for chain in (strategy.k, strategy.v)
    )
    return replace(strategy, k=k, v=v)


def error(got: torch.Tensor, x: torch.Tensor) -> float:
    return float((got.float() - x.float()).norm() / x.float().norm())


def main() -> None:
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument("--stretches", type=int, default=4)
    arguments_parser.add_argument("--markdown", action="store_true", help="print the table of the documentation")
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    engine = Engine(refmodel.path())
    theta, found = int(engine.model.config.rope_parameters["rope_theta"]), blocks(engine, arguments.stretches)
    results, rows = [], []
    for name, preset in presets().items():
        strategy, measured = for_model(preset.strategy, theta), []
        for block in found:
            frame = encode_block(block, strategy)
            got = decode_block(frame)
            measured.append((block.raw_bytes / len(frame), error(got.k, block.k), error(got.v, block.v)))
        ratio, k, v = np.mean(measured, axis=0).tolist()
        results.append(Result(f"{name}.ratio", ratio, "ratio", "higher", strategy.short))
        results += [Result(f"{name}.error_{side}", e, "ratio", "lower") for side, e in (("k", k), ("v", v))]
        rows.append(f"| `{name}` | {ratio:.2f} | {16 / ratio:.2f} | {k:.3f} | {v:.3f} |")
    if arguments.markdown:
        print("| preset | ratio | bits a value | error of K | error of V |\n|---|---|---|---|---|", *rows, sep="\n")
    else:
        publish("preset_rates", results, arguments.json)


if __name__ == "__main__":
    main()

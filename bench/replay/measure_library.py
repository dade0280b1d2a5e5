"""Measures `library.json`: presets and a few other strategies on the reference model's KV, on this machine.

Quality as the KL-free likelihood ratio on held-out prompts, speed of whole frames on one core.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

from tightwire.kv import refmodel
from tightwire.kv.demo import prompts
from tightwire.kv.engines.transformers import Engine
from tightwire.kv.kernels import native
from tightwire.kv.presets import presets
from tightwire.kv.profiles import ProfileLibrary, measure
from tightwire.kv.quality import relative_likelihood
from tightwire.kv.stages.base import NotFiniteError
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer.sender import DEFAULT_CHUNK_TOKENS

HERE = Path(__file__).parent
OTHERS = (
    "raw",
    "hadamard+uniform:levels=256+pack",
    "hadamard+uniform:levels=16+pack",
    "hadamard+uniform:levels=16+rans",
    "hadamard+uniform:levels=10+rans",
    "hadamard+uniform:levels=16+zstd/hadamard+uniform:levels=8+zstd",
    "hadamard+uniform:levels=10+zstd",
    "uniform:levels=64,axis=channel+rans",
    "uniform:levels=24,axis=channel+rans/uniform:levels=12+rans",
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--prompts", type=int, default=6)
    arguments.add_argument("--tokens", type=int, default=1000)
    arguments.add_argument("--out", type=Path, default=HERE / "library.json")
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    engine = Engine(refmodel.path())
    texts = prompts.make(asked.prompts, asked.tokens)
    blocks = [chunk for ids in texts[:2] for chunk in engine.prefill(ids[:-1]).token_chunks(DEFAULT_CHUNK_TOKENS)]
    profiles = []
    for strategy in [*map(Strategy.parse, OTHERS), *(p.strategy for p in presets().values())]:
        try:
            (profile,) = measure([strategy], blocks, lambda s: relative_likelihood(engine, texts, s))
        except (ValueError, NotFiniteError) as error:  # a table that only profiling makes
            print(f"left out: {strategy.short}: {str(error).splitlines()[0]}")
            continue
        print(f"{profile.ratio:5.2f} {profile.quality:.3f} {profile.encode_bytes_per_s / 1e6:7.0f} {profile.decode_bytes_per_s / 1e6:7.0f} MB/s {strategy.short}")  # fmt: skip
        profiles.append(profile)
    provenance = {
        "dataset": f"{asked.prompts} held-out prompts of {asked.tokens} tokens, seed 1", "kernels": native.ISA,
        "device": platform.processor() or platform.machine(), "quality": "p(chosen) ÷ p(best) under raw KV",
    }  # fmt: skip
    ProfileLibrary(engine.fingerprint, profiles, provenance).save(asked.out)


if __name__ == "__main__":
    main()

"""What a model brings to a run before any strategy is measured: calibration KV, tables made from it, its rotary stage;
and how much a loss in each of its layers costs, 2 × layers measurements of few prompts.

The prompts are others than those on which quality is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tightwire.kv.block import F32, KVBlock, to_float32
from tightwire.kv.engines.batched import BatchedModel
from tightwire.kv.profiler.rates import SideName
from tightwire.kv.profiler.space import Calibrated
from tightwire.kv.quality import Suite
from tightwire.kv.quality.prompts import Prompts
from tightwire.kv.sensitivity import layers_alone, steps
from tightwire.kv.stages.base import Place, Stage
from tightwire.kv.stages.transforms import rope
from tightwire.kv.stages.transforms.equalize import Equalize
from tightwire.kv.stages.transforms.pca import Pca
from tightwire.kv.strategy import Strategy
from tightwire.kv.tables import Table

_OTHER_SEED = 7919  # prompts of quality suites have small seeds
_TASKS = ("text", "lookup", "copy", "recall")
_TIMED = ("text", "lookup")
_TOKENS = 512
_LENGTHS, _PROMPTS = (128, 512), 2  # and so many of each task, on which the layers' losses are measured
_ROUGH = "deadzone:step=150"  # coarse enough that every layer's loss is seen


class Calibration:
    """`requests`: KV of whole prompts. For rates, `blocks`: the beginning of one request of two chunks and the end of
    another; and `attention` fp32 `[L, H, D, D]`: second moments of the queries that meet a head's K, scaled as attention
    scales them, so that δ·attention·δ is how far a change δ of a key moves a logit, squared, in the mean."""

    def __init__(self, model: BatchedModel, chunk_tokens: int, seed: int = 0, tokens: int = _TOKENS) -> None:
        self._model, self._chunk_tokens, self._seed, prompts = model, chunk_tokens, seed, Prompts(model.tokenizer)
        self.requests: dict[str, KVBlock] = {}
        queries: dict[int, list[torch.Tensor]] = {}
        with model.watch(lambda layer, asked: queries.setdefault(layer, []).append(asked)):
            for task in _TASKS:
                (example,) = prompts.make(task, tokens, 1, _OTHER_SEED + seed)
                k, v = model.prefill(torch.tensor([example.prompt_ids]))
                self.requests[task] = KVBlock(k[0], v[0])
        begin, end = (_cut(self.requests[task], 2 * chunk_tokens).token_chunks(chunk_tokens) for task in _TIMED)
        self.blocks = [begin[0], end[-1]]
        moments = [_moments(torch.cat(queries[layer], dim=2)[0], k.shape[2]) for layer in range(model.layers)]
        self.attention: F32 = torch.stack(moments).numpy()

    def make(self, folder: Path) -> Calibrated:
        """Tables from all requests, saved in `folder`."""
        stage = _rope_stage(self._model, folder)
        out = [Strategy.parse(f"{stage}+uniform+pack").k.stages[0]] if stage else []
        made = {
            "pca.k": self._table(Pca(over="heads", keep=100), "k", out),
            "pca.v": self._table(Pca(over="heads", keep=100), "v", []),
            "equalize.k": self._table(Equalize(), "k", []),
            "equalize.v": self._table(Equalize(), "v", []),
        }
        made |= self._steps(stage, made)
        for table in made.values():
            table.save(folder)
        return Calibrated({use: table.name for use, table in made.items()}, stage)

    def _steps(self, rope_stage: str, made: dict[str, Table]) -> dict[str, Table]:
        """`deadzone.k` and `deadzone.v`, behind the principal components of `made`."""
        suite = Suite(self._model, _LENGTHS, _PROMPTS, _OTHER_SEED + self._seed, self._chunk_tokens)
        sides: dict[SideName, str] = {"k": f"{rope_stage}+" if rope_stage else "", "v": ""}
        found = {}
        for side, before in sides.items():
            chain = f"{before}pca:over=heads,keep=100,table={made[f'pca.{side}'].name}+{_ROUGH}+rans"
            strategy = Strategy.parse(f"{chain}/raw" if side == "k" else f"raw/{chain}")
            found[f"deadzone.{side}"] = steps(*layers_alone(suite, strategy, side), self._model.fingerprint)
        return found

    def _table(self, stage: Stage, side: SideName, before: Sequence[Stage]) -> Table:
        samples: list[F32] = []
        for request in self.requests.values():
            x = to_float32(getattr(request, side))
            for each in before:
                x, _ = each.forward(x, Place(side=side))  # type: ignore[attr-defined]
            samples.append(x)
        return stage.calibrate(samples, self._model.fingerprint)


def _cut(request: KVBlock, tokens: int) -> KVBlock:
    """Its first tokens, as if they were a request."""
    return KVBlock(request.k[:, :, :tokens], request.v[:, :, :tokens])


def _moments(queries: torch.Tensor, heads: int) -> torch.Tensor:
    """`[H, D, D]` of queries `[query heads, T, D]`."""
    grouped = queries.float().reshape(heads, -1, queries.shape[-1])
    return grouped.transpose(1, 2) @ grouped / grouped.shape[1] / queries.shape[-1]


def _rope_stage(model: BatchedModel, folder: Path) -> str:
    """The stage `rope` with this model's frequencies as text; empty if its K is not rotated as a whole."""
    config = model.model.config
    rotary = next((m for m in model.model.modules() if hasattr(m, "inv_freq")), None)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if rotary is None or 2 * rotary.inv_freq.numel() != dim:
        return ""
    scale = float(getattr(rotary, "attention_scaling", 1.0))
    theta: Any = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", getattr(config, "rope_theta", 0))
    if scale == 1.0 and theta >= 2 and theta == int(theta):
        plain = float(theta) ** (-torch.arange(0, dim, 2).double() / dim)
        if torch.allclose(rotary.inv_freq.double(), plain, rtol=1e-5, atol=0):
            return f"rope:theta={int(theta)}"
    table = rope.from_inverse_frequencies(rotary.inv_freq.float().numpy(), model.fingerprint, scale)
    table.save(folder)
    return f"rope:table={table.name}"

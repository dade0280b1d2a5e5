"""A suite: prompts of one model, prefilled once, on which any number of strategies is measured against raw KV.

Per strategy it costs the passes over the answers' tokens, one for each task and length, and encoding and decoding of a
side that was not asked for lately. Legend: B prompts of a group, Q the longest answer in it; other shapes as in `kv.block`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from tightwire.errors import ConfigError
from tightwire.kv import refmodel
from tightwire.kv.engines.batched import BatchedModel
from tightwire.kv.quality.prompts import Prompts
from tightwire.kv.quality.proxy import Proxy
from tightwire.kv.quality.record import Fidelity, Quality, Scores, Summary
from tightwire.kv.quality.sides import Group, Side, Sides
from tightwire.kv.refmodel.tasks import Example
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer.sender import DEFAULT_CHUNK_TOKENS

LENGTHS = (128, 256, 512, 1024)
TASKS = ("text", "lookup", "copy", "recall")
PROMPTS: dict[Fidelity, int] = {"full": 4, "few": 1}
CACHE_BYTES = 2 * 2**30
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is fed after a group's KV, `[B, Q]`, what should follow each, and which of these places count."""

    fed: torch.Tensor
    answer: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def of(cls, examples: Sequence[Example]) -> _Asked:
        size = max(len(e.answer_ids) for e in examples)
        padded = [(*e.answer_ids, *[e.answer_ids[-1]] * (size - len(e.answer_ids))) for e in examples]
        fed = [(e.prompt_ids[-1], *row[:-1]) for e, row in zip(examples, padded, strict=True)]
        counts = [[place < len(e.answer_ids) for place in range(size)] for e in examples]
        return cls(torch.tensor(fed), torch.tensor(padded), torch.tensor(counts))


@dataclass(frozen=True)
class Part:
    """K or V of one layer's head; of the whole layer without `head`, of all layers without `layer`."""

    side: Side
    layer: int | None = None
    head: int | None = None

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """The view of this part in `[B, L, H, T, D]`."""
        layers = slice(None) if self.layer is None else slice(self.layer, self.layer + 1)
        heads = slice(None) if self.head is None else slice(self.head, self.head + 1)
        return x[:, layers, heads]

    def __str__(self) -> str:
        layer = "" if self.layer is None else f" of layer {self.layer}"
        return f"{self.side.upper()}{layer}{'' if self.head is None else f', head {self.head}'}"


class Suite:
    """Made by `of`. `fingerprint` names model, prompts and settings: figures of equal ones can be compared."""

    def __init__(
        self,
        model: BatchedModel,
        lengths: Sequence[int],
        prompts: int,
        seed: int,
        chunk_tokens: int,
        cache_bytes: int = CACHE_BYTES,
        progress: Progress = lambda done, total: None,
    ) -> None:
        self.model, self.lengths, self.prompts = model, tuple(lengths), prompts
        made = Prompts(model.tokenizer)
        cells: list[tuple[str, int]] = []
        groups: list[Group] = []
        self._asked: list[_Asked] = []
        for length in self.lengths:
            for task in TASKS:
                progress(len(groups), len(self.lengths) * len(TASKS))
                examples = made.make(task, length, prompts, seed)
                cells += [(task, length)] * prompts
                self._asked.append(_Asked.of(examples))
                groups.append(Group(*model.prefill(torch.tensor([e.prompt_ids[:-1] for e in examples]))))
        progress(len(groups), len(groups))
        self._summary = Summary(cells, seed)
        self._sides = Sides(groups, chunk_tokens, cache_bytes, model.fingerprint)
        self._room = [(self._buffer(g.k, a), self._buffer(g.v, a)) for g, a in zip(groups, self._asked, strict=True)]
        k, v = [g.k for g in groups], [g.v for g in groups]
        with Proxy.watching(model) as queries:
            self._raw = self._log_probabilities(k, v)
        few = Proxy.sample(groups)
        self._proxy = Proxy(queries, groups, Sides(few, chunk_tokens, cache_bytes // 4, model.fingerprint))
        settings = (model.fingerprint, self.lengths, prompts, seed, chunk_tokens, [a.fed.tolist() for a in self._asked])
        self.fingerprint = f"suite-{xxhash.xxh3_64_hexdigest(repr(settings).encode())}"

    @classmethod
    def of(
        cls,
        folder: Path | None = None,
        *,
        seed: int = 0,
        fidelity: Fidelity = "full",
        lengths: Sequence[int] = LENGTHS,
        prompts: int | None = None,
        chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
        cache_bytes: int = CACHE_BYTES,
        progress: Progress = lambda done, total: None,
    ) -> Suite:
        """Of the model in `folder` (the shipped one without). `prompts` for each task and length, unless given, follow
        from `fidelity`; those of `few` are among those of `full`. `progress(done, total)` while prompts are prefilled.
        ConfigError when the model cannot be used."""
        if not lengths or len(set(lengths)) != len(lengths):
            raise ConfigError(f"lengths={tuple(lengths)}: give one or more different prompt lengths in tokens")
        count = PROMPTS[fidelity] if prompts is None else prompts
        if count < 1 or chunk_tokens < 1:
            raise ConfigError(f"prompts={count}, chunk_tokens={chunk_tokens}: both must be above zero")
        return cls(BatchedModel(folder or refmodel.path()), lengths, count, seed, chunk_tokens, cache_bytes, progress)

    def measure(self, strategy: Strategy) -> Quality:
        """The quality of `strategy` against raw KV."""
        k, v = self._sides.arrived(strategy)
        return self._summary.quality(str(strategy), self._scores(self._log_probabilities(k, v)))

    def measure_part(self, strategy: Strategy, part: Part) -> tuple[Quality, float]:
        """(the quality when `part` alone arrives as with `strategy` and all else raw, the part's mean squared error)"""
        arrived = dict(zip(("k", "v"), self._sides.arrived(strategy), strict=True))
        sent = {side: [getattr(group, side) for group in self._sides.groups] for side in ("k", "v")}
        errors = []
        for number, raw in enumerate(sent[part.side]):
            ours, theirs = part.of(raw), part.of(arrived[part.side][number])
            errors.append(float((ours.float() - theirs.float()).square().mean()))
            mixed = sent[part.side][number] = raw.clone()
            part.of(mixed).copy_(theirs)
        scores = self._scores(self._log_probabilities(sent["k"], sent["v"]))
        return self._summary.quality(f"{strategy} for {part}", scores), float(np.mean(errors))

    def ratio(self, strategy: Strategy) -> float:
        """Raw bytes ÷ bytes of the frames that would be sent."""
        return self._sides.ratio(strategy)

    def proxy(self, strategy: Strategy) -> float:
        """Relative squared error of attention's output, without a pass through the model; lower is better."""
        return self._proxy.error(strategy)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, KV heads)"""
        shape = self._sides.groups[0].k.shape
        return shape[1], shape[2]

    @property
    def head_dim(self) -> int:
        return self._sides.groups[0].k.shape[-1]

    def _buffer(self, x: torch.Tensor, asked: _Asked) -> torch.Tensor:
        batch, layers, heads, tokens, dim = x.shape
        return torch.zeros(layers, batch, heads, tokens + asked.fed.shape[1], dim)

    def _log_probabilities(self, k: list[torch.Tensor], v: list[torch.Tensor]) -> list[torch.Tensor]:
        """Of each group, fp32 `[B, Q, vocabulary]`, with KV of bf16 `[B, L, H, T, D]`."""
        found = []
        for number, (asked, room) in enumerate(zip(self._asked, self._room, strict=True)):
            for target, source in zip(room, (k[number], v[number]), strict=True):
                target[:, :, :, : source.shape[3]].copy_(source.transpose(0, 1))
            found.append(self.model.log_probabilities(asked.fed, *room))
        return found

    def _scores(self, ours: list[torch.Tensor]) -> Scores:
        each = zip(self._asked, self._raw, ours, strict=True)
        return Scores.join([_score(asked, raw, got) for asked, raw, got in each])


def _score(asked: _Asked, raw: torch.Tensor, ours: torch.Tensor) -> Scores:
    """`raw`, `ours`: log probabilities `[B, Q, vocabulary]`."""
    counts = asked.counts

    def total(values: torch.Tensor) -> npt.NDArray[np.float64]:
        return torch.where(counts, values, 0).sum(dim=1).double().numpy()

    kl = (raw.exp() * (raw - ours)).sum(dim=-1).clamp_min(0)
    best, chosen = raw.argmax(dim=-1), ours.argmax(dim=-1)
    raw_nats, nats = (-x.gather(2, asked.answer[..., None])[..., 0] for x in (raw, ours))
    right = [((x == asked.answer) | ~counts).all(dim=1).double().numpy() for x in (best, chosen)]
    return Scores(
        total(torch.ones_like(kl)), total(kl), total(raw_nats), total(nats), total((best == chosen).float()), *right
    )

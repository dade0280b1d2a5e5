"""Embeddings of sentences with K and V as they would arrive, against those with raw K and V.

The stream is cut into requests of `REQUEST_TOKENS` tokens, which are encoded as the sender does it: all layers together, in
chunks. Then the encoder reads the sentences with what arrived as its K and V in every layer; queries and all else it
computes anew, so an error goes through the layers after it, as it does through a decoder that was sent its KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from external.encoder import Encoder
from tightwire.kv.quality import rank_correlation
from tightwire.kv.quality.sides import Group, Sides
from tightwire.kv.strategy import Strategy
from tightwire.kv.transfer.sender import DEFAULT_CHUNK_TOKENS

REQUEST_TOKENS = 512
CACHE_BYTES = 3 * 2**30


@dataclass(frozen=True)
class Loss:
    """0 for raw KV. `cosine`: 1 − cosine to the embedding with raw KV, mean over sentences. `order`: 1 − rank correlation
    of the similarities of all pairs of sentences."""

    cosine: float
    order: float


class Agreement:
    """Of `sentences`; at least two."""

    def __init__(self, encoder: Encoder, sentences: Sequence[str]) -> None:
        self._encoder, self._batches = encoder, encoder.batches(sentences)
        k, v = encoder.record(self._batches)
        whole = k.shape[2] // REQUEST_TOKENS * REQUEST_TOKENS
        self.tokens = k.shape[2]
        groups = []
        if whole:
            groups.append(Group(*(_requests(x[:, :, :whole], REQUEST_TOKENS) for x in (k, v))))
        if whole < self.tokens:
            groups.append(Group(*(x[None, :, :, whole:] for x in (k, v))))
        self.sides = Sides(groups, DEFAULT_CHUNK_TOKENS, CACHE_BYTES, encoder.fingerprint)
        self._raw = encoder.embed(self._batches, k, v)

    def loss(self, strategy: Strategy) -> Loss:
        ours = self._encoder.embed(self._batches, *(_stream(parts) for parts in self.sides.arrived(strategy)))
        away = (self._raw - ours).square().sum(dim=1) / 2  # 1 − cosine of vectors of length 1, without cancellation
        return Loss(float(away.mean()), 1 - rank_correlation(_similarities(self._raw), _similarities(ours)))


def _requests(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """`[L, H, B·T, D]` → `[B, L, H, T, D]`"""
    return x.unflatten(2, (-1, tokens)).permute(2, 0, 1, 3, 4)


def _stream(groups: Sequence[torch.Tensor]) -> torch.Tensor:
    """The inverse, of groups one after the other."""
    return torch.cat([group.permute(1, 2, 0, 3, 4).flatten(2, 3) for group in groups], dim=2)


def _similarities(embeddings: torch.Tensor) -> list[float]:
    """Of each pair once."""
    rows, columns = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
    found: list[float] = (embeddings @ embeddings.T)[rows, columns].tolist()
    return found

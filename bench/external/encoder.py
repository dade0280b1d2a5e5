"""A BERT sentence encoder whose K and V can be taken out and put in.

Sentences stand in the order of their length and those of one length run together, so nothing is padded. All their tokens
one after the other are the **stream**, T tokens; K and V of it are `[L, H, T, D]` as in `tightwire.kv.block`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import xxhash
from transformers import AutoTokenizer, BertModel

from tightwire.errors import ConfigError

Exchange = Callable[[int, str, torch.Tensor], torch.Tensor]
_SIDES = {"k": "key", "v": "value"}


class Encoder:
    """The model in `folder`, in fp32: weights as safetensors (never a pickle), embeddings by the mean over a sentence's
    tokens, of length 1. ConfigError when there is no such model."""

    def __init__(self, folder: Path) -> None:
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise ConfigError(f"model={str(folder)!r} has no model.safetensors; give a BERT sentence encoder")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = BertModel.from_pretrained(
            folder, add_pooling_layer=False, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self._model = model.eval()
        self._heads = int(model.config.num_attention_heads)
        self.fingerprint = f"encoder-{xxhash.xxh3_64_hexdigest(weights.read_bytes())}"

    def batches(self, sentences: Sequence[str]) -> list[torch.Tensor]:
        """Token ids `[B, n]` of the sentences of each length n, shortest first."""
        ids = sorted((self._tokenizer(sentence)["input_ids"] for sentence in sentences), key=len)
        return [torch.tensor(list(same)) for _, same in groupby(ids, key=len)]

    @torch.inference_mode()
    def record(self, batches: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of the stream, bf16 `[L, H, T, D]`."""
        found: dict[str, list[list[torch.Tensor]]] = {side: [[] for _ in self._model.encoder.layer] for side in _SIDES}

        def keep(layer: int, side: str, values: torch.Tensor) -> torch.Tensor:
            found[side][layer].append(values.flatten(0, 1))
            return values

        with self._exchanging(keep):
            for batch in batches:
                self._model(batch)
        k, v = (torch.stack([torch.cat(parts) for parts in found[side]]) for side in _SIDES)
        return self._split(k).to(torch.bfloat16), self._split(v).to(torch.bfloat16)

    @torch.inference_mode()
    def embed(self, batches: Sequence[torch.Tensor], k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """fp64 `[sentences, features]` in the stream's order, with `k` and `v` `[L, H, T, D]` in place of the model's own."""
        joined = {"k": self._join(k), "v": self._join(v)}
        start, found = 0, []

        def put(layer: int, side: str, values: torch.Tensor) -> torch.Tensor:
            size = values.shape[0] * values.shape[1]
            return joined[side][layer, start : start + size].view(values.shape)

        with self._exchanging(put):
            for batch in batches:
                found.append(self._model(batch).last_hidden_state.double().mean(dim=1))
                start += batch.numel()
        return torch.nn.functional.normalize(torch.cat(found), dim=1)

    @contextmanager
    def _exchanging(self, exchange: Exchange) -> Iterator[None]:
        """Every layer's K and V `[B, n, H·D]` go through `exchange(layer, side, values)`."""

        def hook(module: Any, given: Any, values: torch.Tensor, layer: int, side: str) -> torch.Tensor:
            return exchange(layer, side, values)

        handles = [
            getattr(block.attention.self, name).register_forward_hook(partial(hook, layer=layer, side=side))
            for layer, block in enumerate(self._model.encoder.layer)
            for side, name in _SIDES.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """`[L, T, H·D]` → `[L, H, T, D]`"""
        return x.unflatten(2, (self._heads, -1)).transpose(1, 2)

    def _join(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse, fp32."""
        return x.transpose(1, 2).flatten(2).float()

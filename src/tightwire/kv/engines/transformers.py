"""Hugging Face transformers as an engine: prefill here, decode there. For tests, demos and measuring quality."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from tightwire.errors import ConfigError, LayoutError
from tightwire.kv.block import KVBlock
from tightwire.kv.engines.tokenizer import load_tokenizer


class Engine:
    """A causal LM of a local Hugging Face folder, in bf16 on the CPU. Raises ConfigError when there is none."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model={str(folder)!r} has no config.json; give a Hugging Face model folder")
        self.tokenizer: Any = load_tokenizer(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.layers = int(self.model.config.num_hidden_layers)
        self.fingerprint = _fingerprint(self.model.config.to_dict())

    @torch.inference_mode()
    def prefill(self, ids: list[int]) -> KVBlock:
        """The KV of all of `ids`: K and V `[L, H, T, D]`, K after RoPE, as the engine holds them."""
        cache = DynamicCache()
        self.model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        try:
            k, v = (torch.cat([getattr(layer, side) for layer in cache.layers]) for side in ("keys", "values"))
        except (AttributeError, TypeError) as error:
            raise LayoutError(f"this model's cache is not one K and one V tensor for each layer: {error}") from error
        return KVBlock(k, v)

    @torch.inference_mode()
    def generate(
        self, ids: list[int], kv: KVBlock, count: int, on_token: Callable[[float], None] | None = None
    ) -> list[int]:
        """Greedy continuation of `ids` by `count` tokens, where `kv` holds all of `ids` but the last."""
        cache = self._cache(ids, kv)
        tokens: list[int] = []
        last = ids[-1]
        while len(tokens) < count:
            logits = self.model(torch.tensor([[last]]), past_key_values=cache, use_cache=True).logits
            last = int(logits[0, -1].argmax())
            tokens.append(last)
            if on_token is not None:
                on_token(time.monotonic())
        return tokens

    @torch.inference_mode()
    def log_probabilities(self, ids: list[int], kv: KVBlock, continuation: list[int]) -> torch.Tensor:
        """fp32 `[len(continuation), vocabulary]`: what the model expects at each place of `continuation`, were all
        before it given."""
        cache = self._cache(ids, kv)
        given = [ids[-1], *continuation[:-1]]
        logits = self.model(torch.tensor([given]), past_key_values=cache, use_cache=True).logits
        return torch.log_softmax(logits[0].float(), dim=-1)

    def _cache(self, ids: list[int], kv: KVBlock) -> Any:
        if kv.tokens != len(ids) - 1 or kv.layers != self.layers or kv.token_start or kv.layer_start:
            raise ConfigError(
                f"KV of {kv.layers} layers and {kv.tokens} tokens does not fit {self.layers} layers and a prompt of "
                f"{len(ids)} tokens; it must hold all but the last token"
            )
        cache = DynamicCache()
        for layer in range(self.layers):
            cache.update(kv.k[layer : layer + 1], kv.v[layer : layer + 1], layer)
        return cache


def assemble(blocks: list[KVBlock]) -> KVBlock:
    """Blocks of all layers that cover token 0 on without a gap, joined in token order."""
    ordered = sorted(blocks, key=lambda block: block.token_start)
    position = 0
    for block in ordered:
        if block.layer_start or block.token_start != position:
            raise ConfigError(
                f"a block starts at layer {block.layer_start}, token {block.token_start}, not at {position}"
            )
        position += block.tokens
    return KVBlock(torch.cat([b.k for b in ordered], dim=2), torch.cat([b.v for b in ordered], dim=2))


def _fingerprint(config: dict[str, Any]) -> str:
    """Names a model's KV: equal for two sides that may exchange it."""
    keys = ("architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "rope_theta", "rope_parameters", "rope_scaling", "vocab_size")  # fmt: skip
    facts = json.dumps({key: config.get(key) for key in keys}, sort_keys=True, default=str)
    return "hf-" + hashlib.sha256(facts.encode()).hexdigest()[:24]

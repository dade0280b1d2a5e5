"""Many prompts of one length at once through a Hugging Face causal LM, from KV that is given: for measuring quality.

Computes in fp32 with the weights as they are stored; KV is kept in bf16. Legend: B prompts, Q tokens fed at once; other
shapes as in `kv.block`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging

from tightwire.errors import ConfigError
from tightwire.kv.engines.tokenizer import load_tokenizer

_OURS = "tightwire-grouped"
_CHECKED_TOKENS = (12, 4)  # held and fed, when our attention is compared with the model's own
_TOLERANCE = 1e-2  # of a log probability
_LATENT = ("kv_lora_rank", "q_lora_rank")  # multi-head latent attention

Seen = Callable[[int, torch.Tensor], None]
_watchers: list[Seen] = []


class BatchedModel:
    """A model folder, read. ConfigError says why it cannot be used: not there, damaged, not a causal LM, or its
    attention does not keep one K and one V of all tokens for each layer."""

    def __init__(self, folder: Path) -> None:
        config = _config(folder)
        _refuse(folder, config)
        try:
            with _no_bars():
                self.tokenizer: Any = load_tokenizer(folder)
                model: Any = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=torch.float32, attn_implementation="eager"
                )
        except Exception as error:  # what transformers and safetensors raise for damage has no common base
            raise ConfigError(f"model={str(folder)!r} cannot be read: {error}; copy the folder again") from error
        self.model = model.eval()
        self.layers = int(config.num_hidden_layers)
        self.fingerprint = _fingerprint(folder)
        self._take_ours(folder)

    @torch.inference_mode()
    def prefill(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V, bf16 `[B, L, H, T, D]`, K after RoPE, of all of `ids` `[B, T]`."""
        found = []
        for row in ids:  # one by one: scores of all prompts at once would not fit
            cache = DynamicCache()
            self.model(row[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
            found.append([torch.cat([getattr(layer, side) for layer in cache.layers]) for side in ("keys", "values")])
        k, v = (torch.stack(side).to(torch.bfloat16) for side in zip(*found, strict=True))
        return k, v

    @torch.inference_mode()
    def log_probabilities(self, ids: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """fp32 `[B, Q, vocabulary]` at each of `ids` `[B, Q]`, for the token after it. `k`, `v`: fp32
        `[L, B, H, T + Q, D]`; the last Q places are for the K and V of `ids` and are overwritten."""
        held = k.shape[3] - ids.shape[1]
        cache = DynamicCache()
        cache.layers = [_Layer(k[layer], v[layer], held) for layer in range(self.layers)]
        return torch.log_softmax(self.model(ids, past_key_values=cache, use_cache=True).logits.float(), dim=-1)

    @contextmanager
    def watch(self, seen: Seen) -> Iterator[None]:
        """Calls `seen(layer, queries [B, query heads, Q, D])` for every layer that runs meanwhile."""
        _watchers.append(seen)
        try:
            yield
        finally:
            _watchers.remove(seen)

    @torch.inference_mode()
    def _take_ours(self, folder: Path) -> None:
        """From now on with `_attention`, if that gives what the model's own attention gives."""
        held, fed = _CHECKED_TOKENS
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(held + fed)[None] * 37 % vocabulary
        expected = torch.log_softmax(self.model(ids).logits[:, held:].float(), dim=-1)
        AttentionInterface.register(_OURS, _attention)
        try:
            self.model.set_attn_implementation(_OURS)
            k, v = self.prefill(ids[:, :held])
            room = (0, 0, 0, fed)
            sides = [torch.nn.functional.pad(x.float().transpose(0, 1), room) for x in (k, v)]
            calls: list[int] = []
            with self.watch(lambda layer, queries: calls.append(layer)):
                found = self.log_probabilities(ids[:, held:], *sides)
        except Exception as error:  # whatever another kind of attention stumbles over
            raise _unsupported(folder, str(error)) from error
        scale = expected.abs().max().clamp_min(1.0)
        if sorted(calls) != list(range(self.layers)) or (found - expected).abs().max() > _TOLERANCE * scale:
            raise _unsupported(folder, "its answers from a KV cache differ from those without one")


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's cache in memory that has room for what comes."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, held: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values, self.held = keys, values, held

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys[:, :, self.held :] = key_states
        self.values[:, :, self.held :] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.held


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention without padding. Queries of one KV head stand together, so K and V are read once, uncopied."""
    batch, q_heads, fed, dim = query.shape
    heads, tokens = key.shape[1], key.shape[2]
    scale = scaling if scaling is not None else dim**-0.5
    for seen in _watchers:
        seen(int(module.layer_idx), query)  # type: ignore[arg-type]
    if fed == tokens:
        whole = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=q_heads != heads
        )
        return whole.transpose(1, 2).contiguous(), None
    scores = query.reshape(batch, heads, -1, dim) @ key.transpose(2, 3) * scale
    own = scores.view(batch, heads, -1, fed, tokens)[..., tokens - fed :]
    own.masked_fill_(torch.ones(fed, fed, dtype=torch.bool).triu_(1), float("-inf"))
    out = torch.softmax(scores, dim=-1) @ value
    return out.view(batch, q_heads, fed, -1).transpose(1, 2), None


@contextmanager
def _no_bars() -> Iterator[None]:
    """The library draws none of its own progress bars meanwhile."""
    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def _config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model={str(folder)!r} has no config.json; give a Hugging Face model folder")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"model={str(folder)!r}: config.json cannot be read: {error}; copy it again") from error


def _refuse(folder: Path, config: Any) -> None:
    """ConfigError for what the configuration alone rules out."""
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise _unsupported(folder, f"{config.model_type} is not a causal language model")
    if getattr(config, "is_encoder_decoder", False):
        raise _unsupported(folder, "it has an encoder")
    names = [name for name in _architectures(config) if not name.endswith(("ForCausalLM", "LMHeadModel"))]
    if names:
        raise _unsupported(folder, f"{', '.join(names)} does not continue text")
    if any(getattr(config, name, None) for name in _LATENT):
        raise _unsupported(folder, "multi-head latent attention keeps no K and V for each head")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise _unsupported(folder, f"some layers are {', '.join(sorted(kinds))}")
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise _unsupported(folder, f"a sliding window of {config.sliding_window} tokens forgets earlier KV")


def _architectures(config: Any) -> list[str]:
    return list(getattr(config, "architectures", None) or ())


def _unsupported(folder: Path, why: str) -> ConfigError:
    return ConfigError(
        f"model={str(folder)!r} is not supported: {why}; give a causal LM in which every layer keeps K and V of all tokens"
    )


def _fingerprint(folder: Path) -> str:
    """Of the configuration and of every weight."""
    digest = xxhash.xxh3_64()
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    for path in [folder / "config.json", folder / "tokenizer.json", *weights]:
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
    return f"hf-{digest.hexdigest()}"

"""The model before training, in one of two architectures, and the folder that it is written to."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tightwire.kv.refmodel.tokenizer import BOS, EOS, PAD


@dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder of `model`'s kind; `back`: how many tokens each head of the first layer starts to look back.

    `theta`, base of RoPE: over the longest prompt the slower half of the pairs must turn too little to disturb a match.
    """

    model: type[PreTrainedModel]
    config: type[PreTrainedConfig]
    layers: int
    hidden: int
    feed_forward: int
    kv_heads: int
    head_dim: int
    theta: float
    back: tuple[int, ...]


ARCHITECTURES = {
    "llama": Architecture(
        LlamaForCausalLM, LlamaConfig, layers=4, hidden=256, feed_forward=704, kv_heads=2, head_dim=64,
        theta=5e5, back=(1, 2, 1, 3),
    ),
    "qwen2": Architecture(  # biases on Q, K and V
        Qwen2ForCausalLM, Qwen2Config, layers=3, hidden=192, feed_forward=448, kv_heads=2, head_dim=64,
        theta=1e6, back=(1, 2, 1, 3),
    ),
}  # fmt: skip
"""`llama` is the reference model (3.7 M parameters with its 3,072 tokens); `qwen2` has a third of that."""


def new_model(architecture: Architecture, vocabulary: int) -> PreTrainedModel:
    """The untrained model for a tokenizer of `vocabulary` entries."""
    config = architecture.config(
        vocab_size=vocabulary, hidden_size=architecture.hidden, intermediate_size=architecture.feed_forward,
        num_hidden_layers=architecture.layers, num_attention_heads=len(architecture.back),
        num_key_value_heads=architecture.kv_heads, head_dim=architecture.head_dim, max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": architecture.theta}, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    model = architecture.model(config)
    look_back(model, architecture)
    return model


@torch.no_grad()
def look_back(model: PreTrainedModel, architecture: Architecture) -> None:
    """Start the first layer's heads as "attend `back` tokens back": the slow half of in-context lookup.

    Coordinate 0 of every embedding starts as the same constant c. Where q and k read only that coordinate,
    with amplitude a in the rotary pairs i of frequency w_i, the score at distance d is
    a^2 * sum_i cos((d - back) * w_i): greatest at d = back. Training moves all of it freely afterwards.
    """
    pairs, dim, half, amplitude = 5, architecture.head_dim, architecture.head_dim // 2, 1.25
    group = len(architecture.back) // architecture.kv_heads
    model.model.embed_tokens.weight[:, 0] = 0.1
    attention = model.model.layers[0].self_attn
    for head, back in enumerate(architecture.back):
        for pair in range(pairs):
            angle = back * architecture.theta ** (-pair / half)
            attention.k_proj.weight[dim * (head // group) + pair, 0] = amplitude
            attention.q_proj.weight[dim * head + pair, 0] = amplitude * math.cos(angle)
            attention.q_proj.weight[dim * head + pair + half, 0] = -amplitude * math.sin(angle)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write bf16 weights and a config that transformers 4 and 5 and vLLM read."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"rope_theta": model.config.rope_parameters["rope_theta"]}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

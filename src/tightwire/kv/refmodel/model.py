"""The reference model before training, and the folder that it is written to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tightwire.kv.refmodel.tokenizer import BOS, EOS, PAD, VOCABULARY

THETA = 500_000.0
"""Base of RoPE: over 2,048 tokens the slower half of the 32 pairs turns too little to disturb a match."""


def new_model() -> LlamaForCausalLM:
    """The untrained model: 3.7 M parameters, 4 layers, 4 query and 2 KV heads of 64."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": THETA}, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    look_back(model)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM) -> None:
    """Start the first layer's heads as "attend 1, 2, 1, 3 tokens back": the slow half of in-context lookup.

    Coordinate 0 of every embedding starts as the same constant c. Where q and k read only that coordinate,
    with amplitude a in the rotary pairs i of frequency w_i, the score at distance d is
    a^2 * sum_i cos((d - back) * w_i): greatest at d = back. Training moves all of it freely afterwards.
    """
    pairs, half, amplitude = 5, 32, 1.25
    model.model.embed_tokens.weight[:, 0] = 0.1
    attention = model.model.layers[0].self_attn
    for head, back in enumerate((1, 2, 1, 3)):
        for pair in range(pairs):
            angle = back * THETA ** (-pair / half)
            attention.k_proj.weight[64 * (head // 2) + pair, 0] = amplitude
            attention.q_proj.weight[64 * head + pair, 0] = amplitude * math.cos(angle)
            attention.q_proj.weight[64 * head + pair + half, 0] = -amplitude * math.sin(angle)


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write bf16 weights and a config that transformers 4 and 5 and vLLM read."""
    half = new_model().to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"rope_theta": THETA}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

"""Small model folders for tests."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from tightwire.kv.refmodel import heldout

VOCABULARY = 384


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with few merges and no token at the start of a text: unlike the reference model's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([heldout()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def qwen2(**settings: Any) -> Qwen2Config:
    """Two layers, four query heads for two KV heads of 16; biases on q, k and v as Qwen2 has them."""
    return Qwen2Config(**{
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "use_sliding_window": False,
        **settings,
    })  # fmt: skip


def save(config: Any, folder: Path) -> Path:
    """A folder with random weights of `config`."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):  # attention that looks at something
                weight.mul_(20)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder

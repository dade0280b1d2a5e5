"""A small sentence encoder for tests."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from tests.kv.quality.models import VOCABULARY, tokenizer


def save(folder: Path) -> Path:
    """Two layers of four heads of 16, random, with attention that looks at something."""
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
        ),
        add_pooling_layer=False,
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("query.weight", "key.weight", "value.weight")):
                weight.mul_(10)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder

"""Model folders that cannot be measured say so before any work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, DeepseekV3Config, Gemma2Config, MistralConfig, T5Config

from tests.kv.quality import models
from tightwire.errors import ConfigError
from tightwire.kv.engines import batched
from tightwire.kv.engines.batched import BatchedModel
from tightwire.kv.quality import Suite


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        Suite.of(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["config", "weights cut", "weights gone", "tokenizer"])
def test_a_damaged_folder(qwen2: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(qwen2, tmp_path / "model")
    weights = folder / "model.safetensors"
    if damage == "config":
        (folder / "config.json").write_text('{"model_type": "qwen2", ')
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "weights gone":
        weights.unlink()
    else:
        (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"cannot be read.*again"):
        BatchedModel(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BertConfig(architectures=["BertModel"]), "does not continue text"),
        (T5Config(), "not a causal language model"),
        (DeepseekV3Config(), "multi-head latent attention"),
        (Gemma2Config(), "sliding_attention"),
        (MistralConfig(sliding_window=4096), "sliding window"),
        (models.qwen2(use_sliding_window=True, sliding_window=64, max_window_layers=1), "sliding"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_unsupported_attention_is_known_from_the_configuration(config: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))  # no weights: they would not be looked at
    with pytest.raises(ConfigError, match=message):
        BatchedModel(tmp_path)


def test_attention_that_answers_otherwise_is_refused(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = batched._attention

    def louder(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        return ours(*args, **kwargs)[0] * 1.5, None

    monkeypatch.setattr(batched, "_attention", louder)
    with pytest.raises(ConfigError, match="differ from those without one"):
        BatchedModel(qwen2)


def test_the_fingerprint_is_that_of_every_weight(qwen2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(qwen2, tmp_path / "model")
    assert BatchedModel(folder).fingerprint == BatchedModel(qwen2).fingerprint
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert BatchedModel(folder).fingerprint != BatchedModel(qwen2).fingerprint

"""Which KV may be exchanged: what the model's shape is, and whose weights computed it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tightwire.kv.store import Layout

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_SAMPLE_BYTES = 2**16


def fingerprint(vllm_config: Any) -> str:
    """What must agree between two sides of a link: layers, kv heads, head_dim, dtype and RoPE; not the block size, and
    not the weights, since the two sides may hold them in different formats."""
    model = vllm_config.model_config
    text = model.hf_text_config
    rope = {key: getattr(text, key, None) for key in ("rope_theta", "rope_parameters", "rope_scaling")}
    digest = hashlib.sha256(json.dumps(rope, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return (
        f"vllm:l{text.num_hidden_layers}:h{model.get_total_num_kv_heads()}:d{model.get_head_size()}"
        f":{str(model.dtype).removeprefix('torch.')}:rope-{digest}"
    )


def stored_fingerprint(vllm_config: Any) -> str:
    """As above and the weights: what is stored outlives the engines, and other models of the same shape come along."""
    model = vllm_config.model_config
    return f"{fingerprint(vllm_config)}:{weights(Path(model.model)) or f'{model.model}@{model.revision}'}"


def layout(vllm_config: Any) -> Layout:
    """Of KV in a store."""
    model = vllm_config.model_config
    return Layout(
        model.hf_text_config.num_hidden_layers, model.get_total_num_kv_heads(), model.get_head_size(), model.dtype
    )


def weights(folder: Path) -> str:
    """A hash of the weights in `folder`: names, sizes, and samples from their beginnings, middles and ends; empty where
    there are none."""
    digest, found = hashlib.sha256(), False
    for path in sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        found = True
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(size - _SAMPLE_BYTES, 0)):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32] if found else ""

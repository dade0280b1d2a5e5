"""The tokenizer of a Hugging Face folder, as the folder means it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises what transformers raises for a damaged one.

    transformers 5 puts a class of its own in the place of the generic one for some model types (Qwen2 among them),
    which splits text by that type's rules instead of those in `tokenizer.json`.
    """
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_bytes()) if file.is_file() else {}
    generic = isinstance(config, dict) and config.get("tokenizer_class") == "PreTrainedTokenizerFast"
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(folder)

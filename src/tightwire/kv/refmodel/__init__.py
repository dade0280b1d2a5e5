"""The reference model: a small trained Llama-architecture language model that ships with the package.

`path()` is a Hugging Face folder that transformers and vLLM load unchanged, so the quality of a strategy
can be measured without a download. How it was made and what it can do: `docs/refmodel.md`.
Importing this package imports nothing heavy; torch and transformers come in with `train` and `evaluate`.
"""

from importlib.resources import as_file, files
from pathlib import Path

__all__ = ["heldout", "path"]


def path() -> Path:
    """The folder with config, tokenizer and weights, as `from_pretrained` takes it."""
    with as_file(files(__name__) / "weights") as folder:
        return Path(folder)


def heldout() -> str:
    """Prose that the model has never read (King James Version: Ruth, Esther, Jonah; public domain)."""
    return (files(__name__) / "heldout.txt").read_text("utf-8")

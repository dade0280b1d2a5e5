"""A model of another architecture is a bench like any other: no line of the profiler knows which it is."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")
from tightwire.kv import refmodel
from tightwire.kv.profiler.model import ModelBench, Suites
from tightwire.kv.refmodel.model import ARCHITECTURES, new_model, save
from tightwire.kv.refmodel.tokenizer import save_tokenizer, train_tokenizer
from tightwire.kv.strategy import RAW


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2 with a tokenizer of its own, untrained."""
    made = tmp_path_factory.mktemp("qwen2")
    tokenizer = train_tokenizer([refmodel.heldout()[:40_000]], 2048)
    save_tokenizer(tokenizer, made)
    save(new_model(ARCHITECTURES["qwen2"], tokenizer.get_vocab_size()), made)
    return made


def test_another_architecture_is_profiled(folder: Path, tmp_path: Path) -> None:
    bench = ModelBench(folder, tmp_path / "tables", 0)
    assert bench.fingerprint != ModelBench(refmodel.path(), tmp_path / "others", 0).fingerprint
    assert len(bench.space) > 8000
    unrotated = [s for s in bench.space.strategies if "rope:theta=1000000," in str(s) and "pca:over=heads" in str(s)]
    assert unrotated
    suites = Suites(folder, tmp_path / "tables", 0)
    assert suites.relative((str(RAW), "few")) == 1.0
    coarse = min(unrotated, key=lambda s: str(s).count("centibits=175"))
    assert 0.0 < suites.relative((str(coarse), "few")) <= 1.1
    profile = bench.profile(coarse, 0.5)
    assert profile.ratio > 1.5
    assert profile.error is not None

from pathlib import Path

import pytest
import torch

from tightwire.errors import ConfigError
from tightwire.kv.block import KVBlock
from tightwire.kv.profiles import ProfileLibrary, measure
from tightwire.kv.strategy import Strategy


def test_measured_library_round_trips(tmp_path: Path) -> None:
    block = KVBlock(torch.randn(2, 2, 64, 64).to(torch.bfloat16), torch.randn(2, 2, 64, 64).to(torch.bfloat16))
    texts = ("raw", "hadamard+uniform:levels=16+pack")
    profiles = measure([Strategy.parse(text) for text in texts], [block], lambda strategy: 1.0)
    library = ProfileLibrary("m", profiles, {"why": "test"})
    library.save(tmp_path / "library.json")
    assert ProfileLibrary.load(tmp_path / "library.json") == library
    assert 3.3 < profiles[1].ratio < 3.6


@pytest.mark.parametrize("text", ["", "{}", '{"model": "m", "profiles": [], "provenance": {}}', '{"model": 1}'])
def test_a_wrong_library_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "library.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        ProfileLibrary.load(path)
    with pytest.raises(ConfigError, match="missing"):
        ProfileLibrary.load(tmp_path / "missing.json")

"""A codec of another package: an entry point and one file; nothing of ours is edited."""

import json
import os
import subprocess
import sys
from pathlib import Path

TOY = '''
from dataclasses import dataclass
import numpy as np
from tightwire.kv.stages.base import STAGES, Codec, check_symbols, require_bytes, require_range

@STAGES.register("mirror")
@dataclass(frozen=True)
class Mirror(Codec):
    """The symbols from the last to the first."""

    name = "mirror"
    turns: int = 1

    def __post_init__(self):
        require_range("mirror: turns", self.turns, 1, 3)

    def encode(self, symbols, levels):
        return symbols.reshape(-1)[::-1].tobytes()

    def decode(self, data, levels, count):
        require_bytes("the symbols", data, len(levels) * count)
        return check_symbols(np.frombuffer(data, np.uint8)[::-1].reshape(len(levels), count), levels)
'''
USE = """
import torch
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.strategy import Strategy, enumerate_chains

strategy = Strategy.parse("hadamard+uniform:levels=12,axis=token+mirror:turns=2")
assert Strategy.from_json(strategy.to_json()) == strategy
x = torch.randn(2, 2, 9, 64).to(torch.bfloat16)
frame = encode_block(KVBlock(x, x), strategy)
packed = encode_block(KVBlock(x, x), Strategy.parse("hadamard+uniform:levels=12,axis=token+pack"))
assert torch.equal(decode_block(frame).k, decode_block(packed).k)
assert decode_block(frame, native_kernels=False).k.equal(decode_block(frame).k)
assert any(stage.name == "mirror" for chain in enumerate_chains() for stage in chain.stages)
print("used")
"""


def test_a_stage_from_an_entry_point(tmp_path: Path) -> None:
    (tmp_path / "toy_codec.py").write_text(TOY)
    info = tmp_path / "toy_codec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-codec\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tightwire.stages]\nmirror = toy_codec\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", USE).strip() == "used"
    listed = json.loads(run("-m", "tightwire.cli", "kv", "strategies", "--json"))
    row = next(row for row in listed["stages"] if row["stage"] == "mirror")
    assert "from the last to the first" in row["what it does"]
    assert "valid" in run("-m", "tightwire.cli", "kv", "strategies", "uniform+mirror")

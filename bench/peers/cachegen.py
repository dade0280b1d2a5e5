"""LMCache 0.5.6's `cachegen` serde on the CPU, run by its own interpreter (`setup_cachegen.sh` makes it)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

_HERE = Path(__file__).parent
_PYTHON = _HERE / ".venv" / "bin" / "python"
_READY = _HERE / ".venv" / "cachegen-ready"
_ALONE = {
    "LMCACHE_TRACK_USAGE": "false",
    "LMCACHE_LOG_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}

U16 = npt.NDArray[np.uint16]


class Measured(msgspec.Struct, frozen=True):
    """`ratio`: raw bytes / serialised bytes; `rmse_*`: norm of the error / norm of the values; speeds in raw bytes;
    `bins`: the levels of K and of V."""

    ratio: float
    rmse_k: float
    rmse_v: float
    encode_bytes_per_s: float
    decode_bytes_per_s: float
    bins: str


def measure(k: U16, v: U16) -> Measured | None:
    """What the serde makes of K and V, bf16 bits `[L, H, T, D]`; None, after printing the remedy, without its environment."""
    if not _READY.exists():
        print(
            f"cachegen is left out: its environment is not set up; run {_HERE / 'setup_cachegen.sh'}", file=sys.stderr
        )
        return None
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "kv.npy", np.stack([k, v]))
        command = [str(_PYTHON), str(_HERE / "cachegen_inside.py"), folder]
        subprocess.run(command, env={**os.environ, **_ALONE}, check=True, stdout=subprocess.DEVNULL)
        return msgspec.json.decode((Path(folder) / "measured.json").read_bytes(), type=Measured)

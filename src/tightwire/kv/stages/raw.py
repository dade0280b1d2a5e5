"""`raw`: the memory of K or V as it is. Exact for every bit pattern, NaN and Inf included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tightwire.errors import FrameError
from tightwire.kv.block import as_bytes
from tightwire.kv.stages.base import STAGES, Lossless


@STAGES.register("raw")
@dataclass(frozen=True)
class Raw(Lossless):
    name = "raw"

    def encode(self, x: torch.Tensor) -> bytes:
        return as_bytes(x).tobytes()

    def decode(self, data: memoryview, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        wanted = int(np.prod(shape)) * dtype.itemsize
        if len(data) != wanted:
            raise FrameError("payload", f"raw {shape} {dtype} takes {wanted} bytes, got {len(data)}")
        return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(dtype).reshape(shape)

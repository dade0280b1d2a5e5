"""`raw`: the memory of K or V as it is. Exact for every bit pattern, NaN and Inf included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tightwire.kv.block import as_bytes
from tightwire.kv.stages.base import STAGES, Buffer, Lossless, Shape, require_bytes


@STAGES.register("raw")
@dataclass(frozen=True)
class Raw(Lossless):
    name = "raw"

    def encode(self, x: torch.Tensor) -> list[Buffer]:
        return [as_bytes(x).data]

    def decode(self, data: memoryview, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        require_bytes(f"raw {list(shape)} {dtype}", data, int(np.prod(shape)) * dtype.itemsize)
        return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(dtype).reshape(shape)

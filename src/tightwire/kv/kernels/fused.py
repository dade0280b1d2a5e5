"""Which chains the fused native kernels take, and how."""

from __future__ import annotations

import torch

from tightwire.kv.stages.base import Buffer, Shape
from tightwire.kv.strategy import Chain


def encode(x: torch.Tensor, chain: Chain) -> list[Buffer] | None:
    """As `codec.encode_tensor`, or None where the kernels do not cover it."""
    return None


def decode(data: memoryview, chain: Chain, shape: Shape, dtype: torch.dtype) -> torch.Tensor | None:
    """As `codec.decode_tensor`, or None where the kernels do not cover it."""
    return None

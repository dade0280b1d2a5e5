"""`hadamard`: seeded random-sign Walsh-Hadamard rotation over head_dim (QuaRot, arXiv 2404.00456, section 3).

Spreads outlier channels over all channels, so that a uniform quantizer wastes fewer levels. Orthonormal: the error
after the inverse has the norm of the quantizer's. Any D works: it is cut into its powers of two, largest first
(80 = 64 + 16), each rotated by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tightwire.kv.block import F32
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import STAGES, Transform, require_range


@STAGES.register("hadamard")
@dataclass(frozen=True)
class Hadamard(Transform):
    """`seed` chooses the signs, 0 to 2^31 - 1."""

    name = "hadamard"
    seed: int = 0

    def __post_init__(self) -> None:
        require_range("hadamard: seed", self.seed, 0, 2**31 - 1)

    def forward(self, x: F32) -> F32:
        with np.errstate(over="ignore", invalid="ignore"):  # the quantizer refuses what is not finite
            return reference.walsh_blocks(x * weights(self.seed, x.shape[-1]))

    def inverse(self, x: F32) -> F32:
        with np.errstate(over="ignore", invalid="ignore"):
            return reference.walsh_blocks(x) * weights(self.seed, x.shape[-1])


@lru_cache(maxsize=64)
def weights(seed: int, dim: int) -> F32:
    """Sign ±1 over the root of the block's size, for every element: fp32 `[dim]`.

    Part of the wire format: never changes for a seed."""
    state, signs = seed, np.empty(dim, np.float32)
    for index in range(dim):  # SplitMix64 (Steele et al. 2014): defined here, so no library can change it
        state = (state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        signs[index] = 1.0 if (z ^ (z >> 31)) >> 63 else -1.0
    made: F32 = signs * np.concatenate([np.full(n, 1 / np.sqrt(n), np.float32) for n in reference.powers_of_two(dim)])
    made.setflags(write=False)
    return made

"""`hadamard`: seeded random-sign Walsh-Hadamard rotation over head_dim (QuaRot, arXiv 2404.00456, section 3).

Spreads outlier channels over all channels, so that a uniform quantizer wastes fewer levels. Orthonormal up to a
factor √2: the scale is a power of two, so that scaling is exact. Any D works: it is cut into its powers of two, largest
first (80 = 64 + 16), each rotated by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tightwire.kv.block import F32
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import STAGES, NotFiniteError, Place, Shape, Transform, require_range

BOUND = np.float32(2.0**100)


@STAGES.register("hadamard")
@dataclass(frozen=True)
class Hadamard(Transform):
    """`seed` chooses the signs, 0 to 2^31 - 1."""

    name = "hadamard"
    seed: int = 0

    def __post_init__(self) -> None:
        require_range("hadamard: seed", self.seed, 0, 2**31 - 1)

    def forward(self, x: F32, place: Place) -> tuple[F32, bytes]:
        down, _ = weights(self.seed, x.shape[-1])
        with np.errstate(over="ignore", invalid="ignore"):
            y = reference.walsh_blocks(x * down)
        if not (np.abs(y) < BOUND).all():
            raise NotFiniteError("rotated values are not below 2^100: the way back could overflow")
        return y, b""

    def inverse(self, y: F32, side: memoryview, place: Place, shape: Shape) -> F32:
        _, up = weights(self.seed, y.shape[-1])
        with np.errstate(over="ignore", invalid="ignore"):
            return reference.walsh_blocks(y) * up


@lru_cache(maxsize=64)
def weights(seed: int, dim: int) -> tuple[F32, F32]:
    """What every element is multiplied with before the butterflies of the forward transform, and after those of the
    inverse: sign times a power of two, fp32 `[dim]` each; their product is 1 / (size of the element's block).

    Part of the wire format: never changes for a seed."""
    state, signs = seed, np.empty(dim, np.float32)
    for index in range(dim):  # SplitMix64 (Steele et al. 2014): defined here, so no library can change it
        state = (state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        signs[index] = 1.0 if (z ^ (z >> 31)) >> 63 else -1.0
    blocks = reference.powers_of_two(dim)
    down = signs * np.concatenate([np.full(n, 0.5 ** (n.bit_length() // 2), np.float32) for n in blocks])
    up = signs * np.concatenate([np.full(n, 0.5 ** (n.bit_length() - 1 - n.bit_length() // 2), np.float32) for n in blocks])
    for made in (down, up):
        made.setflags(write=False)
    return down, up

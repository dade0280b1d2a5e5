"""`rope`: K as it was before its rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2): its channels are
steadier over the tokens (KVQuant, arXiv 2401.18079, section 3.2). The inverse rotates again. V stays as it is.

Channels i and i + D/2 of the token at position p = token_start + t are a pair, rotated by the angle p · inv_freq[i]
(the rotate-half convention of Llama, Qwen2 and Mistral in transformers). Angles are fp64, their cosines and sines fp32.
Forward and inverse use the same angles, so the round trip depends on no model: its error is at most
2^-21 · (|a| + |b|) for a pair (a, b). D must be even: ConfigError. NotFiniteError for magnitudes above 2^100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tightwire.errors import ConfigError, FrameError
from tightwire.kv import tables
from tightwire.kv.block import F32
from tightwire.kv.stages import subspace
from tightwire.kv.stages.base import OWN, STAGES, Place, Shape, Stage, Transform, require_range


@STAGES.register("rope")
@dataclass(frozen=True)
class Rope(Transform):
    """`table`: `own` (inv_freq[i] = theta^(-2i/D); `theta` 2 to 2^31 - 1) or the name of one of kind `rope`, made by
    `from_inverse_frequencies`, for models that scale their frequencies (`theta` then has no effect)."""

    name = "rope"
    theta: int = 10000
    table: str = OWN

    def __post_init__(self) -> None:
        require_range("rope: theta", self.theta, 2, 2**31 - 1)

    @classmethod
    def variants(cls) -> list[Stage]:
        return [cls(theta=theta) for theta in (10_000, 500_000, 1_000_000)]

    def calibrate(self, samples: Sequence[F32], model: str) -> tables.Table:
        raise ConfigError("rope: its table comes from the model's configuration; use rope.from_inverse_frequencies")

    def forward(self, x: F32, place: Place) -> tuple[F32, bytes]:
        if place.side == "v":
            return x, b""
        if x.shape[3] % 2:
            raise ConfigError(f"rope: head_dim={x.shape[3]} is odd; leave rope out")
        subspace.require_tame(x)
        inv_freq, scale = self._frequencies(x.shape[3])
        cos, sin = _turns(inv_freq.tobytes(), place.token_start, x.shape[2])
        return _rotate(x, cos, -sin) / scale, b""

    def inverse(self, y: F32, side: memoryview, place: Place, shape: Shape) -> F32:
        turns = self.turns(place, shape)
        return y if turns is None else _rotate(y, *turns)

    def turns(self, place: Place, shape: Shape) -> tuple[F32, F32] | None:
        """Cosines and sines `[T, D/2]` by which the inverse rotates, scaled; None for V. FrameError for an odd D."""
        if place.side == "v":
            return None
        if shape[3] % 2:
            raise FrameError("payload", f"rope on an odd head_dim, {shape[3]}")
        inv_freq, scale = self._frequencies(shape[3])
        cos, sin = _turns(inv_freq.tobytes(), place.token_start, shape[2])
        return (cos, sin) if scale == 1 else (cos * scale, sin * scale)

    def turns_back(self, place: Place, shape: Shape) -> tuple[F32, F32] | None:
        """By which `forward` rotates; None for V."""
        turns = self.turns(place, shape)
        if turns is None:
            return None
        scale = self._frequencies(shape[3])[1] ** 2
        return turns[0] / scale, -turns[1] / scale

    def _frequencies(self, dim: int) -> tuple[npt.NDArray[np.float64], np.float32]:
        """(inv_freq `[D/2]`, scale); MissingTableError when the table is for another D."""
        if self.table == OWN:
            return np.power(float(self.theta), -np.arange(0, dim, 2) / dim), np.float32(1)
        table = tables.find(self.table, self.name)
        inv_freq, scale = (np.asarray(table.array(name), np.float64) for name in ("inv_freq", "scale"))
        if inv_freq.shape != (dim // 2,):
            raise tables.MissingTableError(f"table {self.table!r} is for head_dim {2 * inv_freq.size}, not {dim}")
        return inv_freq, np.float32(scale[0])


def from_inverse_frequencies(inv_freq: F32, model: str, scale: float = 1.0) -> tables.Table:
    """The table of a model whose rotary embedding has `inv_freq` fp32 `[D/2]` and multiplies cos and sin with `scale`
    (in transformers: `rotary_emb.inv_freq` and `rotary_emb.attention_scaling`)."""
    if inv_freq.ndim != 1 or not np.isfinite(inv_freq).all() or not (np.isfinite(scale) and scale > 0):
        raise ConfigError(f"rope: inv_freq {inv_freq.shape} must be finite [D/2], scale={scale} positive")
    return tables.Table.make(
        "rope", model, inv_freq=inv_freq.astype(np.float32), scale=np.array([scale], np.float32)
    )


@lru_cache(maxsize=128)  # blocks of one prompt begin at the same tokens as those of the next
def _turns(inv_freq: bytes, token_start: int, tokens: int) -> tuple[F32, F32]:
    """Cosines and sines of the angles, `[T, D/2]` each, for fp64 `inv_freq`; not to be written to."""
    positions = float(token_start) + np.arange(tokens)
    angles = positions[:, None] * np.frombuffer(inv_freq, np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(x: F32, cos: F32, sin: F32) -> F32:
    """Each pair (x[i], x[i + D/2]) by its angle."""
    a, b = np.split(x, 2, axis=3)
    out = np.empty(x.shape, np.float32)
    first, second = np.split(out, 2, axis=3)
    np.multiply(a, cos, out=first)
    first -= b * sin
    np.multiply(b, cos, out=second)
    second += a * sin
    return out

"""A piece of a KV cache: some layers of some tokens of one request.

Legend of shapes, used everywhere in `kv`: L layers, H kv heads, T tokens, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tightwire.errors import ConfigError

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]

DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, eq=False)
class KVBlock:
    """K and V, each `[L, H, T, D]` on one device, bf16, fp16 or fp32, of the layers from `layer_start` on
    and the token positions from `token_start` on.

    `total_layers`, `total_tokens`: those of the whole request, where it is known (0: this block is where it ends);
    a strategy that protects the last layers or tokens needs them. Raises ConfigError when K and V do not fit together.
    """

    k: torch.Tensor
    v: torch.Tensor
    layer_start: int = 0
    token_start: int = 0
    total_layers: int = 0
    total_tokens: int = 0

    def __post_init__(self) -> None:
        if self.k.ndim != 4 or self.k.shape != self.v.shape or self.k.dtype != self.v.dtype:
            raise ConfigError(
                f"K {tuple(self.k.shape)} {self.k.dtype} and V {tuple(self.v.shape)} {self.v.dtype} must both be "
                "[layers, heads, tokens, head_dim] of one dtype"
            )
        if self.k.dtype not in DTYPE_NAMES:
            raise ConfigError(f"dtype {self.k.dtype} is not supported; use one of {', '.join(DTYPES)}")
        if self.layer_start < 0 or self.token_start < 0:
            raise ConfigError(f"layer_start={self.layer_start}, token_start={self.token_start}: must not be negative")

    @property
    def layers(self) -> int:
        return self.k.shape[0]

    @property
    def heads(self) -> int:
        return self.k.shape[1]

    @property
    def tokens(self) -> int:
        return self.k.shape[2]

    @property
    def head_dim(self) -> int:
        return self.k.shape[3]

    @property
    def raw_bytes(self) -> int:
        """Bytes of K and V as the engine holds them."""
        return 2 * self.k.numel() * self.k.element_size()

    def token_chunks(self, size: int) -> list[KVBlock]:
        """The same block cut along T into pieces of at most `size` tokens (views, no copy)."""
        return [
            KVBlock(
                self.k[:, :, start : start + size],
                self.v[:, :, start : start + size],
                self.layer_start,
                self.token_start + start,
                self.total_layers or self.layer_start + self.layers,
                self.total_tokens or self.token_start + self.tokens,
            )
            for start in range(0, self.tokens, size)
        ]


def to_float32(x: torch.Tensor) -> F32:
    """fp32 numpy copy of a tensor of any supported dtype; exact."""
    return x.detach().to(torch.float32).contiguous().numpy()


def from_float32(x: F32, dtype: torch.dtype) -> torch.Tensor:
    """Tensor of `dtype`, rounded to nearest, ties to even; values past the range are clipped to its maximum."""
    limit = torch.finfo(dtype).max
    return torch.from_numpy(np.ascontiguousarray(x)).clamp_(-limit, limit).to(dtype)


def as_bytes(x: torch.Tensor) -> U8:
    """The memory of a tensor as uint8 `[nbytes]` on the CPU (a view where x is contiguous and there)."""
    return x.contiguous().view(torch.uint8).reshape(-1).cpu().numpy()

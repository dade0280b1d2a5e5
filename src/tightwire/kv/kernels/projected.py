"""Chains through principal components, decoded in one pass: [rope] → pca → allocate → rans, to bf16 on the host.

Equal to the stages within the rounding of fp32 sums: as there, the order of a product's sum is the machine's own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from tightwire.kv.block import F32
from tightwire.kv.kernels import native
from tightwire.kv.stages.base import OWN, Place, Shape, Stage, split_side
from tightwire.kv.stages.codecs.rans import Rans
from tightwire.kv.stages.quantizers.allocate import MENU, MENU_BITS, Allocate
from tightwire.kv.stages.transforms.pca import Pca
from tightwire.kv.stages.transforms.rope import Rope


def covers(stages: tuple[Stage, ...], shape: Shape, dtype: torch.dtype, place: Place) -> bool:
    """Whether `decode` takes K or V of this shape."""
    if dtype is not torch.bfloat16:
        return False
    match stages:
        case [Pca(), Allocate(), Rans(table="own")]:
            return shape[3] % 32 == 0
        case [Rope(), Pca(), Allocate(), Rans(table="own")]:
            return shape[3] % (64 if place.side == "k" else 32) == 0
        case _:
            return False


def decode(data: memoryview, stages: tuple[Stage, ...], shape: Shape, place: Place, isa: str = "") -> torch.Tensor:
    """As `codec.decode_tensor`, for what `covers` says."""
    *before, pca, allocate, _ = stages
    assert isinstance(pca, Pca)
    assert isinstance(allocate, Allocate)
    if pca.table == OWN:
        side, data = split_side(data)
        mean, basis = _arranged(*pca.space(side, place, shape))
    else:
        mean, basis = _held(pca, Place(place.layer_start, 0, place.side), (shape[0], shape[1], 1, shape[3]))
    turns = _turns(before[0], place, shape) if before and isinstance(before[0], Rope) else None
    out = torch.empty(shape, dtype=torch.bfloat16)
    native.decode_allocated(
        np.frombuffer(data, np.uint8), allocate.segments(pca.out_shape(shape)), MENU, MENU_BITS, allocate.budget,
        basis, mean, turns, native.segments(out), isa,
    )  # fmt: skip
    return out


def _arranged(mean: F32, basis: F32) -> tuple[F32, F32]:
    """mean `[layers, groups, C]` and basis `[layers, groups, R, C]` as the kernel takes them."""
    directions, features = basis.shape[2:]
    tiles = native.interleaved(basis).reshape(-1, directions, features // 32, 32)
    return native.interleaved(mean).reshape(-1, features), np.ascontiguousarray(tiles.swapaxes(1, 2))


@lru_cache(maxsize=64)  # the same for every block of a model's layers; a table's name is that of its content
def _held(pca: Pca, place: Place, shape: Shape) -> tuple[F32, F32]:
    return _arranged(*pca.space(memoryview(b""), place, shape))


@lru_cache(maxsize=128)  # blocks of one prompt begin at the same tokens as those of the next
def _turns(rope: Rope, place: Place, shape: Shape) -> tuple[F32, F32] | None:
    turns = rope.turns(place, shape)
    return None if turns is None else (native.interleaved(turns[0]), native.interleaved(turns[1]))

"""Chains through principal components, of bf16 on the host: [rope] → pca → allocate or deadzone → rans, decoded in one pass
once the parameters are read, encoded in three (coordinates; parameters and symbols; their code).

Equal to the stages within the rounding of fp32 sums: as there, the order of a product's sum is the machine's own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from tightwire.kv.block import F32
from tightwire.kv.kernels import native
from tightwire.kv.stages.base import OWN, Buffer, Place, Shape, Stage, split_side
from tightwire.kv.stages.codecs.rans import Rans
from tightwire.kv.stages.quantizers.channels import Channels, Parameters
from tightwire.kv.stages.quantizers.deadzone import PEAKS, Deadzone
from tightwire.kv.stages.transforms.pca import Pca
from tightwire.kv.stages.transforms.rope import Rope


def covers(stages: tuple[Stage, ...], shape: Shape, dtype: torch.dtype, place: Place) -> bool:
    """Whether `decode` takes K or V of this shape."""
    if dtype is not torch.bfloat16:
        return False
    match stages:
        case [Pca(), Channels(), Rans(table="own")]:
            return shape[3] % 32 == 0
        case [Rope(), Pca(), Channels(), Rans(table="own")]:
            return shape[3] % (64 if place.side == "k" else 32) == 0
        case _:
            return False


def decode(data: memoryview, stages: tuple[Stage, ...], shape: Shape, place: Place, isa: str = "") -> torch.Tensor:
    """As `codec.decode_tensor`, for what `covers` says."""
    *before, pca, quantizer, _ = stages
    assert isinstance(pca, Pca)
    assert isinstance(quantizer, Channels)
    if pca.table == OWN:
        side, data = split_side(data)
        mean, basis = _arranged(*pca.space(side, place, shape))
    else:
        mean, basis = _held(pca, Place(place.layer_start, 0, place.side), (shape[0], shape[1], 1, shape[3]))
    turns = _turns(before[0], place, shape) if before and isinstance(before[0], Rope) else None
    out = torch.empty(shape, dtype=torch.bfloat16)
    found = _parameters(quantizer, data, pca.out_shape(shape))
    native.decode_projected(
        np.frombuffer(data[found.size :], np.uint8), found.coded, found.levels, found.lo, found.step, basis, mean, turns,
        native.segments(out), isa,
    )  # fmt: skip
    return out


def _parameters(quantizer: Channels, data: memoryview, shape: Shape) -> Parameters:
    if isinstance(quantizer, Deadzone):
        steps, chosen = quantizer.read(data, shape)
        found = native.deadzone_parameters(steps, chosen, PEAKS, quantizer.width(shape[3]))
        if found is not None:
            return Parameters(*found, size=steps.nbytes + chosen.nbytes)
    return quantizer.parameters(data, shape)


def encode(x: torch.Tensor, stages: tuple[Stage, ...], place: Place, isa: str = "") -> list[Buffer] | None:
    """As `codec.encode_tensor`, for what `covers` says; None where the stages must do it: with directions of its own, and
    for values that are not finite or above 2^100."""
    *before, pca, quantizer, rans = stages
    assert isinstance(pca, Pca)
    assert isinstance(quantizer, Channels)
    assert isinstance(rans, Rans)
    if pca.table == OWN:
        return None
    shape = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    basis, offset = _directions(pca, Place(place.layer_start, 0, place.side), (shape[0], shape[1], 1, shape[3]))
    turns = _turns_back(before[0], place, shape) if before and isinstance(before[0], Rope) else None
    done = native.project(native.segments(x), basis, offset, turns, isa)
    if done is None:
        return None
    y, low, high = done
    into = pca.out_shape(shape)
    width = quantizer.width(into[3])
    rows, low, high = y.reshape(-1, width, shape[2]), low.reshape(-1, width), high.reshape(-1, width)
    q = quantizer.rows_quantized(rows, low, high, into, place)
    return [q.params, rans.encode(q.symbols, q.levels)]


@lru_cache(maxsize=64)
def _directions(pca: Pca, place: Place, shape: Shape) -> tuple[F32, F32]:
    """(basis `[U, ceil(R/8), C, 8]`, basis · mean `[U, R]`) as `native.project` takes them."""
    mean, basis = pca.space(memoryview(b""), place, shape)
    basis = basis.reshape(-1, *basis.shape[2:])
    offset = np.einsum("urc,uc->ur", basis, mean.reshape(len(basis), -1), dtype=np.float64)
    eights = np.pad(basis, ((0, 0), (0, -basis.shape[1] % 8), (0, 0))).reshape(len(basis), -1, 8, basis.shape[2])
    return np.ascontiguousarray(eights.swapaxes(2, 3), np.float32), offset.astype(np.float32)


@lru_cache(maxsize=128)
def _turns_back(rope: Rope, place: Place, shape: Shape) -> tuple[F32, F32] | None:
    turns = rope.turns_back(place, shape)
    return None if turns is None else (np.ascontiguousarray(turns[0]), np.ascontiguousarray(turns[1]))


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

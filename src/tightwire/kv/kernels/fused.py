"""Which chains the native kernels take in one pass, and how; the bytes are those of the stages.

{nothing, hadamard, equalize with a table} → {uniform along head_dim, mixed} → {pack, rans, any other codec}, bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tightwire.kv.block import U8, U16, to_float32
from tightwire.kv.kernels import native
from tightwire.kv.stages.base import OWN, Buffer, Codec, NotFiniteError, Place, Shape, Stage, Transform
from tightwire.kv.stages.codecs.pack import Pack, packed_bytes
from tightwire.kv.stages.codecs.rans import Rans
from tightwire.kv.stages.quantizers import groups
from tightwire.kv.stages.quantizers.mixed import Mixed, some_tokens
from tightwire.kv.stages.quantizers.uniform import Uniform
from tightwire.kv.stages.transforms.equalize import Equalize
from tightwire.kv.stages.transforms.hadamard import Hadamard, weights
from tightwire.kv.strategy import Chain


@dataclass(frozen=True, eq=False)
class _Plan:
    transforms: list[Transform]
    quantizer: Uniform | Mixed
    codec: Codec
    weights: native.Weights
    group: int

    def parameters(self, shape: Shape) -> tuple[U16, U16]:
        """Empty lo and step `[S, cells]`."""
        cells = (shape[0] * shape[1], shape[2] * (shape[3] // self.group))
        return np.empty(cells, np.uint16), np.empty(cells, np.uint16)


def encode(x: torch.Tensor, chain: Chain, place: Place) -> list[Buffer] | None:
    """As `codec.encode_tensor`, or None where the kernels do not cover it."""
    shape = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    plan = _plan(chain.stages, shape, x.dtype, place)
    if plan is None:
        return None
    values = native.segments(x)
    if isinstance(plan.quantizer, Mixed):
        some = to_float32(some_tokens(x))
        for transform in plan.transforms:
            some, _ = transform.forward(some, place)
        head, levels = plan.quantizer.choose(some, place)
    else:
        head, levels = b"", np.full(values.shape[0], plan.quantizer.levels, np.uint16)
    lo, step = plan.parameters(shape)
    symbols: Sequence[Buffer] | None
    if isinstance(plan.codec, Rans):
        frequencies = plan.codec.frequencies(levels)
        symbols = native.encode_rans(values, levels, plan.weights, lo, step, frequencies)
    else:
        packs = isinstance(plan.codec, Pack)
        count = shape[2] * shape[3]
        out = np.empty(packed_bytes(levels, count) if packs else values.size, np.uint8)
        fits = native.encode(values, levels, plan.weights, lo, step, out, packs)
        coded_bytes = out.data if packs or not fits else plan.codec.encode(out.reshape(-1, count), levels)
        symbols = [coded_bytes] if fits else None
    if symbols is None:
        raise NotFiniteError("values hold NaN or Inf, or a range that bf16 parameters cannot express")
    return [head, lo.data.cast("B"), step.data.cast("B"), *symbols]


def decode(
    data: memoryview, chain: Chain, shape: Shape, dtype: torch.dtype, place: Place
) -> torch.Tensor | None:
    """As `codec.decode_tensor`, or None where the kernels do not cover it."""
    plan = _plan(chain.stages, shape, dtype, place)
    if plan is None:
        return None
    layout = plan.quantizer.layout(data, shape, place)
    cells = plan.quantizer.cells
    start = layout.params_bytes - cells.params_bytes(shape)
    lo, step = (part.reshape(len(layout.levels), -1) for part in groups.read(data[start : layout.params_bytes], shape, cells))
    body: U8 = np.frombuffer(data[layout.params_bytes :], np.uint8)
    out = torch.empty(shape, dtype=dtype)
    values = native.segments(out)
    if isinstance(plan.codec, Rans):
        frequencies = plan.codec.frequencies(layout.levels)
        native.decode_rans(body, layout.levels, plan.weights, lo, step, values, frequencies)
    elif isinstance(plan.codec, Pack):
        plan.codec.check_size(body.data, layout.levels, layout.count)
        native.decode(body, layout.levels, plan.weights, lo, step, values, True)
    else:
        symbols = plan.codec.decode(body.data, layout.levels, layout.count)
        native.decode(np.ascontiguousarray(symbols).reshape(-1), layout.levels, plan.weights, lo, step, values, False)
    return out


def _plan(stages: tuple[Stage, ...], shape: Shape, dtype: torch.dtype, place: Place) -> _Plan | None:
    *before, quantizer, codec = stages
    if dtype is not torch.bfloat16 or not isinstance(quantizer, Uniform | Mixed) or not isinstance(codec, Codec):
        return None
    cells, dim = quantizer.cells, shape[3]
    if cells.axis not in ("token", "group") or cells.symmetric or not native.covers(dim, cells.along(dim)):
        return None
    transforms = [stage for stage in before if isinstance(stage, Transform)]
    match before:
        case []:
            rows = native.PLAIN
        case [Hadamard(seed=seed)]:
            down, up = weights(seed, dim)
            rows = native.Weights(down[None], up[None])
        case [Equalize() as equalize] if equalize.table != OWN:
            rows = equalize.weights(shape, place)
        case _:
            return None
    return _Plan(transforms, quantizer, codec, rows, cells.along(dim))

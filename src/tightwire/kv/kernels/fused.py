"""Which chains the kernels take in one pass, and how; the bytes are those of the stages.

{nothing, hadamard, equalize with a table} → {uniform along head_dim, mixed} → {pack, rans, any other codec}, bf16; on a
GPU also lossless bf16. Tensors go to the kernels of their device (`table`). And what `projected` takes, whose bytes are
those of the stages but for the rounding of sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tightwire.kv.block import U8, U16, to_float32
from tightwire.kv.kernels import native, projected, table
from tightwire.kv.stages.base import (
    OWN,
    Buffer,
    Codec,
    NotFiniteError,
    Place,
    Shape,
    Stage,
    Transform,
    require_bytes,
)
from tightwire.kv.stages.codecs.pack import Pack
from tightwire.kv.stages.codecs.rans import Rans
from tightwire.kv.stages.lossless.exponent import Exponent
from tightwire.kv.stages.quantizers.mixed import Mixed, some_tokens
from tightwire.kv.stages.quantizers.uniform import Uniform
from tightwire.kv.stages.transforms.equalize import Equalize
from tightwire.kv.stages.transforms.hadamard import Hadamard, weights
from tightwire.kv.strategy import Chain

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class _Plan:
    transforms: list[Transform]
    quantizer: Uniform | Mixed
    codec: Codec
    weights: native.Weights
    group: int
    kernels: table.Kernels
    device: torch.device

    def choose(self, x: torch.Tensor, place: Place) -> tuple[bytes, U16]:
        """(the quantizer's head, the levels of the segments `[S]`)"""
        if isinstance(self.quantizer, Uniform):
            return b"", np.full(x.shape[0] * x.shape[1], self.quantizer.levels, np.uint16)
        some = to_float32(some_tokens(x).cpu())
        for transform in self.transforms:
            some, _ = transform.forward(some, place)
        return self.quantizer.choose(some, place)

    def rows(self, levels: U16) -> table.Rows:
        if isinstance(self.codec, Rans):
            return table.Rows(levels, self.weights, self.group, self.codec.frequencies(levels))
        return table.Rows(levels, self.weights, self.group, "packed" if isinstance(self.codec, Pack) else "bytes")


def encode(x: torch.Tensor, chain: Chain, place: Place) -> list[Buffer] | None:
    """As `codec.encode_tensor`, or None where the kernels do not cover it."""
    if _is_lossless_on_gpu(chain.stages, x.dtype, x.device):
        from tightwire.kv.kernels.triton.host import Triton

        return Triton().encode_lossless(x)
    shape = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    if x.device == _CPU and projected.covers(chain.stages, shape, x.dtype, place):
        return projected.encode(x, chain.stages, place)
    plan = _plan(chain.stages, shape, x.dtype, place, x.device)
    if plan is None:
        return None
    head, levels = plan.choose(x, place)
    rows = plan.rows(levels)
    parts = plan.kernels.encode(x.to(plan.device), rows)
    if parts is None:
        raise NotFiniteError("values hold NaN or Inf, or a range that bf16 parameters cannot express")
    if rows.form == "bytes":
        symbols: U8 = np.frombuffer(parts.pop(), np.uint8).reshape(len(levels), -1)
        parts.append(plan.codec.encode(symbols, levels))
    return [head, *parts]


def decode(
    data: memoryview, chain: Chain, shape: Shape, dtype: torch.dtype, place: Place, device: torch.device = _CPU
) -> torch.Tensor | None:
    """As `codec.decode_tensor`, onto `device`, or None where the kernels do not cover it."""
    if _is_lossless_on_gpu(chain.stages, dtype, device):
        from tightwire.kv.kernels.triton.host import Triton

        out = torch.empty(shape, dtype=dtype, device=device)
        Triton().decode_lossless(data, out)
        return out
    if projected.covers(chain.stages, shape, dtype, place):
        return projected.decode(data, chain.stages, shape, place).to(device)
    plan = _plan(chain.stages, shape, dtype, place, device)
    if plan is None:
        return None
    layout = plan.quantizer.layout(data, shape, place)
    params_bytes = plan.quantizer.cells.params_bytes(shape)
    params, body = data[layout.params_bytes - params_bytes : layout.params_bytes], data[layout.params_bytes :]
    require_bytes("the parameters", params, params_bytes)
    rows = plan.rows(layout.levels)
    if rows.form == "bytes":
        symbols = np.ascontiguousarray(plan.codec.decode(body, layout.levels, layout.count)).reshape(-1)
    else:
        symbols = np.frombuffer(body, np.uint8)
    if isinstance(plan.codec, Pack):
        plan.codec.check_size(body, layout.levels, layout.count)
    out = torch.empty(shape, dtype=dtype, device=plan.device)
    plan.kernels.decode(params, symbols, rows, out)
    return out.to(device)


def _is_lossless_on_gpu(stages: tuple[Stage, ...], dtype: torch.dtype, device: torch.device) -> bool:
    return stages == (Exponent(),) and dtype is torch.bfloat16 and table.on_gpu(device)


def _plan(
    stages: tuple[Stage, ...], shape: Shape, dtype: torch.dtype, place: Place, device: torch.device
) -> _Plan | None:
    if len(stages) < 2:
        return None
    *before, quantizer, codec = stages
    if dtype is not torch.bfloat16 or not isinstance(quantizer, Uniform | Mixed) or not isinstance(codec, Codec):
        return None
    cells, dim = quantizer.cells, shape[3]
    chosen = table.choose(device, dim, cells.along(dim))
    if cells.axis not in ("token", "group") or cells.symmetric or chosen is None:
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
    return _Plan(transforms, quantizer, codec, rows, cells.along(dim), *chosen)

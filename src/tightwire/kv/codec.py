"""KVBlock ↔ frame under a Strategy: the one path by which KV becomes bytes, for links and for stores alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tightwire.errors import ConfigError, FrameError, StrategyError
from tightwire.kv import frame as wire
from tightwire.kv.block import DTYPE_NAMES, DTYPES, F32, KVBlock, from_float32, to_float32
from tightwire.kv.kernels import fused
from tightwire.kv.stages.base import (
    Buffer,
    Codec,
    Correction,
    Lossless,
    NotFiniteError,
    Place,
    Quantized,
    Quantizer,
    Shape,
    Stage,
    Transform,
    require_bytes,
    side_length,
    split_side,
)
from tightwire.kv.stages.raw import Raw
from tightwire.kv.strategy import RAW, Chain, Strategy
from tightwire.kv.tables import MissingTableError

_RAW = Raw()
_CPU = torch.device("cpu")


def encode_block(block: KVBlock, strategy: Strategy, fingerprint: str = "", *, native_kernels: bool = True) -> memoryview:
    """One frame. Falls back to raw where the values are not finite or the result would not be smaller, so a frame
    is never larger than the raw one. `fingerprint` names the model and its KV layout, at most 128 characters."""
    if len(fingerprint) > 128:
        raise ConfigError(f"fingerprint {fingerprint[:20]!r}… has {len(fingerprint)} characters; the limit is 128")
    span = strategy.exact.within(block)
    try:
        k = _encode_side(block.k, strategy.k, span, Place(block.layer_start, block.token_start, "k"), native_kernels)
        v = _encode_side(block.v, strategy.v, span, Place(block.layer_start, block.token_start, "v"), native_kernels)
        smaller = _size(k) + _size(v) + len(str(strategy)) < block.raw_bytes + len(str(RAW))
    except NotFiniteError:
        smaller = False
    if not smaller and not strategy.is_raw:
        strategy, span = RAW, RAW.exact.within(block)
        k, v = _RAW.encode(block.k), _RAW.encode(block.v)
    header = wire.Header(
        strategy=str(strategy),
        fingerprint=fingerprint,
        dtype=DTYPE_NAMES[block.k.dtype],
        layer_start=block.layer_start,
        layers=block.layers,
        heads=block.heads,
        token_start=block.token_start,
        tokens=block.tokens,
        head_dim=block.head_dim,
        exact_layers=span[0],
        exact_tokens=span[1],
        k_bytes=_size(k),
        v_bytes=_size(v),
    )
    parts = [*k, *v]
    del k, v
    return wire.build(header, parts)


def decode_block(
    frame: wire.Frame | bytes | memoryview,
    fingerprint: str | None = None,
    limits: wire.Limits | None = None,
    *,
    native_kernels: bool = True,
    device: torch.device | str = "cpu",
) -> KVBlock:
    """The KVBlock of a frame, on `device`. Raises FrameError: whatever `frame.parse` refuses, `fingerprint` if it is another
    model's, `strategy` if it cannot be read here, `table` if it needs one that is not here, `payload` if the bytes do
    not hold what the header states."""
    if not isinstance(frame, wire.Frame):
        frame = wire.parse(frame, limits)
    header = frame.header
    if fingerprint is not None and header.fingerprint != fingerprint:
        raise FrameError("fingerprint", f"the frame is for {header.fingerprint!r}, this side runs {fingerprint!r}")
    try:
        strategy = Strategy.parse(header.strategy)
    except StrategyError as error:
        raise FrameError("strategy", str(error)) from error
    shape = (header.layers, header.heads, header.tokens, header.head_dim)
    span = (header.exact_layers, header.exact_tokens)
    try:
        k, v = (
            _decode_side(data, chain, span, shape, DTYPES[header.dtype], place, native_kernels, torch.device(device))
            for data, chain, place in (
                (frame.k, strategy.k, Place(header.layer_start, header.token_start, "k")),
                (frame.v, strategy.v, Place(header.layer_start, header.token_start, "v")),
            )
        )
    except MissingTableError as error:
        raise FrameError("table", str(error)) from error
    return KVBlock(k, v, header.layer_start, header.token_start)


Span = tuple[tuple[int, int], tuple[int, int]]  # exact (first, last) layers and tokens of a block


def _exact_parts(x: torch.Tensor, span: Span) -> list[torch.Tensor]:
    """The exact parts of `x` `[L, H, T, D]` in the order of the payload."""
    (first, last), (head, tail) = span
    inner = x[first : x.shape[0] - last]
    parts = [x[:first], x[x.shape[0] - last :], inner[:, :, :head], inner[:, :, x.shape[2] - tail :]]
    return [part for part in parts if part.numel()]


def _inner(x: torch.Tensor, span: Span) -> torch.Tensor:
    (first, last), (head, tail) = span
    return x[first : x.shape[0] - last, :, head : x.shape[2] - tail]


def _encode_side(x: torch.Tensor, chain: Chain, span: Span, place: Place, native: bool) -> list[Buffer]:
    inner = _inner(x, span)
    parts = [buffer for part in _exact_parts(x, span) for buffer in _RAW.encode(part)]
    if inner.numel():
        inner_place = Place(place.layer_start + span[0][0], place.token_start + span[1][0], place.side)
        parts += encode_tensor(inner, chain, inner_place, native)
    return parts


def _decode_side(
    data: memoryview, chain: Chain, span: Span, shape: Shape, dtype: torch.dtype, place: Place, native: bool,
    device: torch.device,
) -> torch.Tensor:  # fmt: skip
    (first, last), (head, tail) = span
    inner_shape = (shape[0] - first - last, shape[1], shape[2] - head - tail, shape[3])
    inner_place = Place(place.layer_start + first, place.token_start + head, place.side)
    if span == ((0, 0), (0, 0)):
        return decode_tensor(data, chain, inner_shape, dtype, inner_place, native, device)
    exact_bytes = (int(np.prod(shape)) - int(np.prod(inner_shape))) * dtype.itemsize
    if len(data) < exact_bytes:
        raise FrameError("payload", f"the exact parts take {exact_bytes} bytes, got {len(data)}")
    out, at = torch.empty(shape, dtype=dtype, device=device), 0
    for part in _exact_parts(out, span):
        size = part.numel() * dtype.itemsize
        part.copy_(_RAW.decode(data[at : at + size], (*part.shape,), dtype))
        at += size
    if int(np.prod(inner_shape)):
        _inner(out, span).copy_(decode_tensor(data[at:], chain, inner_shape, dtype, inner_place, native, device))
    else:
        require_bytes("a wholly exact block", data, exact_bytes)
    return out


def encode_tensor(x: torch.Tensor, chain: Chain, place: Place, native_kernels: bool = True) -> list[Buffer]:
    """K or V `[L, H, T, D]` through `chain`, as parts that belong one after the other: side information of the
    transforms, parameters of the quantizer, symbols; or the lossless bytes. NotFiniteError for NaN and Inf."""
    done = fused.encode(x, chain, place) if native_kernels else None
    if done is not None:
        return done
    x = x.cpu()
    if isinstance(chain.last, Lossless):
        return chain.last.encode(x)
    values = to_float32(x)
    if not np.isfinite(values).all():
        raise NotFiniteError("values hold NaN or Inf")
    with np.errstate(over="ignore", invalid="ignore"):  # quantizers refuse what is not finite
        return _encode_values(values, chain.stages, place)


def decode_tensor(
    data: memoryview, chain: Chain, shape: Shape, dtype: torch.dtype, place: Place, native_kernels: bool = True,
    device: torch.device = _CPU,
) -> torch.Tensor:  # fmt: skip
    """The inverse of `encode_tensor`, as a tensor of `shape` and `dtype` on `device`."""
    if native_kernels:
        done = fused.decode(data, chain, shape, dtype, place, device)
        if done is not None:
            return done
    if isinstance(chain.last, Lossless):
        return chain.last.decode(data, shape, dtype).to(device)
    with np.errstate(over="ignore", invalid="ignore"):  # what goes past the range of fp32 is clipped
        return from_float32(_decode_values(data, chain.stages, shape, place), dtype).to(device)


def _encode_values(x: F32, stages: Sequence[Stage], place: Place) -> list[Buffer]:
    stage, rest = stages[0], stages[1:]
    if isinstance(stage, Transform):
        y, side = stage.forward(x, place)
        following = _encode_values(y, rest, place)
        return [side_length(side), side, *following] if stage.sends_side else following
    if isinstance(stage, Correction):
        following = _encode_values(x, rest, place)
        shape = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
        arrived = _decode_values(memoryview(b"".join(following)), rest, shape, place)
        side = stage.describe(x - arrived, place)
        return [side_length(side), side, *following]
    assert isinstance(stage, Quantizer)
    assert isinstance(rest[0], Codec)
    q = stage.quantize(x, place)
    return [q.params, rest[0].encode(q.symbols, q.levels)]


def _decode_values(data: memoryview, stages: Sequence[Stage], shape: Shape, place: Place) -> F32:
    stage, rest = stages[0], stages[1:]
    if isinstance(stage, Transform):
        side, data = split_side(data) if stage.sends_side else (memoryview(b""), data)
        return stage.inverse(_decode_values(data, rest, stage.out_shape(shape), place), side, place, shape)
    if isinstance(stage, Correction):
        side, data = split_side(data)
        return stage.correct(_decode_values(data, rest, shape, place), side, place)
    assert isinstance(stage, Quantizer)
    assert isinstance(rest[0], Codec)
    layout = stage.layout(data, shape, place)
    if len(data) < layout.params_bytes:
        raise FrameError("payload", f"the parameters take {layout.params_bytes} bytes, got {len(data)}")
    symbols = rest[0].decode(data[layout.params_bytes :], layout.levels, layout.count)
    return stage.dequantize(Quantized(symbols, layout.levels, data[: layout.params_bytes]), shape, place)


def _size(parts: Sequence[Buffer]) -> int:
    return sum(len(part) for part in parts)

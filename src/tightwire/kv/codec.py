"""KVBlock ↔ frame under a Strategy: the one path by which KV becomes bytes, for links and for stores alike."""

from __future__ import annotations

import numpy as np
import torch

from tightwire.errors import ConfigError, FrameError, StrategyError
from tightwire.kv import frame as wire
from tightwire.kv.block import DTYPE_NAMES, DTYPES, F32, U8, U16, KVBlock, from_float32, to_float32
from tightwire.kv.kernels import native
from tightwire.kv.stages.base import Codec, Lossless, NotFiniteError, Quantized
from tightwire.kv.stages.codecs.pack import Pack, bits_for
from tightwire.kv.stages.quantizers.uniform import Uniform
from tightwire.kv.stages.transforms.hadamard import Hadamard, weights
from tightwire.kv.strategy import RAW, Chain, Strategy


def encode_block(block: KVBlock, strategy: Strategy, fingerprint: str = "", *, native_kernels: bool = True) -> bytes:
    """One frame. Falls back to raw where the values are not finite or the result would not be smaller, so a frame
    is never larger than the raw one. `fingerprint` names the model and its KV layout, at most 128 characters."""
    if len(fingerprint) > 128:
        raise ConfigError(f"fingerprint {fingerprint[:20]!r}… has {len(fingerprint)} characters; the limit is 128")
    try:
        k = encode_tensor(block.k, strategy.k, native_kernels)
        v = encode_tensor(block.v, strategy.v, native_kernels)
        smaller = len(k) + len(v) + len(str(strategy)) < block.raw_bytes + len(str(RAW))
    except NotFiniteError:
        smaller = False
    if not smaller and not strategy.is_raw:
        strategy = RAW
        k, v = encode_tensor(block.k, RAW.k, False), encode_tensor(block.v, RAW.v, False)
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
        k_bytes=len(k),
        v_bytes=len(v),
    )
    return wire.build(header, (k, v))


def decode_block(
    frame: wire.Frame | bytes | memoryview,
    fingerprint: str | None = None,
    limits: wire.Limits | None = None,
    *,
    native_kernels: bool = True,
) -> KVBlock:
    """The KVBlock of a frame. Raises FrameError: whatever `frame.parse` refuses, `fingerprint` if it is another
    model's, `strategy` if it cannot be read here, `payload` if the bytes do not hold what the header states."""
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
    k, v = (
        decode_tensor(data, chain, shape, DTYPES[header.dtype], native_kernels)
        for data, chain in ((frame.k, strategy.k), (frame.v, strategy.v))
    )
    return KVBlock(k, v, header.layer_start, header.token_start)


def encode_tensor(x: torch.Tensor, chain: Chain, native_kernels: bool = True) -> bytes:
    """K or V `[L, H, T, D]` through `chain`: lo and step of all groups, then the symbols; or the lossless bytes."""
    if isinstance(chain.last, Lossless):
        return chain.last.encode(x)
    quantizer = chain.quantizer
    assert quantizer is not None
    parts = _encode_native(x, chain) if native_kernels else None
    if parts is not None:
        return b"".join(parts)
    values = to_float32(x)
    if not np.isfinite(values).all():
        raise NotFiniteError("values hold NaN or Inf")
    for transform in chain.transforms:
        values = transform.forward(values)
    q = quantizer.quantize(values)
    return b"".join((q.lo.tobytes(), q.step.tobytes(), chain.last.encode(q.symbols, quantizer.levels)))


def decode_tensor(
    data: memoryview, chain: Chain, shape: tuple[int, ...], dtype: torch.dtype, native_kernels: bool = True
) -> torch.Tensor:
    """The inverse of `encode_tensor`, as a tensor of `shape` and `dtype`."""
    if isinstance(chain.last, Lossless):
        return chain.last.decode(data, shape, dtype)
    quantizer = chain.quantizer
    assert quantizer is not None
    groups = quantizer.groups(shape)
    if len(data) < 4 * groups:
        raise FrameError("payload", f"{groups} groups take {4 * groups} bytes of parameters, got {len(data)}")
    lo, step = np.frombuffer(data[: 4 * groups], "<u2").reshape(2, groups)
    if ((lo & 0x7F80) == 0x7F80).any() or (step >= 0x7F80).any():
        raise FrameError("payload", "a group's parameters are not finite")
    body = data[4 * groups :]
    plan = _plan(chain, shape[-1]) if native_kernels and dtype is torch.bfloat16 else None
    if plan is not None:
        return _decode_native(lo, step, body, chain, plan, shape)
    symbols = chain.last.decode(body, int(np.prod(shape)), quantizer.levels)
    values = quantizer.dequantize(Quantized(symbols.reshape(shape), lo, step))
    for transform in reversed(chain.transforms):
        values = transform.inverse(values)
    return from_float32(values, dtype)


def _plan(chain: Chain, dim: int) -> tuple[Uniform, int, F32] | None:
    """What the fused kernels need, or None where they do not cover this chain: (quantizer, group, rotation)."""
    quantizer = chain.quantizer
    if not isinstance(quantizer, Uniform) or quantizer.axis == "channel":
        return None
    group = quantizer.group_size(dim)
    match chain.transforms:
        case ():
            rotation = native.NO_TRANSFORM
        case (Hadamard(seed=seed),):
            rotation = weights(seed, dim)
        case _:
            return None
    return (quantizer, group, rotation) if native.covers(dim, group) else None


def _encode_native(x: torch.Tensor, chain: Chain) -> tuple[bytes | memoryview, ...] | None:
    plan = _plan(chain, x.shape[-1]) if x.dtype is torch.bfloat16 else None
    if plan is None:
        return None
    quantizer, group, rotation = plan
    assert isinstance(chain.last, Codec)
    packs = isinstance(chain.last, Pack)
    bits = bits_for(quantizer.levels) if packs else 8
    rows: U16 = x.contiguous().view(torch.int16).numpy().view(np.uint16).reshape(-1, x.shape[-1])
    done = native.encode(rows, rotation, group, quantizer.levels, bits)
    if done is None:
        raise NotFiniteError("values hold NaN or Inf, or a range that bf16 parameters cannot express")
    lo, step, packed = done
    return (
        lo.data.cast("B"),
        step.data.cast("B"),
        packed.data.cast("B") if packs else chain.last.encode(packed, quantizer.levels),
    )


def _decode_native(
    lo: U16, step: U16, body: memoryview, chain: Chain,
    plan: tuple[Uniform, int, F32], shape: tuple[int, ...],
) -> torch.Tensor:  # fmt: skip
    quantizer, group, rotation = plan
    dim, count, bits = shape[-1], int(np.prod(shape)), bits_for(quantizer.levels)
    rows = count // dim
    assert isinstance(chain.last, Codec)
    # A packed level count that fills its bits cannot be out of range: no need to look at every symbol.
    if isinstance(chain.last, Pack) and quantizer.levels == 1 << bits and len(body) == count * bits // 8:
        packed: U8 = np.frombuffer(body, np.uint8)
    else:
        packed, bits = chain.last.decode(body, count, quantizer.levels), 8
    out = native.decode(
        lo.reshape(rows, dim // group), step.reshape(rows, dim // group), packed.reshape(rows, dim * bits // 8),
        rotation, quantizer.levels, bits, dim,
    )  # fmt: skip
    return torch.from_numpy(out.view(np.int16)).view(torch.bfloat16).reshape(shape)

"""Subspaces as side information: the principal directions of rows, coordinates in them, and matrices as bf16 bits."""

from __future__ import annotations

from math import prod

import numpy as np

from tightwire.errors import FrameError
from tightwire.kv.block import F32, U16
from tightwire.kv.kernels import reference
from tightwire.kv.stages.base import NotFiniteError, read_array, require_bytes

LIMIT = 2.0**100  # what is no larger cannot overflow in any product or sum here


def require_tame(x: F32) -> None:
    """NotFiniteError unless all values are finite and at most 2^100."""
    if not (np.abs(x) <= LIMIT).all():
        raise NotFiniteError("values hold NaN, Inf or magnitudes above 2^100")


def principal(rows: F32, count: int) -> F32:
    """`count` orthonormal directions `[…, count, C]` in which the rows `[…, T, C]` are largest, largest first."""
    wide = rows.astype(np.float64)
    turned, tokens = wide.swapaxes(-1, -2), rows.shape[-2]
    if count <= tokens < rows.shape[-1]:  # by the smaller of the two matrices of products
        mixes = np.linalg.eigh(wide @ turned).eigenvectors[..., ::-1][..., :count]
        vectors = np.linalg.qr(turned @ mixes).Q
    else:
        vectors = np.linalg.eigh(turned @ wide).eigenvectors[..., ::-1][..., :count]
    return vectors.swapaxes(-1, -2).astype(np.float32)


def leading(rows: F32, count: int, rounds: int = 4) -> F32:
    """About the same for a small `count`, faster: that many rounds of power iteration (each squares the ratios
    between the directions' sizes), from a start that is always the same."""
    wide = rows.astype(np.float64)
    moment = wide.swapaxes(-1, -2) @ wide
    moment /= np.maximum(np.trace(moment, axis1=-2, axis2=-1), np.finfo(np.float64).tiny)[..., None, None]
    vectors = np.random.default_rng(0).normal(size=(rows.shape[-1], count))
    for _ in range(rounds):
        vectors = np.linalg.qr(moment @ vectors).Q
    return vectors.swapaxes(-1, -2).astype(np.float32)


def coordinates(rows: F32, basis: F32) -> F32:
    """y `[…, T, R]` such that y @ basis is nearest to `rows` `[…, T, C]`, for a basis `[…, R, C]` that
    rounding has made a little oblique."""
    wide = basis.astype(np.float64)
    dual = np.linalg.solve(wide @ wide.swapaxes(-1, -2), wide)
    return rows @ dual.swapaxes(-1, -2).astype(np.float32)


def nearest_bf16(x: F32) -> U16:
    """The nearest bf16, ties to even, of finite values."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def write(*arrays: F32) -> bytes:
    """The bf16 bits of the arrays, one after the other; NotFiniteError where bf16 cannot hold them."""
    parts = [nearest_bf16(array) for array in arrays]
    if any(((bits & 0x7F80) == 0x7F80).any() for bits in parts):
        raise NotFiniteError("side information that bf16 cannot express")
    return b"".join(bits.tobytes() for bits in parts)


def read(what: str, side: bytes | memoryview, *shapes: tuple[int, ...]) -> list[F32]:
    """The arrays of these shapes as they were rounded; FrameError for another size or what is not finite."""
    require_bytes(what, side, 2 * sum(map(prod, shapes)))
    arrays, at = [], 0
    for shape in shapes:
        bits: U16 = read_array(what, side, "u2", shape, at)
        if ((bits & 0x7F80) == 0x7F80).any():
            raise FrameError("payload", f"{what}: a value is not finite")
        arrays.append(reference.from_bf16(bits))
        at += 2 * prod(shape)
    return arrays

"""The wire format: one KVBlock, encoded. No I/O here: bytes in, a checked Frame out, or a FrameError.

    offset size
      0     4   magic "TWKV"
      4     1   version (1)
      5     1   flags (0)
      6     2   reserved (0)
      8     4   header length
     12     8   payload length
     20     8   XXH3-64 over bytes 0-19, the header and the payload
     28     -   header: MessagePack array of `Header`'s fields, in their order
      -     -   payload: K's bytes, then V's; each: the exact parts as they are (first layers, last layers, then of
                the other layers first tokens, last tokens), then what the strategy's chain makes of the rest

Integers are little-endian. Every limit is checked before memory is taken; the payload stays a view of the input.
A version 1 frame stays readable for ever (frozen files in the tests).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgspec
import numpy as np
import xxhash

from tightwire.errors import FrameError
from tightwire.kv.block import DTYPES

MAGIC = b"TWKV"
VERSION = 1
_PREFIX = struct.Struct("<4sBBHIQ")
_CHECKSUM = struct.Struct("<Q")
PREFIX_BYTES = _PREFIX.size + _CHECKSUM.size


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a receiver must know to decode: K and V are each `[layers, heads, tokens, head_dim]` of `dtype`."""

    strategy: str
    fingerprint: str
    dtype: str
    layer_start: int
    layers: int
    heads: int
    token_start: int
    tokens: int
    head_dim: int
    exact_layers: tuple[int, int]  # how many first and last layers of this block are sent as they are
    exact_tokens: tuple[int, int]  # how many first and last tokens of the other layers are sent as they are
    k_bytes: int
    v_bytes: int

    @property
    def raw_bytes(self) -> int:
        """Bytes of K and V once decoded."""
        return 2 * self.layers * self.heads * self.tokens * self.head_dim * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Limits:
    """What a receiver accepts. The defaults hold one block of a large model (1 GiB) with room to spare."""

    max_header_bytes: int = 4096
    max_payload_bytes: int = 2**30
    max_raw_bytes: int = 2**31
    max_position: int = 2**24  # layers or tokens of one request


@dataclass(frozen=True)
class Frame:
    header: Header
    payload: memoryview

    @property
    def k(self) -> memoryview:
        return self.payload[: self.header.k_bytes]

    @property
    def v(self) -> memoryview:
        return self.payload[self.header.k_bytes :]


def build(header: Header, payload: list[bytes | memoryview]) -> memoryview:
    """The frame of `header` and the concatenated `payload` parts, which are taken off the list one by one, so that
    never much more than the frame and one part is in memory."""
    packed = msgspec.msgpack.encode(header)
    payload_bytes = sum(len(part) for part in payload)
    frame = np.empty(PREFIX_BYTES + len(packed) + payload_bytes, np.uint8).data  # not touched before it is filled
    _PREFIX.pack_into(frame, 0, MAGIC, VERSION, 0, 0, len(packed), payload_bytes)
    digest, at = xxhash.xxh3_64(frame[: _PREFIX.size]), PREFIX_BYTES
    payload.insert(0, packed)
    while payload:
        part = payload.pop(0)
        digest.update(part)
        frame[at : at + len(part)] = memoryview(part).cast("B")
        at += len(part)
    _CHECKSUM.pack_into(frame, _PREFIX.size, digest.intdigest())
    return frame.toreadonly()


def parse(data: bytes | memoryview, limits: Limits | None = None) -> Frame:
    """Check `data` and give the Frame. Raises FrameError whose `reason` is one of: truncated, magic, version, flags,
    limit, length, checksum, header, shape."""
    limits = limits or Limits()
    view = memoryview(data).cast("B")
    if len(view) < PREFIX_BYTES:
        raise FrameError("truncated", f"{len(view)} bytes are fewer than the {PREFIX_BYTES} of a frame's prefix")
    magic, version, flags, reserved, header_bytes, payload_bytes = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise FrameError("magic", f"starts with {magic!r}, a frame starts with {MAGIC!r}")
    if version != VERSION:
        raise FrameError("version", f"version {version} is not {VERSION}; update the older side")
    if flags or reserved:
        raise FrameError("flags", f"flags {flags} and reserved {reserved} must be 0 in version {VERSION}")
    if header_bytes > limits.max_header_bytes or payload_bytes > limits.max_payload_bytes:
        raise FrameError(
            "limit",
            f"header of {header_bytes} and payload of {payload_bytes} bytes; "
            f"accepted are {limits.max_header_bytes} and {limits.max_payload_bytes}",
        )
    stated = PREFIX_BYTES + header_bytes + payload_bytes
    if len(view) != stated:
        reason = "truncated" if len(view) < stated else "length"
        raise FrameError(reason, f"the prefix states {stated} bytes, {len(view)} arrived")
    (checksum,) = _CHECKSUM.unpack_from(view, _PREFIX.size)
    digest = xxhash.xxh3_64(view[: _PREFIX.size])
    digest.update(view[PREFIX_BYTES:])
    if digest.intdigest() != checksum:
        raise FrameError("checksum", f"stated {checksum:016x}, computed {digest.intdigest():016x}")
    body = view[PREFIX_BYTES:]
    try:
        header = msgspec.msgpack.decode(body[:header_bytes], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FrameError("header", str(error)) from error
    _check(header, payload_bytes, limits)
    return Frame(header, body[header_bytes:])


def _check(header: Header, payload_bytes: int, limits: Limits) -> None:
    if header.dtype not in DTYPES:
        raise FrameError("header", f"dtype {header.dtype!r} is not one of {', '.join(DTYPES)}")
    sizes = (header.layers, header.heads, header.tokens, header.head_dim)
    if min(sizes) < 1 or min(header.layer_start, header.token_start) < 0:
        raise FrameError("shape", f"[layers, heads, tokens, head_dim] = {list(sizes)} must be positive")
    if max(*sizes, header.layer_start, header.token_start) > limits.max_position:
        raise FrameError("limit", f"{header} goes past position {limits.max_position}")
    if header.raw_bytes > limits.max_raw_bytes:
        raise FrameError("limit", f"decoded it takes {header.raw_bytes} bytes; accepted are {limits.max_raw_bytes}")
    for what, (first, last), size in (
        ("layers", header.exact_layers, header.layers), ("tokens", header.exact_tokens, header.tokens)
    ):  # fmt: skip
        if min(first, last) < 0 or first + last > size:
            raise FrameError("shape", f"{first} first and {last} last of {size} {what} cannot be exact")
    if min(header.k_bytes, header.v_bytes) < 0 or header.k_bytes + header.v_bytes != payload_bytes:
        raise FrameError(
            "length", f"K {header.k_bytes} + V {header.v_bytes} bytes are not the payload's {payload_bytes}"
        )

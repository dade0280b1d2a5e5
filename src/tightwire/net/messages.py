"""A message from a socket, as msgspec's type of it or not at all."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from tightwire.errors import LinkError

M = TypeVar("M")


def decode(decoder: msgspec.msgpack.Decoder[M], data: bytes | memoryview, max_bytes: int, what: str) -> M:
    """Raises LinkError for more than `max_bytes`, before memory is taken, and for what is no such message; `what` in words."""
    if len(data) > max_bytes:
        raise LinkError(f"{what} of {len(data)} bytes; the limit is {max_bytes}")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"not {what}: {error}") from error

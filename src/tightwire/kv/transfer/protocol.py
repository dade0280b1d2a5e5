"""The messages between sender and receiver, as MessagePack; the first part of every ZeroMQ message.

A transfer has a name, which both engines know, and a stream: a random number that the sender draws for one attempt,
so that what is late or sent twice never reaches another attempt.
"""

from __future__ import annotations

import math

import msgspec

from tightwire.errors import LinkError
from tightwire.net.messages import decode

VERSION = 2
MAX_ID_CHARS = 256
MAX_FRAMES = 2**20  # of one transfer
MAX_TEXT_CHARS = 4096
MAX_MESSAGE_BYTES = 2**20  # of one control message: a report names every gap
_WHAT = "a message of the transfer protocol"
_LIMIT_TEXT = "{} has {} characters; the limit is {}"


class Hello(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """First on every connection. `writes`: the sender would write frames into memory of the receiver (NIXL)."""

    version: int
    writes: bool = False


class Begin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    stream: int
    transfer: str
    layers: int
    tokens: int


class Part(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A frame: the message's second part, or `size` bytes at `offset` of the memory that the sender was given."""

    stream: int
    index: int
    offset: int = 0
    size: int = 0


class End(msgspec.Struct, frozen=True, tag=True, array_like=True):
    stream: int
    frames: int


class Cancel(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """From either side: the transfer is over and nothing of it is kept."""

    stream: int
    reason: str


class Ping(msgspec.Struct, frozen=True, tag=True, array_like=True):
    number: int


class Memory(msgspec.Struct, frozen=True, array_like=True):
    """Where a sender may write: `agent`, NIXL's description of the receiver's agent, and a region of its memory."""

    agent: bytes
    address: int
    size_bytes: int


class Welcome(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`boot`: another number after a restart. The receiver holds `window_bytes` of this sender at most and takes no
    frame larger than `frame_bytes`."""

    boot: int
    arrived_s: float
    window_bytes: int
    frame_bytes: int
    memory: Memory | None = None


class Ack(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A frame arrived, by the receiver's clock."""

    stream: int
    index: int
    arrived_s: float


class Taken(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A frame was decoded, which took `decode_s`, or refused: the sender may forget it and send another."""

    stream: int
    index: int
    decode_s: float = 0.0


class Pong(msgspec.Struct, frozen=True, tag=True, array_like=True):
    number: int
    arrived_s: float


class Report(msgspec.Struct, frozen=True, tag=True, array_like=True):
    stream: int
    error: str | None
    missing: list[tuple[int, int]]
    decode_s: float


ToReceiver = Hello | Begin | Part | End | Cancel | Ping
ToSender = Welcome | Ack | Taken | Pong | Report | Cancel
_TO_RECEIVER = msgspec.msgpack.Decoder(ToReceiver)
_TO_SENDER = msgspec.msgpack.Decoder(ToSender)
encode = msgspec.msgpack.encode


def decode_to_receiver(data: bytes | memoryview) -> ToReceiver:
    """Raises LinkError for anything that is not one of the messages above or is out of range."""
    message: ToReceiver = decode(_TO_RECEIVER, data, MAX_MESSAGE_BYTES, _WHAT)
    if isinstance(message, Begin) and len(message.transfer) > MAX_ID_CHARS:
        raise LinkError(_LIMIT_TEXT.format("a transfer id", len(message.transfer), MAX_ID_CHARS))
    if isinstance(message, Cancel) and len(message.reason) > MAX_TEXT_CHARS:
        raise LinkError(_LIMIT_TEXT.format("a reason", len(message.reason), MAX_TEXT_CHARS))
    count = message.index if isinstance(message, Part) else message.frames if isinstance(message, End) else 0
    if not 0 <= count <= MAX_FRAMES:
        raise LinkError(f"frame number {count} is out of range; at most {MAX_FRAMES} make a transfer")
    return message


def decode_to_sender(data: bytes | memoryview) -> ToSender:
    """Raises LinkError for anything that is not one of the messages above."""
    message: ToSender = decode(_TO_SENDER, data, MAX_MESSAGE_BYTES, _WHAT)
    if not all(math.isfinite(getattr(message, name, 0.0)) for name in ("arrived_s", "decode_s")):
        raise LinkError(f"a time that is none: {message}")
    return message

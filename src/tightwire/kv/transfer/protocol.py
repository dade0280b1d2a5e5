"""The messages between sender and receiver, as MessagePack; the first part of every ZeroMQ message."""

from __future__ import annotations

import msgspec

from tightwire.errors import LinkError

MAX_ID_CHARS = 256


class Begin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    transfer: str
    layers: int
    tokens: int


class Part(msgspec.Struct, frozen=True, tag=True, array_like=True):
    transfer: str
    index: int


class End(msgspec.Struct, frozen=True, tag=True, array_like=True):
    transfer: str
    frames: int


class Ping(msgspec.Struct, frozen=True, tag=True, array_like=True):
    number: int


class Ack(msgspec.Struct, frozen=True, tag=True, array_like=True):
    transfer: str
    index: int
    arrived_s: float


class Pong(msgspec.Struct, frozen=True, tag=True, array_like=True):
    number: int
    arrived_s: float


class Report(msgspec.Struct, frozen=True, tag=True, array_like=True):
    transfer: str
    error: str | None
    missing: list[tuple[int, int]]
    decode_s: float
    done_s: float


ToReceiver = Begin | Part | End | Ping
ToSender = Ack | Pong | Report
_TO_RECEIVER = msgspec.msgpack.Decoder(ToReceiver)
_TO_SENDER = msgspec.msgpack.Decoder(ToSender)
encode = msgspec.msgpack.encode


def decode_to_receiver(data: bytes | memoryview) -> ToReceiver:
    """Raises LinkError for anything that is not one of the messages above."""
    try:
        message: ToReceiver = _TO_RECEIVER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"not a message of the transfer protocol: {error}") from error
    if not isinstance(message, Ping) and len(message.transfer) > MAX_ID_CHARS:
        raise LinkError(f"a transfer id has {len(message.transfer)} characters; the limit is {MAX_ID_CHARS}")
    return message


def decode_to_sender(data: bytes | memoryview) -> ToSender:
    """Raises LinkError for anything that is not one of the messages above."""
    try:
        message: ToSender = _TO_SENDER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"not a message of the transfer protocol: {error}") from error
    return message

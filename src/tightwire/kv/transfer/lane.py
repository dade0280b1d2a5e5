"""What a sender says, in its order: messages and frames by ZeroMQ, and frames that NIXL writes, announced when they are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.protocol import Ack, Part, Welcome

Message = list[bytes | memoryview]
Key = tuple[int, int]  # stream, index


class Writer(Protocol):
    """`nixl.Launcher`."""

    def aim(self, memory: protocol.Memory | None) -> None: ...
    def write(self, key: Key, frame: memoryview, now_s: float) -> int | None: ...
    def written(self, key: Key, now_s: float) -> bool | None: ...
    def arrived(self, key: Key) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class _Waiting:
    message: Message
    part: Part | None = None  # of a frame that is being written
    offset: int = 0


class Lane:
    """Not thread-safe. `send` takes what goes by ZeroMQ. Without a writer everything goes at once."""

    def __init__(self, send: Callable[[Message], None], writer: Writer | None = None) -> None:
        self._send, self._writer = send, writer
        self._waiting: deque[_Waiting] = deque()

    @property
    def waits(self) -> bool:
        """Whether something is being written: look again soon."""
        return bool(self._waiting)

    def put(self, message: Message, now_s: float) -> None:
        if self._writer is None:
            self._send(message)
            return
        part = protocol.decode_to_receiver(message[0]) if len(message) == 2 else None
        if isinstance(part, Part):
            offset = self._writer.write((part.stream, part.index), memoryview(message[1]), now_s)
            if offset is not None:
                self._waiting.append(_Waiting(message, part, offset))
                return
        self._waiting.append(_Waiting(message))

    def flush(self, now_s: float) -> None:
        """Say what can be said; what comes after a frame that is being written waits for it."""
        while self._waiting:
            first = self._waiting[0]
            message = first.message
            if first.part is not None:
                assert self._writer is not None
                stream, index = first.part.stream, first.part.index
                done = self._writer.written((stream, index), now_s)
                if done is False:
                    return
                if done:
                    message = [protocol.encode(Part(stream, index, first.offset, len(message[1])))]
            self._waiting.popleft()
            self._send(message)

    def heard(self, message: protocol.ToSender) -> None:
        if self._writer is None:
            return
        if isinstance(message, Welcome):
            self._writer.aim(message.memory)
        elif isinstance(message, Ack):
            self._writer.arrived((message.stream, message.index))

    def lost(self) -> None:
        """The connection is gone, and with it what waits: the outbox says what goes again."""
        self._waiting.clear()
        if self._writer is not None:
            self._writer.aim(None)

    def close(self) -> None:
        self._waiting.clear()
        if self._writer is not None:
            self._writer.close()

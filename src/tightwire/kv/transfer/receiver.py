"""The receiving side: one thread takes frames off the wire and stamps their arrival, one checks and decodes them.

Memory is bounded: at most `max_buffered_bytes` of frames wait for the decoder (then the socket is not read, and TCP
holds the sender back), and at most as many decoded bytes wait for their taker.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import uuid
from collections.abc import Callable

import zmq

from tightwire.core.clock import Clock, MonotonicClock
from tightwire.errors import FrameError, LinkError
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block
from tightwire.kv.frame import Limits
from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.inbox import Inbox, Received
from tightwire.kv.transfer.protocol import Ack, Begin, End, Part, Ping, Pong

DEFAULT_BUFFERED_BYTES = 2**30
_Job = tuple[bytes, Part | End, memoryview | None]


class Receiver:
    """Binds `bind` (port `*` takes a free one; `endpoint` says which) and collects transfers until they are waited
    for. `fingerprint`: frames of another model are refused."""

    def __init__(
        self,
        bind: str = "tcp://127.0.0.1:*",
        *,
        fingerprint: str | None = None,
        limits: Limits | None = None,
        max_buffered_bytes: int = DEFAULT_BUFFERED_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._fingerprint, self._limits = fingerprint, limits or Limits()
        self._max_buffered_bytes = max_buffered_bytes
        self._clock = clock or MonotonicClock()
        self._inbox = Inbox(self._clock, max_buffered_bytes)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._queued_bytes = 0
        self._queued_lock = threading.Lock()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.RCVHWM, 16)
        self._socket.setsockopt(zmq.MAXMSGSIZE, self._limits.max_payload_bytes + self._limits.max_header_bytes + 64)
        try:
            self._socket.bind(bind)
        except zmq.ZMQError as error:
            self._socket.close()
            raise LinkError(f"cannot bind {bind!r}: {error}; give a free address, port * takes any") from error
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        # The decoder hands its reports to the thread that owns the socket.
        inside = f"inproc://tightwire-receiver-{uuid.uuid4().hex}"
        self._reports_in = context.socket(zmq.PULL)
        self._reports_in.bind(inside)
        self._reports_out = context.socket(zmq.PUSH)
        self._reports_out.connect(inside)
        self._threads = [
            threading.Thread(target=self._receive, name="tightwire-receive", daemon=True),
            threading.Thread(target=self._decode, name="tightwire-decode", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, transfer_id: str, timeout_s: float, on_block: Callable[[KVBlock], None] | None = None) -> Received:
        """Until the transfer is complete, failed or `timeout_s` is over. Blocks go to `on_block`, in this thread, as
        they arrive, or are collected in the result. Never raises for what arrives: see `Received.error`."""
        return self._inbox.wait(transfer_id, timeout_s, on_block)

    def close(self) -> None:
        if self._threads:
            self._jobs.put(None)  # the decoder ends and tells the receiving thread
            for thread in self._threads:
                thread.join(timeout=5)
            self._threads = []

    def _receive(self) -> None:
        poller = zmq.Poller()
        poller.register(self._reports_in, zmq.POLLIN)
        reading = False
        while True:
            with self._queued_lock:
                room = self._queued_bytes < self._max_buffered_bytes
            if room != reading:
                (poller.register if room else poller.unregister)(
                    *((self._socket, zmq.POLLIN) if room else (self._socket,))
                )
                reading = room
            ready = dict(poller.poll(100))
            if self._reports_in in ready:
                parts = self._reports_in.recv_multipart()
                if len(parts) == 1:
                    break
                self._answer(*parts)
            if self._socket in ready:
                frames = self._socket.recv_multipart(copy=False)
                with contextlib.suppress(LinkError):  # a stranger's message: nothing to answer
                    self._take(frames)
        self._socket.close()
        self._reports_in.close()

    def _take(self, parts: list[zmq.Frame]) -> None:
        arrived_s = self._clock.now_s()
        if len(parts) not in (2, 3):
            raise LinkError(f"a message of {len(parts)} parts")
        sender = parts[0].bytes
        message = protocol.decode_to_receiver(parts[1].buffer)
        match message:
            case Begin():
                self._inbox.begin(message)
            case Part() if len(parts) == 3:
                self._answer(sender, protocol.encode(Ack(message.transfer, message.index, arrived_s)))
                data = parts[2].buffer
                with self._queued_lock:
                    self._queued_bytes += len(data)
                self._jobs.put((sender, message, data))
            case End():
                self._jobs.put((sender, message, None))
            case Ping():
                self._answer(sender, protocol.encode(Pong(message.number, arrived_s)))

    def _answer(self, sender: bytes, message: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):  # the sender left
            self._socket.send_multipart([sender, message], zmq.NOBLOCK)

    def _decode(self) -> None:
        while (job := self._jobs.get()) is not None:
            sender, message, data = job
            if isinstance(message, End):
                report = self._inbox.end(message)
                if report is not None:
                    self._reports_out.send_multipart([sender, protocol.encode(report)])
                continue
            assert data is not None
            start_s = self._clock.now_s()
            try:
                block = decode_block(data, self._fingerprint, self._limits)
            except FrameError as error:
                self._inbox.refuse(message.transfer, message.index, str(error))
            else:
                self._inbox.add(message.transfer, block, len(data), self._clock.now_s() - start_s)
            with self._queued_lock:
                self._queued_bytes -= len(data)
        self._reports_out.send(b"")
        self._reports_out.close()

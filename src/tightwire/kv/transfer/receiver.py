"""The receiving side: one thread owns the socket and stamps arrivals, workers check and decode.

Memory is bounded: at most `max_buffered_bytes` of frames wait for a decoder and about as many decoded bytes for their
taker. A sender is told how much it may have here; one that sends more is not read, and TCP holds it back.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

import zmq

from tightwire.core.clock import Clock, MonotonicClock
from tightwire.core.trace import Trace
from tightwire.errors import ConfigError, FrameError, LinkError
from tightwire.kv import frame as wire_format
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block
from tightwire.kv.frame import Limits
from tightwire.kv.transfer import protocol
from tightwire.kv.transfer.inbox import Inbox
from tightwire.kv.transfer.incoming import Job, Received
from tightwire.kv.transfer.nixl import Landing
from tightwire.kv.transfer.protocol import Begin, Cancel, End, Hello, Part, Ping, Pong, ToSender, Welcome
from tightwire.net import sockets
from tightwire.net.door import Door
from tightwire.net.keys import Keys

DEFAULT_BUFFERED_BYTES = 2**30
_TICK_MS = 100
_EXPIRE_EVERY_S = 0.25


class Receiver:
    """Binds `bind` (port `*` takes a free one; `endpoint` says which) and collects transfers until they are waited
    for. `fingerprint`: frames of another model are refused. `keys`: CURVE, for those whose public keys are in
    `authorized`; without keys, an address beyond this machine is refused unless `insecure`. `workers` decode; `trace` hears
    each step; `nixl`: senders that want it get memory to write frames into (extra `nixl`; not encrypted)."""

    def __init__(
        self,
        bind: str = "tcp://127.0.0.1:*",
        *,
        fingerprint: str | None = None,
        limits: Limits | None = None,
        keys: Keys | None = None,
        authorized: Iterable[bytes] = (),
        insecure: bool = False,
        max_buffered_bytes: int = DEFAULT_BUFFERED_BYTES,
        workers: int = 1,
        trace: Trace | None = None,
        clock: Clock | None = None,
        nixl: bool = False,
    ) -> None:
        if keys is None and not insecure and not sockets.is_local(bind):
            raise ConfigError(
                f"bind={bind!r} can be reached from other machines, unencrypted and by anybody; give keys (tightwire kv "
                "keys writes them), or insecure=true on a private network"
            )
        self._landing = Landing() if nixl else None
        limits = limits or Limits()
        self._limits = replace(
            limits,
            max_payload_bytes=min(limits.max_payload_bytes, max_buffered_bytes),
            max_raw_bytes=min(limits.max_raw_bytes, max_buffered_bytes),
        )
        self._fingerprint, self._max_buffered_bytes = fingerprint, max_buffered_bytes
        self._clock = clock or MonotonicClock()
        self._boot = secrets.randbits(63)
        self._waker = sockets.Waker()
        self._answers: deque[tuple[bytes, ToSender]] = deque()
        self._inbox = Inbox(self._clock, max_buffered_bytes, self._answer, trace)
        # A context of its own: ZeroMQ has one gatekeeper for each.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._door = Door(self._context, frozenset(authorized)) if keys is not None else None
        self._frame_bytes = self._limits.max_payload_bytes + self._limits.max_header_bytes + wire_format.PREFIX_BYTES
        try:
            self._socket = sockets.bound(self._context, bind, max(self._frame_bytes, protocol.MAX_MESSAGE_BYTES), keys)
        except LinkError:
            self._waker.close()
            if self._door is not None:
                self._door.close()
            self._context.term()
            raise
        self._monitor = sockets.monitored(self._socket)
        self._refused = 0
        self._connections: dict[int, bytes] = {}  # file descriptor: peer
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._closing = False
        self._threads = [threading.Thread(target=self._exchange, name="tightwire-receive", daemon=True)]
        self._threads += [
            threading.Thread(target=self._decode, name=f"tightwire-decode-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def refused(self) -> int:
        """How many connections were refused: without a key, or with one that is not authorized."""
        return self._refused

    @property
    def queued_bytes(self) -> int:
        """Bytes of frames that wait for a decoder."""
        return self._inbox.queued_bytes

    @property
    def buffered_bytes(self) -> int:
        """Decoded bytes that wait for their taker."""
        return self._inbox.buffered_bytes

    def wait(self, transfer_id: str, timeout_s: float, on_block: Callable[[KVBlock], None] | None = None) -> Received:
        """Until the transfer is complete, failed or `timeout_s` is over. Blocks go to `on_block`, in this thread, as
        they arrive, or are collected in the result. Never raises for what arrives: see `Received.error`."""
        return self._inbox.wait(transfer_id, timeout_s, on_block)

    def cancel(self, transfer_id: str, reason: str = "cancelled") -> None:
        """Over at once: its memory is freed, `wait` returns with `reason` as the error, and the sender is told (when
        it begins, if it has not)."""
        self._inbox.cancel(transfer_id, reason)

    def close(self) -> None:
        """Senders are told, waits return. Waits for the threads."""
        if self._closing:
            return
        self._inbox.close()
        self._closing = True
        self._waker.wake()
        for thread in self._threads:
            thread.join(timeout=5)
        self._waker.close()
        self._context.term()

    def _answer(self, peer: bytes, message: ToSender) -> None:
        self._answers.append((peer, message))
        self._waker.wake()

    def _exchange(self) -> None:
        """Owns the socket: stamps and files what arrives, says what the inbox has to say."""
        poller = zmq.Poller()
        for waited in (self._monitor, self._waker.fd):
            poller.register(waited, zmq.POLLIN)
        if self._door is not None:
            poller.register(self._door.socket, zmq.POLLIN)
        reading, expired_s = False, self._clock.now_s()
        while True:
            room = self._inbox.queued_bytes < self._max_buffered_bytes
            if room and not reading:
                poller.register(self._socket, zmq.POLLIN)
            elif reading and not room:
                poller.unregister(self._socket)
            reading = room
            self._say_all()
            if self._closing:
                break
            ready = dict(poller.poll(_TICK_MS))
            if self._waker.fd in ready:
                self._waker.clear()
            if self._door is not None and self._door.socket in ready:
                self._door.answer()
            # Before the messages: a new connection may have the file descriptor of the one that was lost.
            for event, value in sockets.events(self._monitor):
                if event & sockets.REFUSED:
                    self._refused += 1
                elif value in self._connections:
                    self._lost(self._connections.pop(value))
            if self._socket in ready:
                frames = self._socket.recv_multipart(copy=False)
                with contextlib.suppress(LinkError):  # a stranger's message: nothing to answer
                    self._take(frames)
            if self._clock.now_s() - expired_s > _EXPIRE_EVERY_S:
                expired_s = self._clock.now_s()
                self._inbox.expire()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close()
        if self._door is not None:
            self._door.close()
        if self._landing is not None:
            self._landing.close()

    def _lost(self, peer: bytes) -> None:
        self._inbox.lost(peer)
        if self._landing is not None:
            self._landing.lost(peer)

    def _take(self, parts: list[zmq.Frame]) -> None:
        if len(parts) not in (2, 3):
            raise LinkError(f"a message of {len(parts)} parts")
        peer = parts[0].bytes
        message = protocol.decode_to_receiver(parts[1].buffer)
        match message:
            case Part() if len(parts) == 3:
                self._inbox.arrived(peer, message.stream, message.index, parts[2].buffer)
            case Part() if self._landing is not None and message.size <= self._frame_bytes:
                written = self._landing.take(peer, message.offset, message.size)
                self._inbox.arrived(peer, message.stream, message.index, written)
            case Begin():
                self._inbox.begin(peer, message)
            case End():
                self._inbox.end(peer, message)
            case Cancel():
                self._inbox.cancelled(message)
            case Ping():
                self._answer(peer, Pong(message.number, self._clock.now_s()))
            case Hello():
                if message.version != protocol.VERSION:
                    raise LinkError(f"protocol version {message.version}; this side speaks {protocol.VERSION}")
                window_bytes = self._max_buffered_bytes
                self._connections[parts[1].get(zmq.SRCFD)] = peer
                memory = self._landing.grant(peer) if self._landing is not None and message.writes else None
                self._answer(peer, Welcome(self._boot, self._clock.now_s(), window_bytes, self._frame_bytes, memory))

    def _say_all(self) -> None:
        while self._answers:
            peer, message = self._answers.popleft()
            with contextlib.suppress(zmq.ZMQError):  # the sender left
                self._socket.send_multipart([peer, protocol.encode(message)], zmq.NOBLOCK)

    def _decode(self) -> None:
        while (job := self._inbox.next_job()) is not None:
            start_s = self._clock.now_s()
            block = self._decoded(job)
            self._inbox.decoded(job, block, self._clock.now_s() - start_s)
            self._waker.wake()
            del job, block

    def _decoded(self, job: Job) -> KVBlock | FrameError:
        try:
            frame = wire_format.parse(job.data, self._limits)
            self._inbox.check(job, frame.header)
            return decode_block(frame, self._fingerprint)
        except FrameError as error:
            return error
        except Exception as error:  # a stage's own trouble with these bytes ends neither this worker nor other transfers
            return FrameError("payload", f"decoding failed: {error}")
